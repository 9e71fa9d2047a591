"""Who may do what. One `authorize()`, called by the panel before a job is made and again by the host before it acts."""

from enum import StrEnum

from machines.contract.problems import NotAllowed


class Right(StrEnum):
    SEE = "see"
    OPERATE = "operate"  # start, stop, enable …
    CONFIGURE = "configure"
    BUILD = "build"
    REMOVE = "remove"
    ADMINISTER = "administer"  # hosts, people


class Role(StrEnum):
    VIEWER = "viewer"
    ADMINISTRATOR = "administrator"


RIGHTS: dict[Role, frozenset[Right]] = {
    Role.VIEWER: frozenset({Right.SEE}),
    Role.ADMINISTRATOR: frozenset(Right),
}

# The right each operation needs (contract/orders.py). An operation without a line here is refused.
RIGHT_FOR: dict[str, Right] = {
    "start": Right.OPERATE,
    "poweroff": Right.OPERATE,
    "reboot": Right.OPERATE,
    "terminate": Right.OPERATE,
    "enable": Right.OPERATE,
    "disable": Right.OPERATE,
    "apply": Right.CONFIGURE,
    "tidy": Right.CONFIGURE,
    "build": Right.BUILD,
    "bake": Right.BUILD,
    "discard": Right.BUILD,
    "export": Right.BUILD,
    "mark": Right.BUILD,
    "pool": Right.ADMINISTER,
    "remove": Right.REMOVE,
    "examine": Right.OPERATE,
    "mend": Right.ADMINISTER,
    "prove": Right.OPERATE,
    "cancel": Right.OPERATE,
    "resend": Right.SEE,
    "refresh": Right.SEE,
    "resynchronise": Right.ADMINISTER,
}


def authorize(role: str, right: Right) -> None:
    """Pass silently when people of this role hold the right.

    Raises NotAllowed; an unknown role holds nothing.
    """
    held = RIGHTS.get(Role(role), frozenset()) if role in set(Role) else frozenset()
    if right not in held:
        raise NotAllowed(
            f"This needs the right to {right}, which the role “{role or 'none'}” does not have.",
            hint="An administrator can do it or change your role.",
        )


def authorize_operation(role: str, operation: str, *, restarts: bool = False) -> None:
    """The same for an operation of an order; one that restarts a machine besides needs the right to operate it.

    Raises NotAllowed, also for an operation nobody has listed.
    """
    if operation not in RIGHT_FOR:
        raise NotAllowed(f"Nobody may order “{operation}”: it is not a known operation.")
    authorize(role, RIGHT_FOR[operation])
    if restarts:
        authorize(role, Right.OPERATE)
