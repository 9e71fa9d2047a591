"""The panel's line: one row, which a copy of the database carries back to where it was."""

from django.db import models


class Epoch(models.Model):
    """Which epoch the panel writes, and a mark that only rises (panel/hosts/epochs.py compares it with the courier's file).

    While `restored_at` is set, this database is taken for an older copy, and no host gets an order.
    """

    ONLY = 1  # the row's number

    number = models.PositiveBigIntegerField(default=1)
    mark = models.PositiveBigIntegerField(default=0)
    marked_at = models.DateTimeField(null=True)
    # When it was marked last before a time without a courier: what a copy that was put back whole goes on from
    resumed_from = models.DateTimeField(null=True)

    restored_at = models.DateTimeField(null=True)  # when that was noticed
    copied_at = models.DateTimeField(null=True)  # when the copy was in use last, where that can be told
    why = models.CharField(max_length=300, default="")
    told_by = models.UUIDField(null=True)  # the host that told so, where one did
    confirmed_at = models.DateTimeField(null=True)  # when a person last decided
    above = models.PositiveBigIntegerField(default=0)  # the next epoch is higher than this
    newest_machine = models.PositiveBigIntegerField(
        default=0
    )  # the highest key among its machines when that was noticed

    def __str__(self) -> str:
        return f"epoch {self.number}, mark {self.mark}"
