"""The list of hosts: those that need somebody first, then by name; one page of it by keyset."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db.models import Case, Count, IntegerField, Q, Value, When
from django.http import QueryDict

from machines.contract.permissions import Permission
from machines.contract.states import LATE_SECONDS, OFFLINE_SECONDS, HostState, MachineState
from machines.models import Host, User
from machines.models.host import HostQuerySet
from machines.panel.courier import redis_check
from machines.panel.pages import host_rows, keyset
from machines.panel.pages.host_rows import BY_NEED, QUARANTINED

PER_PAGE = 50
COLUMNS = ("name", "last_seen", "facts", "quarantined_at")
RUNS = [state.value for state in MachineState if state.runs]
COUNTS = ("count", "running", "failed")


def counts(by: User) -> dict[str, Count]:
    """How many machines a host has that this person sees, as parts of a query for hosts."""
    teams = by.teams_where(Permission.VIEW)
    seen = Q(machines__removed_at=None) & (Q() if teams is None else Q(machines__team__in=teams))
    return {
        "count": Count("machines", filter=seen),
        "running": Count("machines", filter=seen & Q(machines__state__in=RUNS)),
        "failed": Count("machines", filter=seen & Q(machines__state=MachineState.FAILED)),
    }


@dataclass(frozen=True)
class Position:
    """The host a page follows, or going back precedes: how much it needs somebody, and its name."""

    need: int
    name: str
    backwards: bool = False

    def __str__(self) -> str:
        return f"{self.need}.{self.name}"

    @property
    def condition(self) -> Q:
        way = "lt" if self.backwards else "gt"
        return Q(**{f"need__{way}": self.need}) | Q(**{"need": self.need, f"name__{way}": self.name})


@dataclass(frozen=True)
class HostListQuery:
    """What the query string asks for. Nonsense in it asks for nothing."""

    word: str = ""
    position: Position | None = None

    def encode(self, **changed: str) -> str:
        """The query string of the first page, with some parts changed."""
        return urlencode({key: value for key, value in ({"q": self.word} | changed).items() if value})

    @property
    def address(self) -> str:
        """The query string of this very page."""
        place = {"before" if self.position.backwards else "after": str(self.position)} if self.position else {}
        return self.encode(**place)


def parse_query(params: QueryDict) -> HostListQuery:
    before = params.get("before", "")
    return HostListQuery(
        word=params.get("q", "").replace("\0", "").strip()[:100],
        position=_position(before or params.get("after", ""), backwards=bool(before)),
    )


def _position(text: str, *, backwards: bool) -> Position | None:
    match = re.fullmatch(r"(-?[0-9])\.([^\0]{1,63})", text)
    return Position(int(match[1]), match[2], backwards) if match else None


@dataclass(frozen=True)
class HostListPage:
    query: HostListQuery
    rows: list[dict[str, Any]]
    total: int
    previous: str
    next: str
    redis_faults: list[str]  # what is wrong with the Redis of all hosts


def page(query: HostListQuery, now: datetime, *, by: User) -> HostListPage:
    """One page. Two queries, whatever the filter and however many hosts; Redis' faults come with the hosts."""
    hosts = matching(query.word, now, by=by)
    total = hosts.count()
    place = query.position
    backwards = bool(place and place.backwards)
    beyond = hosts.filter(place.condition) if place else hosts
    order = ("-need", "-name") if backwards else ("need", "name")
    asked = beyond.annotate(**counts(by), redis_faults=redis_check.subquery()).order_by(*order)
    found = list(asked.values(*COLUMNS, *COUNTS, "redis_faults")[: PER_PAGE + 1]) if total else []
    shown = keyset.cut(found, PER_PAGE, backwards=backwards, is_first=place is None)
    rows = [host_rows.row(given, now) for given in shown.rows]
    return HostListPage(
        query=query,
        rows=rows,
        total=total,
        previous=_link(query, "before", rows[0]) if shown.has_previous and rows else "",
        next=_link(query, "after", rows[-1]) if shown.has_next and rows else "",
        redis_faults=found[0]["redis_faults"] or [] if found else redis_check.kept(),
    )


def _link(query: HostListQuery, direction: str, edge: dict[str, Any]) -> str:
    return "?" + query.encode(**{direction: str(Position(edge["need"], edge["name"]))})


def matching(word: str, now: datetime, *, by: User) -> HostQuerySet:
    """Hosts with the word in their name, each with its `need` as host_rows.row has it. No index has that, for it
    follows from an age; hosts are hundreds."""
    shown = Host.objects.visible_to(by)
    hosts = shown.filter(name__icontains=word) if word else shown
    return hosts.annotate(
        need=Case(
            When(quarantined_at__isnull=False, then=Value(QUARANTINED)),
            When(last_seen=None, then=Value(BY_NEED[HostState.JOINING])),
            When(last_seen__lt=now - timedelta(seconds=OFFLINE_SECONDS), then=Value(BY_NEED[HostState.OFFLINE])),
            When(last_seen__lt=now - timedelta(seconds=LATE_SECONDS), then=Value(BY_NEED[HostState.LATE])),
            default=Value(BY_NEED[HostState.ONLINE]),
            output_field=IntegerField(),
        )
    )
