"""A panel that goes on from an older copy of its database: what differs from what hosts say, and a person's decision.

Nothing that waited in the copy is sent unless it is chosen, for it may have been withdrawn, or done, after the copy was made.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.db.models import Max, Q
from django.utils import timezone

from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.contract.states import UNFINISHED_JOB_STATES, JobState, MachineState
from machines.models import Epoch, GroupMember, Host, Job, JobGroup, Machine, User
from machines.models.job import JobQuerySet
from machines.models.team import NOBODY
from machines.panel.audit import entries
from machines.panel.configs import rollouts
from machines.panel.courier import completion
from machines.panel.hosts import epochs
from machines.panel.orders import dispatch, operations
from machines.panel.pages.machine_rows import host_url, machine_url
from machines.panel.teams.authorize import authorize

MOST = 200  # rows of each kind that the page shows
NOT_TRIED = "Skipped because the panel was restored from an older copy."


@dataclass(frozen=True)
class RestoredLine:
    """Something that differs: about what, where that is shown, and in words."""

    about: str
    url: str
    host: str
    says: str


def row() -> Epoch | None:
    """The panel's epoch while it is taken for an older copy."""
    return Epoch.objects.filter(pk=Epoch.ONLY, restored_at__isnull=False).first()


def context(copy: Epoch) -> dict[str, Any]:
    """What the page shows."""
    waiting = list(_waiting().select_related("host").order_by("id")[: 2 * MOST])
    since = copy.restored_at or timezone.now()
    hosts = list(Host.objects.order_by("name"))
    under_way = Job.objects.filter(state__in=UNFINISHED_JOB_STATES - {JobState.QUEUED, JobState.SENT})
    return {
        "copy": copy,
        "said": epochs.restored_words(copy.copied_at),
        "orders": [_order(job) for job in waiting if job.created_at < since][:MOST],
        "placed_since": [_order(job) for job in waiting if job.created_at >= since][:MOST],
        "under_way": under_way.count(),
        "groups": JobGroup.objects.filter(ended_at=None).count(),
        "hosts": [_heard(host, copy) for host in hosts[:MOST]],
        "unknown_jobs": [line for host in hosts for line in _unknown(host)][:MOST],
        "machines": list(_machines(copy)),
    }


def _waiting() -> JobQuerySet:
    return Job.objects.waiting().filter(cancel_asked_at=None)


def _order(job: Job) -> dict[str, Any]:
    sent = f"sent {job.sends} time{'s' if job.sends > 1 else ''}, not accepted" if job.sends else "not sent"
    return {
        "job": job,
        "what": operations.of(job.op).of(job.machine_name),
        "host_url": host_url(job.host.name),
        "sent": sent,
    }


def _heard(host: Host, copy: Epoch) -> RestoredLine:
    return RestoredLine(host.name, host_url(host.name), host.name, _heard_words(host, copy))


def _heard_words(host: Host, copy: Epoch) -> str:
    if host.facts_at is None or copy.restored_at is None or host.facts_at < copy.restored_at:
        return "Not seen since. What it has done after the copy was made is not known here."
    if host.heard_epoch is None:
        return (
            "Its worker is too old to report which requests it has received. It does not reject those of an older copy."
        )
    if host.heard_latched:
        return "Has received requests from two copies of this panel and rejects all of them until this is confirmed."
    if not epochs.is_beyond(host, copy.number):
        return "Has received no more than this copy has sent."
    more = host.heard_sequence - host.sequence
    if host.heard_epoch > copy.number or more <= 0:
        return "Has received requests later than this copy."
    return f"Has received {more} more request{'s' if more > 1 else ''} than this copy has sent."


def _unknown(host: Host) -> Iterable[RestoredLine]:
    """Jobs that a host has told of, which the copy does not know."""
    for job, state, at, machine in host.unknown_jobs:
        url = machine_url(host.name, machine) if machine else ""
        moment = timezone.localtime(datetime.fromtimestamp(float(at), UTC))
        yield RestoredLine(machine or f"job {str(job)[:8]}", url, host.name, f"{state} at {moment:%Y-%m-%d %H:%M:%S}")


