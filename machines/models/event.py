"""The history: every act, sign-in and refusal, and what hosts did that is not a job. It only grows.

Entries are numbered without holes, and each carries the hash of the one before it (contract/chain.py). They are appended
one by one, whoever writes: the head's row is the lock. The database refuses to change or remove one (machines/audit_triggers.py),
except what is older than the head's `first`, which retention raises (panel/audit/retention.py).
"""

from datetime import UTC
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from machines.contract import chain
from machines.models.host import Host
from machines.models.team import OfTeams, Team

OF_TEAMS = frozenset({
    "team-created", "team-changed", "team-deleted", "member-added", "member-changed", "member-removed", "member-left", "host-shared",
    "share-changed", "share-removed", "machine-claimed", "machine-released", "token-created", "token-revoked",
})  # fmt: skip
OF_PEOPLE = frozenset({
    "signed-in", "signed-out", "password-changed", "second-factor-added", "second-factor-removed", "recovery-codes-made",
    "person-invited", "invitation-accepted", "invitation-withdrawn", "person-enabled", "groups-followed",
})  # fmt: skip
OF_JOBS = frozenset({"job-requested", "job-ended", "cancel-requested"})
# What somebody was free to do. Every other kind is a warning, those of GRAVE are more than that.
PLAIN = frozenset({
    "enrolment-begun", "host-accepted", "host-refused", "host-enrolled", "restore-confirmed", "configuration-imported", "drift-ignored", "archive-uploaded", "archive-exported", "archive-fetched",
    "archive-downloaded", "archive-removed", "host-released", "host-renamed", "machine-forgotten", "draft-saved", "draft-discarded", "recipe-saved",
    "recipe-archived", "recipe-unarchived", "preset-saved", "preset-removed", "preset-rolled-out",
}) | OF_TEAMS | OF_PEOPLE | OF_JOBS  # fmt: skip
GRAVE = frozenset(
    {"unverified-pull", "panel-restored", "host-quarantined", "history-damaged", "order-unknown", "receipt-differs"}
)
WARNING = frozenset({
    "epoch-unknown", "host-not-added", "panel-key-changed", "host-removed", "host-paused", "host-rebooted", "host-restored", "order-refused", "report-refused", "stream-emptied",
    "reset-link-made", "second-factor-reset", "person-disabled", "administrator-made", "administrator-unmade",
    "receipt-missing", "receipt-refused", "access-refused", "refusals-counted", "sign-in-failed", "too-many-attempts",
})  # fmt: skip
KINDS = sorted(PLAIN | WARNING | GRAVE)
TEXT_LIMIT = 4000  # characters


class EventQuerySet(OfTeams["Event"]):
    pass


class Event(models.Model):
    """`actor_name` is a person or, for what nobody ordered, ""; `token` the name of the API token that acted for them;
    `address` where the request came from. `object_kind` and `object_name` say what it was done to, `host_name` how the
    host was called then. Rows it points to may be gone: they are no reason to change what happened."""

    class Result(models.TextChoices):
        DONE = "done"
        REFUSED = "refused"
        FAILED = "failed"

    at = models.DateTimeField(default=timezone.now, db_index=True)
    host = models.ForeignKey(Host, null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="events")
    host_name = models.CharField(max_length=63, default="")
    team = models.ForeignKey(Team, null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="events")
    actor_name = models.CharField(max_length=150, default="")
    token = models.CharField(max_length=100, default="")
    address = models.CharField(max_length=45, default="")
    kind = models.CharField(max_length=40)
    object_kind = models.CharField(max_length=30, default="")
    object_name = models.CharField(max_length=255, default="")
    job = models.ForeignKey("Job", null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="events")
    result = models.CharField(max_length=10, choices=Result, default=Result.DONE)
    text = models.TextField()
    previous = models.CharField(max_length=64, default=chain.START)
    hash = models.CharField(max_length=64, default="")

    objects = EventQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"

    def save(self, **_: Any) -> None:
        """Append it, in the caller's transaction if there is one: from then on others who append wait for its end."""
        if not self._state.adding:
            raise TypeError("What has happened is not changed.")
        self._clean()
        with transaction.atomic():
            head, _created = EventHead.objects.select_for_update().get_or_create(pk=EventHead.ONLY)
            self.pk, self.previous = head.number + 1, head.hash
            self.hash = self.expected_hash()
            super().save(force_insert=True)
            EventHead.objects.filter(pk=EventHead.ONLY).update(number=self.pk, hash=self.hash)

    def _clean(self) -> None:
        """What every database takes, in its bounds."""
        for field in self._meta.concrete_fields:
            value = getattr(self, field.attname)
            if isinstance(value, str) and not field.primary_key:
                length = getattr(field, "max_length", None) or TEXT_LIMIT
                setattr(self, field.attname, value.replace("\0", "�")[:length])
        if self.host and not self.host_name:
            self.host_name = self.host.name

    def expected_hash(self) -> str:
        """The hash it must have, by all else that its row says."""
        return chain.link(self.previous, content(self))

    @property
    def tone(self) -> str:
        """How it is coloured: "", "warning" or "danger"."""
        return "" if self.kind in PLAIN else "danger" if self.kind in GRAVE else "warning"


def content(event: Any) -> dict[str, Any]:
    """What is hashed of an event: all its columns but the hashes. Moments as in UTC, to the microsecond."""
    columns = [field.attname for field in event._meta.concrete_fields if field.attname not in {"previous", "hash"}]
    told = {column: getattr(event, column) for column in columns}
    told["at"] = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    return {name: value if isinstance(value, int) else str(value) for name, value in told.items() if value is not None}


class EventHead(models.Model):
    """Where the history ends, and where it begins: `first` is the oldest entry that is kept."""

    ONLY = 1  # the row's number

    number = models.PositiveBigIntegerField(default=0)
    hash = models.CharField(max_length=64, default=chain.START)
    first = models.PositiveBigIntegerField(default=1)

    def __str__(self) -> str:
        return f"entries {self.first} to {self.number}"


class EventSeal(models.Model):
    """The head as the courier's key has signed it at some time."""

    number = models.PositiveBigIntegerField(primary_key=True)
    hash = models.CharField(max_length=64)
    at = models.DateTimeField(default=timezone.now, db_index=True)
    signature = models.CharField(max_length=100)

    def __str__(self) -> str:
        return f"seal of entry {self.number}"
