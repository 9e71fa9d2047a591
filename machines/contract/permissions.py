"""Who may do what. Which of these an operation needs stands with its order (orders.py)."""

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
