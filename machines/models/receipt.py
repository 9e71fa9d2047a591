"""What a host has vouched for with its key: an order that it has carried out."""

from django.db import models
from django.utils import timezone

from machines.models.host import Host


class Receipt(models.Model):
    """contract.reports.Receipt with the outcome it came with. `taken` and `at` in seconds since the epoch, by the host's
    clock. No key leads to the job: that there is none is what it may have to prove."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="receipts")
    generation = models.PositiveIntegerField()
    epoch = models.PositiveBigIntegerField()
    number = models.PositiveBigIntegerField()
    job_uuid = models.UUIDField(db_index=True)
    op = models.CharField(max_length=30)
    machine = models.CharField(max_length=255, default="")
    actor = models.CharField(max_length=300, default="")
    order_sha256 = models.CharField(max_length=64, default="")
    outcome = models.CharField(max_length=20)
    taken = models.FloatField()
    at = models.FloatField()
    previous = models.CharField(max_length=64, default="")
    hash = models.CharField(max_length=64)
    signature = models.CharField(max_length=100)
    received_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ["-generation", "-epoch", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["host", "generation", "epoch", "number"], name="a_receipt_is_kept_once")
        ]

    def __str__(self) -> str:
        return f"receipt {self.number} of {self.host}"
