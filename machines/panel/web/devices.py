"""Browsers that signed in before: a signed cookie, bound to the person and their password. It lets nobody in; it only
keeps what strangers try from standing in the way (attempts.py). Each sign-in gives a new one; a new password ends all.
"""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare, get_random_string, salted_hmac

from machines.models import User

SALT = "machines.panel.web.devices"
AGE = 180 * 24 * 3600  # seconds
MOST = 512  # characters of a cookie that is looked at


def known(request: HttpRequest, name: str) -> str:
    """The device's id if its cookie is of the person called `name` (casefolded), or ""."""
    try:
        said = signing.loads(request.COOKIES.get(settings.DEVICE_COOKIE_NAME, "")[:MOST], salt=SALT, max_age=AGE)
    except signing.BadSignature:
        return ""
    user = User.objects.filter(pk=said["user"], is_active=True).first()
    if user is None or name not in (user.username.casefold(), user.email.casefold()):
        return ""
    return said["device"] if constant_time_compare(said["password"], _fingerprint(user)) else ""


def cookie(user: User) -> str:
    return signing.dumps({"user": user.pk, "device": get_random_string(16), "password": _fingerprint(user)}, salt=SALT)


def _fingerprint(user: User) -> str:
    """Changes with the password, and tells nothing of it."""
    return salted_hmac(SALT, user.password, algorithm="sha256").hexdigest()[:32]


class RememberDevice:
    """What the answer to a sign-in or a new password carries (`request.remember`), and the wait of one that came too
    soon (`request.wait`, seconds)."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if wait := getattr(request, "wait", 0):
            response.status_code = 429
            response.headers["Retry-After"] = str(wait)
        if user := getattr(request, "remember", None):
            self._remember(response, user)
        return response

    @staticmethod
    def _remember(response: HttpResponse, user: Any) -> None:
        response.set_cookie(
            settings.DEVICE_COOKIE_NAME, cookie(user), max_age=AGE,
            secure=settings.SESSION_COOKIE_SECURE, httponly=True, samesite="Lax",
        )  # fmt: skip
