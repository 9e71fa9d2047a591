"""An archive: one file of the panel's with an image in it, uploaded by a person or exported from a machine."""

import uuid

from django.conf import settings
from django.db import models
from django.utils import timezone

from machines.models.team import OfTeams, team_field


class ArchiveQuerySet(OfTeams["Archive"]):
    pass


class Archive(models.Model):
    class State(models.TextChoices):
        ARRIVING = "arriving"
        READY = "ready"
        FAILED = "failed"

    class Format(models.TextChoices):
        TAR = "tar"
        RAW = "raw"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = team_field(related_name="archives")
    title = models.CharField(max_length=200)  # the file's own name, or MACHINE-DATE.tar.zst
    format = models.CharField(max_length=10, choices=Format, default=Format.TAR)
    state = models.CharField(max_length=10, choices=State, default=State.ARRIVING)
    size = models.PositiveBigIntegerField(default=0)  # bytes; announced while it arrives
    received = models.PositiveBigIntegerField(default=0)  # bytes
    sha256 = models.CharField(max_length=64, blank=True, default="")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    author_name = models.CharField(max_length=150, default="")
    created_at = models.DateTimeField(default=timezone.now)
    # The settings of the machine it was made of, where it carries them; "" for none
    nspawn_text = models.TextField(blank=True, default="")
    limits_text = models.TextField(blank=True, default="")
    job = models.ForeignKey("Job", null=True, on_delete=models.SET_NULL, related_name="archives")  # the export

    objects = ArchiveQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.title
