"""Who may sign in, and who administers the installation. Whoever changes that holds the rows of all administrators, so that
of two who remove each other one is late, and there is always one left.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from machines.contract.permissions import Permission, Role
from machines.contract.problems import NotAllowed, Problem
from machines.models import ApiToken, Job, Membership, Team, User
from machines.panel.audit import entries
from machines.panel.courier import completion
from machines.panel.people import sessions, withdrawals
from machines.panel.teams.authorize import authorize

MOST = 200  # people that a page lists


def listed(text: str) -> QuerySet[User]:
    """By name, with their teams and whether they have a second factor; those that `text` names, or all."""
    factor = Authenticator.objects.filter(user=OuterRef("pk")).exclude(type=Authenticator.Type.RECOVERY_CODES)
    named = Q(username__icontains=text) | Q(first_name__icontains=text) | Q(email__icontains=text)
    people = User.objects.filter(named) if text else User.objects.all()
    return people.annotate(has_factor=Exists(factor)).prefetch_related("memberships__team").order_by("username")


def locked_administrators(person: User) -> set[int]:
    """The keys of all there are, whose rows and this person's nobody else changes until the end of the caller's transaction.

    All are locked in one go, in the order of their keys, and as firmly as withdrawals.hold() does. Facts (PostgreSQL): rows
    are locked in the order asked for; whoever waited has one locked too that fits no more by then. So a person's row that
    is locked after those of administrators is a deadlock with whoever still took them for one.
    """
    is_one = Q(is_administrator=True, is_active=True)
    locked = User.objects.select_for_update().filter(is_one | Q(pk=person.pk)).order_by("pk")
    return {pk for pk, *is_both in locked.values_list("pk", "is_administrator", "is_active") if all(is_both)}


@contextmanager
def _administering(by: User, person: User) -> Iterator[set[int]]:
    """The administrators there are, while nobody else changes that, nor anything of this person. Raises NotAllowed when `by` is
    none of them (any more)."""
    with transaction.atomic():
        found = locked_administrators(person)
        if by.pk not in found:
            raise NotAllowed("This needs the permission to administer, which you no longer have.")
        yield found


def make_administrator(person: User, *, by: User) -> None:
    """Raises NotAllowed, and Problem for one who is disabled."""
    with _administering(by, person):
        if not User.objects.filter(pk=person.pk, is_active=True).update(is_administrator=True):
            raise Problem(f"{person.username} is disabled.", hint="Enable them first.")
        said = f"{by.username} made {person.username} an administrator of the installation."
        entries.record("administrator-made", said, by=by, on=person)


def unmake_administrator(person: User, *, by: User) -> None:
    """Raises NotAllowed, and Problem for the last one, and for one who is none."""
    with _administering(by, person) as administrators:
        _keep_one(person, administrators)
        if not User.objects.filter(pk=person.pk, is_administrator=True).update(is_administrator=False):
            raise Problem(f"{person.username} is no administrator any more.")
        withdrawals.follow_rights(person.pk)
        said = f"{by.username} ended that {person.username} is an administrator of the installation."
        entries.record("administrator-unmade", said, by=by, on=person)


def disable(person: User, *, by: User) -> int:
    """Nobody by that name gets in any more: sessions and API tokens end, invitations they made are dead, orders that
    wait are cancelled; returns how many of these. What a host has begun goes on.

    Raises NotAllowed, and Problem for oneself, the last administrator and the last owner of a team.
    """
    if person.pk == by.pk:
        raise Problem("You cannot disable yourself.", hint="Another administrator can.")
    with _administering(by, person) as administrators:
        _keep_one(person, administrators)
        if not withdrawals.hold(person.pk).is_active:  # from here on nobody makes an owner of them either (members.py)
            raise Problem(f"{person.username} is disabled already.")
        _keep_owners(person)
        User.objects.filter(pk=person.pk).update(is_active=False)
        sessions.end(UserSession.objects.filter(user_id=person.pk))
        ApiToken.objects.filter(user_id=person.pk).delete()
        cancelled = [completion.cancel(job, by=by) for job in Job.objects.waiting().filter(actor_id=person.pk)]
        said = f"{by.username} disabled {person.username}; waiting orders cancelled: {sum(cancelled)}."
        entries.record("person-disabled", said, by=by, on=person)
    return sum(cancelled)


def enable(person: User, *, by: User) -> None:
    """They get in again, with the roles they had. Raises NotAllowed."""
    with _administering(by, person):
        User.objects.filter(pk=person.pk).update(is_active=True)
        entries.record("person-enabled", f"{by.username} enabled {person.username} again.", by=by, on=person)


def may_be_reset(person: User, *, by: User) -> None:
    """Raises NotAllowed, and Problem for one who is disabled: whoever has a link to a new password of somebody is them."""
    authorize(by, Permission.ADMINISTER, None)
    if not person.is_active:
        raise Problem(f"{person.username} is disabled.", hint="Enable them first.")


def _keep_one(person: User, administrators: set[int]) -> None:
    if administrators == {person.pk}:
        hint = "Make somebody else an administrator first."
        raise Problem(f"{person.username} is the last administrator of the installation.", hint=hint)


def _keep_owners(person: User) -> None:
    """Nobody else changes the owners of these teams meanwhile."""
    owned = Membership.objects.filter(user_id=person.pk, role=Role.OWNER).values("team_id")
    for team in Team.objects.select_for_update(no_key=True).filter(pk__in=owned).order_by("pk"):
        others = team.memberships.filter(role=Role.OWNER, user__is_active=True).exclude(user_id=person.pk)
        if not others.exists():
            hint = "Make somebody else an owner first."
            raise Problem(f"{person.username} is the last owner of {team.name}.", hint=hint)
