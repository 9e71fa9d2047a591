"""Where a person is signed in, and when they were last here."""

from collections.abc import Callable
from datetime import datetime, timedelta

from allauth.usersessions.models import UserSession
from django.contrib.sessions.models import Session
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from machines.models import User

EVERY = timedelta(minutes=5)  # how exactly it is known: a write per request would be too dear
MOST = 100  # sessions that a page lists


class NoteLastSeen:
    """Notes it with the person and with the session, every few minutes."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        user = request.user
        if isinstance(user, User) and _is_old(user.last_seen):
            _note(request, user)
        return response


def _is_old(last: datetime | None) -> bool:
    now = timezone.now()
    return last is None or not now - EVERY < last <= now


def _note(request: HttpRequest, user: User) -> None:
    now = timezone.now()
    User.objects.filter(pk=user.pk).update(last_seen=now)
    UserSession.objects.filter(session_key=request.session.session_key).update(last_seen_at=now)


def of(user: User) -> QuerySet[UserSession]:
    """Those that have not run out, the one used last first."""
    alive = Session.objects.filter(expire_date__gt=timezone.now()).values("session_key")
    found: QuerySet[UserSession] = UserSession.objects.filter(user_id=user.pk, session_key__in=alive)
    return found.order_by("-last_seen_at", "-pk")


def end(sessions: QuerySet[UserSession]) -> int:
    """Sign out; returns how many. What these browsers have open is refused at their next request, streams included."""
    keys = list(sessions.values_list("session_key", flat=True))
    Session.objects.filter(session_key__in=keys).delete()
    UserSession.objects.filter(session_key__in=keys).delete()
    return len(keys)


def end_others(request: HttpRequest, user: User) -> int:
    return end(of(user).exclude(session_key=request.session.session_key))
