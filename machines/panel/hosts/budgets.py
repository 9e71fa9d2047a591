"""What one host may cost the panel that all share: machines, files, reports and log lines, by the day and by the job.

What goes beyond a budget is left out, and the pages of the host and of the job say so. Host.usage keeps what was spent
on a day (UTC), and how much is left out now; Job.log_cut names the budget that has cut a log.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Sum
from django.utils import timezone

from machines.contract.quantities import size
from machines.contract.reports import Line
from machines.models import Host, Job, Machine, ObservedFiles
from machines.models.host import HostQuerySet

# Reports that say in a few words how a job or a host is; all others are left out when the day's budget is spent
ESSENTIAL = frozenset({"accepted", "outcome", "heartbeat", "refused", "inventory"})
INVENTORY_EVERY = 60.0  # seconds between two that are taken then
CHUNK_CHARACTERS = 256 * 1024  # of the lines that are stored, and read, together
OF_JOB, OF_DAY = "job", "day"


# --- by the day


def today() -> str:
    return f"{timezone.now():%Y-%m-%d}"


def spent(host: Host, what: str) -> int:
    """Bytes or lines of today: reports, log, lines."""
    return int(host.usage.get(what, 0)) if host.usage.get("day") == today() else 0


def spend(host: Host, **amounts: int) -> None:
    """Count what a host has cost. The caller saves it."""
    if host.usage.get("day") != today():
        kept = {name: value for name, value in host.usage.items() if name in LEFT_OUT}
        host.usage = {**kept, "day": today()}
    host.usage = {**host.usage, **{name: spent(host, name) + amount for name, amount in amounts.items()}}


def is_taken(host: Host, kind: str) -> bool:
    """Whether a report of this kind is taken, or only counted because the host has said too much today."""
    if spent(host, "reports") <= settings.REPORTS_PER_DAY:
        return True
    if kind == "inventory" and host.inventory_at:
        return (timezone.now() - host.inventory_at).total_seconds() >= INVENTORY_EVERY
    return kind in ESSENTIAL


FAR_BEYOND = (
    2  # times the day's budget of reports: such a host is shut out (quarantine.py), for to read them is work too
)


def far_beyond() -> HostQuerySet:
    """Hosts that go on and on."""
    most = FAR_BEYOND * int(settings.REPORTS_PER_DAY)
    return Host.objects.filter(usage__day=today(), usage__reports__gt=most, quarantined_at=None)


def begin_anew(host: Host) -> None:
    """It may say as much again today."""
    Host.objects.filter(pk=host.pk).update(usage={name: host.usage[name] for name in LEFT_OUT if name in host.usage})


# --- machines and their files

# Keys of Host.usage: what is left out now. How many machines, the keys of those without their files, names of facts
LEFT_OUT = ("machines", "files", "facts")


def note(host: Host, what: str, left_out: Any) -> None:
    """Keep how much is left out; nothing, where nothing is. The caller saves the host."""
    kept = {name: value for name, value in host.usage.items() if name != what}
    host.usage = {**kept, what: left_out} if left_out else kept


FACTS_AT_MOST = 192 * 1024  # characters of what a host tells of itself: every list reads it
# What goes first, where there is more, and how pages call it
DISPENSABLE = {
    "leftovers": "files without a machine",
    "unusable_images": "images that cannot be machines",
    "interfaces": "network interfaces",
    "bridges": "bridges",
    "policy": "its policy",
    "bases": "bases",
    "tools": "tools it has",
    "missing": "missing tools",
    "lacks": "limits that are not enforced there",
}


def fitting(host: Host, facts: dict[str, Any]) -> dict[str, Any]:
    """A host's facts without what is too much. What is left out is noted; the caller saves the host."""
    left_out = list[str]()
    sizes = {name: len(json.dumps(value, ensure_ascii=False)) for name, value in facts.items()}
    for name in DISPENSABLE:
        if sum(sizes.values()) > FACTS_AT_MOST:
            facts = {key: value for key, value in facts.items() if key != name}
            left_out.append(name)
            sizes.pop(name, None)
    note(host, "facts", left_out)
    return facts


def note_files(host: Host, kept: Collection[int], told: Collection[int]) -> None:
    """Keep of which machines, by their keys, the files that were told last are left out. The caller saves the host."""
    before = set(host.usage.get("files", ()))
    if before or len(kept) < len(told):
        still = (before | set(told)) - set(kept)
        there = Machine.objects.listed().on(host).filter(pk__in=still).values_list("pk", flat=True)
        note(host, "files", sorted(there))


def free_places(host: Host) -> int:
    """How many machines of it may still become known."""
    return max(0, int(settings.MACHINES_PER_HOST) - Machine.objects.listed().on(host).count())


