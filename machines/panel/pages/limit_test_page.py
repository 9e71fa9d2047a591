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
    mine = Job.objects.visible_to(request.user).on(machine.host, machine.name)
    jobs = list(mine.of(LimitTest).defer("order", "sealed")[:LOOKED_AT])
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
        "measurements": measurements(shown) if shown else [],
        "fragment": responses.wants_fragment(request),
    }
    facts = [(job.pk, job.state, job.progress, len(job.phases)) for job in jobs]
    unfinished = layout.running_jobs(request)
    return context | {"seen": machine_rows.version(facts, actions["state"], actions["doing"], unfinished)}


def measurements(job: Job) -> list[Shown]:
    """What the host measured; nothing of what cannot be read."""
    try:
        return [shown(measurement) for measurement in limit_test.from_wire(job.result).measurements]
    except BadValue:
        return []


def shown(measurement: Measurement) -> Shown:
    word, icon, colour = VERDICTS[measurement.verdict]
    table = [(f"{at:.2f} s", amount(measurement, value)) for at, value in measurement.samples[:TABLE_ROWS]]
    return Shown(
        measurement.key, TITLES[measurement.key], word, icon, colour, sentence(measurement), amount(measurement, measurement.asked),
        amount(measurement, measurement.measured), chart(measurement), table,
    )  # fmt: skip


def amount(measurement: Measurement, value: float) -> str:
    """19.8 % of one CPU's time, or 128 MiB."""
    return f"{value:.3g}{quantities.NBSP}%" if measurement.key == "CPUQuota" else quantities.size(value)


def sentence(measurement: Measurement) -> str:
    asked, measured, of = (
        amount(measurement, measurement.asked),
        amount(measurement, measurement.measured),
        f"{measurement.key}={{}}",
    )
    if measurement.verdict == "no_limit":
        return f"It has no {measurement.key}=, so there is nothing to test: it may use all that the host has."
    if measurement.verdict == "skipped":
        return _refusal(measurement, of.format(asked))
    if measurement.key == "CPUQuota":
        return _cpu(measurement, of.format(asked), measured)
    return _memory(measurement, of.format(asked), measured)


def _cpu(measurement: Measurement, limit: str, measured: str) -> str:
    over = f"{measured} over {measurement.seconds:.0f} s"
    return {
        "enforced": f"{limit} is enforced: {over}. The kernel throttled the load {measurement.throttled} times.",
        "exceeded": f"{limit} is not enforced: {over}.",
        "not_reached": f"The load reached only {over}; the host was too busy to reach {limit}. Try again when it is "
        "less loaded.",
    }[measurement.verdict]


def _memory(measurement: Measurement, limit: str, measured: str) -> str:
    if measurement.verdict == "enforced" and measurement.killed:
        others = (
            f" {measurement.others} of its own processes were killed too."
            if measurement.others
            else " None of its own processes was touched."
        )
        return f"{limit} is enforced: the kernel killed the load at {measured}.{others}"
    return {
        "enforced": f"{limit} is enforced: the load asked for more and usage stayed at {measured}; the rest went to swap.",
        "exceeded": f"{limit} is not enforced: usage reached {measured}.",
        "not_reached": f"Usage reached only {measured}: something slowed the load down before it reached {limit}, "
        "such as MemoryHigh=.",
    }[measurement.verdict]


def _refusal(measurement: Measurement, limit: str) -> str:
    return {
        "too-near": f"{limit} was not tested: its own processes use {amount(measurement, measurement.own)}, too close to "
        "the limit to be sure that none of them is killed.",
        "host-small": f"{limit} was not tested: that would take {amount(measurement, measurement.needed)}, more than half of "
        "what the "
        "host has free.",
        "more-than-host": f"{limit} was not tested: that is all the CPUs this host has, or more.",
        "group-kill": f"{limit} was not tested: this unit is set to stop when one of its processes is killed "
        "(OOMPolicy=).",
        "no-meter": f"{limit} was not tested: the host's kernel does not account this for the machine.",
        "": f"{limit} was not tested.",
    }[measurement.why]


def chart(measurement: Measurement) -> Chart | None:
    """The samples as a line below or over the cap."""
    if len(measurement.samples) < 2:
        return None
    end = max(at for at, _ in measurement.samples) or 1.0
    top = 1.25 * max(measurement.asked, *(value for _, value in measurement.samples)) or 1.0
    points = [f"{WIDTH * at / end:.1f},{HEIGHT * (1 - value / top):.1f}" for at, value in measurement.samples]
    first, last = points[0].split(",")[0], points[-1].split(",")[0]
    area = " ".join([f"{first},{HEIGHT}", *points, f"{last},{HEIGHT}"])
    return Chart(
        " ".join(points),
        area,
        round(HEIGHT * (1 - measurement.asked / top), 1),
        amount(measurement, top),
        f"{end:.0f} s",
    )
