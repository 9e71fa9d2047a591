"""A host that is about to join: from the token an administrator makes until the panel's answer (contract/enrolment.py)."""

import uuid
from base64 import b64encode
from datetime import datetime

from django.db import models
from django.utils import timezone
from nacl.signing import VerifyKey

from machines.models.host import Host


class EnrolmentQuerySet(models.QuerySet["Enrolment"]):
    def open(self, now: datetime) -> "EnrolmentQuerySet":
        """Those that may still become something."""
        return self.filter(state__in=Enrolment.OPEN, expires_at__gt=now)


class Enrolment(models.Model):
    class State(models.TextChoices):
        WAITING = "waiting"  # for the command on the host
        PENDING = "pending"  # for an administrator who compares the fingerprints
        ACCEPTED = "accepted"  # for the courier
        ANSWERED = "answered"  # the host may fetch its settings
        REFUSED = "refused"
        WITHDRAWN = "withdrawn"  # before any host had used it
        FAILED = "failed"  # the courier could not; `problem` says why

    OPEN = (State.WAITING, State.PENDING, State.ACCEPTED, State.ANSWERED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host_name = models.CharField(max_length=63)
    is_new = models.BooleanField(default=True)  # or one that is enrolled again
    host = models.ForeignKey(Host, null=True, on_delete=models.CASCADE, related_name="enrolments")
    token_key = models.CharField(max_length=64, help_text="Ed25519, base64: the public half of what the token holds")
    panel_key = models.CharField(max_length=64, help_text="Ed25519, base64: the panel's key that the token names")
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    made_at = models.DateTimeField(default=timezone.now)
    made_by = models.CharField(max_length=150)
    expires_at = models.DateTimeField()  # the step that is due

    # What a host said with the token; its words are shown, never believed
    verify_key = models.CharField(max_length=64, default="")
    box_key = models.CharField(max_length=64, default="")
    hostname = models.CharField(max_length=255, default="")
    system = models.CharField(max_length=200, default="")
    address = models.CharField(max_length=64, default="")
    clock_skew = models.FloatField(null=True)  # seconds its clock was ahead of ours
    claimed_at = models.DateTimeField(null=True)
    other_address = models.CharField(max_length=64, default="")  # of another host that came with the same token

    decided_at = models.DateTimeField(null=True)
    decided_by = models.CharField(max_length=150, default="")
    answer = models.TextField(default="")  # sealed to the host; emptied once it has reported
    problem = models.TextField(default="")

    objects = EnrolmentQuerySet.as_manager()

    class Meta:
        ordering = ["-made_at"]
        indexes = [models.Index(fields=["state", "expires_at"], name="open_enrolments")]

    def __str__(self) -> str:
        return f"{self.host_name}: {self.state}"

    def is_expired(self, now: datetime) -> bool:
        return self.state in self.OPEN and self.expires_at <= now

    @staticmethod
    def text_of(key: VerifyKey) -> str:
        """A public key as it is kept here."""
        return b64encode(bytes(key)).decode()
