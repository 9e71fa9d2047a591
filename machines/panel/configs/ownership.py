"""Machines that change teams: claimed for one, moved to another, released to nobody."""

from collections.abc import Sequence

from django.db import transaction
from django.db.models import Q

from machines.contract.problems import Problem
from machines.models import HostShare, Job, Machine, PresetUse, Team, User
from machines.models.machine import NOBODYS
from machines.panel.audit.entries import record
from machines.panel.configs import presets
from machines.panel.orders import assignments

AT_ONCE = 200  # machines
NAMED = 10  # of those that are in the way


def assign(keys: Sequence[int], team: Team | None, by: User) -> list[Machine]:
    """Make the machines of these keys this team's, or nobody's; those that are already stay as they are, but their hosts are told where
    they say otherwise. All of them or none.
    Its drafts and revisions go with a machine, but not what a former machine of its name had with another team; presets of other teams are detached from it, its settings stay; the jobs of
    the team it leaves stay that team's. Their hosts are told. Raises Problem.
    """
    with transaction.atomic():
        others = ~Q(team=team) | Q(team=None) if team else ~Q(team=None)
        rows = Machine.objects.listed().filter(others, pk__in=keys)
        machines = list(rows.select_for_update(no_key=True, of=("self",)).select_related("host", "team").order_by("pk"))
        _check_free(machines)
        if team:
            _check_shared(machines, team)
        for machine in machines:
            _note(machine, team, by)
        moved = [machine.pk for machine in machines]
        _empty(machines, team)
        Machine.objects.filter(pk__in=moved).update(team=team, former_team=None)
        _detach_presets(moved, team)
        for machine in machines:
            machine.team = team
        strays = _called_otherwise(keys, moved, team)
        assignments.place([*machines, *strays], by=by)
    return [*machines, *strays]


def _called_otherwise(keys: Sequence[int], moved: Sequence[int], team: Team | None) -> list[Machine]:
    """Those that are this team's here already, and another one's by what their host has told."""
    theirs = Machine.objects.listed().filter(pk__in=keys, team=team).exclude(pk__in=moved)
    differ = theirs.exclude(host_team=None).exclude(host_team=team.slug if team else "")
    return list(differ.select_related("host", "team").order_by("pk"))


def _check_free(machines: Sequence[Machine]) -> None:
    """What is being done to a machine ends as the job of the team that ordered it."""
    jobs = Job.objects.unfinished().filter(
        host__in={m.host_id for m in machines}, machine_name__in=[m.name for m in machines]
    )
    busy = set(jobs.values_list("host", "machine_name"))
    if names := [machine.name for machine in machines if (machine.host_id, machine.name) in busy]:
        raise Problem(f"A job is in progress: {_listed(names)}.", hint="Wait until it has ended, or cancel it.")


def _check_shared(machines: Sequence[Machine], team: Team) -> None:
    shared = set(HostShare.objects.filter(team=team).values_list("host", flat=True))
    if hosts := sorted({machine.host.name for machine in machines if machine.host_id not in shared}):
        raise Problem(f"Not shared to {team}: {_listed(hosts)}.", hint=f"Share the host to {team} first.")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _note(machine: Machine, team: Team | None, by: User) -> None:
    """Each team reads what concerns it, and of the other nothing."""
    if machine.team:
        said = f"{by.username} took {machine.name} on {machine.host} from {machine.team}."
        record("machine-released", said, by=by, on=machine)
    if team:
        said = f"{by.username} claimed {machine.name} on {machine.host} for {team}."
        record("machine-claimed", said, by=by, on=machine, team_id=team.pk)


def _empty(machines: Sequence[Machine], team: Team | None) -> None:
    """Those that were removed and found again keep the revisions of their former machine, for whose that was alone."""
    again = [each for each in machines if each.former_team is not None]
    strange = [each.pk for each in again if each.former_team != (team.pk if team else NOBODYS)]
    if strange:
        Machine.objects.filter(pk__in=strange).empty()


def _detach_presets(keys: Sequence[int], team: Team | None) -> None:
    uses = PresetUse.objects.filter(machine__in=keys)
    strange = uses.filter(~Q(preset__team=team) | Q(preset__team=None)) if team else uses.exclude(preset__team=None)
    changed = list(strange.values_list("machine", flat=True).distinct())
    strange.delete()
    presets.update_notes(changed)
