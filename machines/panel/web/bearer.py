"""Programs with an API token. The token counts alone: no cookie is looked at beside it, so that nothing a browser sends by itself
acts, and the form's token against forgery (CSRF) is not asked for. Only views that say so take one.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse

from machines.panel.teams import tokens

View = TypeVar("View", bound=Callable[..., Any])
SCHEME = "bearer"


def accepts_tokens(view: View) -> View:
    """Let programs with an API token in, too. The permission the view needs is asked of the token as it is of people."""
    view.accepts_tokens = True  # type: ignore[attr-defined]  # functions carry attributes
    return view


class ApiTokens:
    """Behind Django's own sign-in, in front of all that asks who it is."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        value = _value(request)
        if value is None:
            return self.get_response(request)
        token = tokens.find(value)
        if token is None:
            said = "This API token is unknown, revoked or expired, or its owner was disabled."
            return answer(said, 401, **{"WWW-Authenticate": "Bearer"})
        request.token = token  # type: ignore[attr-defined]
        request.user = tokens.bearer(token)
        request.csrf_processing_done = True  # type: ignore[attr-defined]  # CsrfViewMiddleware asks for this
        tokens.note_use(token, request.META.get("REMOTE_ADDR", "")[:45])
        response = self.get_response(request)
        response.headers["Cache-Control"] = "no-store"
        return response

    def process_view(self, request: HttpRequest, view: Callable[..., Any], *_: Any) -> HttpResponse | None:
        if not hasattr(request, "token") or getattr(view, "accepts_tokens", False):
            return None
        return answer("This address takes no API tokens.", 403)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Programs read JSON."""
        if not hasattr(request, "token"):
            return None
        if isinstance(exception, PermissionDenied):
            return answer(str(exception), 403)
        return answer("There is no such thing, or not for this token.", 404) if isinstance(exception, Http404) else None


def _value(request: HttpRequest) -> str | None:
    """The API token that was sent; None without one. Other tokens than these are other views' business."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    value = value.strip()
    return value if scheme.lower() == SCHEME and value.startswith(tokens.PREFIX) else None


def answer(said: str, status: int, **headers: str) -> JsonResponse:
    return JsonResponse({"error": said}, status=status, headers=headers)
