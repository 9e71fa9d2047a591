"""The verbs a person may press on a machine: which order each is, what it is called, and what is asked before."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from machines.contract import orders
from machines.contract.problems import Problem
from machines.contract.states import MachineState
from machines.models import Machine
from machines.panel.pages.machine_rows import DOING
from machines.panel.pages.unit_activity import SYSTEMD


@dataclass(frozen=True)
class Verb:
    """`asks` is what the dialog says before the act; "" for acts that need no asking. `careful` puts the focus on Cancel."""

    op: str
    order: Callable[..., orders.Order]
    title: str
    icon: str
    asks: str = ""
    careful: bool = False
    danger: bool = False
    sentence: str = ""  # the title with a gap for the machine's name, where that does not simply follow
    doing: str = ""  # what a note says, where it is not in rows.DOING

    def of(self, name: str) -> str:
        """The act on this machine: “Power off web”."""
        return (self.sentence or f"{self.title} {{}}").format(name)

    def said(self, machine: Machine) -> str:
        """What a note says of the order just placed."""
        if not machine.host.is_silent:
            return f"{(self.doing or DOING[self.op]).capitalize()} {machine.name}."
        return (
            f"“{self.title}” for {machine.name} waits until {machine.host.name} is back; "
            f"it expires in {orders.EXPIRES_AFTER // 3600} h and can be cancelled."
        )


VERBS: dict[str, Verb] = {
    verb.op: verb
    for verb in (
        Verb("start", orders.Start, "Start", "play-fill"),
        Verb(
            "reset", partial(orders.Start, reset=True), "Reset and start", "play-fill", sentence="Reset and start {}",
            doing="starting",
        ),
        Verb(
            "poweroff", orders.Poweroff, "Power off", "stop-fill", careful=True,
            asks="Its init is asked to stop all services and power off. What runs inside ends.",
        ),
        Verb(
            "reboot", orders.Reboot, "Reboot", "arrow-clockwise",
            asks="Its init is asked to stop all services and start again. It is away for as long as that takes.",
        ),
        Verb(
            "terminate", orders.Terminate, "Terminate", "lightning-charge", careful=True, danger=True,
            asks="All its processes are killed at once, without asking its init. What was not written is lost.",
        ),
        Verb("enable", orders.Enable, "Start at boot", "toggle-on"),
        Verb("disable", orders.Disable, "Do not start at boot", "toggle-off"),
        Verb(
            "template", partial(orders.SetReadOnly, read_only=True), "Make it a template", "copy",
            sentence="Make {} a template", doing="making a template of",
            asks="Its image becomes read-only. It can then not be started, also not at boot, and new machines are made from it "
            "as copies with an identity of their own. It can be made writable again at any time.",
        ),
        Verb(
            "writable", partial(orders.SetReadOnly, read_only=False), "Make it writable again", "pencil",
            sentence="Make {} writable again", doing="making writable",
        ),
    )
}  # fmt: skip

# Of a silent host's machine nothing is known, so both directions may be ordered.
CAN_START = frozenset({MachineState.STOPPED, MachineState.FAILED, MachineState.UNKNOWN})


# why an image stays read-only, as contract.reports.MachineFact.read_only_by has it
FIXED_BECAUSE = {
    "vendor": "systemd changes and removes nothing below /usr",
    "mount": "its file system is mounted read-only on the host",
}


def is_template(machine: Machine) -> bool:
    """Whether it is there to be copied, not to be started."""
    return machine.read_only and bool(machine.image_type) and not machine.image_is_fixed


def start_of(machine: Machine) -> Verb:
    """How it can be started: where systemd refuses, only after a reset."""
    return VERBS["reset" if starts_after_reset(machine.shown_state, machine.activity) else "start"]


def starts_after_reset(state: str, activity: dict[str, Any]) -> bool:
    return state == MachineState.FAILED and bool(activity.get("refused"))


def power_off_of(machine: Machine) -> Verb:
    """Power off as this machine does it: where there is no init to be asked, its unit is stopped."""
    verb, state = VERBS["poweroff"], machine.shown_state
    if state == MachineState.RESTARTING:
        return replace(
            verb,
            title="Stop",
            careful=False,
            asks="Nothing of it runs now. Its unit is stopped, so that systemd does not start it again.",
        )
    if state == MachineState.STARTING:
        return replace(
            verb, title="Stop", asks="Its start is stopped: its unit is stopped, and what has started of it ends."
        )
    return replace(verb, asks=_of_script(machine, "Its unit is stopped") or verb.asks)


def reboot_of(machine: Machine) -> Verb:
    """Reboot, likewise."""
    verb = VERBS["reboot"]
    return replace(verb, asks=_of_script(machine, "Its unit is stopped and started") or verb.asks)


def _of_script(machine: Machine, what: str) -> str:
    init = machine.activity.get("init", "")
    if init in SYSTEMD:
        return ""
    return (
        f"Its first process is {init}, not systemd, and cannot be asked. {what}: systemd-nspawn sends it KillSignal= or ends it, "
        "and systemd kills it when the unit's own limit for that is over."
    )


SPOKEN = {"poweroff": power_off_of, "reboot": reboot_of}


def check(verb: Verb, machine: Machine) -> None:
    """Raises Problem for what this machine cannot do as it is."""
    why = machine.activity.get("cannot", {}).get("start" if verb.op == "reset" else verb.op)
    if why and machine.shown_state.is_up:
        raise Problem(f"“{verb.title}” cannot work on {machine.name} as it runs. {why}", code="cannot-do")
    if machine.image_is_fixed and verb.op in {"template", "writable"}:
        raise Problem(
            f"The image of {machine.name} stays read-only: {FIXED_BECAUSE[machine.read_only_by]}.", code="image-read-only",
            hint="Clone it: the clone can be changed.",
        )  # fmt: skip
    if is_template(machine) and verb.op in {"start", "enable"}:
        raise Problem(
            f"{machine.name} is a template: its image is read-only, so it is not started.", code="machine-is-template",
            hint="Make a machine from it, or make it writable again.",
        )  # fmt: skip
