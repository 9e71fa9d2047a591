"""The order `limit_test`: a bounded load inside a machine's own control group shows that its caps hold, then it is gone.

The load is a process of ours in the machine's group: to the kernel it is one of the machine's, to the machine it is
invisible. It is killed first when memory ends, waits behind the machine's own processes, dies with this job, and ends by
itself. Nothing is tried that could cost the machine or the host something: see memory_refusal() and cpu_refusal().
"""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from machines.contract import limit_test, orders
from machines.contract.limit_test import Measurement, Verdict, Why
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.context.host_context import HostContext, Task
from machines.host.limits import load_group
from machines.host.limits.load_group import Group
from machines.host.observe import host_facts, unit_state
from machines.host.system.bus import BusError
from machines.host.system.faults import CommandFailed, MachineMissing, Stopped
from machines.host.system.paths import unit_of
from machines.host.system.run import run

LOAD = Path(__file__).with_name("load_generator.py")
CPU_SECONDS = 10.0
MEMORY_SECONDS = 5.0
PATIENCE = 20.0  # seconds a load may take longer than it should: it is slowed down by the very cap
BEYOND = 32 << 20  # bytes the load would take beyond the cap
INTERPRETER = 64 << 20  # bytes of address space that are not the load's
SPARE = 24 << 20
MOST = 16 << 30
UNLIMITED = 2**64 - 1

Meter = Callable[[], float]


def measure(host: HostContext, task: Task) -> dict[str, Any]:
    """Try both caps, one after the other. Raises MachineMissing, Stopped or Problem."""
    assert isinstance(task.order, orders.LimitTest)
    name = MachineName(task.order.name)
    task.output.phase("check", 1, 3)
    unit = _unit(host, name)
    group = Group(str(unit["ControlGroup"]))
    measurements = []
    invocation = bytes(host.bus.do(host.bus.unit(unit_of(name))).get("InvocationID", b""))
    for number, (step, trial) in enumerate((("processor", cpu), ("memory", memory)), 2):
        task.output.phase(step, number, 3)
        measurements.append(trial(task, group, unit))
        if measurements[-1].killed:
            load_group.note_kills(host.paths, invocation, 1)
        task.output.line(in_words(measurements[-1]))
    return limit_test.to_wire(measurements)


def _unit(host: HostContext, name: MachineName) -> dict[str, Any]:
    """Properties of the running machine's unit. Raises MachineMissing, or Problem foreign-unit."""
    try:
        path = host.bus.do(host.bus.machined("GetMachine", "s", [name]))[0]
        machine = host.bus.do(host.bus.properties("org.freedesktop.machine1", path, unit_state.MACHINE_IFACE))
    except BusError as error:
        if "NoSuchMachine" not in error.name and "UnknownObject" not in error.name:
            raise
        raise MachineMissing(
            f"{name} is not running, so its limits cannot be tested.", hint="Start it first."
        ) from error
    if machine["Unit"] != unit_of(name):
        raise Problem(
            f"{name} runs in {machine['Unit']}, not in its own unit, so its limits do not apply to it.",
            code="foreign-unit", hint="Stop it and start it as a unit.",
        )  # fmt: skip
    return host.bus.do(host.bus.unit(unit_of(name), "Service"))


# --- CPU


def cpu(task: Task, group: Group, unit: dict[str, Any]) -> Measurement:
    """As many busy processes as the quota can feed, for ten seconds."""
    quota = int(unit.get("CPUQuotaPerSecUSec", UNLIMITED))
    if quota == UNLIMITED:
        return Measurement(key="CPUQuota", verdict="no_limit")
    asked, cpus = quota / 10_000, len(os.sched_getaffinity(0))
    if why := cpu_refusal(group, asked, cpus):
        return Measurement(key="CPUQuota", verdict="skipped", why=why, asked=asked)
    count = min(cpus, math.ceil(asked / 100))
    argv = [[sys.executable, "-I", "-S", str(LOAD), "cpu", f"{CPU_SECONDS:g}"]] * count
    before = group.throttled()
    used = group.cpu_seconds() or 0.0
    with _loads(task, group, argv, cpu_seconds=math.ceil(CPU_SECONDS) + 5, memory=INTERPRETER * 4) as loads:
        totals = _watch(task, loads, lambda: group.cpu_seconds() or 0.0, CPU_SECONDS, 0.25)
    totals = [each for each in totals if each[0] <= CPU_SECONDS] or totals
    seconds = totals[-1][0]
    measured = 100 * (totals[-1][1] - used) / max(seconds, 0.1)
    samples = rates([(0.0, used), *totals[1:]])
    throttled = group.throttled() - before
    return Measurement(
        key="CPUQuota", verdict=cpu_verdict(asked, measured, throttled), asked=asked, measured=round(measured, 2),
        seconds=seconds, throttled=max(0, throttled), samples=samples,
    )  # fmt: skip


def cpu_refusal(group: Group, asked: float, cpus: int) -> Why:
    """Why it is not tried, or ""."""
    if asked >= 100 * cpus:
        return "more-than-host"
    return "no-meter" if group.cpu_seconds() is None else ""


