"""How many refusals of one source stand in the history, and how many more were only counted."""

from django.db import models


class RefusalCount(models.Model):
    """`source` is an address or network, or "" for all together."""

    source = models.CharField(max_length=45, unique=True)
    since = models.DateTimeField(db_index=True)
    written = models.PositiveIntegerField(default=0)
    held = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.source}: {self.written} written, {self.held} counted"
