"""One machine being started, rebooted or ended, and the wait until it really is so.

What orders name a machine for (handlers.py) and what an apply with a restart needs (guarded_restart.py) is the same work. All of it
looks at the unit machined names (unit_state.py) and ends in a state that lasts: nothing runs, and systemd will not start
it again by itself.

How long a start may take is the unit's own business (TimeoutStartSec=): we wait as long as systemd does, and where
nothing limits it, for the order's time limit, after which systemd goes on alone. Whoever cancels the order stops it.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import Any

from machines.contract import orders
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.context.host_context import HostContext, Task
from machines.host.files import autostart
from machines.host.observe import host_facts, unit_state
from machines.host.observe.unit_state import UnitState
from machines.host.system import journal, machinectl, systemctl
from machines.host.system.bus import BusError
from machines.host.system.faults import CommandFailed, MachineMissing, Stopped, TookTooLong
from machines.host.system.paths import unit_of

Result = dict[str, Any]
Run = tuple[str, bytes, int]  # UnitState.run
Reached = Callable[[UnitState], bool]

# More starts at once than CPUs give every one of them a worse time and none of them a better one.
_STARTS = threading.Semaphore(max(2, os.cpu_count() or 2))
_DASH = "\\x2d"  # a dash in a unit's name that stands for a path
_BECOMES = 0.5  # seconds the child of systemd-nspawn may take to become an init
_STOPPING = 30.0  # seconds a start waits for a stop that is under way
_START_TURN = 5.0  # seconds a start waits for the others at most: one that hangs must not hold up all
_LOOK = 1.0  # seconds between two looks at what a start is doing
_SPARE = 30.0  # seconds systemd gets beyond the limit it has itself
_CANCELLED = 60.0  # seconds a cancelled start gets to stop; systemd goes on with the stop afterwards
_LONGEST_STOP = 3600.0  # seconds of a unit's own stop limit we wait for


def is_gone(state: UnitState) -> bool:
    return state.is_gone


@dataclass(frozen=True)
class Machine:
    """A machine an order is about, as it really is at the moment of asking. `unit` is the one it was seen in, which counts
    while machined does not know it."""

    host: HostContext
    task: Task
    name: MachineName
    unit: str = ""

    def state(self) -> UnitState:
        """What it is doing now. Raises BusError, TookTooLong."""
        return self.host.bus.do(unit_state.read(self.host.bus, self.name, self.unit))

    def seen(self) -> tuple["Machine", UnitState]:
        """The same once it is known what its init is, and the machine with the unit that was seen."""
        self.comes_to(lambda now: bool(now.init) or not now.is_registered, within=_BECOMES)
        state = self.state()
        return replace(self, unit=state.unit), state

    def run_began(self) -> float:
        """When its newest run began, up yet or not, seconds since the epoch; 0.0 when there was none."""
        return self.state().began

    def is_registered(self) -> bool:
        """Whether machined knows it, which is machinectl's “running”."""
        return self.state().is_registered

    def leader(self) -> int:
        """The process id of its init as the host sees it; 0 when it is not registered."""
        return self.state().leader

    def within(self, seconds: float) -> "Machine":
        """The same with this much time at most."""
        return replace(self, task=replace(self.task, deadline=min(self.task.deadline, time.time() + seconds)))

    def calmly(self, seconds: float) -> "Machine":
        """The same with this much time, and nobody can stop it half-way."""
        return replace(self, task=replace(self.task, stop=threading.Event(), deadline=time.time() + seconds))

    def comes_to(self, reached: Reached, *, within: float) -> bool:
        """Look often, then less often, until it is as wanted or the seconds are over. Raises Stopped."""
        until = min(time.time() + within, self.task.deadline)
        pause = 0.02
        while not reached(self.state()):
            self.task.check_stop()
            if time.time() > until:
                return False
            time.sleep(pause)
            pause = min(0.25, pause * 1.2)
        return True

    def ask(self, argv: Sequence[str], reached: Reached, late: TookTooLong) -> None:
        """Ask its init, and again while nothing happens: an init that has just begun ignores the signal."""
        for patience in (1.0, 3.0, 8.0, 20.0):
            if not reached(self.state()) and self.is_registered():
                self.tell(argv)
            if self.comes_to(reached, within=patience):
                return
        if not self.comes_to(reached, within=self.task.deadline - time.time()):
            raise late

    def tell(self, argv: Sequence[str]) -> None:
        """Run a verb of machinectl, again if need be: an init may be just coming or just going.

        A machine that went away by itself meanwhile is no error. Raises CommandFailed.
        """
        for last in (False, False, True):
            try:
                self.task.run(argv)
            except CommandFailed:
                if not self.is_registered():
                    return
                if last:
                    raise
                time.sleep(0.3)
            else:
                return

    def attempt(self, argv: Sequence[str]) -> bool:
        """Run one of several tools that may do; its failing is said and the next one has its turn. Raises Stopped."""
        try:
            self.task.run(argv)
        except (CommandFailed, TookTooLong) as problem:
            self.task.output.line(problem.message, "e")
            return False
        return True

    def stop(self) -> bool:
        """Stop its units so that nothing starts them again; whether it is gone. The units' own limits hold, which end
        with SIGKILL. Raises Stopped.

        systemd-nspawn asks the init only once, and one that has just begun does not hear it: it is asked again.
        """
        self._stop_units()
        for patience in (2.0, 5.0, 10.0, 20.0):
            if self.comes_to(is_gone, within=patience):
                return self._forgiven()
            now = self.state()
            if now.is_registered and now.has_systemd:
                self.attempt(machinectl.poweroff(self.name))
        return self.comes_to(is_gone, within=self.task.deadline - time.time()) and self._forgiven()

    def kill(self) -> bool:
        """End it whatever it is doing; whether it is gone. Raises Stopped.

        The stop comes first, so that systemd does not start it again; then its init, so that systemd-nspawn can tidy
        up: 257 does not start a machine whose mount point of the last run is still there.
        """
        self._stop_units()
        if self.is_registered():
            self.attempt(machinectl.kill_init(self.name))
        gone = self.comes_to(is_gone, within=15)
        if not gone and (state := self.state()).is_own:
            self.attempt(systemctl.kill(state.unit))
            gone = self.comes_to(is_gone, within=30)
        return gone and self._forgiven()

    def _stop_units(self) -> None:
        """The one it runs in, and the template's where that is about to start it as well."""
        state = self.state()
        if state.may_stop_unit and (state.is_up or state.will_start):
            self.attempt(systemctl.stop(state.unit, wait=False))
        if not state.is_template:
            own = self.host.bus.do(unit_state.of_template(self.host.bus, self.name))
            if own.is_up or own.will_start:
                self.attempt(systemctl.stop(own.unit, wait=False))

    def _forgiven(self) -> bool:
        """What was ended by order is not failed."""
        for unit in {self.unit or unit_of(self.name), unit_of(self.name)}:
            with contextlib.suppress(CommandFailed):
                if self.host.bus.do(self.host.bus.unit(unit)).get("ActiveState") == "failed":
                    self.task.run(systemctl.reset_failed(unit))
        return True


