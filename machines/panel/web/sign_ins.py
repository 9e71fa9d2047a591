"""Sign-ins, failed ones and what people change of how they sign in, as entries of the history. Connected by being imported."""

from typing import Any

from allauth.account import signals as account
from allauth.mfa import signals as factors
from django.contrib.auth.signals import user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest

from machines.models import User
from machines.panel.audit import entries, refusals
from machines.panel.web import acts

NAME_LIMIT = 100  # characters of what was typed as a name


@receiver(account.user_logged_in)
def signed_in(user: User, **_: Any) -> None:
    entries.record("signed-in", f"{user.username} signed in.", by=user, on=user)


@receiver(account.user_logged_out)
def signed_out(user: User | None = None, **_: Any) -> None:
    if user is not None and user.is_authenticated:
        entries.record("signed-out", f"{user.username} signed out.", by=user, on=user)


@receiver(user_login_failed)
def failed(credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    """What was typed as a name may be a password: it is only repeated where somebody is called so."""
    if request is None:
        return
    typed = str(credentials.get("username") or credentials.get("email") or "")[:NAME_LIMIT]
    user = User.objects.filter(username__iexact=typed).first() or (
        User.objects.filter(email__iexact=typed).exclude(email="").first()
    )
    text = f"A sign-in as {user.username} failed: wrong password." if user else "A sign-in failed: no such person."
    more = {"on": user} if user else {}
    refusals.record("sign-in-failed", text, source=acts.source_of(request), **more)


@receiver(factors.authentication_failed)
def second_factor_failed(user: User, request: HttpRequest, **_: Any) -> None:
    text = f"A sign-in as {user.username} failed: the password was right, the code was not."
    refusals.record("sign-in-failed", text, source=acts.source_of(request), on=user)


CHANGES = {
    account.password_changed: ("password-changed", "changed their password"),
    account.password_set: ("password-changed", "set their password"),
    account.password_reset: ("password-changed", "set a new password by a link"),
    factors.authenticator_added: ("second-factor-added", "added a second factor"),
    factors.authenticator_removed: ("second-factor-removed", "removed a second factor"),
    factors.authenticator_reset: ("recovery-codes-made", "made new recovery codes"),
}


def _changed(signal: Any, user: User, authenticator: Any = None, **_: Any) -> None:
    kind, what = CHANGES[signal]
    of = f" ({authenticator.get_type_display()})" if authenticator is not None else ""
    entries.record(kind, f"{user.username} {what}{of}.", by=user, on=user)


for each in CHANGES:
    each.connect(_changed)
