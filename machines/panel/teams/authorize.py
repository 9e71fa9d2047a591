"""The panel's one rule: who may do what with the things of which team. Each host judges again (host/policy)."""

from machines.contract import orders
from machines.contract.permissions import Permission
from machines.contract.problems import NotAllowed
from machines.models import Host, User
from machines.models.team import Scope
from machines.panel.teams import quotas


def authorize(by: User, permission: Permission, team_id: int | None) -> None:
    """Pass silently when this person may do that with what belongs to this team; what belongs to nobody (None) is the
    administrators'. Raises NotAllowed."""
    if not by.may_in(permission, team_id):
        raise NotAllowed(why_not(by, permission, team_id), hint=who_can(by, permission, team_id))


def place(by: User, order: orders.Order, team_id: int | None, on: Host) -> None:
    """Pass silently when this person may place this very order, and what it makes of the machine is within what the team may
    use of this host. In the transaction that writes the job. Raises NotAllowed, QuotaExceeded among them."""
    for permission in order.permissions():
        authorize(by, permission, team_id)
    quotas.check(on, team_id, order)


def why_not(by: User, permission: Permission, team_id: int | None) -> str:
    """The sentence for somebody who lacks it."""
    if not by.is_active:
        return "This account is disabled."
    if by.scope is not None:
        return _why_not_by_token(by, by.scope, permission, team_id)
    if permission is Permission.ADMINISTER:
        return "This needs the permission to administer, which only administrators of the installation have."
    grant = by.grant_in(team_id)
    if grant is None:
        return f"This needs the permission to {permission}, which you do not have here."
    return f"This needs the permission to {permission}, which your role in {grant.team}, {grant.role}, does not have."


def _why_not_by_token(by: User, scope: Scope, permission: Permission, team_id: int | None) -> str:
    """Its scope lacks it, or its owner has lost it since."""
    if permission not in scope.rights:
        return f"The API token {scope.token} does not carry the right to {permission}."
    if team_id is not None and not scope.covers(team_id):
        return f"The API token {scope.token} is not for this team."
    return f"The API token {scope.token} carries the right to {permission}, but {by.username}, who made it, does not have it here."


def who_can(by: User, permission: Permission, team_id: int | None) -> str:
    """… and who can help."""
    if by.scope is not None:
        return "A token is never more than the person who made it."
    grant = by.grant_in(team_id)
    if permission is Permission.ADMINISTER or grant is None:
        return "An administrator can do it."
    return f"An owner of {grant.team} can change your role, an administrator too."