def refuse(state: UnitState, verb: str) -> None:
    """Raises Problem cannot-do for what cannot work on a machine as it runs."""
    if why := state.cannot().get(verb):
        raise Problem(f"{state.name} cannot be asked to {_VERBS[verb]}. {why}", code="cannot-do", hint=_INSTEAD[verb])


_VERBS = {"start": "start", "poweroff": "power off", "reboot": "reboot", "terminate": "end"}
_INSTEAD = {
    "start": "Stop it with the tool that started it.",
    "poweroff": "“Terminate” kills it without asking.",
    "reboot": "Power it off, then start it again the way it was started.",
    "terminate": "Stop it with the tool that started it.",
}


def check_gone(host: HostContext, task: Task, name: MachineName) -> None:
    """Raises Problem machine-running for a machine that runs, comes, goes, or that systemd is about to start again."""
    state = Machine(host, task, name).state()
    if state.is_gone:
        return
    doing = "running" if state.state == "running" else state.state.value
    why = (
        f"its unit {state.unit} has Restart={state.policy}" if state.will_start and state.policy != "no" else state.unit
    )
    raise Problem(f"{name} is {doing} ({why}).", code="machine-running", hint="Power it off first.")


# --- starting


def start_machine(host: HostContext, task: Task, name: MachineName, *, reset: bool = False) -> Result:
    """Start a machine and wait until systemd says it is up. With `reset` systemd first forgets how often it failed.

    Raises MachineMissing, TookTooLong, Stopped, or Problem start-failed or cannot-do.
    """
    if task.stop.is_set():  # cancelled while no worker was there
        _give_up(Machine(host, task, name))
    if not _has_image(host, name):
        raise MachineMissing(
            f"There is no image named {name} on this host.", hint="Build it, or refresh the list of machines."
        )
    machine, state = Machine(host, task, name).seen()
    refuse(state, "start")
    if state.is_registered and not state.is_template:
        task.output.line(f"{name} is already running, in {state.unit}.")
        return {"already": "running"}
    if reset:
        task.run(systemctl.reset_failed(unit_of(name)))
    if state.is_gone:
        _tidy_up(machine)
    task.output.command(machinectl.start(name))
    result = _start_unit(machine)
    if result not in {"done", "skipped"}:
        raise did_not_start(host, task, name, result, before=state.invocation)
    machine.seen()
    return {}


