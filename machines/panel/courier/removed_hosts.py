"""A host is renamed, or leaves the panel: nothing of it is taken any more, and what joins later under its name is another one.

Its row stays, under a name that nobody can give, for the jobs and the audit log that refer to it.
"""

from collections.abc import Collection
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from machines.contract.names import host_name
from machines.contract.problems import BadValue, Problem
from machines.contract.states import JobState
from machines.models import Enrolment, Host, HostShare, Job, Machine, User
from machines.panel.audit import entries
from machines.panel.courier import completion
from machines.panel.orders import dispatch

CODE = "host-removed"
ENDED = "{} was removed from the panel."
UNKNOWN = "What became of it there is not known."


def among(ids: Collection[UUID]) -> list[UUID]:
    """Those of these hosts that were removed."""
    if not ids:
        return []
    return list(Host.with_removed.filter(pk__in=ids).exclude(removed_at=None).values_list("pk", flat=True))


@transaction.atomic
def rename(host: Host, name: str, *, by: User) -> None:
    """Another name on the panel; the host itself does not know it. Raises BadValue."""
    name = host_name(name)
    found = _locked(host)
    before = found.name
    if name == before:
        return
    if Host.objects.filter(name=name).exists():
        raise BadValue(f"There is a host {name} already.", field="name")
    if Enrolment.objects.open(timezone.now()).filter(host_name=name).exists():
        raise BadValue(f"A host is joining as {name} at this moment.", field="name")
    Host.objects.filter(pk=found.pk).update(name=name)
    found.name = name
    Enrolment.objects.open(timezone.now()).filter(host=found).update(host_name=name)
    entries.record("host-renamed", f"{by.username} renamed the host {before} to {name}.", by=by, on=found)


@transaction.atomic
def remove(host: Host, *, by: User) -> None:
    """Out of the panel with it, its machines and their settings. Raises Problem where it is gone already."""
    found, now = _locked(host), timezone.now()
    entries.record("host-removed", f"{by.username} removed the host {found.name}.", by=by, on=found)
    _end_jobs(found)
    Machine.objects.filter(host=found).delete()
    HostShare.objects.filter(host=found).delete()
    Enrolment.objects.open(now).filter(host=found).update(
        state=Enrolment.State.WITHDRAWN, decided_by=by.username, decided_at=now, answer=""
    )
    Host.objects.filter(pk=found.pk).update(
        name=_name_of_removed(found.name), former_name=found.name, removed_at=now, removed_by=by.username, last_seen=None,
        facts={}, trouble={}, panel_keys=[], unknown_jobs=[], usage={}, quarantined_at=None, quarantine_why="", paused_until=None,
    )  # fmt: skip
    transaction.on_commit(dispatch.wake)


def _locked(host: Host) -> Host:
    found = Host.objects.select_for_update().filter(pk=host.pk).first()
    if found is None:
        raise Problem(f"{host.name} was removed already.", code=CODE)
    return found


def _end_jobs(host: Host) -> None:
    """Those it has not taken are withdrawn; of the others nobody will hear."""
    for job in Job.objects.unfinished().filter(host=host):
        is_waiting = job.state in {JobState.QUEUED, JobState.SENT}
        said = Problem(ENDED.format(host.name), code=CODE, hint="" if is_waiting and not job.sends else UNKNOWN)
        state = JobState.CANCELLED if is_waiting else JobState.FAILED
        if Job.objects.move(job.pk, state, finished_at=timezone.now(), problem=said.to_wire()):
            completion.abandoned(job)
    Job.objects.filter(host=host).exclude(sealed="", owes_cancel=False).update(sealed="", owes_cancel=False)


def _name_of_removed(name: str) -> str:
    """No name of a host has a space."""
    return f"{name[:30]} (removed {timezone.now():%Y-%m-%d %H:%M:%S})"


def what_goes(host: Host) -> list[str]:
    """What it means to remove a host, a sentence each."""
    machines = Machine.objects.on(host).listed().count()
    jobs = Job.objects.unfinished().filter(host=host).count()
    return [
        f"Its Redis user and its keys: whatever {host.name} sends from now on is ignored, and it gets no more requests.",
        f"Its {_count(machines, 'machine')}, with settings history, drafts and shares to teams, as far as the panel knows "
        "them. On the host nothing changes: machines, files and limits stay, and what runs goes on running.",
        *(
            [f"{_count(jobs, 'job')} of it that {'has' if jobs == 1 else 'have'} not ended: the panel stops asking."]
            if jobs
            else []
        ),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
