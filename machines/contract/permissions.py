"""Who may do what. Which of these an operation needs stands with its order (orders.py)."""

from collections.abc import Collection
from enum import StrEnum

from machines.contract.problems import NotAllowed


class Permission(StrEnum):
    VIEW = "view"
    OPERATE = "operate"  # start, stop, enable …
    CONFIGURE = "configure"
    BUILD = "build"
    CONSOLE = "console"  # a shell inside
    REMOVE = "remove"
    MANAGE = "manage"  # the people of a team
    ADMINISTER = "administer"  # hosts, policies, teams, and everybody


class Role(StrEnum):
    """What a person is in a team; ADMINISTRATOR is of the whole installation, and in no team."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    EDITOR = "editor"
    OWNER = "owner"
    ADMINISTRATOR = "administrator"


TEAM_ROLES = (Role.VIEWER, Role.OPERATOR, Role.EDITOR, Role.OWNER)
# Rights of their own, which a membership may carry beside its role
EXTRA = frozenset({Permission.CONSOLE, Permission.REMOVE})

_OPERATOR = frozenset({Permission.VIEW, Permission.OPERATE})
_EDITOR = _OPERATOR | {Permission.CONFIGURE, Permission.BUILD}
PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.VIEW}),
    Role.OPERATOR: _OPERATOR,
    Role.EDITOR: _EDITOR,
    Role.OWNER: frozenset(Permission) - {Permission.ADMINISTER},
    Role.ADMINISTRATOR: frozenset(Permission),
}


def held(role: str, extra: Collection[str] = ()) -> frozenset[Permission]:
    """What people of this role hold, with the rights that their membership carries besides. An unknown role holds nothing,
    and nothing else can be carried."""
    if role not in set(Role):
        return frozenset()
    return PERMISSIONS[Role(role)] | {right for right in EXTRA if right in set(extra)}


def authorize(role: str, permission: Permission, extra: Collection[str] = ()) -> None:
    """Pass silently when people of this role hold the permission. Raises NotAllowed."""
    if permission not in held(role, extra):
        raise NotAllowed(
            f"This needs the permission to {permission}, which the role “{role or 'none'}” does not have.",
            hint="An administrator can do it or change your role.",
        )
