"""What a person may do, and by what: decided by authorize() itself, and put into words beside it."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.utils import timezone
from django.utils.formats import date_format

from machines.contract.permissions import PERMISSIONS, Permission
from machines.contract.problems import NotAllowed
from machines.models import Membership, User
from machines.panel.teams.authorize import authorize


@dataclass(frozen=True)
class Reason:
    may: bool
    why: str


def reason(person: User, permission: Permission, team_id: int | None, member: Membership | None) -> Reason:
    """Whether this person may do that with what belongs to this team (None: to nobody), and why; `member` is what it is there."""
    try:
        authorize(person, permission, team_id)
    except NotAllowed:
        return Reason(False, _why_not(person, permission, team_id, member))
    return Reason(True, _given_by(person, permission, member))


def members_of(person: User) -> Mapping[int, Membership]:
    """team → its membership. One query."""
    return {each.team_id: each for each in Membership.objects.filter(user=person).select_related("team")}


def _given_by(person: User, permission: Permission, member: Membership | None) -> str:
    if person.sees_all:
        return "administrator of the installation"
    if member is None:  # it was removed since the grants were read
        return "a membership"
    since = date_format(timezone.localtime(member.since), "j M Y")
    if permission in PERMISSIONS[member.grant.role]:
        return f"{member.role} of {member.team}, since {since}"
    return f"right to {permission}, given with the membership in {member.team} of {since}"


def _why_not(person: User, permission: Permission, team_id: int | None, member: Membership | None) -> str:
    if not person.is_active:
        return "no: the account is disabled"
    if permission is Permission.ADMINISTER:
        return "no: not an administrator of the installation"
    if team_id is None:
        return "no: administrators only"
    if member is None:
        return "no: not a member"
    return f"no: {member.role} of {member.team} does not include it"
