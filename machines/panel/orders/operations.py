"""What people see of every operation: its words, icon, risk, the buttons of a machine that order it, and what the page of
such a job offers. What host and panel know of it besides stands with its order (contract/orders.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from machines.contract import orders
from machines.contract.orders import Order, op_of


class Risk(StrEnum):
    """What an operation may cost; whoever orders one that is not harmless is asked before."""

    NONE = "none"  # changes nothing that runs, or can be ordered back at once
    INTERRUPTS = "interrupts"  # what is interrupted comes back by itself
    STOPS = "stops"  # somebody has to bring back what it takes away
    LOSES_DATA = "loses data"


@dataclass(frozen=True, kw_only=True)
class Action:
    """A button of a machine that places an order.

    `name` is its word in URLs, `title` what it is called, `sentence` the same with a gap for the machine's name where that
    does not simply follow, `note` what is said when it was ordered, `asks` what the dialog says before; "" for acts that
    need no asking. `given` are fields of the order beside the name.
    """

    order: type[Order]
    name: str
    title: str
    note: str
    icon: str
    sentence: str = ""
    asks: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    nothing_runs: bool = False  # of the machine it is pressed on, so that nothing is at risk
    needs_writable: bool = False  # not for a template, which is never started
    changes_image: bool = False  # not for an image that nobody can change

    @property
    def op(self) -> str:
        return op_of(self.order)

    @property
    def risk(self) -> Risk:
        return Risk.NONE if self.nothing_runs or not self.asks else OPERATIONS[self.op].risk

    @property
    def careful(self) -> bool:
        """Whether the focus of its question is on Cancel."""
        return self.risk in {Risk.STOPS, Risk.LOSES_DATA}

    @property
    def danger(self) -> bool:
        return self.risk is Risk.LOSES_DATA

    def of(self, name: str) -> str:
        """The act on this machine: “Power off web”."""
        return (self.sentence or f"{self.title} {{}}").format(name)

    def to_order(self, name: str) -> Order:
        """The order for the machine of this name. Raises pydantic.ValidationError for what is no name."""
        return self.order.model_validate({"name": name, **self.given})


@dataclass(frozen=True, kw_only=True)
class Result:
    """The page that says what came of it, below that of its machine or host, and what the link there is called."""

    page: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Everything people see of one operation.

    `title` says what was ordered, `sentence` too, with a gap for the machine's name where that does not simply follow;
    `doing` what is under way, `done` what has been done, after “was”; `cancelling` what stays of half-done work.
    """

    order: type[Order]
    title: str
    doing: str
    done: str
    icon: str
    risk: Risk
    cancelling: str
    sentence: str = ""
    actions: tuple[Action, ...] = ()

    # what the page of such a job offers, and what the end of such a job means here
    result: Result | None = None
    opens_machine: bool = True  # what to look at next is the machine itself
    makes_machine: bool = False  # there is none before; the form can be had again
    removes_machine: bool = False
    applies_draft: bool = False  # which is there still when it fails
    brings_archive: bool = False
    starts_machine: bool = False
    can_be_stopped: bool = False  # a machine's page has a button that cancels it
    instead_of_retry: str = ""  # where there is no Retry

    @property
    def op(self) -> str:
        return op_of(self.order)

    def of(self, name: str) -> str:
        """What was ordered: “Power off web”, or “Power off” where the page says of what."""
        return (self.sentence or f"{self.title} {{}}").format(name) if name else self.title


NOT_CANCELLED = "The host carries it out at once; it cannot be cancelled."
AS_FAR_AS_IT_GOT = "The host stops as soon as it can; what is done stays done."
NOTHING_CHANGES = "It changes nothing, so nothing is left behind."

