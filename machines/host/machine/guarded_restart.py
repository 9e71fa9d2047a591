"""Restart a machine with what was just written, and watch whether it comes to life with it.

What counts as a new run is the start of the unit's main process (ExecMainStartTimestamp): it moves as soon as the machine
is started anew, whether or not it ever boots. A worker that comes back can therefore tell what had happened already.
"""

import contextlib
import time

from machines.contract import orders
from machines.contract.problems import Problem
from machines.host.files.generations import Record
from machines.host.machine.lifecycle import Machine, Reached, did_not_start, patience, start_machine, still_starting
from machines.host.network import addresses
from machines.host.observe.unit_state import UnitState
from machines.host.system import machinectl, systemctl
from machines.host.system.bus import BusError
from machines.host.system.faults import CommandFailed, TookTooLong
from machines.host.system.paths import unit_of

GOING_DOWN = 120.0  # seconds a machine may take to stop before it starts anew
PATIENCE = 30.0  # seconds a machine with a bad configuration gets to stop in peace on the way back
COMING_UP = 180.0  # seconds it may take on the way back to how it was, where its unit allows less
PAUSE = 3.0  # seconds between the end of a run and the next one, if the machine rebooted
STEADY = 1.0  # seconds for which all must be well, so that a machine just dying is not taken for alive
LOOK = 0.25


def before(machine: Machine, job: str) -> Record:
    """How the machine runs before anything is done to it."""
    state = machine.state()
    return Record(job=job, was_up=state.is_template and state.is_up, started=state.began)


def restart(machine: Machine, record: Record) -> None:
    """Let a new run begin, if none has since the record was made. Its init is asked, as by machinectl reboot; a machine
    without a systemd of its own, or one that is not up, is stopped and started. Raises TookTooLong, Stopped, Problem."""
    machine.task.check_stop()
    state = machine.state()
    if state.began > record.started:
        return
    machine.task.output.line(f"Restarting {machine.name}.")
    if state.is_registered and state.has_systemd and state.active == "active":
        machine.within(GOING_DOWN).ask(machinectl.reboot(machine.name), _next_or_gone(record.started), _deaf(machine))
        if machine.comes_to(lambda now: now.began > record.started, within=PAUSE):
            return
        machine.task.output.line(f"{machine.name} powered off instead; starting it.")
    _anew(machine, record.started)


def _next_or_gone(started: float) -> Reached:
    return lambda now: now.began > started or now.is_gone


def _deaf(machine: Machine) -> TookTooLong:
    return TookTooLong(
        f"{machine.name} was asked to reboot but has not stopped within {GOING_DOWN:.0f} s.",
        hint="It is still running as before. “Terminate” kills it without asking.",
    )


def _anew(machine: Machine, started: float) -> None:
    """Stop and start the unit, and wait until its new run begins; whether it comes up is for the caller to see. Raises
    Problem start-failed or BusError when systemd begins none: it is masked, or what it needs fails."""
    job = machine.host.bus.begin(machine.host.bus.unit_job("RestartUnit", unit_of(machine.name)))
    machine.comes_to(lambda now: now.began > started or job.done(), within=GOING_DOWN)
    if job.done() and (state := machine.state()).began <= started:
        raise did_not_start(machine.host, machine.task, machine.name, job.result(), before=state.invocation)


def come_up(machine: Machine, record: Record) -> None:
    """Wait until the new run is up, as long as its unit lets it take. Raises Problem start-failed, TookTooLong, Stopped."""
    until = patience(machine.task, state := machine.state())
    while not _is_up_or_failed(state):
        machine.task.check_stop()
        if time.time() > until:
            raise still_starting(machine, state)
        time.sleep(LOOK)
        state = machine.state()
        until = patience(machine.task, state)
    if state.active == "failed":
        raise _did_not(machine, state, record)


def _is_up_or_failed(now: UnitState) -> bool:
    return now.active == "failed" or (now.active == "active" and now.is_registered)


def _did_not(machine: Machine, state: UnitState, record: Record) -> Problem:
    """Why it failed; where no run has begun since the record was made, the words of the one before are no reason."""
    old = state.invocation if state.began <= record.started else b""
    return did_not_start(machine.host, machine.task, machine.name, "failed", before=old)


def watch(machine: Machine, order: orders.Apply, record: Record) -> None:
    """Look until all has been well for a moment. Raises Problem not-alive when the seconds given are over, or
    start-failed as soon as the unit has failed."""
    until = machine.run_began() + order.rollback_after
    machine.task.output.line(f"Waiting up to {order.rollback_after} s for {machine.name} to {_WORDS[order.expects]}.")
    well_since = 0.0
    while True:
        machine.task.check_stop()
        lack = _lack(machine, order.expects, record)
        well_since = 0.0 if lack else well_since or time.time()
        if well_since and time.time() - well_since >= STEADY:
            machine.task.output.line(f"{machine.name} runs{_address(machine)}.")
            return
        if lack and time.time() > until:
            raise Problem(f"{lack} {order.rollback_after} s after its restart", code="not-alive")
        time.sleep(LOOK)


_WORDS = {"running": "run", "address": "have an address"}


def _lack(machine: Machine, expects: str, record: Record) -> str:
    """What is missing, as the beginning of a sentence; "" when nothing is. Raises Problem start-failed."""
    try:
        state = machine.state()
    except BusError as error:
        return f"{machine.name} could not be checked ({error.message})"
    if state.active == "failed":
        raise _did_not(machine, state, record)
    if state.active != "active" or not state.leader:
        return f"{machine.name} was not up{_loops(state)}"
    if expects == "address" and not _usable(state.leader):
        return f"{machine.name} had no address"
    return ""


def _loops(state: UnitState) -> str:
    """Of a unit with Restart= that never comes to fail."""
    return f" but restarting, {state.restarts} times so far ({state.ended})" if state.will_start and state.ended else ""


def _usable(leader: int) -> list[str]:
    """Addresses that somebody gave it: not those that a machine gives itself when nobody does."""
    return [a.address for a in addresses.of_process(leader) if not a.address.startswith("169.254.")]


def _address(machine: Machine) -> str:
    found = _usable(machine.leader())
    return f" and has the address {found[0]}" if found else ""


def run_as_before(machine: Machine, record: Record) -> str:
    """After the files were put back: a run with them. What kept it from coming up, "" when it did. Nobody can stop this
    half-way: a cancelled job shall leave the machine running too."""
    machine = machine.calmly(GOING_DOWN + COMING_UP)
    state = machine.state()
    if state.began <= record.started and state.is_up:
        return ""  # it never was restarted
    try:
        if state.began < record.back_at:
            _end(machine, state)
        now = machine.state()
        if now.began <= state.began and now.began < record.back_at:
            with contextlib.suppress(CommandFailed):
                machine.task.run(systemctl.reset_failed(unit_of(machine.name)))
            start_machine(machine.host, machine.task, machine.name)
        come_up(machine, record)
    except (Problem, BusError) as problem:
        return problem.message
    return ""


def _end(machine: Machine, run: UnitState) -> None:
    """Let go of the run that did not work out: its init is asked, and after a while nobody is asked any more."""
    state = machine.state()
    if state.is_registered and state.active == "active":
        with contextlib.suppress(TookTooLong, CommandFailed):
            machine.within(PATIENCE).ask(
                machinectl.reboot(machine.name), _next_or_gone(run.began), TookTooLong("It did not stop.")
            )
            machine.comes_to(lambda now: now.began > run.began, within=PAUSE)
            return
    if machine.state().is_up:
        machine.kill()
