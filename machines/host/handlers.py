"""The visible table: which function carries out which converging order.

Each may be carried out twice without harm and checks the real state. Start goes over the open bus connection, which
saves a process; the other verbs are machinectl's own, as people type them.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from machines.contract import orders
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host import apply, autostart, host_fact, journal, machinectl, systemctl
from machines.host.bus import BusError
from machines.host.faults import CommandFailed, MachineMissing, TookTooLong
from machines.host.paths import unit_of
from machines.host.this_host import Task, ThisHost

Result = dict[str, Any]
Handler = Callable[[ThisHost, Task], Result]

# More starts at once than CPUs give every one of them a worse time and none of them a better one.
_STARTS = threading.Semaphore(max(2, os.cpu_count() or 2))
_STOPPING = 30.0  # seconds a start waits for a stop that is under way
_START_TURN = 5.0  # seconds a start waits for the others at most: one that hangs must not hold up all


def _name(task: Task) -> MachineName:
    return MachineName(str(getattr(task.order, "name")))  # noqa: B009 - every converging order has one


def start(host: ThisHost, task: Task) -> Result:
    """Start a machine and wait until systemd says it is up (with NotifyReady: until it has booted)."""
    return start_machine(host, task, _name(task))


def start_machine(host: ThisHost, task: Task, name: MachineName) -> Result:
    """The same by name, for a build's last step. Raises MachineMissing, TookTooLong or Problem start-failed."""
    if not _has_image(host, name):
        raise MachineMissing(
            f"There is no image named {name} on this host.", hint="Build it, or refresh the list of machines."
        )
    task.voice.command(machinectl.start(name))
    result = _start_unit(host, task, name)
    if result in {"done", "skipped"}:
        return {}
    raise _did_not_start(host, task, name, result)


def _did_not_start(host: ThisHost, task: Task, name: MachineName, result: str) -> Problem:
    """Why it did not, in the unit's own words, which also go into the job's log."""
    lines = journal.lines_of(bytes(host.bus.do(host.bus.unit(unit_of(name))).get("InvocationID", b"")))
    for line in lines:
        task.voice.line(line, "e")
    if result == "timeout":
        return TookTooLong(f"{name} did not come up in time.", hint="Its unit's log says what it was waiting for.")
    return Problem(
        f"{name} did not start: {_essence(lines) or f'systemd calls it {result}'}",
        code="start-failed",
        hint="The last lines of its log are the reason; most often a setting names something that is not there.",
        details="\n".join(lines)[-4000:],
    )


def _has_image(host: ThisHost, name: MachineName) -> bool:
    """Most images are folders here; for the rest machined knows more search paths than we do."""
    if (host.paths.image(name) / "usr").is_dir():
        return True
    try:
        host.bus.do(host.bus.machined("GetImage", "s", [name]))
    except BusError as error:
        if "NoSuchImage" in error.name:
            return False
        raise
    return True


def _start_unit(host: ThisHost, task: Task, name: MachineName) -> str:
    """StartUnit on the bus, which is what machinectl start does; the result of its job."""
    turn = _STARTS.acquire(timeout=_START_TURN)
    try:
        while True:
            try:
                left = max(1.0, task.deadline - time.time())
                return host.bus.do(host.bus.unit_job("StartUnit", unit_of(name), "fail"), left)
            except BusError as error:
                _wait_for_stop(task, name, error)
    except TookTooLong:
        return "timeout"
    finally:
        if turn:
            _STARTS.release()


def _wait_for_stop(task: Task, name: MachineName, error: BusError) -> None:
    """A machine that is just stopping can be started when it has stopped. Raises anything else as it is."""
    if "TransactionIsDestructive" not in error.name:
        raise error
    if time.time() > task.begun + _STOPPING:
        raise Problem(f"{name} has been stopping for {_STOPPING:.0f} s.", code="machine-busy", passing=True) from error
    task.check_stop()
    time.sleep(0.1)


def _essence(lines: list[str]) -> str:
    """The first line that is nspawn's own complaint rather than systemd's summary of it."""
    summary = ("Starting ", "Started ", "Stopped ", "Failed to start", "Stopping ")
    own = [line for line in lines if not line.startswith(("systemd-nspawn@", *summary)) and line.strip()]
    return own[-1][:300] if own else ""


Reached = Callable[[str, bool], bool]  # (active state of the unit, whether the machine is registered)


def _is_gone(unit: str, registered: bool) -> bool:
    return not registered and unit not in {"active", "deactivating"}


