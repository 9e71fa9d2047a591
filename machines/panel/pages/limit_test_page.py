"""The proof of a machine's limits as its page shows it: a verdict in a sentence, a chart, and the figures behind it."""

from dataclasses import dataclass
from typing import Any

from machines.contract import limit_test, quantities
from machines.contract.limit_test import Measurement
from machines.contract.orders import LimitTest
from machines.contract.problems import BadValue
from machines.contract.states import JobState
from machines.models import Job, Machine
from machines.panel.pages import machine_page, machine_rows
from machines.panel.web import layout, responses
from machines.panel.web.access import PanelRequest

LOOKED_AT = 10  # jobs
WIDTH, HEIGHT = 400, 120  # of a chart, in its own units
TABLE_ROWS = 60

TITLES = {"CPUQuota": "CPU time", "MemoryMax": "Memory"}
VERDICTS = {  # verdict → (word, icon, colour)
    "enforced": ("enforced", "check-circle-fill", "success"),
    "exceeded": ("not enforced", "x-circle-fill", "danger"),
    "not_reached": ("not reached", "question-circle-fill", "warning"),
    "no_limit": ("no limit", "dash-circle", "secondary"),
    "skipped": ("not tested", "slash-circle", "warning"),
}


@dataclass(frozen=True)
class Chart:
    """Points of the line and of the filled area below it; heights in the units of the drawing, counted from the top."""

    line: str
    area: str
    cap: float
    top: str  # what the upper edge stands for
    end: str  # what the right edge stands for


@dataclass(frozen=True)
class Shown:
    """One cap that was tried."""

    key: str
    title: str
    word: str
    icon: str
    colour: str
    sentence: str
    asked: str
    measured: str
    chart: Chart | None
    table: list[tuple[str, str]]


def context(request: PanelRequest, machine: Machine) -> dict[str, Any]:
    jobs = list(Job.objects.on(machine.host, machine.name).of(LimitTest).defer("order", "sealed")[:LOOKED_AT])
    latest = jobs[0] if jobs else None
    shown = next((job for job in jobs if job.state == JobState.SUCCEEDED), None)
    actions = machine_page.actions(request, machine)
    context = actions | {
        "host_url": machine_rows.host_url(machine.host.name),
        "is_silent": machine.host.is_silent,
        "is_running": machine.shown_state.runs,
        "has_draft": getattr(machine, "has_draft", False),
        "running": latest if latest and not latest.is_final else None,
        "failed": latest if latest and latest.is_final and latest.state != JobState.SUCCEEDED else None,
        "shown": shown,
        "trials": trials(shown) if shown else [],
        "fragment": responses.wants_fragment(request),
    }
    facts = [(job.pk, job.state, job.progress, len(job.phases)) for job in jobs]
    unfinished = layout.running_jobs(request)
    return context | {"seen": machine_rows.version(facts, actions["state"], actions["doing"], unfinished)}


def trials(job: Job) -> list[Shown]:
    """What the host measured; nothing of what cannot be read."""
    try:
        return [shown(trial) for trial in limit_test.from_wire(job.result).measurements]
    except BadValue:
        return []


def shown(trial: Measurement) -> Shown:
    word, icon, colour = VERDICTS[trial.verdict]
    table = [(f"{at:.2f} s", amount(trial, value)) for at, value in trial.samples[:TABLE_ROWS]]
    return Shown(
        trial.key, TITLES[trial.key], word, icon, colour, sentence(trial), amount(trial, trial.asked),
        amount(trial, trial.measured), chart(trial), table,
    )  # fmt: skip


def amount(trial: Measurement, value: float) -> str:
    """19.8 % of one CPU's time, or 128 MiB."""
    return f"{value:.3g}{quantities.NBSP}%" if trial.key == "CPUQuota" else quantities.size(value)


def sentence(trial: Measurement) -> str:
    asked, measured, of = amount(trial, trial.asked), amount(trial, trial.measured), f"{trial.key}={{}}"
    if trial.verdict == "no_limit":
        return f"It has no {trial.key}=, so there is nothing to test: it may use all that the host has."
    if trial.verdict == "skipped":
        return _refusal(trial, of.format(asked))
    if trial.key == "CPUQuota":
        return _cpu(trial, of.format(asked), measured)
    return _memory(trial, of.format(asked), measured)


def _cpu(trial: Measurement, limit: str, measured: str) -> str:
    over = f"{measured} over {trial.seconds:.0f} s"
    return {
        "enforced": f"{limit} is enforced: {over}. The kernel throttled the load {trial.throttled} times.",
        "exceeded": f"{limit} is not enforced: {over}.",
        "not_reached": f"The load reached only {over}; the host was too busy to reach {limit}. Try again when it is "
        "less loaded.",
    }[trial.verdict]


def _memory(trial: Measurement, limit: str, measured: str) -> str:
    if trial.verdict == "enforced" and trial.killed:
        others = (
            f" {trial.others} of its own processes were killed too."
            if trial.others
            else " None of its own processes was touched."
        )
        return f"{limit} is enforced: the kernel killed the load at {measured}.{others}"
    return {
        "enforced": f"{limit} is enforced: the load asked for more and usage stayed at {measured}; the rest went to swap.",
        "exceeded": f"{limit} is not enforced: usage reached {measured}.",
        "not_reached": f"Usage reached only {measured}: something slowed the load down before it reached {limit}, "
        "such as MemoryHigh=.",
    }[trial.verdict]


def _refusal(trial: Measurement, limit: str) -> str:
    return {
        "too-near": f"{limit} was not tested: its own processes use {amount(trial, trial.own)}, too close to "
        "the limit to be sure that none of them is killed.",
        "host-small": f"{limit} was not tested: that would take {amount(trial, trial.needed)}, more than half of "
        "what the "
        "host has free.",
        "more-than-host": f"{limit} was not tested: that is all the CPUs this host has, or more.",
        "group-kill": f"{limit} was not tested: this unit is set to stop when one of its processes is killed "
        "(OOMPolicy=).",
        "no-meter": f"{limit} was not tested: the host's kernel does not account this for the machine.",
        "": f"{limit} was not tested.",
    }[trial.why]


def chart(trial: Measurement) -> Chart | None:
    """The samples as a line below or over the cap."""
    if len(trial.samples) < 2:
        return None
    end = max(at for at, _ in trial.samples) or 1.0
    top = 1.25 * max(trial.asked, *(value for _, value in trial.samples)) or 1.0
    points = [f"{WIDTH * at / end:.1f},{HEIGHT * (1 - value / top):.1f}" for at, value in trial.samples]
    first, last = points[0].split(",")[0], points[-1].split(",")[0]
    area = " ".join([f"{first},{HEIGHT}", *points, f"{last},{HEIGHT}"])
    return Chart(" ".join(points), area, round(HEIGHT * (1 - trial.asked / top), 1), amount(trial, top), f"{end:.0f} s")
