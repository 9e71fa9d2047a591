"""What the pages of teams show: all of them, one with its people, and what goes when one is deleted."""

from typing import Any

from django.urls import reverse

from machines.contract.permissions import Permission
from machines.models import HostShare, Machine, Membership, Team, User
from machines.panel.pages.teams import share_page
from machines.panel.teams import teams

SHOWN = 500  # teams, and members of one


def of_all(by: User) -> dict[str, Any]:
    found = list(teams.with_contents(Team.objects.visible_to(by))[:SHOWN])
    return {
        "rows": [{"team": team, "role": _role(by, team)} for team in found],
        "may_administer": by.may(Permission.ADMINISTER),
        "free": Machine.objects.listed().filter(team=None).count() if by.may(Permission.ADMINISTER) else 0,
    }


def _role(by: User, team: Team) -> str:
    """What this person is in it; "" for an administrator who is no member."""
    grant = by.grant_in(team.pk)
    return grant.role if grant else ""


def of_one(by: User, team: Team) -> dict[str, Any]:
    people = list(Membership.objects.filter(team=team).select_related("user").order_by("user__username")[:SHOWN])
    return {
        "team": team,
        "people": [{"member": each, "rights": each.extra, "is_you": each.user_id == by.pk} for each in people],
        "is_member": any(each.user_id == by.pk for each in people),
        "held": held(team),
        "shares": share_page.rows(HostShare.objects.filter(team=team)),
        "may_manage": by.may_in(Permission.MANAGE, team.pk),
        "may_administer": by.may(Permission.ADMINISTER),
    }


def held(team: Any) -> list[tuple[str, int, str]]:
    """(word, how many, the list) of what it holds; of a team with_contents()."""
    counts = [(word, getattr(team, f"{word}_held")) for word in ("machines", "recipes", "presets", "archives")]
    return [(word if number != 1 else word[:-1], number, reverse(f"{word[:-1]}-index")) for word, number in counts]


def what_goes(team: Any) -> list[str]:
    """Sentences on what its deletion does; of a team with_contents()."""
    things = ", ".join(f"{number} {word}" for word, number, _ in held(team) if number)
    return [
        f"What it holds belongs to nobody afterwards, and only administrators see it: {things}." if things
        else "It holds nothing.",
        _count(team.people, "person loses", "people lose") + " what they may do by it, at once.",
        f"It is no longer shared {_count(team.hosts, 'host', 'hosts')}.",
        "Machines stay as they are and keep running.",
    ]  # fmt: skip


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