def _tidy_up(machine: Machine) -> None:
    """systemd-nspawn of 257 that was killed leaves a mount below /run, and no other one starts with it there. It is
    unmounted by systemd, for a worker has mounts of its own. Raises CommandFailed."""
    left = f"run-systemd-nspawn-unix\\x2dexport-{machine.name.replace('-', _DASH)}.mount"

    def is_there() -> bool:
        return machine.host.bus.do(machine.host.bus.unit(left)).get("ActiveState") == "active"

    if not is_there():
        return
    machine.task.output.line(f"An earlier run of {machine.name} was killed; its leftover mounts are unmounted first.")
    try:
        machine.task.run(systemctl.stop(left))
    except CommandFailed:
        if is_there():  # it may have gone by itself, while the earlier run's last process ended
            raise


def did_not_start(host: HostContext, task: Task, name: MachineName, result: str, before: bytes = b"") -> Problem:
    """Why it did not, in the unit's own words of this run, which also go into the job's log. `before` is the run before:
    where no new one has begun, its words are no reason."""
    state = host.bus.do(unit_state.of_template(host.bus, name))
    lines = journal.lines_of(state.invocation, pid=state.last_pid)
    if state.invocation == before:
        return _no_run(name, state, result, refused=unit_state.was_refused(lines))
    for line in lines:
        task.output.line(line, "e")
    if result == "timeout" or state.result == "timeout":
        return TookTooLong(
            f"{name} did not come up within {_span(state.start_limit)}, the start timeout of its unit.",
            hint="Its log shows what it was waiting for; the limit is TimeoutStartSec= of the unit.",
        )
    return Problem(
        f"{name} did not start: {journal.essence(lines) or state.ended or f'systemd result: {result}'}",
        code="start-failed",
        hint="See the last lines of its log; most often a setting refers to something that does not exist.",
        details="\n".join(lines)[-4000:],
    )


def _no_run(name: MachineName, state: UnitState, result: str, *, refused: bool) -> Problem:
    """No run began at all."""
    if refused:
        return Problem(
            f"{name} was not started: {state.unit} failed too often in a row, so systemd refuses (start limit).",
            code="start-limit",
            hint="“Reset and start” resets the failure counter; the cause logged by the unit may have been fixed by "
            "now.",
        )
    words = {
        "dependency": "a unit it needs failed",
        "assert": "an Assert… condition of its unit failed",
        "canceled": "the start was cancelled by another systemd job",
        "timeout": "it waited too long for other units",
    }
    return Problem(
        f"{name} was not started: {words.get(result, f'systemd job result: {result}')}.",
        code="start-failed",
        hint=f"Run on the host: systemctl status {state.unit}",
    )


def _has_image(host: HostContext, name: MachineName) -> bool:
    """machined knows more search paths than one, and which image counts there."""
    try:
        host.bus.do(host.bus.machined("GetImage", "s", [name]))
    except BusError as error:
        if "NoSuchImage" in error.name:
            return False
        raise
    return True


def _start_unit(machine: Machine) -> str:
    """StartUnit on the bus, which is what machinectl start does; the result of its job. Raises Stopped, TookTooLong."""
    host, task = machine.host, machine.task
    turn = _STARTS.acquire(timeout=_START_TURN)
    try:
        while True:
            task.check_stop()
            try:
                return _follow(machine, host.bus.begin(host.bus.unit_job("StartUnit", unit_of(machine.name), "fail")))
            except BusError as error:
                _wait_for_stop(task, machine.name, error)
    finally:
        if turn:
            _STARTS.release()


