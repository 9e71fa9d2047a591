"""Links that let somebody in once: made, looked up, accepted, withdrawn. Nobody signs up otherwise.

A link is good for what its maker may give when it is accepted, not when it was made: an administrator's who is none any
more makes no administrator.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone

from machines.contract.permissions import Permission, Role
from machines.contract.problems import Problem
from machines.models import Invitation, Membership, Team, User
from machines.panel.audit import entries
from machines.panel.teams.authorize import authorize

SETUP_HOURS = 24
MOST_OPEN = 200  # invitations at once: of a team's owners to that team, of all administrators together
MOST_LISTED = 2000


class NotGood(Problem):
    """The link cannot be used, and why."""


@dataclass(frozen=True)
class Offer:
    """What whoever accepts becomes. Without a team: nothing but an administrator, or a person of no team yet."""

    is_administrator: bool = False
    team: Team | None = None
    role: str = Role.VIEWER
    may_console: bool = False
    may_remove: bool = False


def setup_link() -> str:
    """The path for the first administrator, instead of those made before. Raises NotGood when there is one already."""
    if User.objects.filter(is_administrator=True, is_active=True).exists():
        raise NotGood("There is an administrator already.", hint="manage.py reset_link NAME lets them in again.")
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        Invitation.objects.filter(is_setup=True, used_at=None).delete()
        _make(token, Offer(is_administrator=True), hours=SETUP_HOURS, is_setup=True)
    return address(token)


def invite(offer: Offer, *, by: User, days: int, note: str = "") -> str:
    """The path of the link, which is nowhere to be seen again. Raises NotAllowed, and NotGood when there are too many."""
    _authorize(offer, by)
    if _beside(offer, by).count() >= MOST_OPEN:
        raise NotGood(f"{MOST_OPEN} invitations are open.", hint="Withdraw some that nobody will use.")
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        _make(token, offer, hours=24 * days, invited_by=by, note=note)
        said = f"{by.username} invited {note or 'somebody'} as {described(offer)}."
        entries.record("person-invited", said, by=by, on=offer.team)
    return address(token)


def _beside(offer: Offer, by: User) -> QuerySet[Invitation]:
    """The open ones that count against the same bound: what the people of one team do takes nothing from others."""
    opened = Invitation.objects.open().filter(is_setup=False)
    if by.is_administrator:
        return opened.filter(invited_by__is_administrator=True)
    return opened.filter(team=offer.team, invited_by__is_administrator=False)


def _make(token: str, offer: Offer, *, hours: int, **more: Any) -> Invitation:
    return Invitation.objects.create(
        digest=_digest(token), is_administrator=offer.is_administrator, team=offer.team, role=offer.role,
        may_console=offer.may_console, may_remove=offer.may_remove,
        expires_at=timezone.now() + timedelta(hours=hours), **more,
    )  # fmt: skip


def find(token: str) -> Invitation:
    """The open invitation of this link. Raises NotGood with the reason, which only who has the link gets to know."""
    found = Invitation.objects.filter(digest=_digest(token)).select_related("team", "invited_by").first()
    if found is None:
        raise NotGood("This invitation does not exist, or was withdrawn.", hint="Ask for another one.")
    if found.used_at:
        raise NotGood("This invitation was used already; each works once.", hint="Sign in, or ask for another one.")
    if found.expires_at <= timezone.now():
        raise NotGood("This invitation has expired.", hint="Ask for another one.")
    _judge(found)
    return found


def _judge(invitation: Invitation) -> None:
    """Whether whoever made it could still make it. Raises NotGood."""
    if invitation.is_setup:
        if User.objects.filter(is_administrator=True, is_active=True).exists():
            raise NotGood("There is an administrator already, who can invite you.")
        return
    try:
        _authorize(offer_of(invitation), invitation.invited_by or User(is_active=False))
    except Problem as problem:
        raise NotGood("Whoever made this invitation may no longer invite.", hint="Ask for another one.") from problem


def accept(token: str, person: Mapping[str, str]) -> User:
    """Make the person, who has `username`, `name`, `email` and `password`, already judged by the form.

    Raises NotGood, and IntegrityError when the name was taken meanwhile; then the link stays good.
    """
    with transaction.atomic():
        invitation = find(token)
        used = Invitation.objects.filter(pk=invitation.pk, used_at=None).update(used_at=timezone.now())
        if not used:
            raise NotGood("This invitation was used already; each works once.", hint="Sign in, or ask for another one.")
        user = User.objects.create_user(
            person["username"], person["email"], person["password"], first_name=person["name"],
            is_administrator=invitation.is_administrator,
        )  # fmt: skip
        if invitation.team:
            Membership.objects.create(
                team=invitation.team, user=user, role=invitation.role,
                may_console=invitation.may_console, may_remove=invitation.may_remove,
            )  # fmt: skip
        said = f"{user.username} accepted an invitation and is {described(offer_of(invitation))} now."
        entries.record("invitation-accepted", said, by=user, on=user, team_id=invitation.team_id)
    return user


def visible_to(user: User) -> QuerySet[Invitation]:
    """The open ones that this person may see and withdraw."""
    found = Invitation.objects.open().filter(is_setup=False).select_related("team", "invited_by")
    teams = user.teams_where(Permission.MANAGE)
    return found if teams is None else found.filter(team_id__in=teams, is_administrator=False)


def withdraw(invitation: Invitation, *, by: User) -> None:
    """The link no longer works."""
    with transaction.atomic():
        invitation.delete()
        said = f"{by.username} withdrew the invitation of {invitation.note or 'somebody'}."
        entries.record("invitation-withdrawn", said, by=by, on=invitation.team)


def offer_of(invitation: Invitation) -> Offer:
    return Offer(
        invitation.is_administrator, invitation.team, invitation.role, invitation.may_console, invitation.may_remove
    )


def described(offer: Offer) -> str:
    """ "administrator", "editor of Web", …"""
    parts = ["administrator"] if offer.is_administrator else []
    parts += [f"{offer.role} of {offer.team.name}"] if offer.team else []
    return " and ".join(parts) or "a person of no team"


def address(token: str) -> str:
    """A path: under which name people reach the panel is known to a request, or set as NSPAWNPANEL_URL."""
    return reverse("invitation", args=[token])


def _authorize(offer: Offer, by: User) -> None:
    """Administrators are made by administrators, people of a team by those who manage it. Raises NotAllowed."""
    if offer.is_administrator or offer.team is None:
        authorize(by, Permission.ADMINISTER, None)
    else:
        authorize(by, Permission.MANAGE, offer.team.pk)


def _digest(token: str) -> str:
    return sha256(token.encode(errors="replace")).hexdigest()
