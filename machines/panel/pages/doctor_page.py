"""What the last examination of a host or a machine found, in words, with what fixes each trouble."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from machines.contract.configuration import findings
from machines.contract.configuration.findings import FIX_TITLES, GROUPS, NETWORK, WORDS, Finding, Level
from machines.contract.orders import Diagnose, Fix
from machines.contract.permissions import Permission
from machines.contract.problems import BadValue
from machines.contract.states import JobState
from machines.models import Host, Job
from machines.panel.hosts import clocks
from machines.panel.orders import operations
from machines.panel.pages import machine_rows
from machines.panel.web import layout, responses
from machines.panel.web.access import PanelRequest

LOOKED_AT = 10  # jobs
# What only says that there is no address, and what follows from another trouble further along or before.
ANSWERS = {"address-none", "address-local"}
CONSEQUENCES = {"link-down", "link-down-inside", "extra-down", "extra-down-inside", "dhcp-silent", "lease-none"}
# The level's drawing, and its word for those who do not see it.
ICONS = {
    Level.OK: ("check-circle-fill", "OK"),
    Level.NOTE: ("info-circle-fill", "note"),
    Level.WARNING: ("exclamation-triangle-fill", "warning"),
    Level.PROBLEM: ("x-circle-fill", "problem"),
    Level.UNKNOWN: ("question-circle-fill", "unknown"),
}


@dataclass(frozen=True)
class FindingRow:
    """One finding, ready to be shown. `fix` is the word of a fix that would be safe now, or ""."""

    level: str
    icon: str
    word: str
    title: str
    means: str
    commands: list[str]
    fix: str
    fix_title: str


@dataclass(frozen=True)
class FindingGroup:
    title: str
    rows: list[FindingRow]


def context(request: PanelRequest, host: Host, name: str) -> dict[str, Any]:
    """For the machine of this name, or the host itself when it is ""."""
    mine = Job.objects.visible_to(request.user).on(host, name)
    jobs = list(mine.of(Diagnose, Fix).defer("order", "commands", "sealed")[:LOOKED_AT])
    latest = jobs[0] if jobs else None
    shown = next((job for job in jobs if job.state == JobState.SUCCEEDED and "findings" in job.result), None)
    time = clock(host) if shown and not name else []
    found = [*_found(shown), *time] if shown else []
    counts = {level.value: sum(findings.level(f) == level for f in found) for level in Level}
    context = {
        "host": host,
        "host_url": machine_rows.host_url(host.name),
        "is_silent": host.is_silent,
        "shown": shown,
        "groups": groups(found),
        "counts": counts,
        "worst": findings.worst(findings.level(f) for f in found).value,
        "cause": cause(found) if name else "",
        "verdict": verdict(counts),
        "verdict_rest": verdict_rest(counts),
        "running": latest if latest and not latest.is_final else None,
        "running_doing": operations.of(latest.op).doing if latest else "",
        "failed": latest if latest and latest.is_final and latest.state != JobState.SUCCEEDED else None,
        "failed_what": operations.of(latest.op).title if latest else "",
        "may_operate": request.user.may(Permission.OPERATE),
        "may_fix": request.user.may(Permission.ADMINISTER),
        "fragment": responses.wants_fragment(request),
    }
    unfinished = layout.running_jobs(request)
    version = machine_rows.version([(job.pk, job.state) for job in jobs], host.state().value, unfinished, time)
    return context | {"seen": version}


def verdict(counts: Mapping[str, int]) -> str:
    """In a few words; nothing is called in order while something could not be checked."""
    bad = [_count(counts, level, level.value) for level in (Level.PROBLEM, Level.WARNING) if counts[level.value]]
    if bad:
        return " and ".join(bad)
    if counts[Level.UNKNOWN.value]:
        return f"No problems found, but {_count(counts, Level.UNKNOWN, 'check')} could not be run."
    return "No problems found."


def verdict_rest(counts: Mapping[str, int]) -> str:
    """What follows the bold words."""
    if not counts[Level.PROBLEM.value] and not counts[Level.WARNING.value]:
        return ""
    unknown = f", {counts[Level.UNKNOWN.value]} unknown" if counts[Level.UNKNOWN.value] else ""
    return f"{unknown}, {counts[Level.OK.value]} OK."


def _count(counts: Mapping[str, int], level: Level, word: str) -> str:
    return f"{counts[level.value]} {word}{'' if counts[level.value] == 1 else 's'}"


def _found(job: Job) -> list[Finding]:
    """What the host said; nothing of what cannot be read."""
    try:
        return findings.from_wire(job.result.get("findings"))
    except BadValue:
        return []


def clock(host: Host) -> list[Finding]:
    """How the host's clock stands to the panel's now, whenever the rest was looked at."""
    skew = host.clock_skew
    if skew is None or host.is_silent:
        return []
    if abs(skew) <= clocks.UNSEEN:
        return [Finding(code="clock-agrees")]
    way = "behind" if skew < 0 else "ahead of"
    return [Finding(code="clock-differs", facts={"seconds": f"{abs(skew):.0f}", "way": way})]


def groups(found: list[Finding]) -> list[FindingGroup]:
    """The findings by subject, each subject in the order it was looked at: for the network that is the chain."""
    offered: set[str] = set()
    by_group = {word: [_once(row(f), offered) for f in found if WORDS[f.code].group == word] for word in GROUPS}
    return [FindingGroup(GROUPS[word], shown) for word, shown in by_group.items() if shown]


def _once(row: FindingRow, offered: set[str]) -> FindingRow:
    """The same fix of several findings is one button, at the first of them."""
    if row.fix in offered:
        return replace(row, fix="", fix_title="")
    offered.add(row.fix)
    return row


def row(finding: Finding) -> FindingRow:
    words = WORDS[finding.code]
    icon, word = ICONS[words.level]
    fix = words.fix if words.fix and finding.can_fix else None
    return FindingRow(
        words.level.value, icon, word, findings.title(finding), findings.means(finding), findings.commands(finding),
        fix or "", FIX_TITLES[fix] if fix else "",
    )  # fmt: skip


def cause(found: list[Finding]) -> str:
    """Why a machine has no address: the first trouble on the way that is no mere consequence. "" when it has one."""
    if not any(f.code in ANSWERS for f in found):
        return ""
    network = [f for f in found if WORDS[f.code].group == NETWORK]
    troubles = [f for f in network if findings.level(f) in {Level.PROBLEM, Level.WARNING} and f.code not in ANSWERS]
    first = next((f for f in troubles if f.code not in CONSEQUENCES), next(iter(troubles), None))
    return findings.title(first) if first else "every part of the network path is OK; it may still be waiting for DHCP"
