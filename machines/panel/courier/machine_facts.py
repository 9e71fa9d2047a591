"""What a host says of its machines, written into their rows: a few statements for many, however many of them differ.

One statement for each machine made an inventory of 5,000 new names hold SQLite's only write lock for ten seconds.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from typing import Any, TypeVar

from django.db.models import Exists, OuterRef
from django.utils import timezone

from machines.contract.orders import Apply, Build
from machines.contract.reports import LATEST, MachineFact
from machines.contract.states import MachineState
from machines.models import Host, Job, Machine, Revision
from machines.models.machine import NOT_APPLIED, NOTHING_KEPT, MachineQuerySet, rank_of
from machines.panel.configs import drift, effective_settings
from machines.panel.hosts import budgets
from machines.panel.teams import claims

Each = TypeVar("Each")
AT_ONCE = 200  # machines whose rows are written together
# What machined alone knows, and what follows from it
FROM_MACHINED = {
    "leader", "addresses", "os", "image_id", "image_type", "image_path", "read_only", "read_only_by", "hidden_images",
}  # fmt: skip
WRITTEN = (
    "state", "rank", "since", "unit", "leader", "addresses", "enabled", "os", "image_id", "image_type", "image_path",
    "read_only", "read_only_by", "hidden_images", "nspawn_sha256", "limits_sha256", "unreadable", "effective", "why",
    "activity", "disk_bytes", "memory_bytes", "cpu_ns", "tasks", "drifted", "ignored", "removed_at", "restart_needed",
    "changed_at", "team", "host_team", "former_team",
)  # fmt: skip


def slices(machines: Sequence[Each]) -> Iterator[Sequence[Each]]:
    """The same in parts of AT_ONCE at most."""
    for begin in range(0, len(machines), AT_ONCE):
        yield machines[begin : begin + AT_ONCE]


def are_distinct(facts: Sequence[MachineFact]) -> bool:
    return len({fact.name for fact in facts}) == len(facts)


def refresh(host: Host, *facts: MachineFact, partial: bool = False) -> int:
    """Make the rows of machines say what their host says; write only those that differ. `partial` are facts read without
    machined. Returns how many machines were left out for want of a place (budgets.MACHINES). In the caller's transaction.
    """
    for_new = budgets.free_places(host)
    left_out = 0
    for some in slices(facts):
        made, left = _refresh(host, some, for_new, partial)
        for_new, left_out = for_new - made, left_out + left
    return left_out


def _refresh(host: Host, facts: Sequence[MachineFact], for_new: int, partial: bool) -> tuple[int, int]:
    """(machines that are new, those left out)."""
    known = _known(host, facts)
    fresh = [fact for fact in facts if fact.name not in known]
    made = [Machine(host=host, name=fact.name, **_columns(fact, partial)) for fact in fresh[: max(0, for_new)]]
    back = [machine for machine in known.values() if machine.removed_at]
    kept_for = {machine.pk: machine.kept_for for machine in back}
    claims.claim_found(host, [*made, *back])
    _hand_over([machine for machine in back if machine.team_id], kept_for)
    Machine.objects.bulk_create(made)
    applying = _applying(host, known.values())
    there = ((known[fact.name], fact) for fact in facts if fact.name in known)
    changed = [(machine, differs) for machine, fact in there if (differs := _change(machine, fact, partial, applying))]
    Machine.objects.bulk_create(
        [machine for machine, _ in changed], update_conflicts=True, unique_fields=["id"], update_fields=WRITTEN
    )
    weighty = [machine.pk for machine, differs in changed if differs & effective_settings.DEPENDS_ON]
    if weighty:
        effective_settings.put_off(Machine.objects.filter(pk__in=weighty))
    return len(made), len(fresh) - len(made)


def _hand_over(back: Sequence[Machine], kept_for: Mapping[int, int]) -> None:
    """Those that are a team's now have nothing of a former machine of the name that was not that team's. A few statements, none
    where there is none."""
    strange = [machine for machine in back if kept_for[machine.pk] != machine.team_id]
    if strange:
        Machine.objects.filter(pk__in=[machine.pk for machine in strange]).empty()
    for machine in strange:
        for column, value in {**NOTHING_KEPT, **NOT_APPLIED}.items():
            setattr(machine, column, copy(value))
    for machine in back:
        machine.former_team = None


def _known(host: Host, facts: Sequence[MachineFact]) -> dict[str, Machine]:
    """Their rows, which nobody changes until they are written; they are locked in one order, that of their keys."""
    rows = Machine.objects.on(host).filter(name__in=[fact.name for fact in facts]).order_by("pk")
    found = {each.name: each for each in rows.select_related("applied").select_for_update(no_key=True, of=("self",))}
    for each in found.values():
        each.host = host
    return found


def _applying(host: Host, known: Collection[Machine]) -> frozenset[str]:
    """Names of machines whose files are being written. One query, or none where no file is ours."""
    if not any(machine.applied_id for machine in known):
        return frozenset()
    jobs = Job.objects.of(Apply, Build).filter(host=host).unfinished()
    return frozenset(jobs.values_list("machine_name", flat=True))


def _change(machine: Machine, fact: MachineFact, partial: bool, applying: Collection[str]) -> set[str]:
    """Change a row that is at hand. Returns the columns that differ now."""
    columns = _columns(fact, partial)
    drifted = drift.is_drifted(machine, fact.nspawn_sha256, fact.limits_sha256, applying)
    columns["drifted"] = drifted or _keeps_drift(machine)
    if machine.ignored and machine.ignored != f"{fact.nspawn_sha256}.{fact.limits_sha256}" and not fact.unreadable:
        columns["ignored"] = ""  # it has changed again
    if machine.removed_at:  # it is back, by somebody's hand
        columns["removed_at"] = None
    if _has_restarted(machine, fact.state, columns["since"]):
        columns["restart_needed"] = False
    differs = {name for name, value in columns.items() if getattr(machine, name) != value}
    for name in differs:
        setattr(machine, name, columns[name])
    if differs:
        machine.changed_at = timezone.now()
    return differs


def _keeps_drift(machine: Machine) -> bool:
    """Of a file that was taken over from elsewhere, only its text tells; see intake._found()."""
    return machine.drifted and bool(machine.applied and machine.applied.found_in)


def _has_restarted(machine: Machine, state: MachineState, since: datetime | None) -> bool:
    """Whether what waits for its next start is not waited for any more."""
    if not (machine.restart_needed and machine.applied and machine.applied.applied_at):
        return False
    is_down = not state.is_up and state != MachineState.UNKNOWN
    return is_down or bool(since and since >= machine.applied.applied_at)


def moment(seconds: Any) -> datetime:
    """One that every time zone can show; now, for what is none."""
    try:
        return datetime.fromtimestamp(float(seconds), UTC) if 0 <= float(seconds) <= LATEST else timezone.now()
    except (TypeError, ValueError):
        return timezone.now()


def _columns(fact: MachineFact, partial: bool) -> dict[str, Any]:
    addresses = [a.address for a in fact.addresses if not a.address.lower().startswith("fe80")]
    columns = {
        "state": fact.state,
        "rank": rank_of(fact.state),
        "since": moment(fact.since) if fact.since is not None else None,
        "unit": fact.unit,
        "leader": fact.leader,
        "addresses": addresses,
        "enabled": fact.enabled,
        "os": fact.os,
        "image_id": fact.image_id,
        "image_type": fact.image_type,
        "image_path": fact.image_path,
        "read_only": fact.read_only,
        "read_only_by": fact.read_only_by,
        "hidden_images": fact.hidden_images,
        "nspawn_sha256": fact.nspawn_sha256,
        "limits_sha256": fact.limits_sha256,
        "unreadable": fact.unreadable,
        "effective": fact.effective,
        "why": fact.why,
        "activity": fact.activity.model_dump(mode="json", exclude_defaults=True),
        "disk_bytes": fact.disk_bytes,
        "memory_bytes": fact.memory_bytes,
        "cpu_ns": fact.cpu_ns,
        "tasks": fact.tasks,
        "host_team": fact.team,
    }
    return {name: value for name, value in columns.items() if not (partial and name in FROM_MACHINED)}


def gone(machines: MachineQuerySet) -> None:
    """Their host has them no more. Those that we configured stay as missing, so that nothing vanishes unseen."""
    jobs = Job.objects.unfinished().filter(host=OuterRef("host"), machine_name=OuterRef("name"))
    stays = Exists(Revision.objects.filter(machine=OuterRef("pk"))) | Exists(jobs)
    kept = list(machines.filter(stays).values_list("pk", flat=True))
    newly = list(Machine.objects.filter(pk__in=kept).exclude(state=MachineState.MISSING).values_list("pk", flat=True))
    if newly:
        missing = Machine.objects.filter(pk__in=newly)
        missing.mark_missing()
        effective_settings.put_off(missing)
    machines.exclude(pk__in=kept).delete()
