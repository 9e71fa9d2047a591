"""What the courier last found of how Redis is set: one row. The web process may not ask Redis itself."""

from django.db import models


class RedisCheck(models.Model):
    checked_at = models.DateTimeField()
    faults = models.JSONField(default=list)  # sentences

    def __str__(self) -> str:
        return f"{self.checked_at}: {len(self.faults)} faults"
