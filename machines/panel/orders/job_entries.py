"""What the history says of jobs: who requested one, who asked to cancel it, and how it ended."""

from machines.contract.states import JobState
from machines.models import Event, Job, User
from machines.panel.audit import entries
from machines.panel.orders import operations

PROBLEM_LIMIT = 500  # characters of what a host says was wrong
HOW = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "was cancelled",
    JobState.TIMED_OUT: "timed out",
    JobState.EXPIRED: "expired",
    JobState.LOST: "was lost",
}


def requested(job: Job) -> None:
    again = f", again after job {job.retry_of_id}" if job.retry_of_id else ""
    text = f"{job.actor_name} requested {_what(job)}{again} (job {job.pk})."
    entries.record("job-requested", text, by=job.actor_name, on=job)


def cancel_requested(job: Job, by: User) -> None:
    text = f"{by.username} requested that {_what(job)} be cancelled (job {job.pk})."
    entries.record("cancel-requested", text, by=by, on=job)


def withdrawn(job: Job, why: str) -> None:
    """By the panel itself."""
    text = f"The panel requested that {_what(job)} be cancelled (job {job.pk}): {why}"
    entries.record("cancel-requested", text, by=job.actor_name, on=job)


def ended(job: Job) -> None:
    """In the transaction that has moved it."""
    job = Job.objects.select_related("host").get(pk=job.pk)
    state = JobState(job.state)
    is_good = state is JobState.SUCCEEDED
    why = "" if is_good else str((job.problem or {}).get("message") or "")[:PROBLEM_LIMIT]
    text = f"{_what(job)}, requested by {job.actor_name}, {HOW[state]} (job {job.pk}){f': {why}' if why else '.'}"
    result = Event.Result.DONE if is_good else Event.Result.FAILED
    entries.record("job-ended", text, by=job.actor_name, on=job, result=result)


def _what(job: Job) -> str:
    return f"“{operations.of(job.op).of(job.machine_name)}” on {job.host.name}"