OPERATIONS: dict[str, Operation] = {
    operation.op: operation
    for operation in (
        Operation(
            order=orders.Start, title="Start", doing="starting", done="started",
            icon="play-fill", risk=Risk.NONE, starts_machine=True, can_be_stopped=True,
            cancelling="Its start is aborted: systemd ends what has begun of it. If it is up by then, it stays up.",
            actions=(
                Action(
                    order=orders.Start, name="start", title="Start", note="Starting {}.",
                    icon="play-fill", needs_writable=True,
                ),
                Action(
                    order=orders.Start, name="reset", title="Reset and start", note="Starting {}.",
                    icon="play-fill", given={"reset": True}, needs_writable=True,
                ),
            ),
        ),
        Operation(
            order=orders.Poweroff, title="Power off", doing="powering off", done="powered off",
            icon="stop-fill", risk=Risk.STOPS,
            cancelling="The machine may go on powering off: its init was already asked.",
            actions=(
                Action(
                    order=orders.Poweroff, name="poweroff", title="Power off", note="Powering off {}.", icon="stop-fill",
                    asks="Its init is asked to stop all services and power off. What runs inside ends.",
                ),
            ),
        ),
        Operation(
            order=orders.Reboot, title="Reboot", doing="rebooting", done="rebooted",
            icon="arrow-clockwise", risk=Risk.INTERRUPTS, starts_machine=True,
            cancelling="The machine may go on rebooting: its init was already asked.",
            actions=(
                Action(
                    order=orders.Reboot, name="reboot", title="Reboot", note="Rebooting {}.",
                    icon="arrow-clockwise",
                    asks="Its init is asked to stop all services and start again. It is away for as long as that takes.",
                ),
            ),
        ),
        Operation(
            order=orders.Terminate, title="Terminate", doing="terminating", done="terminated",
            icon="lightning-charge", risk=Risk.LOSES_DATA, cancelling=AS_FAR_AS_IT_GOT,
            actions=(
                Action(
                    order=orders.Terminate, name="terminate", title="Terminate", note="Terminating {}.",
                    icon="lightning-charge",
                    asks="All its processes are killed at once, without asking its init. Unwritten data is lost.",
                ),
            ),
        ),
        Operation(
            order=orders.Enable, title="Start at boot", sentence="Start {} at boot", doing="enabling", done="enabled",
            icon="toggle-on", risk=Risk.NONE, cancelling=AS_FAR_AS_IT_GOT,
            actions=(
                Action(
                    order=orders.Enable, name="enable", title="Start at boot", sentence="Start {} at boot",
                    note="Enabling {}.", icon="toggle-on", needs_writable=True,
                ),
            ),
        ),
        Operation(
            order=orders.Disable, title="Do not start at boot", sentence="Do not start {} at boot", doing="disabling",
            done="disabled", icon="toggle-off", risk=Risk.NONE, cancelling=AS_FAR_AS_IT_GOT,
            actions=(
                Action(
                    order=orders.Disable, name="disable", title="Do not start at boot",
                    sentence="Do not start {} at boot", note="Disabling {}.", icon="toggle-off",
                ),
            ),
        ),
        Operation(
            order=orders.Apply, title="Apply", sentence="Apply settings of {}", doing="applying",
            done="configured", icon="sliders", risk=Risk.INTERRUPTS, applies_draft=True,
            instead_of_retry="Its draft is still there: apply that again.",
            cancelling="Files are exchanged in one step: they are either the old ones or the new ones. A machine that is "
            "being watched after its restart goes back to the old ones.",
        ),
        Operation(
            order=orders.RemoveDropins, title="Remove drop-ins", sentence="Remove drop-ins of {}", doing="removing drop-ins",
            done="cleared of drop-ins", icon="eraser", risk=Risk.NONE, cancelling=AS_FAR_AS_IT_GOT,
        ),
        Operation(
            order=orders.Build, title="Build", doing="building", done="built", icon="hammer",
            risk=Risk.NONE, makes_machine=True,
            cancelling="The build is stopped and the half-built tree is removed. Packages stay in the host's cache.",
        ),
        Operation(
            order=orders.BuildBase, title="Build base image", doing="building base image",
            done="built as base image", icon="hammer", risk=Risk.NONE,
            cancelling="The build is stopped and nothing of it is kept. The base image that was there stays.",
        ),
        Operation(
            order=orders.RemoveBase, title="Remove base image", doing="removing base image", done="removed as base image",
            icon="trash", risk=Risk.STOPS, cancelling=AS_FAR_AS_IT_GOT,
        ),
        Operation(
            order=orders.Export, title="Export", doing="exporting", done="exported",
            icon="file-earmark-zip", risk=Risk.NONE, opens_machine=False, brings_archive=True,
            cancelling="What was packed is deleted, on the host and here. The machine itself is not touched.",
        ),
        Operation(
            order=orders.SetReadOnly, title="Convert to template or machine", sentence="Convert {} to template or machine",
            doing="converting", done="converted", icon="copy", risk=Risk.INTERRUPTS, cancelling=AS_FAR_AS_IT_GOT,
            actions=(
                Action(
                    order=orders.SetReadOnly, name="template", title="Convert to template", sentence="Convert {} to a template",
                    note="Converting {} to a template.", icon="copy", given={"read_only": True},
                    changes_image=True,
                    asks="Its image becomes read-only. It can then not be started, not at boot either; new machines are "
                    "made from it as clones with an identity of their own. It can be converted back at any time.",
                ),
                Action(
                    order=orders.SetReadOnly, name="writable", title="Convert to machine", sentence="Convert {} to a machine",
                    note="Converting {} to a machine.", icon="pencil", given={"read_only": False}, changes_image=True,
                ),
            ),
        ),
        Operation(
            order=orders.Assign, title="Assign to its team", sentence="Assign {} to its team", doing="assigning",
            done="assigned to its team", icon="people", risk=Risk.NONE, cancelling=NOT_CANCELLED,
        ),
        Operation(
            order=orders.Pool, title="Create btrfs pool",
            doing="creating a btrfs pool", done="moved into a btrfs pool", icon="hdd-stack", risk=Risk.INTERRUPTS,
            cancelling="Nothing changes: the images stay where they are, and what was copied is removed.",
        ),
        Operation(
            order=orders.Remove, title="Remove", doing="removing", done="removed", icon="trash",
            risk=Risk.LOSES_DATA, opens_machine=False, removes_machine=True,
            cancelling="What is already removed stays removed: the machine may be left incomplete.",
        ),
        Operation(
            order=orders.Diagnose, title="Diagnostics", sentence="Run diagnostics on {}", doing="running diagnostics",
            done="checked", icon="heart-pulse", risk=Risk.NONE, cancelling=NOTHING_CHANGES,
            result=Result(page="doctor", label="View findings"),
        ),
        Operation(
            order=orders.Fix, title="Fix", doing="applying a fix", done="fixed", icon="bandaid",
            risk=Risk.INTERRUPTS, cancelling=AS_FAR_AS_IT_GOT,
            result=Result(page="doctor", label="View findings"),
        ),
        Operation(
            order=orders.LimitTest, title="Limit test", sentence="Test the limits of {}", doing="testing limits",
            done="tested", icon="speedometer2", risk=Risk.NONE,
            cancelling="The load ends at once; the machine goes on as it was.",
            result=Result(page="limit-test", label="View limit test"),
        ),
        Operation(
            order=orders.Cancel, title="Cancel", doing="cancelling", done="cancelled",
            icon="x-circle", risk=Risk.STOPS, cancelling=NOT_CANCELLED,
        ),
        Operation(
            order=orders.Resend, title="Resend reports", doing="resending reports",
            done="reported again", icon="send", risk=Risk.NONE, cancelling=NOT_CANCELLED,
        ),
        Operation(
            order=orders.Refresh, title="Take inventory", doing="taking inventory",
            done="listed", icon="list-check", risk=Risk.NONE, cancelling=NOT_CANCELLED,
        ),
        Operation(
            order=orders.Resynchronise, title="Resynchronize", doing="resynchronizing",
            done="resynchronized", icon="arrow-repeat", risk=Risk.NONE, cancelling=NOT_CANCELLED,
        ),
        Operation(
            order=orders.TrustKeys, title="Change panel keys", doing="changing panel keys",
            done="panel keys changed", icon="key", risk=Risk.NONE, cancelling=NOT_CANCELLED,
        ),
    )
}  # fmt: skip


# The buttons of all operations, by their words.
ACTIONS: dict[str, Action] = {action.name: action for each in OPERATIONS.values() for action in each.actions}


def of(op: str) -> Operation:
    """What people see of an operation, by its word; in that word itself for one of another version."""
    if op in OPERATIONS:
        return OPERATIONS[op]
    return Operation(
        order=orders.kind_of(op), title=op.capitalize(), doing=op, done=op,
        icon="question-circle", risk=Risk.STOPS, cancelling=AS_FAR_AS_IT_GOT,
    )  # fmt: skip
