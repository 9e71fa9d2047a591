"""Groups of jobs: one change on many machines, one after the other or all at once, and what came of each.

advance() may be called as often as anybody likes: what it does depends on the rows alone, so a courier that dies between
two jobs goes on with the next one when it comes back.
"""

from collections.abc import Iterable
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import GroupMember, Job, JobGroup, Machine, Preset, PresetUse, User
from machines.panel.configs import drafts, presets
from machines.panel.configs.presets import PresetContent
from machines.panel.hosts import epochs
from machines.panel.teams.authorize import authorize

MOST = 500  # machines of one group
SKIPPED = "Skipped because an earlier machine of this group failed."
STRANGE = "It does not belong to the team of this preset any more."
State = GroupMember.State


def roll_out(
    preset: Preset,
    machines: Iterable[Machine],
    *,
    by: User,
    stop_at_failure: bool,
    restart: bool,
    key: UUID | None = None,
) -> JobGroup:
    """Put a preset on these machines.

    Raises NotAllowed, and Problem when no machine was chosen.
    """
    chosen = list(machines)[:MOST]
    for team in {machine.team_id for machine in chosen}:
        authorize(by, Permission.CONFIGURE, team)
        if restart:
            authorize(by, Permission.OPERATE, team)
    if not chosen:
        raise Problem("Choose at least one machine.")
    with transaction.atomic():
        group = JobGroup.objects.create(
            title=f"Preset {preset.name}", preset=preset, content=preset.content, restart=restart, key=key,
            stop_at_failure=stop_at_failure, team=preset.team, author=by, author_name=by.username,
        )  # fmt: skip
        GroupMember.objects.bulk_create(
            GroupMember(group=group, machine=machine, position=number) for number, machine in enumerate(chosen)
        )
        advance(group.pk)
    group.refresh_from_db()
    return group


def job_ended(job: Job) -> None:
    """A job has ended: if it belongs to a group, the group goes on."""
    for group in GroupMember.objects.filter(job=job).values_list("group", flat=True):
        advance(group)


def advance(number: int) -> None:
    """Remember what has arrived, and place the jobs that are due."""
    with transaction.atomic():
        group = JobGroup.objects.select_for_update(of=("self",)).select_related("preset", "author").get(pk=number)
        if group.ended_at or epochs.is_restored():  # of an older copy nothing goes on by itself (restored.py)
            return
        members = list(group.members.select_related("job", "machine__host", "machine__applied"))
        for member in members:
            if member.state == State.PLACED and member.has_succeeded:
                _remember(group, member.machine)
                _become(member, State.DONE)
        for member in members:
            if member.state == State.WAITING:
                _try(group, member, members)
        if all(member.has_ended for member in members):
            group.ended_at = timezone.now()
            group.save(update_fields=["ended_at"])


def _try(group: JobGroup, member: GroupMember, members: list[GroupMember]) -> None:
    before = [other for other in members if other.position < member.position]
    if group.stop_at_failure and any(other.has_failed for other in before):
        _become(member, State.SKIPPED, SKIPPED)
    elif not group.stop_at_failure or all(other.has_ended for other in before):
        _place(group, member)


def _place(group: JobGroup, member: GroupMember) -> None:
    machine = member.machine
    if machine.team_id != group.team_id:  # what is written there, and whether it fits, is not this team's to know
        _become(member, State.REFUSED, STRANGE)
        return
    previous = presets.previous(group.preset, machine).get(machine.pk, presets.NOTHING)
    try:
        with transaction.atomic():
            step = presets.plan(group.content, [machine], {machine.pk: previous})[0]
            if step.changes and not step.refused:
                member.job = _order(group, machine, previous)
    except Problem as problem:
        _become(member, State.REFUSED, f"{problem.message} {problem.hint}".strip())
        return
    if step.refused:
        _become(member, State.REFUSED, step.refused)
    elif step.changes:
        _become(member, State.PLACED)
    else:
        _remember(group, machine)
        _become(member, State.UNCHANGED)


def _order(group: JobGroup, machine: Machine, previous: PresetContent) -> Job:
    """The draft with the preset in it, and the job that applies it."""
    if group.author is None:
        raise Problem("The account that requested this no longer exists here.")
    wanted = presets.put(drafts.files(machine.applied), group.content, previous)
    drafts.save_texts(machine, wanted, by=group.author, seen=drafts.stamp(machine, None))
    seen = drafts.stamp(machine, drafts.current(machine))
    return drafts.apply(
        machine, by=group.author, seen=seen, reason=group.title, manner=drafts.Manner(restart=group.restart)
    )


def _remember(group: JobGroup, machine: Machine) -> None:
    """The preset is one of the machine's; not of one that left the team since."""
    if group.preset and machine.team_id == group.team_id:
        PresetUse.objects.update_or_create(
            preset=group.preset, machine=machine, defaults={"content": group.content, "at": timezone.now()}
        )
        presets.update_notes([machine.pk])


def _become(member: GroupMember, state: GroupMember.State, problem: str = "") -> None:
    member.state, member.problem = state, problem[:500]
    member.save(update_fields=["state", "problem", "job"])
