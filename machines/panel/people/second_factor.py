"""What the panel makes of allauth's second factors: codes are counted and used once, secrets lie sealed in the database.

Facts: allauth 65 counts codes only by ACCOUNT_RATE_LIMITS (off here), keeps used ones in the cache of one process, and
lets fido2 raise what it likes on a credential that is none.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from allauth.core import context
from allauth.core.internal.cryptokit import normalize_user_code
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.forms import ActivateTOTPForm
from allauth.mfa.webauthn.forms import (
    AddWebAuthnForm,
    AuthenticateWebAuthnForm,
    EditWebAuthnForm,
    LoginWebAuthnForm,
    ReauthenticateWebAuthnForm,
)
from allauth.mfa.webauthn.views import login_webauthn
from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from machines.models import User
from machines.panel.web import accounts, attempts

NOT_THE_PASSKEY = "This passkey was not accepted. Try again, or use another way to sign in."
LONGEST_CREDENTIAL = 16 * 1024  # bytes of what a browser sends of a passkey; some 2,000 are usual


class SecondFactor(DefaultMFAAdapter):  # type: ignore[misc]  # allauth is untyped
    error_messages = DefaultMFAAdapter.error_messages | {
        "incorrect_code": "This code is not correct. Each code works once: wait for the next one if you have used it.",
        "cannot_generate_recovery_codes": "Set up an authenticator app or a passkey first.",
    }

    def get_totp_label(self, user: User) -> str:
        return user.username

    def get_totp_issuer(self) -> str:
        return f"nspawnpanel {context.request.get_host()}"

    def generate_authenticator_name(self, user: User, type: Authenticator.Type) -> str:  # noqa: A002  # allauth's
        return f"Passkey {Authenticator.objects.filter(user_id=user.pk, type=type).count() + 1}"

    def encrypt(self, text: str) -> str:
        return base64.b64encode(_box(settings.SECRET_KEY).encrypt(text.encode())).decode()

    def decrypt(self, encrypted_text: str) -> str:
        """Raises CryptoError when it was sealed with a key that is no longer known."""
        sealed = base64.b64decode(encrypted_text)
        for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
            try:
                return _box(key).decrypt(sealed).decode()
            except CryptoError:
                continue
        raise CryptoError("The panel's SECRET_KEY is another one than when this second factor was set up.")


def _box(key: str | bytes) -> SecretBox:
    return SecretBox(sha256(f"nspawnpanel second factor\0{key!s}".encode()).digest())


# --- codes


class _CountedCode(forms.Form):
    user: User
    authenticator: Authenticator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["code"]
        field.label, field.help_text = "Code", "From your authenticator app, or one of your recovery codes."
        field.widget.attrs = {"autocomplete": "one-time-code", "autocapitalize": "off", "autofocus": True}

    def clean_code(self) -> str:
        booked = accounts.booked_or_wait(context.request, lambda: attempts.book_code(context.request, self.user))
        code: str = super().clean_code()  # type: ignore[misc]  # of the form of allauth beside this one
        if self.authenticator.type == Authenticator.Type.TOTP:
            self._refuse_used(code)
        booked.take_back()
        return code

    def _refuse_used(self, code: str) -> None:
        if not attempts.is_first_use(self.user, normalize_user_code(code)):
            raise ValidationError(SecondFactor.error_messages["incorrect_code"], code="incorrect_code")


class CodeForm(_CountedCode, AuthenticateForm):  # type: ignore[misc]
    pass


class ConfirmCodeForm(_CountedCode, ReauthenticateForm):  # type: ignore[misc]
    pass


class ActivateForm(ActivateTOTPForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["code"]
        field.label, field.help_text = "Code", "The six digits that the app shows now."
        field.widget.attrs = {"autocomplete": "one-time-code", "inputmode": "numeric"}


# --- passkeys


class _Credential(forms.HiddenInput):
    def format_value(self, _: object) -> None:
        """Never sent back: it holds for one question, and may be any text."""


class _Passkey(forms.Form):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["credential"]
        field.widget = _Credential()
        field.error_messages |= {"required": NOT_THE_PASSKEY, "invalid": NOT_THE_PASSKEY}

    def clean_credential(self) -> Any:
        """Both databases can keep it: no half characters, no NUL, and not without end."""
        with _any_fault_is_a_refusal():
            text = json.dumps(self.cleaned_data["credential"], ensure_ascii=False)
            if len(text.encode()) > LONGEST_CREDENTIAL or "\\u0000" in text:
                raise ValueError("no credential")
        return self.cleaned_data["credential"]


@contextmanager
def _any_fault_is_a_refusal() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise ValidationError(NOT_THE_PASSKEY, code="incorrect_code") from error
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, binascii.Error) as error:
        raise ValidationError(NOT_THE_PASSKEY, code="incorrect_code") from error


class _UsedPasskey(_Passkey):
    def clean_credential(self) -> Authenticator:
        super().clean_credential()
        with _any_fault_is_a_refusal():
            return super(_Passkey, self).clean_credential()  # type: ignore[misc]  # of allauth's form beside this one


class PasskeyForm(_UsedPasskey, AuthenticateWebAuthnForm):  # type: ignore[misc]
    pass


class ConfirmPasskeyForm(_UsedPasskey, ReauthenticateWebAuthnForm):  # type: ignore[misc]
    pass


class SignInPasskeyForm(_UsedPasskey, LoginWebAuthnForm):  # type: ignore[misc]
    pass


class NewPasskeyForm(_Passkey, AddWebAuthnForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name, alone = self.fields["name"], self.fields["passwordless"]
        name.max_length, name.help_text = 100, "What tells it apart, such as “laptop” or “blue key”."  # type: ignore[attr-defined]
        name.widget.attrs |= {"maxlength": 100}
        alone.label, alone.initial = "Sign in with it alone, without a password", True
        alone.help_text = "The device then asks for a PIN, a fingerprint or a face each time."

    def clean(self) -> dict[str, Any] | None:
        with _any_fault_is_a_refusal():
            return super().clean()


class PasskeyNameForm(EditWebAuthnForm):  # type: ignore[misc]
    name = forms.CharField(label="Name", max_length=100)


def login_by_passkey(request: HttpRequest) -> HttpResponse:
    """allauth's, with a count: each question that it answers a stranger is a row of the sessions."""
    try:
        booked = attempts.book_passkey(request)
    except attempts.TooSoon as early:
        return _wait(request, early)
    response: HttpResponse = _sign_in(request)
    if request.method == "POST" and request.user.is_authenticated:
        booked.take_back()
    return response


_sign_in: Callable[[HttpRequest], HttpResponse] = login_webauthn


def _wait(request: HttpRequest, early: attempts.TooSoon) -> HttpResponse:
    if request.method == "POST":
        messages.error(request, str(early))
        return redirect("account_login")
    answer = JsonResponse({"error": str(early)}, status=429)
    answer.headers["Retry-After"] = str(early.seconds)
    return answer
