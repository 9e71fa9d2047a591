"""What happened that is not a job: what a person did at once, what a host fetched or brought, which message was refused."""

from django.db import models
from django.utils import timezone

from machines.models.host import Host

# What somebody was free to do. Every other kind is a warning, those of GRAVE are more than that.
PLAIN = frozenset({
    "host-enrolled", "restore-confirmed", "configuration-imported", "drift-ignored", "archive-uploaded", "archive-exported", "archive-fetched",
    "archive-downloaded", "archive-removed", "host-released",
})  # fmt: skip
GRAVE = frozenset({"unverified-pull", "panel-restored", "host-quarantined"})


class Event(models.Model):
    at = models.DateTimeField(default=timezone.now, db_index=True)
    host = models.ForeignKey(Host, null=True, on_delete=models.CASCADE, related_name="events")
    actor_name = models.CharField(max_length=150, default="")
    kind = models.CharField(max_length=40)
    text = models.TextField()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"

    @property
    def tone(self) -> str:
        """How it is coloured: "", "warning" or "danger"."""
        return "" if self.kind in PLAIN else "danger" if self.kind in GRAVE else "warning"
