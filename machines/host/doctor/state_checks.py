"""What the machine itself is doing, before anything else is looked at: a machine that failed is not in order, whatever its
network says.

Facts: the console of a machine, its init's last words among them, is in its unit's journal. An init that finds no inotify
instance left writes “Failed to allocate manager object: Too many open files” and freezes: its unit stays active.
"""

from collections.abc import Iterator

from machines.contract.configuration.findings import Finding
from machines.contract.problems import printable
from machines.contract.states import MachineState
from machines.host.doctor.facts import Facts
from machines.host.doctor.host_checks import found
from machines.host.observe import unit_state
from machines.host.observe.unit_state import UnitState
from machines.host.system import journal

TOO_MANY = "Too many open files"
CODES = {
    MachineState.RUNNING: "state-running",
    MachineState.STARTING: "state-starting",
    MachineState.RESTARTING: "state-restarting",
    MachineState.STOPPING: "state-stopping",
    MachineState.STOPPED: "state-stopped",
    MachineState.FAILED: "state-failed",
}
FROZEN = ("Freezing execution", "Failed to allocate manager object")


def state(observed: Facts) -> Iterator[Finding]:
    """Whether it runs, and if not why; then what its console says of its init."""
    now, lines = observed.state, observed.console
    yield _judged(now, lines)
    frozen = next((line for line in lines if any(word in line for word in FROZEN)), "")
    if frozen and now.is_up:
        yield found("state-frozen", line=printable(frozen), name=observed.machine)
    if short := next((line for line in reversed(lines) if TOO_MANY in line), ""):
        yield found("state-files", line=printable(short), unit=now.unit)


def _judged(now: UnitState, lines: list[str]) -> Finding:
    facts = {
        "unit": now.unit,
        "name": now.name,
        "count": now.restarts + 1,
        "part": now.part or now.sub,
        "status": printable(now.status),
        "why": printable(journal.essence(lines)) or now.ended or now.result,
    }
    if now.state is MachineState.FAILED and (now.result == "start-limit-hit" or unit_state.was_refused(lines)):
        return found("state-refused", facts)
    return found(CODES.get(now.state, "state-unread"), facts)
