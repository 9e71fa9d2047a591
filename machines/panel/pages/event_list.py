"""The audit log: what the filter field says, one page of it by keyset, newest first, and the whole of it as a file."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q, QuerySet
from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone

from machines.models import Event, EventHead, EventSeal, Machine, User
from machines.models.event import KINDS, content
from machines.panel.pages import keyset
from machines.panel.pages.machine_rows import host_url, machine_url

PER_PAGE = 50
WORDS_AT_MOST = 12
EXPORTED = 100_000  # entries of a file
AT_ONCE = 1000
TERMS = {  # of the filter field → column
    "who": "actor_name__iexact", "host": "host_name__iexact", "on": "object_name__iexact", "kind": "kind__iexact",
    "result": "result__iexact", "token": "token__iexact", "address": "address__iexact", "job": "job_id",
}  # fmt: skip
DAYS = {"since": 0, "until": 1}  # → days after the beginning of the one that is named
COLUMNS = ("id", "at", "actor_name", "token", "address", "kind", "object_kind", "object_name", "host_name", "job_id",
           "result", "text", "previous", "hash")  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a cell a formula for a spreadsheet


@dataclass(frozen=True)
class EventQuery:
    """Plain words narrow, several values of one term widen. `strange` are terms that say nothing, and match nothing."""

    text: str = ""
    words: tuple[str, ...] = ()
    terms: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def encode(self, **more: str) -> str:
        return urlencode({key: value for key, value in ({"q": self.text} | more).items() if value})

    def with_term(self, key: str, value: str) -> str:
        """The text with one more term, or without it where it stands already."""
        term = f"{key}:{value}"
        kept = [word for word in self.text.split() if word.lower() != term]
        return " ".join(kept if value in self.terms.get(key, ()) else [*kept, term])

    @property
    def strange(self) -> list[str]:
        days = [f"{key}:{value}" for key in DAYS for value in self.terms.get(key, ()) if _day(value) is None]
        return days + [f"job:{value}" for value in self.terms.get("job", ()) if not keyset.number(value)]


def parse_query(params: QueryDict) -> EventQuery:
    terms: dict[str, list[str]] = {}
    words = []
    every = params.get("q", "")[:500].replace("\0", "").split()[:WORDS_AT_MOST]
    for word in every:
        key, colon, value = word.partition(":")
        if colon and value and key.lower() in TERMS | DAYS:
            terms.setdefault(key.lower(), []).append(value.lower())
        else:
            words.append(word)
    return EventQuery(" ".join(every), tuple(words), {key: tuple(values) for key, values in terms.items()})


def matching(query: EventQuery, by: User) -> QuerySet[Event]:
    """Of what exists for this person. Every word must be somewhere in an entry: what happened, its kind, who did it, to what, or the host."""
    events = Event.objects.visible_to(by)
    for word in query.words:
        anywhere = Q(text__icontains=word) | Q(kind__icontains=word) | Q(actor_name__icontains=word)
        events = events.filter(anywhere | Q(host_name__iexact=word) | Q(object_name__iexact=word))
    for key, values in query.terms.items():
        events = events.filter(_is_at(key, values) if key in DAYS else _is_one_of(key, values))
    return events


def _is_one_of(key: str, values: Iterable[str]) -> Q:
    found = Q(pk__in=[])
    for value in values:
        given = keyset.number(value) if key == "job" else value
        found |= Q(**{TERMS[key]: given}) if given else Q(pk__in=[])
    return found


def _is_at(key: str, values: Iterable[str]) -> Q:
    day = _day(next(iter(values)))
    if day is None:
        return Q(pk__in=[])
    begins = timezone.make_aware(datetime.combine(day, datetime.min.time())) + timedelta(days=DAYS[key])
    return Q(at__gte=begins) if key == "since" else Q(at__lt=begins)


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if 1971 <= day.year <= 2999 else None


# --- a page


@dataclass(frozen=True)
class EventListPage:
    query: EventQuery
    events: list[Event]
    machines: set[tuple[Any, str]]
    newer: str = ""
    older: str = ""
    is_first: bool = True

    @property
    def text(self) -> str:
        return self.query.text

    def rows(self) -> Iterator[dict[str, Any]]:
        for event in self.events:
            yield {"event": event, "about": event.object_name or event.host_name, "url": self._url(event)}

    def _url(self, event: Event) -> str:
        """Of what it was done to, if that is there still."""
        if event.object_kind == "machine" and event.host and (event.host_id, event.object_name) in self.machines:
            return machine_url(event.host.name, event.object_name)
        if event.object_kind in {"", "host"} and event.host:
            return host_url(event.host.name)
        return ""

    @property
    def facets(self) -> list[dict[str, Any]]:
        return [self._facet("result", "Result", list(Event.Result.values)), self._facet("kind", "Kind", KINDS)]

    def _facet(self, key: str, title: str, words: list[str]) -> dict[str, Any]:
        chosen = self.query.terms.get(key, ())
        choices = [{"word": word, "on": word in chosen, "query": urlencode({"q": self.query.with_term(key, word)})}
                   for word in words]  # fmt: skip
        return {"key": key, "title": title, "chosen": ", ".join(chosen), "choices": choices}

    @property
    def exports(self) -> list[tuple[str, str]]:
        """(address, name) of the files that hold what the filter finds."""
        asked = f"?{self.query.encode()}" if self.query.text else ""
        return [(reverse(f"event-export-{kind}") + asked, title) for kind, (title, _, _) in FILES.items()]


def page(params: QueryDict, by: User) -> EventListPage:
    """The page a query string asks for, for this person. Two queries, one where no machine is named."""
    query = parse_query(params)
    older, newer = keyset.number(params.get("older", "")), keyset.number(params.get("newer", ""))
    events = matching(query, by).select_related("host", "job")
    beyond = events.filter(pk__lt=older) if older else events
    if newer:
        beyond = events.filter(pk__gt=newer).order_by("id")
    shown = keyset.cut(list(beyond[: PER_PAGE + 1]), PER_PAGE, backwards=bool(newer), is_first=not older)
    return EventListPage(
        query, shown.rows, _machines(shown.rows),
        newer=f"?{query.encode(newer=str(shown.rows[0].pk))}" if shown.has_previous and shown.rows else "",
        older=f"?{query.encode(older=str(shown.rows[-1].pk))}" if shown.has_next and shown.rows else "",
        is_first=not (older or newer),
    )  # fmt: skip


def _machines(events: list[Event]) -> set[tuple[Any, str]]:
    """(host, name) of those machines of these entries that are there still."""
    named = {(event.host_id, event.object_name) for event in events if event.object_kind == "machine" and event.host_id}
    if not named:
        return set()
    there = Machine.objects.listed().filter(name__in={name for _, name in named}, host__in={host for host, _ in named})
    return named & set(there.values_list("host_id", "name"))


@dataclass(frozen=True)
class Standing:
    """How long the history is, and up to which entry the courier has signed it."""

    first: int
    last: int
    seal: EventSeal | None


def standing() -> Standing:
    head = EventHead.objects.filter(pk=EventHead.ONLY).first() or EventHead()
    return Standing(head.first, head.number, EventSeal.objects.order_by("-number").first())


# --- a file


def export(query: EventQuery, kind: str, by: User) -> Iterator[str]:
    """The newest EXPORTED entries that match, in pieces, newest first; and a last line that says so where there are more."""
    _, _, encode = FILES[kind]
    if kind == "csv":
        yield _as_csv(dict.fromkeys(COLUMNS, ""), header=True)
    below, count = 0, 0
    while count <= EXPORTED:
        some = list(_below(query, below, by)[: min(AT_ONCE, EXPORTED - count + 1)])
        if not some:
            return
        yield "".join(encode(_told(event)) for event in some[: EXPORTED - count])
        count, below = count + len(some), some[-1].pk
    yield encode(
        dict.fromkeys(COLUMNS, "") | {"text": f"Cut off after {EXPORTED} entries; narrow the filter for the rest."}
    )


def _below(query: EventQuery, below: int, by: User) -> QuerySet[Event]:
    return matching(query, by).filter(pk__lt=below) if below else matching(query, by)


def _told(event: Event) -> dict[str, Any]:
    """An entry as it was hashed, so that the chain can be verified from the file too (contract/chain.py)."""
    return content(event) | {"previous": event.previous, "hash": event.hash}


def _as_json(told: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in told.items() if value != ""}, ensure_ascii=False) + "\n"


def _as_csv(told: dict[str, Any], *, header: bool = False) -> str:
    line = StringIO()
    csv.writer(line).writerow(COLUMNS if header else [_cell(told.get(column, "")) for column in COLUMNS])
    return line.getvalue()


def _cell(value: Any) -> str:
    """Names and texts are other people's: none is to become a formula."""
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


FILES = {
    "csv": ("CSV", "text/csv; charset=utf-8", _as_csv),
    "jsonl": ("JSON lines", "application/jsonl; charset=utf-8", _as_json),
}


def file_name(kind: str) -> str:
    return f"audit-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{kind}"