@dataclass(frozen=True)
class Machine:
    """A machine an order is about, as it really is at the moment of asking."""

    host: ThisHost
    task: Task
    name: MachineName

    def is_registered(self) -> bool:
        """Whether machined knows it, which is machinectl's “running”."""
        try:
            self.host.bus.do(self.host.bus.machined("GetMachine", "s", [self.name]))
        except BusError as error:
            if "NoSuchMachine" in error.name:
                return False
            raise
        return True

    def unit_state(self) -> str:
        """systemd's ActiveState of its unit: active, activating, failed …"""
        return str(self.host.bus.do(self.host.bus.unit(unit_of(self.name)))["ActiveState"])

    def started(self) -> float:
        """When its unit last became active, seconds since the epoch; 0.0 when it never did."""
        return float(self.host.bus.do(self.host.bus.unit(unit_of(self.name)))["ActiveEnterTimestamp"] / 1e6)

    def ask(self, argv: Sequence[str], reached: Reached, late: TookTooLong) -> None:
        """Ask its init, and again while nothing happens: an init that has just begun ignores the signal."""
        for patience in (1.0, 3.0, 8.0, 20.0):
            if self.is_registered():
                self.tell(argv)
            if self.comes_to(reached, within=patience):
                return
        if not self.comes_to(reached, within=self.task.deadline - time.time()):
            raise late

    def tell(self, argv: Sequence[str]) -> None:
        """Run a verb of machinectl, again if need be: while its unit is just starting systemd answers “deadlock”.

        A machine that went away by itself meanwhile is no error. Raises CommandFailed.
        """
        for last in (False, False, True):
            try:
                self.task.run(argv)
            except CommandFailed:
                if self.is_registered() and last:
                    raise
                time.sleep(0.3)
            else:
                return
            if not self.is_registered():
                return

    def comes_to(self, reached: Reached, *, within: float) -> bool:
        """Look often, then less often, until it is as wanted or the seconds are over. Raises Stopped."""
        until = min(time.time() + within, self.task.deadline)
        pause = 0.02
        while not reached(self.unit_state(), self.is_registered()):
            self.task.check_stop()
            if time.time() > until:
                return False
            time.sleep(pause)
            pause = min(0.25, pause * 1.2)
        return True


def poweroff(host: ThisHost, task: Task) -> Result:
    """Ask the machine's init to power off and wait until the machine is gone. Never escalates by itself."""
    machine = Machine(host, task, _name(task))
    if not machine.is_registered():
        return {"already": "stopped"}
    machine.ask(
        machinectl.poweroff(machine.name),
        _is_gone,
        TookTooLong(
            f"{machine.name} was asked to power off and has not done so in time.",
            hint="It may still do so. “Terminate” ends it without asking.",
        ),
    )
    return {}


def reboot(host: ThisHost, task: Task) -> Result:
    """Ask the machine's init to reboot; the unit ends with status 133 and systemd starts it again."""
    machine = Machine(host, task, _name(task))
    before = machine.started()
    if task.again and before > task.begun:
        return {}
    if not machine.is_registered():
        raise MachineMissing(f"{machine.name} is not running, so it cannot reboot.", hint="Start it instead.")

    def is_back(unit: str, registered: bool) -> bool:
        if unit == "failed":
            raise _did_not_start(host, task, machine.name, "failed")
        return registered and unit == "active" and machine.started() > before

    machine.ask(
        machinectl.reboot(machine.name),
        is_back,
        TookTooLong(f"{machine.name} was asked to reboot and has not come back in time.", hint="Look at its log."),
    )
    return {}


def terminate(host: ThisHost, task: Task) -> Result:
    """Kill the machine's processes without asking its init, and wait until nothing is left."""
    machine = Machine(host, task, _name(task))
    if machine.is_registered():
        machine.tell(machinectl.terminate(machine.name))
    elif machine.unit_state() in {"active", "activating", "deactivating"}:
        task.run(systemctl.kill(unit_of(machine.name)))
    else:
        return {"already": "stopped"}
    if not machine.comes_to(_is_gone, within=60):
        raise TookTooLong(f"{machine.name} was terminated but its unit is still there.", hint="Look at its log.")
    return {}


def enable(host: ThisHost, task: Task) -> Result:
    """Start the machine when the host boots."""
    enable_machine(host, task, _name(task))
    return {}


def enable_machine(host: ThisHost, task: Task, name: MachineName) -> None:
    """The same by name. Below systemd 253 machines.target must be enabled besides, else nothing starts."""
    task.run(machinectl.enable(name))
    if host_fact.systemd_version() < 253 and not autostart.has_target(host.paths):
        task.run(systemctl.enable("machines.target"))


def disable(_: ThisHost, task: Task) -> Result:
    """No longer start the machine when the host boots."""
    task.run(machinectl.disable(_name(task)))
    return {}


TABLE: Mapping[str, Handler] = {
    "start": start,
    "poweroff": poweroff,
    "reboot": reboot,
    "terminate": terminate,
    "enable": enable,
    "disable": disable,
    "apply": apply.apply,
}


def deadline(order: orders.AnyOrder, begun: float) -> float:
    """Until when an order's work may take, seconds since the epoch."""
    return begun + orders.TIME_LIMIT.get(order.op, orders.DEFAULT_TIME_LIMIT)
