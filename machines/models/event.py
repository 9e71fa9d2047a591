"""What happened that is not a job: a host joined, a host refused a message, a host's report was refused."""

from django.db import models
from django.utils import timezone

from machines.models.host import Host


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
