"""The session cookie is sealed with the panel's SECRET_KEY: Django keeps a session in the database under the very word the
cookie holds, so a copy of the database would let its thief in as everybody who is signed in."""

from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.signing import BadSignature, Signer
from django.http import HttpRequest, HttpResponse

SALT = "machines.panel.web.sealed_sessions"
MOST = 200  # characters of a cookie that is looked at


def seal(key: str) -> str:
    """What a browser is given for a session."""
    return Signer(salt=SALT).sign(key)


def unseal(cookie: str) -> str | None:
    """The session's key in the database; None for a cookie that this panel did not make."""
    try:
        return Signer(salt=SALT).unsign(cookie[:MOST])
    except BadSignature:
        return None


class SealedSessions(SessionMiddleware):
    def process_request(self, request: HttpRequest) -> None:
        request.session = self.SessionStore(unseal(request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")))

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        answered = super().process_response(request, response)
        given = answered.cookies.get(settings.SESSION_COOKIE_NAME)
        if given is not None and given.value:
            answered.cookies[settings.SESSION_COOKIE_NAME] = seal(given.value)  # its attributes stay
        return answered
