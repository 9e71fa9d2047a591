"""The public halves of the keys that sign orders, as the courier writes them down; the private ones it alone has
(panel/courier/key_ring.py)."""

from django.db import models
from django.utils import timezone


class PanelKey(models.Model):
    class State(models.TextChoices):
        CURRENT = "current"
        NEXT = "next"
        PREVIOUS = "previous"

    class Ask(models.TextChoices):
        PREPARE = "prepare"  # of the current key: make the next one
        SWITCH = "switch"  # of the next one: let it be the current one
        DISCARD = "discard"  # of the next one
        RETIRE = "retire"  # of the previous one

    public = models.CharField(max_length=64, unique=True, help_text="Ed25519, base64")
    state = models.CharField(max_length=10, choices=State, default=State.CURRENT)
    asked = models.CharField(max_length=10, choices=Ask, blank=True, default="")  # what the courier is to do with it
    asked_by = models.CharField(max_length=150, blank=True, default="")
    made_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.public} ({self.state})"
