"""The actions a person may order of a machine as it is now: what is asked before, and what it cannot do."""

from dataclasses import replace
from typing import Any

from machines.contract.orders import EXPIRES_AFTER
from machines.contract.problems import Problem
from machines.contract.states import MachineState
from machines.models import Machine
from machines.panel.orders.operations import ACTIONS, Action
from machines.panel.pages.unit_activity import SYSTEMD


def said(action: Action, machine: Machine) -> str:
    """What a note says of the order just placed."""
    if not machine.host.is_silent:
        return action.note.format(machine.name)
    return (
        f"“{action.title}” for {machine.name} waits until {machine.host.name} is back; "
        f"it expires in {EXPIRES_AFTER // 3600} h and can be cancelled."
    )


# Of a silent host's machine nothing is known, so both directions may be ordered.
CAN_START = frozenset({MachineState.STOPPED, MachineState.FAILED, MachineState.UNKNOWN})


# why an image stays read-only, as contract.reports.MachineFact.read_only_by has it
FIXED_BECAUSE = {
    "vendor": "systemd does not change or remove images below /usr",
    "mount": "its file system is mounted read-only on the host",
}


def is_template(machine: Machine) -> bool:
    """Whether it is there to be copied, not to be started."""
    return machine.read_only and bool(machine.image_type) and not machine.image_is_fixed


def start_of(machine: Machine) -> Action:
    """How it can be started: where systemd refuses, only after a reset."""
    return ACTIONS["reset" if starts_after_reset(machine.shown_state, machine.activity) else "start"]


def starts_after_reset(state: str, activity: dict[str, Any]) -> bool:
    return state == MachineState.FAILED and bool(activity.get("refused"))


def power_off_of(machine: Machine) -> Action:
    """Power off as this machine does it: where there is no init to be asked, its unit is stopped."""
    action, state = ACTIONS["poweroff"], machine.shown_state
    if state == MachineState.RESTARTING:
        return replace(
            action,
            title="Stop",
            nothing_runs=True,
            asks="Nothing of it is running now. Its unit is stopped, so systemd does not restart it.",
        )
    if state == MachineState.STARTING:
        return replace(
            action,
            title="Stop",
            asks="Its start is aborted: its unit is stopped, and processes that have already started are ended.",
        )
    return replace(action, asks=_of_script(machine, "Its unit is stopped") or action.asks)


def reboot_of(machine: Machine) -> Action:
    """Reboot, likewise."""
    action = ACTIONS["reboot"]
    return replace(action, asks=_of_script(machine, "Its unit is stopped and started") or action.asks)


def _of_script(machine: Machine, what: str) -> str:
    init = machine.activity.get("init", "")
    if init in SYSTEMD:
        return ""
    return (
        f"Its init is {init}, not systemd, so it cannot be asked to shut down. {what}: systemd-nspawn sends "
        "KillSignal= or ends it, and systemd kills it when the unit's stop timeout expires."
    )


SPOKEN = {"poweroff": power_off_of, "reboot": reboot_of}


def check(action: Action, machine: Machine) -> None:
    """Raises Problem for what this machine cannot do as it is."""
    why = machine.activity.get("cannot", {}).get(action.op)
    if why and machine.shown_state.is_up:
        raise Problem(f"“{action.title}” is not possible for {machine.name} as it is running. {why}", code="cannot-do")
    if machine.image_is_fixed and action.changes_image:
        raise Problem(
            f"The image of {machine.name} cannot be made writable: "
            f"{FIXED_BECAUSE[machine.read_only_by]}.", code="image-read-only",
            hint="Clone it: the clone can be changed.",
        )  # fmt: skip
    if is_template(machine) and action.needs_writable:
        raise Problem(
            f"{machine.name} is a template: its image is read-only, so it cannot be "
            "started.", code="machine-is-template",
            hint="Create a machine from it, or convert it to a machine.",
        )  # fmt: skip
