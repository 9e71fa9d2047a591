"""Who may do what. Which of these an operation needs stands with its order (orders.py)."""

from enum import StrEnum

from machines.contract.problems import NotAllowed


class Permission(StrEnum):
    VIEW = "view"
    OPERATE = "operate"  # start, stop, enable …
    CONFIGURE = "configure"
    BUILD = "build"
    REMOVE = "remove"
    ADMINISTER = "administer"  # hosts, people


class Role(StrEnum):
    VIEWER = "viewer"
    ADMINISTRATOR = "administrator"


PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.VIEW}),
    Role.ADMINISTRATOR: frozenset(Permission),
}


def authorize(role: str, permission: Permission) -> None:
    """Pass silently when people of this role hold the permission.

    Raises NotAllowed; an unknown role holds nothing.
    """
    held = PERMISSIONS.get(Role(role), frozenset()) if role in set(Role) else frozenset()
    if permission not in held:
        raise NotAllowed(
            f"This needs the permission to {permission}, which the role “{role or 'none'}” does not have.",
            hint="An administrator can do it or change your role.",
        )
