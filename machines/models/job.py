"""A job: one order, who gave it, its way to the host and back, and its log."""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import Case, Q, When
from django.utils import timezone

from machines.contract import orders
from machines.contract.orders import EXPIRES_AFTER, Order, Runs, op_of
from machines.contract.states import FINAL_JOB_STATES, MAY_BECOME, OUTCOMES, UNFINISHED_JOB_STATES, JobState
from machines.models.host import Host
from machines.models.team import OfTeams, team_field

# While a job is in one of these, no other may be placed for its machine. A lost one does not block: its host decides.
HOLDING = sorted(s.value for s in UNFINISHED_JOB_STATES - {JobState.LOST})

WAS_SENT = Case(When(sends__gt=0, then=True), default=False)  # for owes_cancel, in the query that ends a job here


def _expiry() -> datetime:
    return timezone.now() + timedelta(seconds=EXPIRES_AFTER)


class JobQuerySet(OfTeams["Job"]):
    def on(self, host: Host, name: str) -> "JobQuerySet":
        return self.filter(host=host, machine_name=name)

    def of(self, *kinds: type[Order]) -> "JobQuerySet":
        """Those of these operations."""
        return self.filter(op__in=[op_of(kind) for kind in kinds])

    def unfinished(self) -> "JobQuerySet":
        return self.filter(state__in=[s.value for s in UNFINISHED_JOB_STATES])

    def waiting(self) -> "JobQuerySet":
        """Those that their hosts have not taken, sent or not."""
        return self.filter(state__in=[JobState.QUEUED.value, JobState.SENT.value])

    def move(self, job_id: int, to: JobState, **fields: Any) -> bool:
        """Compare and set: True when this call made the move, False when the job was elsewhere already.

        A job that the panel called cancelled while its host was silent may turn out to have been taken there after all.
        """
        allowed = Q(state__in=[s.value for s in MAY_BECOME[to]])
        if to in {JobState.ACCEPTED, *OUTCOMES}:
            allowed |= Q(state=JobState.CANCELLED, accepted_at=None) & (Q(sends__gt=0) | Q(owes_cancel=True))
        if to not in {JobState.ACCEPTED, JobState.RUNNING}:
            return self.filter(allowed, pk=job_id).update(state=to, **fields) == 1
        try:
            with transaction.atomic():
                return self.filter(allowed, pk=job_id).update(state=to, **fields) == 1
        except IntegrityError:  # it was given up here, and another holds its machine since: only its end can come back
            return False


class Job(models.Model):
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="jobs")
    machine_name = models.CharField(max_length=255, default="")
    op = models.CharField(max_length=30)
    order = models.JSONField()  # contract.orders, never with a secret in it
    # Secrets, readable by the host alone; emptied when the job succeeds, else kept a day for a retry.
    sealed = models.TextField(default="")
    state = models.CharField(max_length=20, choices=[(s.value, s.value) for s in JobState], default=JobState.QUEUED)

    actor = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="jobs")
    actor_name = models.CharField(max_length=150)
    actor_role = models.CharField(max_length=30)
    actor_extra = models.JSONField(default=list)  # the rights it carried beside those of the role
    team = team_field(related_name="jobs")  # whose machine, recipe or archive it was about then
    # One press of a button, one job: the form's key makes the second press find the first job.
    key = models.UUIDField(null=True, unique=True)
    retry_of = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="retries")
    revision = models.ForeignKey("Revision", null=True, on_delete=models.SET_NULL, related_name="jobs")
    # Of builds: the saved recipe they ran, if any, and what the recipe was (contract.recipes.key_of), to compare runs.
    recipe_version = models.ForeignKey("RecipeVersion", null=True, on_delete=models.SET_NULL, related_name="jobs")
    recipe_key = models.CharField(max_length=64, blank=True, default="")

    created_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True)
    send_next_at = models.DateTimeField(default=timezone.now)
    sends = models.PositiveIntegerField(default=0)
    accepted_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(default=_expiry)
    cancel_asked_at = models.DateTimeField(null=True)
    cancel_sent_at = models.DateTimeField(null=True)
    cancelled_by = models.CharField(max_length=150, default="")
    cancelled_role = models.CharField(max_length=30, default="")
    # It ended here and might have been sent: its host is told to withdraw it until its ledger has that, or how it ended.
    owes_cancel = models.BooleanField(default=False)
    withdrawn_at = models.DateTimeField(null=True)  # when the host had that in its ledger

    phases = models.JSONField(default=list)  # [{"name": …, "at": seconds, "line": first log line}, …]
    phases_of = models.PositiveSmallIntegerField(default=0)
    progress = models.FloatField(null=True)
    progress_note = models.CharField(max_length=300, default="")
    commands = models.JSONField(default=list)  # [[argv…], …]
    line_count = models.PositiveIntegerField(default=0)
    log_bytes = models.PositiveBigIntegerField(default=0)
    log_cut = models.CharField(
        max_length=10, default=""
    )  # the budget it went beyond (panel/hosts/budgets.py), "" for none
    problem = models.JSONField(null=True)
    result = models.JSONField(default=dict)

    objects = JobQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["host", "machine_name"],
                condition=Q(state__in=HOLDING) & ~Q(machine_name=""),
                name="one_job_at_a_time_per_machine",
            )
        ]
        indexes = [
            models.Index(fields=["state", "send_next_at"], name="job_outbox"),
            models.Index(fields=["host", "machine_name", "-id"], name="job_of_machine"),
            models.Index(fields=["recipe_key", "-id"], name="job_of_recipe"),
            models.Index(fields=["host"], condition=Q(owes_cancel=True), name="job_owed_a_cancel"),
        ]

    def __str__(self) -> str:
        return f"{self.op} {self.machine_name} (job {self.pk})"

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_JOB_STATES

    @property
    def is_given_up(self) -> bool:
        """Lost, and its host knows nothing of it: nobody will say how it ended."""
        return self.state == JobState.LOST and self.finished_at is not None

    @property
    def can_be_cancelled(self) -> bool:
        return not self.is_final and self.cancel_asked_at is None and orders.kind_of(self.op).runs is not Runs.CONTROL

    @property
    def can_be_retried(self) -> bool:
        return self.is_final and self.state != JobState.SUCCEEDED and orders.kind_of(self.op).can_be_retried

    def seconds(self, now: datetime | None = None) -> float | None:
        """How long the work took, or has taken so far; None before it began."""
        begin = self.started_at or self.accepted_at
        return ((self.finished_at or now or timezone.now()) - begin).total_seconds() if begin else None


class LogChunk(models.Model):
    """Lines `first` … `first` + `count` - 1 of a job's log, as [[at, source, text], …]."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="log")
    first = models.PositiveIntegerField()
    count = models.PositiveIntegerField()
    size = models.PositiveIntegerField(default=0)  # characters of their texts
    lines = models.JSONField()

    class Meta:
        ordering = ["first"]
        constraints = [models.UniqueConstraint(fields=["job", "first"], name="a_line_is_kept_once")]
        # So that what to read is chosen without reading it: in SQLite `size` lies behind all of `lines`.
        indexes = [models.Index(fields=["job", "first", "count", "size"], name="log_pieces")]

    def __str__(self) -> str:
        return f"lines {self.first}-{self.first + self.count - 1} of job {self.job_id}"
