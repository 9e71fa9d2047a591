"""What the end of a job means: for its revision, its machine's row, its archive, and the group it belongs to.

A job ends in one of three ways: its host says so (finalize), nobody there took it or knows of it any more (abandoned), or a
person cancels it before it was sent (cancel). Each is called in the transaction that moves the job.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from machines.contract import orders, reports
from machines.contract.configuration import nspawn
from machines.contract.permissions import Role
from machines.contract.problems import Problem
from machines.contract.states import JobState
from machines.models import Job, Machine, Revision, User
from machines.models.job import WAS_SENT
from machines.panel.configs import effective_settings, rollouts
from machines.panel.courier import machine_facts
from machines.panel.images import archive_files
from machines.panel.orders import dispatch, job_entries, operations
from machines.panel.teams.authorize import authorize

ITSELF = "courier"  # who asks a host to cancel what no person cancelled


@transaction.atomic
def cancel(job: Job, *, by: User) -> bool:
    """Ask for a job to be stopped; False when it has ended already. One that was never sent ends at once."""
    authorize(by, orders.Cancel.permission, job.team_id)
    by_whom = {"cancelled_by": by.username, "cancelled_role": by.role_in(job.team_id)}
    return _cancel(job, lambda: job_entries.cancel_requested(job, by), **by_whom)


@transaction.atomic
def withdraw(job: Job, why: str) -> bool:
    """The same by the panel itself, for a reason that the job tells."""
    told = {
        "problem": Problem(why, code="withdrawn").to_wire(),
        "cancelled_by": ITSELF,
        "cancelled_role": Role.ADMINISTRATOR,
    }
    return _cancel(job, lambda: job_entries.withdrawn(job, why), **told)


def _cancel(job: Job, note: Callable[[], None], **told: Any) -> bool:
    now = timezone.now()
    unsent = Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
        state=JobState.CANCELLED, cancel_asked_at=now, finished_at=now, owes_cancel=WAS_SENT, **told
    )
    if unsent:
        note()
        abandoned(job)
    asked = Job.objects.unfinished().filter(pk=job.pk, cancel_asked_at=None).update(cancel_asked_at=now, **told)
    if asked:
        note()
    transaction.on_commit(dispatch.wake)
    return bool(unsent or asked)


def finalize(job: Job, report: reports.Outcome) -> None:
    """Its host has ended it; the job's row says so already."""
    if operations.of(job.op).brings_archive:
        archive_files.finalize(job, report.result if report.state == "succeeded" else {})
    _of_its_machine(job, report)
    job_entries.ended(job)
    rollouts.job_ended(job)


def abandoned(job: Job) -> None:
    """A job that ended without its host: its revision is a draft again, the machine it was to build is not there."""
    if operations.of(job.op).brings_archive:
        archive_files.finalize(job)
    _not_done_to(job)
    job_entries.ended(job)
    rollouts.job_ended(job)


def _not_done_to(job: Job) -> None:
    machine = Machine.objects.filter(host_id=job.host_id, name=job.machine_name).first()
    if machine is None:
        return
    if job.revision and job.revision.state == Revision.State.APPLYING:
        finalize_revision(job.revision, machine, written=False, at=timezone.now())
    if operations.of(job.op).makes_machine and not machine.image_id:
        machine.forget()


def _of_its_machine(job: Job, report: reports.Outcome) -> None:
    machine = Machine.objects.filter(host_id=job.host_id, name=job.machine_name).first()
    succeeded = report.state == "succeeded"
    if machine is None:
        return
    if operations.of(job.op).removes_machine and succeeded:
        machine.revisions.exclude(state=Revision.State.APPLIED).delete()
        machine.forget()
    if job.revision and operations.of(job.op).applies_draft:
        configuration = job.order["configuration"]
        job.revision.keep_written(configuration["nspawn"], configuration["limits"])
    written = succeeded or bool(
        report.machine and job.revision and report.machine.nspawn_sha256 == job.revision.nspawn_sha256
    )
    if job.revision and _kept_others(job, job.revision, report):
        _not_ours(job.revision, machine)
        job.revision = None
    if written and job.revision:
        job.revision.save(update_fields=["nspawn_text", "limits_text", "found_in"])
    # A draft that was written all the same: its job had been given up here while the host was silent.
    if job.revision and (written or job.revision.state == Revision.State.APPLYING):
        if written and job.revision.number is None:
            Revision.objects.filter(pk=job.revision.pk).update(number=job.order["configuration"]["revision"])
        finalize_revision(
            job.revision, machine, written=written, at=machine_facts.moment(report.result.get("applied_at", report.at))
        )
    if operations.of(job.op).makes_machine and succeeded:
        Machine.objects.filter(pk=machine.pk).update(built_by=job, team=job.team_id, former_team=None)
    if operations.of(job.op).makes_machine and not succeeded and report.machine is None:
        machine.forget()  # its draft stays, for a retry


def _kept_others(job: Job, revision: Revision, report: reports.Outcome) -> bool:
    """Whether a machine was built with files that were there before, as somebody decided, in place of ours."""
    if job.order.get("leftovers") != "keep" or report.state != "succeeded" or report.machine is None:
        return False
    there = (report.machine.nspawn_sha256, report.machine.limits_sha256)
    return there != (revision.nspawn_sha256, revision.limits_sha256)


def _not_ours(revision: Revision, machine: Machine) -> None:
    """What was asked for was not written: the machine is one that was configured by hand, which can be taken over."""
    machine.mark_not_applied()
    revision.delete()
    effective_settings.recount(machine.pk)


def finalize_revision(revision: Revision, machine: Machine, *, written: bool, at: datetime) -> None:
    """The files were written (the revision is the applied one now), or they were not (it is a draft again)."""
    if not written:
        revision.mark_draft()
        return
    revision.mark_applied(at)
    before = machine.applied.nspawn_text if machine.applied else ""
    needs_restart = machine.was_up and _body(before) != _body(revision.nspawn_text)
    # A machine that was started after the files were written runs with them.
    started_since = machine.since is not None and machine.since >= at
    machine.mark_applied(
        revision.pk,
        restart_needed=(machine.restart_needed or needs_restart) and not started_since,
        nspawn_sha256=revision.nspawn_sha256,
        limits_sha256=revision.limits_sha256,
    )
    effective_settings.recount(machine.pk)


def _body(text: str) -> str:
    """A file without our first line, which differs with every revision."""
    return nspawn.unmark(text)
