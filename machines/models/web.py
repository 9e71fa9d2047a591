"""What all web processes count together. A cache of files cannot: two of them may both find a place free."""

from django.db import models


class Attempts(models.Model):
    """Failed passwords of one source (machines/panel/web/attempts.py): an address, a pair of name and address, a device."""

    key = models.CharField(max_length=64, unique=True)  # keyed hash: neither names nor addresses are kept
    count = models.PositiveIntegerField(default=0)
    until = models.DateTimeField()  # no further attempt before
    last = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.count} until {self.until}"


class StreamPlace(models.Model):
    """One of the few event streams a person may hold open; whoever lets `until` pass has lost it."""

    user = models.ForeignKey("machines.User", models.CASCADE, related_name="+")
    place = models.PositiveSmallIntegerField()
    holder = models.UUIDField(db_index=True)
    until = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "place"], name="one_holder_of_a_stream_place")]

    def __str__(self) -> str:
        return f"place {self.place} of {self.user_id}"
