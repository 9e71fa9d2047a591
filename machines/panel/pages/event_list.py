"""The list of events: what the filter field says, and one page of it by keyset, newest first."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q
from django.http import QueryDict

from machines.models import Event

PER_PAGE = 50
WORDS_AT_MOST = 12


@dataclass(frozen=True)
class EventListPage:
    text: str
    events: list[Event]
    newer: str = ""
    older: str = ""
    is_first: bool = True


def page(query: QueryDict) -> EventListPage:
    """The page a query string asks for. One query."""
    text = " ".join(query.get("q", "")[:500].replace("\0", "").split()[:WORDS_AT_MOST])
    older, newer = _number(query.get("older", "")), _number(query.get("newer", ""))
    events = _matching(text)
    if newer:
        found = list(events.filter(pk__gt=newer).order_by("id")[: PER_PAGE + 1])
        has_newer, has_older = len(found) > PER_PAGE, True
        found = found[:PER_PAGE][::-1]
    else:
        found = list((events.filter(pk__lt=older) if older else events)[: PER_PAGE + 1])
        has_newer, has_older = bool(older), len(found) > PER_PAGE
        found = found[:PER_PAGE]
    return EventListPage(
        text, found,
        newer=_address(text, newer=found[0].pk) if has_newer and found else "",
        older=_address(text, older=found[-1].pk) if has_older and found else "",
        is_first=not (older or newer),
    )  # fmt: skip


def _matching(text: str) -> Any:
    """Every word must be somewhere in an event: what happened, its kind, who did it, or the host."""
    events = Event.objects.select_related("host")
    for word in text.split():
        events = events.filter(
            Q(text__icontains=word)
            | Q(kind__icontains=word)
            | Q(actor_name__icontains=word)
            | Q(host__name__iexact=word)
        )
    return events


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def _address(text: str, **place: Any) -> str:
    return "?" + urlencode(({"q": text} if text else {}) | place)