def _machines(copy: Epoch) -> Iterable[RestoredLine]:
    """Machines of which hosts say something else than the copy."""
    gone = Q(state=MachineState.MISSING, changed_at__gte=copy.restored_at)
    differs = Machine.objects.listed().filter(gone | Q(pk__gt=copy.newest_machine) | Q(drifted=True))
    for machine in differs.select_related("host").order_by("host__name", "name")[:MOST]:
        if machine.pk > copy.newest_machine:
            says = "Exists, but is unknown to this copy."
        elif machine.state == MachineState.MISSING:
            says = "No longer exists."
        else:
            says = "Its files are not those that this copy applied last."
        yield RestoredLine(machine.name, machine_url(machine.host.name, machine.name), machine.host.name, says)


# --- the decision


def confirm(*, by: User, seen: str, keep: Collection[int], shown: Collection[int]) -> int:
    """Begin a new epoch with the chosen orders; all others that waited in the copy are withdrawn. Returns how many were.

    `seen` is stamp() of what was shown, `shown` the orders in it; those placed since then wait on. Raises NotAllowed,
    Problem when it is another restored copy by now, or none.
    """
    authorize(by, Permission.ADMINISTER, NOBODY)
    copy = row()
    if copy is None or copy.restored_at is None or stamp(copy) != seen:
        raise Problem("This has already been confirmed, or another copy has been restored since. Nothing was changed.")
    old = Q(created_at__lt=copy.restored_at) | Q(pk__in=shown)
    unwanted = list(_waiting().filter(old).exclude(pk__in=keep).order_by("id"))
    for job in unwanted:  # one by one: until the new epoch begins nothing is sent, however far this comes
        _withdraw(job, by)
    with transaction.atomic():
        _begin_epoch(copy, by, len(unwanted))
    for number in JobGroup.objects.filter(ended_at=None).values_list("pk", flat=True):
        rollouts.advance(number)
    dispatch.wake()
    return len(unwanted)


def stamp(copy: Epoch) -> str:
    """Names this restored copy, so that nobody confirms what they have not seen."""
    return f"{copy.number}.{copy.mark}.{copy.restored_at.timestamp() if copy.restored_at else 0}"


def _withdraw(job: Job, by: User) -> None:
    """It may have been sent after the copy was made, whatever the copy says."""
    now = timezone.now()
    with transaction.atomic():
        gone = Job.objects.move(
            job.pk, JobState.CANCELLED, finished_at=now, cancel_asked_at=now, cancelled_by=by.username, problem=None,
            owes_cancel=True,
        )  # fmt: skip
        if gone:
            completion.abandoned(job)


def _begin_epoch(copy: Epoch, by: User, withdrawn: int) -> None:
    """Higher than all that is known, and named by its time: a host that is silent now may have heard more.

    The rows of hosts and jobs come before the epoch's, as for whoever takes reports, or the two could wait for each other.
    """
    now = timezone.now()
    Host.objects.exclude(unknown_jobs=[]).update(unknown_jobs=[])
    _waiting().filter(problem__code=epochs.problem().code).update(problem=None, send_next_at=now)
    members = GroupMember.objects.filter(group__ended_at=None, state=GroupMember.State.WAITING)
    members.update(state=GroupMember.State.SKIPPED, problem=NOT_TRIED)
    own = Epoch.objects.select_for_update().get(pk=Epoch.ONLY)
    if stamp(own) != stamp(copy):
        raise Problem("Another copy was restored in the meantime. No new epoch was started.")
    believed = Host.objects.filter(heard_epoch__lt=time.time() + epochs.TOLERANCE)
    heard = believed.aggregate(most=Max("heard_epoch"))["most"] or 0
    own.number = max(own.number + 1, own.above + 1, heard + 1, int(time.time()))
    own.restored_at, own.confirmed_at, own.resumed_from = None, now, None
    own.save()
    text = (
        f"{epochs.restored_words(copy.copied_at)} {by.username} confirmed it; {withdrawn} waiting requests were "
        "withdrawn."
    )
    entries.record("restore-confirmed", text, by=by)