def cpu_verdict(asked: float, measured: float, throttled: int) -> Verdict:
    """A tenth more than asked is the scheduler's slack within ten seconds."""
    if measured > asked * 1.1 + 1:
        return "exceeded"
    return "enforced" if throttled or measured >= asked * 0.85 else "not_reached"


def rates(totals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Percent of one CPU between each sample and the next."""
    pairs = pairwise(totals)
    return [(round(b[0], 2), round(100 * (b[1] - a[1]) / max(b[0] - a[0], 0.01), 1)) for a, b in pairs]


# --- memory


def memory(task: Task, group: Group, unit: dict[str, Any]) -> Measurement:
    """One process that takes memory until the kernel stops it, or 32 MiB beyond the cap."""
    cap = int(unit.get("MemoryMax", UNLIMITED))
    if cap == UNLIMITED:
        return Measurement(key="MemoryMax", verdict="no_limit")
    own, needed = group.memory_kept(), cap + BEYOND
    if why := memory_refusal(group, unit, cap, own):
        return Measurement(key="MemoryMax", verdict="skipped", why=why, asked=cap, own=own, needed=needed)
    argv = [[sys.executable, "-I", "-S", str(LOAD), "memory", str(needed), f"{MEMORY_SECONDS:g}"]]
    kills, limit = group.kills(), needed + INTERPRETER
    with _loads(task, group, argv, cpu_seconds=60, memory=limit) as loads:
        samples = _watch(task, loads, lambda: float(group.memory() or 0), MEMORY_SECONDS + 1, 0.1)
    died, ended = group.kills() - kills, loads[0].result()
    if ended and not died:
        raise Problem(
            "The load was ended by something other than the OOM killer.", code="load-ended",
            hint="The machine may have been stopped in the meantime. Try again.", retryable=True, details=ended,
        )  # fmt: skip
    peak = max(value for _, value in samples)
    return Measurement(
        key="MemoryMax", verdict=memory_verdict(cap, peak, killed=died > 0), asked=cap, measured=peak, own=own,
        seconds=samples[-1][0], killed=died > 0, others=max(0, died - 1), samples=samples,
    )  # fmt: skip


def memory_refusal(group: Group, unit: dict[str, Any], cap: int, own: int) -> Why:
    """Nothing of the machine's may die of the trial, nor may the host get short."""
    if group.memory() is None:
        return "no-meter"
    if unit.get("OOMPolicy") in {"stop", "kill"} or group.dies_together:
        return "group-kill"
    if cap - own < max(SPARE, cap // 8):
        return "too-near"
    available = host_facts.memory().get("MemAvailable", 0)
    return "host-small" if cap + BEYOND > min(available // 2, MOST) else ""


def memory_verdict(cap: int, peak: float, *, killed: bool) -> Verdict:
    """Counting in batches, the kernel may let a little more through than it says."""
    if peak > cap * 1.02 + (1 << 20):
        return "exceeded"
    return "enforced" if killed or peak >= cap * 0.95 else "not_reached"


# --- loads


@contextmanager
def _loads(
    task: Task, group: Group, argvs: list[list[str]], *, cpu_seconds: int, memory: int
) -> Iterator[list[Future[str]]]:
    """The loads at work, each in a thread that waits for it; its future gives "", or how it was killed."""
    over = threading.Event()
    with group.place() as files, ThreadPoolExecutor(len(argvs)) as waiting:
        prepare = load_group.entering(files, cpu_seconds=cpu_seconds, memory=memory)
        for argv in argvs[:1]:
            task.output.command(argv)
        try:
            yield [waiting.submit(_run, argv, over, prepare) for argv in argvs]
        finally:
            over.set()


def _run(argv: list[str], over: threading.Event, prepare: Callable[[], None]) -> str:
    try:
        run(argv, timeout=CPU_SECONDS + PATIENCE, stop=over, prepare=prepare)
    except CommandFailed as failed:
        return failed.message if failed.status == -9 else _broken(failed)
    except Stopped:
        return ""
    return ""


def _broken(failed: CommandFailed) -> str:
    raise failed


def _watch(
    task: Task, loads: list[Future[str]], meter: Meter, expected: float, pause: float
) -> list[tuple[float, float]]:
    """(seconds, what the meter shows), with a pause between samples, until the loads have ended. Raises Stopped."""
    begun, samples = time.monotonic(), []
    while True:
        done = all(load.done() for load in loads)
        passed = time.monotonic() - begun
        samples.append((round(passed, 2), meter()))
        task.output.progress(min(1.0, passed / expected))
        if done or passed > expected + PATIENCE:
            return samples[:400]
        task.check_stop()
        time.sleep(pause)


def in_words(trial: Measurement) -> str:
    """One line for the job's log."""
    if trial.verdict in {"no_limit", "skipped"}:
        return f"{trial.key}: {'no such limit' if trial.verdict == 'no_limit' else f'not tested ({trial.why})'}"
    unit, scale = (" %", 1.0) if trial.key == "CPUQuota" else (" MiB", float(1 << 20))
    return f"{trial.key}: asked {trial.asked / scale:g}{unit}, measured {trial.measured / scale:.1f}{unit}: {trial.verdict.replace('_', ' ')}"
