"""A host: its keys, what it last said, and how far its reports have been taken."""

import uuid
from datetime import datetime, timedelta

from django.db import models
from django.utils import timezone

from machines.contract.permissions import Permission
from machines.contract.states import INVENTORY_STALE_SECONDS, LATE_SECONDS, OFFLINE_SECONDS, HostState
from machines.models.team import HostShare, Person


class HostQuerySet(models.QuerySet["Host"]):
    def visible_to(self, user: Person) -> "HostQuerySet":
        """Those that exist for this person: what is shared to one of its teams."""
        teams = user.teams_where(Permission.VIEW)
        shared = HostShare.objects.filter(team_id__in=teams or []).values("host")
        return self if teams is None else self.filter(pk__in=shared)

    def awake(self, now: datetime) -> "HostQuerySet":
        """Hosts that have spoken within OFFLINE_SECONDS."""
        return self.filter(last_seen__gte=now - timedelta(seconds=OFFLINE_SECONDS))

    def unread(self, now: datetime) -> "HostQuerySet":
        """Hosts that live and have not said for too long how their machines are."""
        old = now - timedelta(seconds=INVENTORY_STALE_SECONDS)
        return self.awake(now).filter(inventory_at__lt=old)

    def silent(self, now: datetime) -> "HostQuerySet":
        """Hosts that have spoken once and not for OFFLINE_SECONDS."""
        return self.filter(last_seen__lt=now - timedelta(seconds=OFFLINE_SECONDS))


AllHosts = models.Manager.from_queryset(HostQuerySet)


class PresentHosts(AllHosts["Host"]):
    """Those that were not removed."""

    def get_queryset(self) -> HostQuerySet:
        return HostQuerySet(self.model, using=self._db).filter(removed_at=None)


class Host(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=63, unique=True)
    # A host that joins again under its name gets a new generation; nothing sealed or signed before is valid then.
    generation = models.PositiveIntegerField(default=1)
    verify_key = models.CharField(max_length=64, help_text="Ed25519, base64")
    box_key = models.CharField(max_length=64, help_text="X25519, base64")
    joined_at = models.DateTimeField(default=timezone.now)

    last_seen = models.DateTimeField(null=True)
    facts = models.JSONField(default=dict)  # contract.reports.HostFact
    facts_at = models.DateTimeField(null=True)
    # Each fact has its own age: a heartbeat says nothing of machines.
    inventory_at = models.DateTimeField(null=True)  # when it last said how its machines are, as far as it could
    listed_at = models.DateTimeField(null=True)  # when it could last read everything
    trouble = models.JSONField(default=dict)  # contract.reports.Heartbeat.trouble
    # Seconds its clock is ahead of ours, as two heartbeats in a row agree; and what the last one alone says
    clock_skew = models.FloatField(null=True)
    clock_heard = models.FloatField(null=True)

    # When the newest report that was taken was signed, in seconds since the epoch by the host's own clock
    signed_at = models.FloatField(default=0.0)
    # The epoch of its ledger, 0 until it has told one; the next one, which it is to begin; since when it is known to be an
    # older copy of itself; and how far ahead that one's clock is, in seconds (panel/hosts/resync.py)
    ledger_epoch = models.PositiveBigIntegerField(default=0)
    resync_epoch = models.PositiveBigIntegerField(default=0)
    resync_since = models.DateTimeField(null=True)
    resync_ahead = models.FloatField(default=0.0)
    report_number = models.PositiveBigIntegerField(default=0)  # all reports up to this one have been taken
    stream_position = models.CharField(max_length=41, default="0")  # two numbers of 64 bits
    resend_asked_at = models.DateTimeField(null=True)

    sequence = models.PositiveBigIntegerField(default=0)  # of the last order sealed for it that changes something
    # contract.reports.Heard; None for a host that does not know the panel's line
    heard_epoch = models.PositiveBigIntegerField(null=True)
    heard_sequence = models.PositiveBigIntegerField(default=0)
    heard_latched = models.BooleanField(default=False)
    believed_at = models.DateTimeField(null=True)  # when its word alone made this panel an older copy
    # [[job, state, at, machine], …] that it tells of and this database does not know; `at` in seconds since the epoch
    unknown_jobs = models.JSONField(default=list)
    panel_keys = models.JSONField(default=list)  # contract.reports.Heartbeat
    usage = models.JSONField(default=dict)  # what it has cost today and what was left out (panel/hosts/budgets.py)

    # One that takes more of Redis than any needs (panel/courier/host_caps.py): nothing of it is read and nothing sent to it
    quarantined_at = models.DateTimeField(null=True)
    quarantine_why = models.TextField(default="")
    paused_until = models.DateTimeField(null=True)  # the same, for some seconds and by itself

    # One that was removed is kept for what refers to it, under a name that nobody can give: its jobs and the audit log
    removed_at = models.DateTimeField(null=True)
    removed_by = models.CharField(max_length=150, default="")
    former_name = models.CharField(max_length=63, default="", db_index=True)

    objects = PresentHosts()
    with_removed = AllHosts()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def state(self, now: datetime | None = None) -> HostState:
        return host_state(self.last_seen, now or timezone.now())

    def is_unread(self, now: datetime) -> bool:
        """Whether it lives and has not said for too long how its machines are."""
        old = now - timedelta(seconds=INVENTORY_STALE_SECONDS)
        return self.inventory_at is not None and self.inventory_at < old

    @property
    def is_silent(self) -> bool:
        return self.state() in {HostState.OFFLINE, HostState.JOINING}


def host_state(last_seen: datetime | None, now: datetime) -> HostState:
    """The state follows from the age of the last word; nobody stores it, so it cannot be stale."""
    if last_seen is None:
        return HostState.JOINING
    age = (now - last_seen).total_seconds()
    if age > OFFLINE_SECONDS:
        return HostState.OFFLINE
    return HostState.LATE if age > LATE_SECONDS else HostState.ONLINE
