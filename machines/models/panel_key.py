"""The public halves of the keys that sign orders, as the courier writes them down; the private ones it alone has."""

from django.db import models
from django.utils import timezone


class PanelKey(models.Model):
    class State(models.TextChoices):
        CURRENT = "current"

    public = models.CharField(max_length=64, unique=True, help_text="Ed25519, base64")
    state = models.CharField(max_length=10, choices=State, default=State.CURRENT)
    made_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.public} ({self.state})"
