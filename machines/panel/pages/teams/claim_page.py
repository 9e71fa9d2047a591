"""Machines that are nobody's, and what it means to give some to a team."""

from collections.abc import Sequence
from typing import Any

from machines.contract.permissions import Permission
from machines.models import Machine, Membership, PresetUse, Team

SHOWN = 500
NAMED = 10  # people of a kind
DOES = (
    (Permission.VIEW, "See it, its logs and its configuration"),
    (Permission.OPERATE, "Start, stop and restart it"),
    (Permission.CONFIGURE, "Change its configuration"),
    (Permission.BUILD, "Clone and export it"),
    (Permission.CONSOLE, "Open a shell in it"),
    (Permission.REMOVE, "Remove it with everything in it"),
)


def unclaimed() -> dict[str, Any]:
    free = Machine.objects.listed().filter(team=None).select_related("host").order_by("host__name", "name")
    machines = list(free[: SHOWN + 1])
    return {"machines": machines[:SHOWN], "more": len(machines) > SHOWN, "teams": list(Team.objects.all()[:SHOWN])}


def effects(machines: Sequence[Machine], team: Team | None) -> dict[str, Any]:
    """For the confirmation: who may do what then, and what the machines lose."""
    lost = PresetUse.objects.filter(machine__in=machines).exclude(preset__team=team).select_related("preset", "machine")
    moved = [machine for machine in machines if machine.team_id != (team.pk if team else None)]
    return {
        "moved": moved,
        "owners": sorted({machine.team.name for machine in moved if machine.team}),
        "may": _who_may(team) if team else [],
        "presets": [f"{use.preset.name} ({use.machine.name})" for use in lost[:NAMED]],
    }


def _who_may(team: Team) -> list[tuple[str, str]]:
    """(what, the people of the team who may do it)."""
    members = (
        Membership.objects.filter(team=team, user__is_active=True)
        .select_related("user", "team")
        .order_by("user__username")
    )
    grants = [(member.user.username, member.grant.rights) for member in members[:SHOWN]]
    return [(does, _names([name for name, rights in grants if permission in rights])) for permission, does in DOES]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}" if names else "nobody"
