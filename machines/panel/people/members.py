"""The people of a team. Whoever changes them holds the team's row, so that of two who remove each other one is late, and a
team that has an owner keeps one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction

from machines.contract.permissions import Permission, Role
from machines.contract.problems import Problem
from machines.models import Membership, Team, User
from machines.panel.audit.entries import record
from machines.panel.people import withdrawals
from machines.panel.teams.authorize import authorize

LAST = "is the last owner of"


@contextmanager
def _managing(team: Team, by: User, person: User | None) -> Iterator[None]:
    """Nobody else changes its people meanwhile, nor what this person is, and `by` may do it at this moment. Raises
    NotAllowed, Problem."""
    with _holding(team, person):
        authorize(User.objects.get(pk=by.pk), Permission.MANAGE, team.pk)
        yield


@contextmanager
def _holding(team: Team, person: User | None) -> Iterator[None]:
    """Raises Problem when the team is gone."""
    with transaction.atomic():
        if person:
            withdrawals.hold(person.pk)
        if not Team.objects.select_for_update(no_key=True).filter(pk=team.pk).exists():
            raise Problem(f"The team {team.name} was deleted meanwhile.")
        yield


def find(name: str) -> User | None:
    """The one person of exactly this name who can be a member."""
    return User.objects.filter(username=name, is_active=True).first()


def add(team: Team, name: str, role: str, *, may_console: bool, may_remove: bool, by: User) -> Membership:
    """Raises Problem for an unknown person (none of this name, or one who cannot be a member: which, is not said) and for
    one who is a member."""
    with _managing(team, by, find(name)):
        person = find(name)
        if person is None:
            raise Problem("No such person, or not known to you.", hint="Type the exact username.")
        made, is_new = Membership.objects.get_or_create(
            team=team, user=person, defaults={"role": role, "may_console": may_console, "may_remove": may_remove}
        )
        if not is_new:
            raise Problem(f"{name} already is a member, with the role {made.role}.", hint="Change the role instead.")
        said = f"{by.username} added {name} to {team.name} as {_as(made)}."
        record("member-added", said, by=by, on=person, team_id=team.pk)
    return made


def change(member: Membership, role: str, *, may_console: bool, may_remove: bool, by: User) -> None:
    """Give it another role and other rights. Raises Problem for the last owner, and when it is no member any more."""
    with _managing(member.team, by, member.user):
        current = _current(member)
        before = _as(current)
        if role != Role.OWNER:
            _keep_an_owner(current)
        current.role, current.may_console, current.may_remove = role, may_console, may_remove
        if _as(current) == before:
            return
        current.save(update_fields=["role", "may_console", "may_remove"])
        withdrawals.follow_rights(current.user_id)
        said = f"{by.username} made {current.user} {_as(current)} of {current.team}; before: {before}."
        record("member-changed", said, by=by, on=current.user, team_id=current.team_id)


def remove(member: Membership, by: User) -> None:
    """Raises Problem for the last owner, and when it is no member any more."""
    with _managing(member.team, by, member.user):
        current = _current(member)
        _keep_an_owner(current)
        current.delete()
        withdrawals.follow_rights(current.user_id)
        said = f"{by.username} removed {current.user} from {current.team}."
        record("member-removed", said, by=by, on=current.user, team_id=current.team_id)


def leave(team: Team, person: User) -> None:
    """Raises Problem for the last owner, and for one who is no member."""
    with _holding(team, person):
        member = Membership.objects.select_related("team", "user").filter(team=team, user=person).first()
        if member is None:
            raise Problem(f"You are no member of {team.name}.")
        _keep_an_owner(member)
        member.delete()
        withdrawals.follow_rights(person.pk)
        record("member-left", f"{person.username} left {team.name}.", by=person, on=person, team_id=team.pk)


def _current(member: Membership) -> Membership:
    """As it is now that nobody else changes it."""
    found = Membership.objects.select_related("team", "user").filter(pk=member.pk).first()
    if found is None:
        raise Problem(f"{member.user} is no member of {member.team} any more.")
    return found


def _keep_an_owner(member: Membership) -> None:
    """Raises Problem when the team would be left without one who can sign in."""
    if member.role != Role.OWNER or not member.user.is_active:
        return
    others = Membership.objects.filter(team=member.team, role=Role.OWNER, user__is_active=True).exclude(pk=member.pk)
    if not others.exists():
        raise Problem(f"{member.user} {LAST} {member.team}.", hint="Make somebody else an owner first.")


def _as(member: Membership) -> str:
    """Its role and the rights beside it, in words."""
    rights = ", ".join(member.extra)
    return f"{member.role} with the right to {' and '.join(member.extra)}" if rights else str(member.role)