def _follow(machine: Machine, job: Any) -> str:
    """Wait as long as systemd does and tell what it is doing; a person may cancel it."""
    told, wait = "", 0.2
    while True:
        try:
            return str(job.result(wait))
        except FutureTimeout:
            wait = _LOOK
        if machine.task.stop.is_set():
            job.cancel()
            _give_up(machine)
        state = machine.state()
        told = _tell(machine, state, told)
        if time.time() > patience(machine.task, state):
            job.cancel()
            raise still_starting(machine, state)


def _tell(machine: Machine, state: UnitState, told: str) -> str:
    """What a start is doing, each thing once; returns what was told."""
    said = state.status or (f"{state.part}" if state.part not in {"", "ExecStart"} else "")
    if said and said != told:
        machine.task.output.progress(0.0, said)
        machine.task.output.line(said)
    return said or told


def patience(task: Task, state: UnitState) -> float:
    """Until when we wait for a start, in seconds since the epoch: as long as systemd does, and where it sets no limit as
    long as a start order may take."""
    limit = orders.Start.time_limit if state.start_limit is None else state.start_limit + _SPARE
    return max(task.deadline, max(task.begun, state.began) + limit)


def still_starting(machine: Machine, state: UnitState) -> TookTooLong:
    unlimited = "no start timeout (TimeoutStartSec=infinity)" if state.start_limit is None else state.part
    return TookTooLong(
        f"{machine.name} is still starting after {_span(time.time() - machine.task.begun)}; {unlimited}, "
        "so systemd keeps waiting.",
        hint="Its page shows what it is waiting for. “Power off” ends it.",
    )


def _give_up(machine: Machine) -> None:
    """Stop what a cancelled order has begun to start. Raises Stopped, always."""
    calm = machine.calmly(_CANCELLED)
    state = calm.state()
    if state.active == "active":
        raise Stopped(f"The job was cancelled when {machine.name} was already up; it is running.")
    if state.is_gone:
        raise Stopped("The job was cancelled.")
    machine.task.output.line(f"Cancelled: the start of {machine.name} is aborted.")
    if calm.stop():
        raise Stopped(f"The job was cancelled; {machine.name} is stopped.")
    raise Stopped(f"The job was cancelled; {machine.name} is still stopping.")


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "any time"
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


def _wait_for_stop(task: Task, name: MachineName, error: BusError) -> None:
    """A machine that is just stopping can be started when it has stopped. Raises anything else as it is."""
    if "TransactionIsDestructive" not in error.name:
        raise error
    if time.time() > task.begun + _STOPPING:
        raise Problem(
            f"{name} has been stopping for {_STOPPING:.0f} s.", code="machine-busy", retryable=True
        ) from error
    task.check_stop()
    time.sleep(0.1)


# --- ending


def power_off_machine(host: HostContext, task: Task, name: MachineName) -> Result:
    """Ask its init to power off and wait until it is gone for good. Where there is nobody to ask (a start under way, a wait
    for the next start, another init than systemd), its unit is stopped, as by systemctl stop.

    Raises TookTooLong, Stopped, or Problem cannot-do.
    """
    machine, state = Machine(host, task, name).seen()
    if state.is_gone:
        return {"already": "stopped"}
    refuse(state, "poweroff")
    if state.is_registered and state.has_systemd and state.active == "active":
        machine.ask(machinectl.poweroff(name), lambda now: _has_left(now, state), _deaf(name))
    if (now := machine.state()).is_gone:
        return _gone(machine, state)
    if now.may_stop_unit:
        task.output.line(_why_stopped(now))
        return _gone(_as_long_as_its_unit(machine, now), state)
    raise _deaf(name)


def _gone(machine: Machine, before: UnitState) -> Result:
    """Gone, and in no other unit either. Raises TookTooLong."""
    if not machine.stop():
        raise _deaf(machine.name)
    return {} if before.is_template else {"unit": before.unit}


def _has_left(now: UnitState, before: UnitState) -> bool:
    """Whether that run of it is over, whatever comes after it."""
    return now.is_gone or now.will_start or (now.is_registered and now.run != before.run)


