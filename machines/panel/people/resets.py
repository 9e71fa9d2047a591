"""A link to a new password: by mail where mail is set, else copied by an administrator, or printed by manage.py.

It is allauth's: bound to the password it replaces and to the last sign-in, so it works once, for PASSWORD_RESET_TIMEOUT.
"""

import logging

from allauth.account.forms import ResetPasswordForm, ResetPasswordKeyForm
from allauth.account.utils import user_pk_to_url_str
from allauth.account.views import password_reset
from allauth.core import context
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from machines.models import User
from machines.panel.audit import entries
from machines.panel.web import accounts, attempts

log = logging.getLogger(__name__)


def link(user: User, *, by: User | str) -> str:
    """A path that lets whoever has it choose this person's password, once. The second factor stays."""
    key = PasswordResetTokenGenerator().make_token(user)
    uid = user_pk_to_url_str(user)
    who = by if isinstance(by, str) else by.username
    entries.record("reset-link-made", f"{who} made a link to a new password for {user.username}.", by=by, on=user)
    return reverse("account_reset_password_from_key", kwargs={"uidb36": uid, "key": key})


@transaction.atomic
def forget_second_factor(user: User, *, by: User | str) -> int:
    """Remove app, passkeys and recovery codes; returns how many there were."""
    removed: int = Authenticator.objects.filter(user_id=user.pk).delete()[0]
    who = by if isinstance(by, str) else by.username
    entries.record("second-factor-reset", f"{who} removed the second factor of {user.username}.", by=by, on=user)
    return removed


class ResetByMailForm(ResetPasswordForm):  # type: ignore[misc]  # allauth is untyped
    def clean_email(self) -> str:
        """Counted whether anybody has this address or not: who asks does not learn it."""
        email: str = super().clean_email()
        accounts.booked_or_wait(context.request, lambda: attempts.book_reset(context.request, email))
        return email


class ChooseForm(ResetPasswordKeyForm):  # type: ignore[misc]
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        accounts.plain(self.fields["password1"], "New password")
        accounts.plain(self.fields["password2"], "Repeat new password")
        self.fields["password1"].help_text = accounts.OF_A_PASSWORD


def by_mail(request: HttpRequest) -> HttpResponse:
    """allauth's, where mail is set. A server of mail that does not answer is said to whoever asked, and to the log."""
    if not settings.HAS_MAIL:
        raise Http404("No mail is set.")
    try:
        response: HttpResponse = password_reset(request)
    except OSError as error:  # smtplib's are of this kind
        log.warning("No mail with a link to a new password could be sent: %s", error)
        messages.error(request, "The mail could not be sent. Try again later, or ask an administrator for a link.")
        return redirect("account_reset_password")
    return response
