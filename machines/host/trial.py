"""Restart a machine with what was just written, and watch whether it comes to life with it.

What counts as a new run is the start of the unit's main process (ExecMainStartTimestamp): it moves as soon as the machine
is started anew, whether or not it ever boots. A worker that comes back can therefore tell what had happened already.
"""

import contextlib
import time
from dataclasses import replace
from threading import Event

from machines.contract import orders
from machines.contract.problems import Problem
from machines.host import addresses, machinectl, systemctl
from machines.host.bus import BusError
from machines.host.faults import CommandFailed, TookTooLong
from machines.host.generations import Record
from machines.host.paths import unit_of
from machines.host.running import Machine, did_not_start, is_gone, start_machine

GOING_DOWN = 120.0  # seconds a machine may take to stop before it starts anew
PATIENCE = 30.0  # seconds a machine with a bad configuration gets to stop in peace on the way back
COMING_UP = 180.0
PAUSE = 3.0  # seconds between the end of a run and the next one, if the machine rebooted
STEADY = 1.0  # seconds for which all must be well, so that a machine just dying is not taken for alive
LOOK = 0.25

_UP = {"active", "activating", "reloading"}


def before(machine: Machine, job: str) -> Record:
    """How the machine runs before anything is done to it."""
    return Record(job=job, was_up=machine.unit_state() in _UP, started=machine.run_began())


def restart(machine: Machine, record: Record, *, boots: bool) -> None:
    """Let a new run begin, if none has since the record was made. Its init is asked, as by machinectl reboot; a machine
    without an init of its own (`boots` is false) is stopped and started. Raises TookTooLong, Stopped, Problem."""
    machine.task.check_stop()
    if machine.run_began() > record.started:
        return
    machine.task.voice.line(f"Restarting {machine.name}.")
    if boots and machine.is_registered():
        patient = replace(machine.task, deadline=min(machine.task.deadline, time.time() + GOING_DOWN))

        def has_gone(unit: str, registered: bool) -> bool:
            return machine.run_began() > record.started or is_gone(unit, registered)

        Machine(machine.host, patient, machine.name).ask(machinectl.reboot(machine.name), has_gone, _deaf(machine))
        if machine.comes_to(lambda *_: machine.run_began() > record.started, within=PAUSE):
            return
        machine.task.voice.line(f"{machine.name} powered off instead; starting it.")
    _anew(machine)


def _deaf(machine: Machine) -> TookTooLong:
    return TookTooLong(
        f"{machine.name} was asked to reboot and has not stopped within {GOING_DOWN:.0f} s.",
        hint="It still runs as before. “Terminate” ends it without asking.",
    )


def _anew(machine: Machine) -> None:
    """Stop and start the unit; whether it comes up is for the caller to see."""
    verb = machine.host.bus.unit_job("RestartUnit", unit_of(machine.name))
    with contextlib.suppress(TookTooLong):
        machine.host.bus.do(verb, timeout=COMING_UP)


def come_up(machine: Machine) -> None:
    """Wait until the new run is up. Raises Problem start-failed or TookTooLong."""
    patient = replace(machine.task, deadline=min(machine.task.deadline, time.time() + COMING_UP))
    if not Machine(machine.host, patient, machine.name).comes_to(_is_up_or_failed, within=COMING_UP):
        raise TookTooLong(f"{machine.name} was restarted and has not come up in time.", hint="Look at its log.")
    if machine.unit_state() == "failed":
        raise did_not_start(machine.host, machine.task, machine.name, "failed")


def _is_up_or_failed(unit: str, registered: bool) -> bool:
    return unit == "failed" or (unit == "active" and registered)


def watch(machine: Machine, order: orders.Apply) -> None:
    """Look until all has been well for a moment. Raises Problem not-alive when the seconds given are over, or
    start-failed as soon as the unit has failed."""
    until = machine.run_began() + order.rollback_after
    machine.task.voice.line(f"Waiting up to {order.rollback_after} s for {machine.name} to {_WORDS[order.expects]}.")
    well_since = 0.0
    while True:
        machine.task.check_stop()
        lack = _lack(machine, order.expects)
        well_since = 0.0 if lack else well_since or time.time()
        if well_since and time.time() - well_since >= STEADY:
            machine.task.voice.line(f"{machine.name} runs{_address(machine)}.")
            return
        if lack and time.time() > until:
            raise Problem(f"{lack} {order.rollback_after} s after its restart", code="not-alive")
        time.sleep(LOOK)


_WORDS = {"running": "run", "address": "have an address"}


def _lack(machine: Machine, expects: str) -> str:
    """What is missing, as the beginning of a sentence; "" when nothing is. Raises Problem start-failed."""
    try:
        state, leader = machine.unit_state(), machine.leader()
    except BusError as error:
        return f"{machine.name} could not be looked at ({error.message})"
    if state == "failed":
        raise did_not_start(machine.host, machine.task, machine.name, "failed")
    if state != "active" or not leader:
        return f"{machine.name} was not up"
    if expects == "address" and not _usable(leader):
        return f"{machine.name} had no address"
    return ""


def _usable(leader: int) -> list[str]:
    """Addresses that somebody gave it: not those that a machine gives itself when nobody does."""
    return [a.address for a in addresses.of_process(leader) if not a.address.startswith("169.254.")]


def _address(machine: Machine) -> str:
    found = _usable(machine.leader())
    return f" and has the address {found[0]}" if found else ""


def run_as_before(machine: Machine, record: Record) -> str:
    """After the files were put back: a run with them. What kept it from coming up, "" when it did. Nobody can stop this
    half-way: a cancelled job shall leave the machine running too."""
    calm = replace(machine.task, stop=Event(), deadline=time.time() + GOING_DOWN + COMING_UP)
    machine = Machine(machine.host, calm, machine.name)
    began = machine.run_began()
    if began <= record.started and machine.unit_state() in _UP:
        return ""  # it never was restarted
    try:
        if began < record.back_at:
            _end(machine, began)
        if machine.run_began() <= began and machine.run_began() < record.back_at:
            with contextlib.suppress(CommandFailed):
                calm.run(systemctl.reset_failed(unit_of(machine.name)))
            start_machine(machine.host, calm, machine.name)
        come_up(machine)
    except (Problem, BusError) as problem:
        return problem.message
    return ""


def _end(machine: Machine, began: float) -> None:
    """Let go of the run that did not work out: its init is asked, and after a while nobody is asked any more."""
    if machine.is_registered() and machine.unit_state() == "active":
        with contextlib.suppress(TookTooLong, CommandFailed):
            patient = replace(machine.task, deadline=time.time() + PATIENCE)

            def has_gone(unit: str, registered: bool) -> bool:
                return machine.run_began() > began or is_gone(unit, registered)

            late = TookTooLong("It did not stop.")
            Machine(machine.host, patient, machine.name).ask(machinectl.reboot(machine.name), has_gone, late)
            machine.comes_to(lambda *_: machine.run_began() > began, within=PAUSE)
            return
    if machine.unit_state() in {*_UP, "deactivating"}:
        machine.kill()
