"""Sign-in is allauth's; here is what the panel makes of it: nobody signs up uninvited, nothing is sent by mail."""

from collections.abc import Callable
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.auth_backends import AuthenticationBackend
from allauth.account.forms import ChangePasswordForm, LoginForm, ReauthenticateForm
from allauth.account.internal.flows.login import perform_password_login
from allauth.account.models import Login
from allauth.core import context
from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from machines.models import User
from machines.models.team import grants_of, memberships_of_outer
from machines.panel.web import access, attempts, layout

OF_A_PASSWORD = "At least 10 characters; not a common password and not similar to your username."  # noqa: S105  # none


class SignedIn(AuthenticationBackend):  # type: ignore[misc]  # allauth is untyped
    def get_user(self, user_id: int) -> User | None:
        """Whoever the session names, with what the frame of every page shows: one query."""
        user = (
            User.objects.annotate(
                running_jobs=layout.count_of_unfinished(),
                rows_of_memberships=memberships_of_outer(),
                **layout.restored_copy(),
            )
            .filter(pk=user_id)
            .first()
        )
        if user is None or not self.user_can_authenticate(user):
            return None
        user.grants = grants_of(user.rows_of_memberships)
        return user

    def _authenticate_by_username(self, username: str, password: str) -> User | None:
        """Of two whose names differ in case only, from before there was but one, each signs in by exactly theirs."""
        exact = User.objects.filter(username=username).first()
        found: User | None = (
            self._check_password(exact, password) if exact else super()._authenticate_by_username(username, password)
        )
        return found


class InvitedOnly(DefaultAccountAdapter):  # type: ignore[misc]  # allauth is untyped
    def is_open_for_signup(self, request: HttpRequest) -> bool:  # noqa: ARG002  # allauth's signature
        return False

    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        """Both the sign-in and the page that asks for the password again come here."""
        name = credentials.get("username") or credentials.get("email") or ""
        booked = booked_or_wait(request, lambda: attempts.book(request, name))
        user: User | None = super().authenticate(request, **credentials)
        if user:
            booked.take_back()
        return user

    def is_reauthentication_required(self, *, app: str) -> bool:  # noqa: ARG002  # allauth's signature
        """allauth counts only who confirmed; whoever signed in a minute ago has just done so."""
        return not access.is_recent(context.request)

    def get_reauthentication_methods(self, user: User) -> list[dict[str, Any]]:
        """Whoever has neither password nor second factor signs in once more where they do."""
        found: list[dict[str, Any]] = super().get_reauthentication_methods(user)
        if found or not settings.OIDC_SERVER_URL:
            return found
        url = reverse("openid_connect_login", args=["sso"])
        return [{"id": "single_sign_on", "description": settings.OIDC_NAME, "url": url}]

    def post_login(self, request: HttpRequest, user: User, **known: Any) -> HttpResponse:
        request.remember = user  # type: ignore[attr-defined]  # devices.RememberDevice
        response: HttpResponse = super().post_login(request, user, **known)
        return response


class SignInForm(LoginForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["login"].label = "Username or email address"
        self.fields["login"].widget.attrs = {"autocomplete": "username", "autocapitalize": "off", "autofocus": True}
        plain(self.fields["password"], "Password")


class ConfirmPasswordForm(ReauthenticateForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain(self.fields["password"], "Password")
        self.fields["password"].widget.attrs |= {"autocomplete": "current-password", "autofocus": True}


class NewPasswordForm(ChangePasswordForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, label in (
            ("oldpassword", "Current password"),
            ("password1", "New password"),
            ("password2", "Repeat new password"),
        ):
            plain(self.fields[name], label)
        self.fields["password1"].help_text = OF_A_PASSWORD

    def clean_oldpassword(self) -> str:
        booked = booked_or_wait(context.request, lambda: attempts.book(context.request, self.user.username))
        said: str = super().clean_oldpassword()
        booked.take_back()
        return said

    def save(self) -> None:
        super().save()
        context.request.remember = self.user  # the old password's devices are strangers now; this one is not


def sign_in(request: HttpRequest, user: User) -> HttpResponse:
    """After somebody has chosen a password here; leads on to the first page."""
    response: HttpResponse = perform_password_login(request, {"username": user.username}, Login(user=user))
    return response


def booked_or_wait(request: HttpRequest, book: Callable[[], attempts.Booked]) -> attempts.Booked:
    """Raises ValidationError with the seconds to wait."""
    try:
        return book()
    except attempts.TooSoon as early:
        request.wait = early.seconds  # type: ignore[attr-defined]  # devices.RememberDevice
        raise ValidationError(str(early), code="too_soon") from early


def plain(field: Any, label: str) -> None:
    """Without the link to a reset by mail, and without a placeholder that repeats the label."""
    field.label, field.help_text = label, ""
    field.widget.attrs.pop("placeholder", None)