def free_for_files(host: Host, but: list[int]) -> int:
    """Characters that may still be told of files, beside those of other machines than these."""
    kept = ObservedFiles.objects.filter(machine__host=host).exclude(machine__in=but).aggregate(all=Sum("size"))["all"]
    return max(0, int(settings.FILES_PER_HOST) - (kept or 0))


# --- logs


@dataclass(frozen=True)
class Room:
    """What may still be kept of a job's log; `cut` names the budget that is the narrower one."""

    lines: int
    characters: int
    cut: str


def room(host: Host, job: Job) -> Room:
    of_job = (settings.LOG_LINES_PER_JOB - job.line_count, settings.LOG_PER_JOB - job.log_bytes)
    of_day = (settings.LOG_LINES_PER_DAY - spent(host, "lines"), settings.LOG_PER_DAY - spent(host, "log"))
    cut = OF_DAY if of_day[0] < of_job[0] or of_day[1] < of_job[1] else OF_JOB
    return Room(min(of_job[0], of_day[0]), min(of_job[1], of_day[1]), cut)


def weight(line: Line) -> int:
    """Bytes it takes in the database, about."""
    return len(line.text.encode(errors="replace")) + 40


def why_cut(job: Job) -> str:
    """The sentence under a log that was cut; "" for one that is whole."""
    return why(job.log_cut, job.host.name) if job.log_cut else ""


def why(cut: str, host: str) -> str:
    """What a log that was cut at a budget says of it."""
    if cut == OF_JOB:
        most = f"{settings.LOG_LINES_PER_JOB:,} lines or {size(settings.LOG_PER_JOB)}"
        return f"The log is truncated: this job wrote more than {most}, the limit for one job."
    most = f"{settings.LOG_LINES_PER_DAY:,} lines or {size(settings.LOG_PER_DAY)}"
    return f"The log is truncated: the jobs of {host} wrote more than {most} in one day, the limit for one host."


# --- what a job's outcome says

RESULT_AT_MOST = 512 * 1024  # characters of all it brought
PROBLEM_AT_MOST = {"code": 100, "message": 2000, "hint": 2000, "details": 32 * 1024}  # characters of each


def fitting_result(result: dict[str, Any]) -> dict[str, Any]:
    """The same without its longest parts, where it is too long; then `left_out` names them."""
    sizes = {name: len(json.dumps(value, ensure_ascii=False)) for name, value in result.items()}
    left_out = list[str]()
    while sum(sizes.values()) > RESULT_AT_MOST:
        longest = max(sizes, key=lambda name: sizes[name])
        del sizes[longest]
        left_out.append(longest)
    kept = {name: value for name, value in result.items() if name in sizes}
    return {**kept, "left_out": ", ".join(left_out)[:300]} if left_out else kept


def fitting_problem(problem: dict[str, Any] | None) -> dict[str, Any] | None:
    """Its sentences within bounds; of one that is too long as a whole only these."""
    if problem is None:
        return None
    known = {name: _short(problem[name], most) for name, most in PROBLEM_AT_MOST.items() if name in problem}
    others = {name: value for name, value in problem.items() if name not in known}
    return {**known, **others} if len(json.dumps(others, ensure_ascii=False)) <= PROBLEM_AT_MOST["details"] else known


def _short(value: Any, most: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[:most]}…"


# --- for the host's page


def left_out(host: Host) -> list[str]:
    """Sentences on what of this host the panel does not keep; [] where it keeps everything."""
    said = []
    if count := host.usage.get("machines"):
        said.append(f"{_machines(count)} not shown: the limit is {settings.MACHINES_PER_HOST:,} per host.")
    if count := len(host.usage.get("files", ())):
        whose = "one machine" if count == 1 else f"{count:,} machines"
        said.append(f"The files of {whose} are not shown: the limit is {size(settings.FILES_PER_HOST)} per host.")
    if names := host.usage.get("facts"):
        said.append(
            "It reported more about itself than the panel keeps; omitted: "
            f"{', '.join(DISPENSABLE.get(name, name) for name in names)}."
        )
    if spent(host, "reports") > settings.REPORTS_PER_DAY:
        said.append(
            f"It has sent more than {size(settings.REPORTS_PER_DAY)} today. Until midnight UTC its logs, files and "
            "changes are dropped; its list of machines is read once a minute."
        )
    if spent(host, "log") > settings.LOG_PER_DAY or spent(host, "lines") > settings.LOG_LINES_PER_DAY:
        said.append(
            "Its jobs have written more today than the panel keeps: their logs are truncated until midnight UTC."
        )
    return said


def _machines(count: int) -> str:
    return "One machine of this host is" if count == 1 else f"{count:,} machines of this host are"


def used(host: Host) -> str:
    """What it has cost today, in words."""
    return f"{size(spent(host, 'reports'))} of reports, {spent(host, 'lines'):,} log lines ({size(spent(host, 'log'))})"
