"""The list of machines: what the filter field says, and one page of it by keyset.

OFFSET walks what a keyset jumps over. One COUNT and one query of rows, whatever the filter and however many machines.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q, TextField
from django.db.models.functions import Cast
from django.http import QueryDict

from machines.contract.permissions import Permission
from machines.contract.states import OFFLINE_SECONDS, HostState, MachineState
from machines.models import Machine, User
from machines.models.host import host_state
from machines.models.machine import MachineQuerySet
from machines.panel.orders import operations
from machines.panel.pages import keyset
from machines.panel.pages.machine_rows import BUILDING, COLUMNS, Busy, row, version

PER_PAGE = (25, 50, 100, 200)
STATES = (*(s.value for s in MachineState), BUILDING)
WORDS_AT_MOST = 12
# Both have an index that begins with removed_at. "state" puts what needs attention first.
SORTS = {"state": ("rank", "name", "id"), "name": ("name", "id")}


@dataclass(frozen=True)
class Filter:
    """Plain words, and `state:` and `host:` terms: words narrow, several values of one term widen."""

    text: str = ""
    words: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    @property
    def strange(self) -> list[str]:
        """States that do not exist; nothing can match them."""
        return [state for state in self.states if state not in STATES]

    def with_term(self, key: str, value: str) -> str:
        """The text with one more term, or without it where it stands already."""
        term = f"{key}:{value}"
        terms = self.text.split()
        return " ".join([t for t in terms if t.lower() != term] if self.has_term(key, value) else [*terms, term])

    def without(self, key: str) -> str:
        return " ".join(t for t in self.text.split() if not t.lower().startswith(f"{key}:"))

    def has_term(self, key: str, value: str) -> bool:
        return value in (self.states if key == "state" else self.hosts)


def parse_filter(text: str) -> Filter:
    terms = text.replace("\0", "").split()[:WORDS_AT_MOST]
    given: dict[str, list[str]] = {"state": [], "host": [], "": []}
    for term in terms:
        key, colon, value = term.partition(":")
        known = key.lower() if colon and value and key.lower() in {"state", "host"} else ""
        given[known].append(value.lower() if known else term)
    return Filter(" ".join(terms), tuple(given[""]), tuple(given["state"]), tuple(given["host"]))


def matching(wanted: Filter, busy: Busy, now: datetime, *, by: User) -> MachineQuerySet:
    machines = Machine.objects.listed().shown_to(by)
    for word in wanted.words:
        machines = machines.filter(_has_word(word))
    if wanted.hosts:
        machines = machines.filter(host__name__in=wanted.hosts)
    if wanted.states:
        asked = Q(pk__in=[])
        for state in wanted.states:
            asked |= _in_state(state, busy, now)
        machines = machines.filter(asked)
    return machines


def _has_word(word: str) -> Q:
    found = Q(name__icontains=word) | Q(os__icontains=word) | Q(host__name__icontains=word)
    if re.fullmatch(r"[0-9a-fA-F]*[.:][0-9a-fA-F.:]*", word):  # part of an address
        found |= Q(pk__in=Machine.objects.annotate(said=Cast("addresses", TextField())).filter(said__icontains=word))
    return found


def _in_state(state: str, busy: Busy, now: datetime) -> Q:
    """Machines that the page shows in this state: those of silent hosts are unknown, whatever was last reported."""
    silent = Q(host__last_seen=None) | Q(host__last_seen__lt=now - timedelta(seconds=OFFLINE_SECONDS))
    building = Q(pk__in=[])
    for (host_id, name), job in busy.items():
        if operations.of(job["op"]).makes_machine:
            building |= Q(host_id=host_id, name=name)
    if state == BUILDING:
        return building
    if state == MachineState.MISSING:
        return Q(state=state) & ~building
    if state == MachineState.UNKNOWN:
        return (Q(state=state) | (silent & ~Q(state=MachineState.MISSING))) & ~building
    return Q(state=state) & ~silent & ~building


@dataclass(frozen=True)
class Place:
    """Where a page begins: the row it follows (or, going back, precedes) and how many rows are before it."""

    backwards: bool = False
    before: int = 0
    rank: int = 0
    id: int = 0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.before}.{self.rank}.{self.id}.{self.name}"

    def condition(self, columns: Sequence[str], *, backwards: bool) -> Q:
        """(rank, name, id) beyond this row's, written so that the index is entered at the row."""
        beyond = "lt" if backwards else "gt"
        same, condition = Q(), Q(pk__in=[])
        for column in columns:
            condition |= same & Q(**{f"{column}__{beyond}": getattr(self, column)})
            same &= Q(**{column: getattr(self, column)})
        bound = Q(**{f"name__{beyond}e": self.name})
        if "rank" not in columns:
            return bound & condition
        last = self.rank == (0 if backwards else 1)
        return Q(rank=self.rank) & bound & condition if last else Q(**{f"rank__{beyond}e": self.rank}) & condition


