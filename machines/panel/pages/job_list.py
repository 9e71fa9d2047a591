"""The list of jobs: what the filter field says, one page of it by keyset, and rows of ready strings.

Ids only grow, so a page is “older than this one” or “newer than that one” and needs no count.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q, Value
from django.http import QueryDict
from django.urls import reverse

from machines.contract import orders
from machines.contract.orders import Runs
from machines.contract.permissions import Permission
from machines.contract.states import FINAL_JOB_STATES, UNFINISHED_JOB_STATES, JobState
from machines.models import Host, Job, Membership, User
from machines.models.job import JobQuerySet
from machines.models.team import is_in
from machines.panel.orders import job_labels, operations
from machines.panel.pages import keyset
from machines.panel.pages.machine_rows import NOBODY_S, host_url, machine_url
from machines.templatetags import panel_tags

PER_PAGE = 50
WORDS_AT_MOST = 12
CHOICES_OFFERED = 300
UNFINISHED = "unfinished"  # not a state: all that have not ended
STATES = (UNFINISHED, *(s.value for s in JobState))
OPS = tuple(op for op, kind in orders.KINDS.items() if kind.runs is not Runs.CONTROL)
TERMS = ("state", "op", "host", "who")
BAD_ENDS = {JobState.FAILED, JobState.TIMED_OUT, JobState.EXPIRED, JobState.LOST}
COLUMNS = (
    "id", "team_id", "team__name", "op", "state", "host_id", "host__name", "host__last_seen", "host__clock_skew", "host__trouble", "machine_name", "actor_name", "created_at", "sent_at",
    "accepted_at", "started_at", "finished_at", "expires_at", "cancel_asked_at", "problem__message", "problem__code", "progress", "progress_note", "phases",
    "order__recipe__verify",
)  # fmt: skip


@dataclass(frozen=True)
class JobListQuery:
    """What the query string asks for: plain words narrow, several values of one term widen. Nonsense asks for nothing."""

    text: str = ""
    words: tuple[str, ...] = ()
    terms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    older_than: int = 0
    newer_than: int = 0

    def encode(self, **changed: str) -> str:
        """The query string of the first page, with some parts changed."""
        return urlencode({key: value for key, value in ({"q": self.text} | changed).items() if value})

    @property
    def address(self) -> str:
        """The query string of this very page."""
        place = {"older": self.older_than, "newer": self.newer_than}
        return self.encode(**{key: str(value) for key, value in place.items() if value})

    def with_term(self, key: str, value: str) -> str:
        """The text with one more term, or without it where it stands already."""
        term = f"{key}:{value}"
        kept = [word for word in self.text.split() if word.lower() != term.lower()]
        return " ".join(kept if self.has_term(key, value) else [*kept, term])

    def has_term(self, key: str, value: str) -> bool:
        return value.lower() in self.terms.get(key, ())

    @property
    def strange(self) -> list[str]:
        """States and operations that do not exist; nothing can match them."""
        known = {"state": STATES, "op": tuple(orders.KINDS)}
        return [
            f"{key}:{value}" for key, words in known.items() for value in self.terms.get(key, ()) if value not in words
        ]


def parse_query(params: QueryDict) -> JobListQuery:
    given: dict[str, list[str]] = {key: [] for key in TERMS}
    words = []
    all_words = params.get("q", "")[:500].replace("\0", "").split()[:WORDS_AT_MOST]
    for word in all_words:
        key, colon, value = word.partition(":")
        if colon and value and key.lower() in given:
            given[key.lower()].append(value.lower())
        else:
            words.append(word)
    return JobListQuery(
        text=" ".join(all_words),
        words=tuple(words),
        terms={key: tuple(values) for key, values in given.items() if values},
        older_than=keyset.number(params.get("older", "")),
        newer_than=keyset.number(params.get("newer", "")),
    )


def matching(query: JobListQuery, *, by: User) -> JobQuerySet:
    jobs = Job.objects.shown_to(by)
    for word in query.words:
        number = keyset.number(word.removeprefix("#"))
        found = Q(machine_name__icontains=word) | Q(host__name__icontains=word)
        jobs = jobs.filter(found | Q(pk=number) if number else found)
    for key, values in query.terms.items():
        jobs = jobs.filter(_has_term(key, values))
    return jobs


def _has_term(key: str, values: Iterable[str]) -> Q:
    if key == "state":
        states = {state for state in values if state != UNFINISHED}
        states |= {s.value for s in UNFINISHED_JOB_STATES} if UNFINISHED in values else set()
        return Q(state__in=states)
    if key == "op":
        return Q(op__in=list(values))
    column = {"host": "host__name__iexact", "who": "actor_name__iexact"}[key]
    found = Q(pk__in=[])
    for value in values:
        found |= Q(**{column: value})
    return found


@dataclass(frozen=True)
class JobListPage:
    query: JobListQuery
    rows: list[dict[str, Any]]
    newer: str
    older: str

    @property
    def version(self) -> str:
        """Changes when anything shown does, but for ages, which the browser keeps true."""
        return blake2b(repr((self.query.address, self.rows)).encode(), digest_size=8).hexdigest()


def page(query: JobListQuery, now: datetime, *, by: User) -> JobListPage:
    """One page, newest first. One query."""
    jobs, operable = matching(query, by=by), by.teams_where(Permission.OPERATE)
    if query.newer_than:
        beyond = jobs.filter(pk__gt=query.newer_than).order_by("id")
    else:
        beyond = (jobs.filter(pk__lt=query.older_than) if query.older_than else jobs).order_by("-id")
    found = list(beyond.values(*COLUMNS)[: PER_PAGE + 1])
    shown = keyset.cut(found, PER_PAGE, backwards=bool(query.newer_than), is_first=not query.older_than)
    return JobListPage(
        query=query,
        rows=[row(given, now, operable) for given in shown.rows],
        newer=f"?{query.encode(newer=str(shown.rows[0]['id']))}" if shown.has_previous and shown.rows else "",
        older=f"?{query.encode(older=str(shown.rows[-1]['id']))}" if shown.has_next and shown.rows else "",
    )


def row(given: dict[str, Any], now: datetime, operable: Collection[int] | None) -> dict[str, Any]:
    """What the table shows of one job. `given` has the COLUMNS; `operable` are the teams whose jobs the person may cancel,
    None for all."""
    state = JobState(given["state"])
    begun = given["started_at"] or given["accepted_at"]
    return {
        "id": given["id"],
        "url": reverse("job-detail", args=[given["id"]]),
        "state": state.value,
        "badge": panel_tags.state_badge(state.value, "job"),
        "team": given["team__name"] or NOBODY_S,
        "what": operations.of(given["op"]).of(given["machine_name"]),
        "machine_url": machine_url(given["host__name"], given["machine_name"]) if given["machine_name"] else "",
        "host": given["host__name"],
        "host_url": host_url(given["host__name"]),
        "unverified": given["order__recipe__verify"] == "none",
        "who": given["actor_name"],
        "created_at": given["created_at"],
        "begun": begun,
        "finished_at": given["finished_at"] if begun else None,
        "cancelling": bool(given["cancel_asked_at"]) and not state.is_final,
        "why": _wait(given).reason(state, now),
        "doing": _doing(given) if state == JobState.RUNNING else "",
        "problem": str(given["problem__message"] or "")[:200] if state in BAD_ENDS else "",
        "can_cancel": is_in(operable, given["team_id"])
        and not state.is_final
        and not given["cancel_asked_at"]
        and orders.kind_of(given["op"]).runs is not Runs.CONTROL,
        "is_final": state in FINAL_JOB_STATES,
    }


def _doing(given: dict[str, Any]) -> str:
    phase = str(given["phases"][-1]["name"]) if given["phases"] else ""
    share = f"{round(100 * given['progress'])} %" if given["progress"] is not None else ""
    return ", ".join(part for part in (phase, share) if part)


def _wait(given: dict[str, Any]) -> job_labels.Wait:
    return job_labels.Wait(
        given["host__name"],
        given["host__last_seen"],
        given["sent_at"],
        given["accepted_at"],
        given["expires_at"],
        given["op"],
        given["progress_note"],
        given["host__clock_skew"],
        given["host__trouble"].get("spool", ""),
        str(given["problem__code"] or ""),
    )


def choices(*, by: User) -> dict[str, list[str]]:
    """The hosts and people a list can be narrowed to. One query."""
    teams = by.teams_where(Permission.VIEW)
    known = Q() if teams is None else Q(pk__in=Membership.objects.filter(team__in=teams).values("user"))
    hosts = Host.objects.visible_to(by).order_by().values_list(Value("host"), "name")
    people = User.objects.filter(known).order_by().values_list(Value("who"), "username")
    found: dict[str, list[str]] = {"host": [], "who": []}
    for kind, name in hosts.union(people, all=True):
        found[kind].append(name)
    return {kind: sorted(names)[:CHOICES_OFFERED] for kind, names in found.items()}
