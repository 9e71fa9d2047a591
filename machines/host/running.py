"""One machine being started, rebooted or ended, and the wait until it really is so.

What orders name a machine for (handlers.py) and what an apply with a restart needs (trial.py) is the same work.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host import journal, machinectl, systemctl
from machines.host.bus import MACHINED, BusError
from machines.host.faults import CommandFailed, MachineMissing, TookTooLong
from machines.host.inventory import MACHINE_IFACE
from machines.host.paths import unit_of
from machines.host.this_host import Task, ThisHost

Result = dict[str, Any]

# More starts at once than CPUs give every one of them a worse time and none of them a better one.
_STARTS = threading.Semaphore(max(2, os.cpu_count() or 2))
_STOPPING = 30.0  # seconds a start waits for a stop that is under way
_START_TURN = 5.0  # seconds a start waits for the others at most: one that hangs must not hold up all


def start_machine(host: ThisHost, task: Task, name: MachineName) -> Result:
    """Start a machine and wait until systemd says it is up. Raises MachineMissing, TookTooLong or Problem start-failed."""
    if not _has_image(host, name):
        raise MachineMissing(
            f"There is no image named {name} on this host.", hint="Build it, or refresh the list of machines."
        )
    task.voice.command(machinectl.start(name))
    result = _start_unit(host, task, name)
    if result in {"done", "skipped"}:
        return {}
    raise did_not_start(host, task, name, result)


def did_not_start(host: ThisHost, task: Task, name: MachineName, result: str) -> Problem:
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
    """machined knows more search paths than one, and which image counts there."""
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


def is_gone(unit: str, registered: bool) -> bool:
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

    def leader(self) -> int:
        """The process id of its init as the host sees it; 0 when it is not registered."""
        try:
            path = self.host.bus.do(self.host.bus.machined("GetMachine", "s", [self.name]))[0]
            return int(self.host.bus.do(self.host.bus.properties(MACHINED, path, MACHINE_IFACE))["Leader"])
        except BusError as error:
            if "NoSuchMachine" in error.name or "UnknownObject" in error.name:
                return 0
            raise

    def run_began(self) -> float:
        """When the newest run of its unit began, up yet or not, seconds since the epoch; 0.0 when there was none."""
        return float(
            self.host.bus.do(self.host.bus.unit(unit_of(self.name), "Service"))["ExecMainStartTimestamp"] / 1e6
        )

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

    def kill(self) -> bool:
        """End it whatever it is doing; whether it is gone. Raises CommandFailed, Stopped.

        Its init goes first, so that systemd-nspawn can tidy up: 257 does not start a machine whose mount point of the
        last run is still there. What was ended by order is not failed.
        """
        if self.leader():
            self.tell(machinectl.kill_init(self.name))
        gone = self.comes_to(is_gone, within=15)
        if not gone:
            self.task.run(systemctl.kill(unit_of(self.name)))
            gone = self.comes_to(is_gone, within=30)
        with contextlib.suppress(CommandFailed):
            self.task.run(systemctl.reset_failed(unit_of(self.name)))
        return gone

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


def reboot_machine(host: ThisHost, task: Task, name: MachineName) -> Result:
    """Ask the machine's init to reboot and wait until it is back: the unit ends with status 133 and systemd starts it
    again. Raises MachineMissing, TookTooLong or Problem start-failed."""
    machine = Machine(host, task, name)
    before = machine.started()
    if task.again and before > task.begun:
        return {}
    if not machine.is_registered():
        raise MachineMissing(f"{machine.name} is not running, so it cannot reboot.", hint="Start it instead.")

    def is_back(unit: str, registered: bool) -> bool:
        if unit == "failed":
            raise did_not_start(host, task, machine.name, "failed")
        return registered and unit == "active" and machine.started() > before

    machine.ask(
        machinectl.reboot(machine.name),
        is_back,
        TookTooLong(f"{machine.name} was asked to reboot and has not come back in time.", hint="Look at its log."),
    )
    return {}