def read_place(text: str, *, backwards: bool) -> Place | None:
    match = re.fullmatch(r"(\d{1,9})\.([01])\.(\d{1,18})\.([^\0]{1,255})", text)
    return Place(backwards, int(match[1]), int(match[2]), int(match[3]), match[4]) if match else None


@dataclass(frozen=True)
class MachineListQuery:
    """What the query string asks for. Nonsense in it asks for nothing."""

    filter: Filter = field(default_factory=Filter)
    sort: str = "state"
    per: int = 50
    place: Place | None = None

    def encode(self, **changed: str) -> str:
        """The query string with some parts changed; a page of its own only where that is asked for."""
        parts = {"q": self.filter.text, "sort": self.sort if self.sort != "state" else "", "per": str(self.per) if self.per != 50 else ""}  # fmt: skip
        return urlencode({key: value for key, value in (parts | changed).items() if value})

    @property
    def address(self) -> str:
        """The query string of this very page."""
        place = {("before" if self.place.backwards else "after"): str(self.place)} if self.place else {}
        return self.encode(**place)


def parse_query(params: QueryDict) -> MachineListQuery:
    sort, per = params.get("sort", ""), params.get("per", "")
    before = params.get("before", "")
    return MachineListQuery(
        filter=parse_filter(params.get("q", "")[:500]),
        sort=sort if sort.removeprefix("-") in SORTS else "state",
        per=int(per) if per in map(str, PER_PAGE) else 50,
        place=read_place(before or params.get("after", ""), backwards=bool(before)),
    )


@dataclass(frozen=True)
class MachineListPage:
    query: MachineListQuery
    rows: list[dict[str, Any]]
    total: int
    first: int
    newer: str
    older: str
    silent: list[tuple[str, datetime | None]]  # hosts on this page that say nothing

    @property
    def summary(self) -> str:
        return f"{self.first:,}–{self.first + len(self.rows) - 1:,} of {self.total:,}" if self.rows else ""

    @property
    def version(self) -> str:
        rows = [
            {**each, "up": "", "badge": ""} for each in self.rows
        ]  # the age ticks by itself; the state says the badge
        return version(self.query.address, rows, self.total, self.first, self.silent)


def page(query: MachineListQuery, busy: Busy, now: datetime, *, by: User) -> MachineListPage:
    """What this person sees of it."""
    machines, operable = matching(query.filter, busy, now, by=by), by.teams_where(Permission.OPERATE)
    total = machines.count()
    backwards = bool(query.place and query.place.backwards)
    read = _rows(machines, query) if total else []
    shown = keyset.cut(read, query.per, backwards=backwards, is_first=query.place is None)
    found = shown.rows
    before = query.place.before if query.place else 0
    before = max(before - len(found), 0) if backwards else before
    if backwards and not shown.has_previous:
        before = 0
    return MachineListPage(
        query=query,
        rows=[row(values, busy, now, operable) for values in found],
        total=total,
        first=before + 1,
        newer=_link(query, "before", found[0], before) if shown.has_previous and found else "",
        older=_link(query, "after", found[-1], before + len(found)) if shown.has_next and found else "",
        silent=_silent(found, now),
    )


def _rows(machines: MachineQuerySet, query: MachineListQuery) -> list[dict[str, Any]]:
    """Plain dicts, one more than a page holds, in the direction of travel."""
    columns = SORTS[query.sort.removeprefix("-")]
    backwards = bool(query.place and query.place.backwards)
    falling = query.sort.startswith("-") != backwards
    if query.place:
        machines = machines.filter(query.place.condition(columns, backwards=falling))
    ordered = machines.order_by(*(f"-{column}" if falling else column for column in columns))
    return [dict(zip(COLUMNS, values, strict=True)) for values in ordered.values_list(*COLUMNS)[: query.per + 1]]


def _link(query: MachineListQuery, direction: str, edge: dict[str, Any], before: int) -> str:
    place = Place(before=before, rank=edge["rank"], id=edge["id"], name=edge["name"])
    return "?" + query.encode(**{direction: str(place)})


def _silent(found: Iterable[dict[str, Any]], now: datetime) -> list[tuple[str, datetime | None]]:
    hosts = {each["host__name"]: each["host__last_seen"] for each in found}
    return [(name, seen) for name, seen in hosts.items() if host_state(seen, now) == HostState.OFFLINE]