def _why_stopped(now: UnitState) -> str:
    if now.policy != "no" and (now.will_start or now.active == "activating"):
        return f"{now.unit} has Restart={now.policy}: systemd would restart it, so the unit is stopped."
    if now.is_registered and not now.has_systemd:
        return f"Its init is {now.init}, not systemd, so its unit is stopped, which sends KillSignal=."
    return f"{now.name} is {now.state}, so its unit is stopped."


def _as_long_as_its_unit(machine: Machine, state: UnitState) -> Machine:
    """With as much time as the unit has itself for its stop."""
    own = min(state.stop_limit or 0.0, _LONGEST_STOP) + _SPARE
    return replace(machine, task=replace(machine.task, deadline=max(machine.task.deadline, time.time() + own)))


def _deaf(name: MachineName) -> TookTooLong:
    return TookTooLong(
        f"{name} was asked to power off but did not in time.",
        hint="It may still do so. “Terminate” kills it without asking.",
    )


def terminate_machine(host: HostContext, task: Task, name: MachineName) -> Result:
    """Kill its processes without asking its init, and wait until nothing is left and nothing will come.

    Raises TookTooLong, Stopped, or Problem cannot-do.
    """
    machine, state = Machine(host, task, name).seen()
    if state.is_gone:
        return {"already": "stopped"}
    refuse(state, "terminate")
    if not machine.kill():
        raise TookTooLong(f"{name} was terminated but {state.unit} is still there.", hint="Check its log.")
    return {}


def reboot_machine(host: HostContext, task: Task, name: MachineName) -> Result:
    """Ask the machine's init to reboot and wait until it is back: the unit ends with status 133 and systemd starts it
    again. One with another init is stopped and started. Raises MachineMissing, TookTooLong, or Problem start-failed or
    cannot-do."""
    machine, before = Machine(host, task, name).seen()
    if task.again and before.began > task.begun:  # an earlier worker was heard: this is the next run
        return _back(machine, None)
    if not before.is_registered:
        raise MachineMissing(f"{machine.name} is not running, so it cannot reboot.", hint="Start it instead.")
    refuse(before, "reboot")
    if not before.has_systemd:
        return _anew(machine, before)
    # Until it has left and no longer: asked while it comes up, it would go down once more.
    machine.ask(machinectl.reboot(machine.name), lambda now: _has_left(now, before), _not_back(name))
    return _back(machine, before.run)


def _back(machine: Machine, left: Run | None) -> Result:
    """Wait until it is up in another run than the one it left. Raises Problem start-failed, TookTooLong."""

    def is_back(now: UnitState) -> bool:
        if now.active == "failed" and not now.is_registered:
            raise did_not_start(machine.host, machine.task, machine.name, "failed")
        return now.is_registered and now.active == "active" and now.run != left

    if not machine.comes_to(is_back, within=machine.task.deadline - time.time()):
        raise _not_back(machine.name)
    return {}


def _not_back(name: MachineName) -> TookTooLong:
    return TookTooLong(f"{name} was asked to reboot but did not come back in time.", hint="Check its log.")


def _anew(machine: Machine, before: UnitState) -> Result:
    """Stop and start the unit of a machine whose init cannot be asked. Raises Problem start-failed, TookTooLong."""
    host, task = machine.host, machine.task
    task.output.line(f"Its init is {before.init}, not systemd: its unit is stopped and started.")
    task.output.command(systemctl.restart(before.unit))
    result = _follow(machine, host.bus.begin(host.bus.unit_job("RestartUnit", before.unit)))
    if result != "done":
        raise did_not_start(host, task, machine.name, result, before=before.invocation)
    return {}


def enable_machine(host: HostContext, task: Task, name: MachineName) -> None:
    """Start a machine when the host boots. Below systemd 253 machines.target must be enabled besides, else nothing starts."""
    task.run(machinectl.enable(name))
    if host_facts.systemd_version() < 253 and not autostart.has_target(host.paths):
        task.run(systemctl.enable("machines.target"))
    autostart.sync(host.paths)


def disable_machine(host: HostContext, task: Task, name: MachineName) -> None:
    """No longer start a machine when the host boots."""
    task.run(machinectl.disable(name))
    autostart.sync(host.paths)
