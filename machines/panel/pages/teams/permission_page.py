"""What a person may do here, and why: objects × rights, as far as it concerns whoever looks."""

from dataclasses import dataclass
from typing import Any

from django.http import Http404
from django.urls import reverse

from machines.contract.permissions import Permission
from machines.models import Host, HostShare, Machine, Membership, Team, User
from machines.panel.pages import machine_rows
from machines.panel.teams import reasons
from machines.panel.teams.reasons import Reason

TEAMS_SHOWN, MACHINES_SHOWN, HOSTS_SHOWN = 100, 200, 200
RIGHTS = tuple(Permission)


@dataclass(frozen=True)
class Row:
    name: str
    note: str
    url: str
    cells: list[tuple[Permission, Reason]]


def find(viewer: User, username: str) -> User:
    """The person of this name, when the viewer may look at it: oneself, people of teams that one manages, for administrators
    anybody. Raises Http404."""
    if not username or username == viewer.username:
        return User.objects.get(pk=viewer.pk)
    managed = viewer.teams_where(Permission.MANAGE)
    people = User.objects.all()
    if managed is not None:
        people = people.filter(pk__in=Membership.objects.filter(team__in=managed).values("user"))
    person = people.filter(username=username).first()
    if person is None:
        raise Http404("No such person, or not known to you.")
    return person


def context(viewer: User, person: User) -> dict[str, Any]:
    """Of somebody else only what concerns the teams that the viewer manages."""
    is_self = person.pk == viewer.pk
    concerned = viewer.teams_where(Permission.VIEW if is_self else Permission.MANAGE)
    teams = Team.objects.all() if concerned is None else Team.objects.filter(pk__in=concerned)
    shown = list(teams[:TEAMS_SHOWN])
    return {
        "person": person,
        "is_self": is_self,
        "rights": RIGHTS,
        "rows": _rows(person, shown, with_nobody=concerned is None),
        "hosts": _hosts(person, shown, every=concerned is None),
    }


def _rows(person: User, teams: list[Team], *, with_nobody: bool) -> list[Row]:
    members = reasons.members_of(person)
    found = [
        _row(person, members, team.pk, name=team.name, note="everything of the team",
             url=reverse("team-detail", args=[team.slug]))
        for team in teams
    ]  # fmt: skip
    if with_nobody:
        found.append(_row(person, members, None, name="The installation", note="and what belongs to nobody"))
    machines = (
        Machine.objects.listed().filter(team__in=teams).select_related("host", "team").order_by("name", "host__name")
    )
    return found + [
        _row(person, members, machine.team_id, name=machine.name, note=f"machine of {machine.team} on {machine.host}",
             url=machine_rows.machine_url(machine.host.name, machine.name))
        for machine in machines[:MACHINES_SHOWN]
    ]  # fmt: skip


def _row(person: User, members: Any, team_id: int | None, *, name: str, note: str, url: str = "") -> Row:
    member = members.get(team_id)
    return Row(name, note, url, [(right, reasons.reason(person, right, team_id, member)) for right in RIGHTS])


def _hosts(person: User, teams: list[Team], *, every: bool) -> list[dict[str, Any]]:
    """Which hosts exist for the person, by what."""
    shares = HostShare.objects.filter(team__in=teams, host__removed_at=None).select_related("host", "team")
    mine = person.teams_where(Permission.VIEW)
    by = dict[str, list[str]]()
    for share in shares[:HOSTS_SHOWN]:
        found = by.setdefault(share.host.name, [])
        if mine is not None and share.team_id in mine:
            found.append(share.team.name)
    if every:
        by |= {name: by.get(name, []) for name in Host.objects.values_list("name", flat=True)[:HOSTS_SHOWN]}
    return [
        {"name": name, "may": mine is None or bool(found), "why": _why_host(person, found)}
        for name, found in sorted(by.items())
    ]


def _why_host(person: User, teams: list[str]) -> str:
    if person.sees_all:
        return "administrator of the installation"
    if not person.is_active:
        return "no: the account is disabled"
    return f"shared to {', '.join(teams)}" if teams else "no: shared to none of these teams of the person"
