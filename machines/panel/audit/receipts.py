"""The hosts' ledgers beside the panel's: each receipt a host brings is kept as it was signed, and compared with its job.

Named are an order that the panel never gave, one that was carried out otherwise than the panel's job says, a job that its
host has ended without a receipt, and receipts that are missing, altered or of two minds. What a host does not vouch for at
all, because its worker is older, is not held against it.
"""

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID

from django.db.models import Exists, Max, Min, OuterRef, QuerySet
from django.utils import timezone
from nacl.signing import VerifyKey

from machines.contract import chain, orders, receipts, reports
from machines.contract.states import OUTCOMES
from machines.models import Event, Host, Job, Receipt
from machines.panel.audit import entries

GRACE = timedelta(minutes=10)  # after the end of a job, in which its receipt may still come
LOOKED_BACK = timedelta(days=2)
JOBS_LOOKED_AT = 10_000  # the newest
AT_ONCE = 100
COMPARED = 1000  # of the newest receipts of a host: their signatures take a tenth of a second
FAULTS = 50


# --- as they come


def take(host: Host, outcome: reports.Outcome, job: Job | None) -> None:
    """Keep the receipt of an outcome, once, and say what is wrong with it."""
    receipt = outcome.receipt
    if receipt is None:
        return
    own = Receipt.objects.filter(host=host, generation=host.generation)
    if known := own.filter(epoch=receipt.epoch, number=receipt.number).first():
        if known.hash != receipt.hash:
            _say(
                host, "receipt-differs", f"{host.name} has signed two different receipts number {receipt.number}.", job
            )
        return
    row = _row(host, outcome, receipt)
    if fault := _fault(row, b64decode(host.verify_key)):
        _say(host, "receipt-refused", f"A receipt of {host.name} was rejected: {fault}", job)
        return
    before = own.filter(epoch__lte=row.epoch, number=row.number - 1).order_by("-epoch").first()
    row.save()
    if before and before.hash != row.previous:
        _say(
            host,
            "receipt-differs",
            f"Receipt {row.number} of {host.name} does not follow receipt {before.number}.",
            job,
        )
    for why in differences(row, job):
        _say(host, "order-unknown" if job is None else "receipt-differs", f"{host.name}: {why}", job)


def _row(host: Host, outcome: reports.Outcome, receipt: reports.Receipt) -> Receipt:
    return Receipt(
        host=host, generation=host.generation, job_uuid=outcome.job, outcome=outcome.state, at=outcome.at,
        **receipt.model_dump(mode="json"),
    )  # fmt: skip


def _fault(row: Receipt, key: bytes) -> str:
    """Why this is no receipt of its host, or ""."""
    if _digest(row) != row.hash:
        return f"number {row.number} does not have its hash."
    if not chain.is_signed_head(row.number, row.hash, row.signature, VerifyKey(key)):
        return f"number {row.number} is not signed with the host's key."
    return ""


def _digest(row: Receipt) -> str:
    columns = ("number", "epoch", "op", "machine", "actor", "order_sha256", "taken", "previous")
    told = reports.Receipt(**{name: getattr(row, name) for name in columns})
    return receipts.digest(told, receipts.Origin(row.host_id, row.generation, row.job_uuid, row.outcome, row.at))


def _say(host: Host, kind: str, text: str, job: Job | None) -> None:
    entries.record_at_most(host, kind, text[:2000], **({"on": job} if job else {}))


def differences(row: Receipt, job: Job | None) -> Iterator[str]:
    """In what a receipt and the job of its number differ: sentences."""
    if job is None:
        what = f"“{row.op}”{f' of {row.machine}' if row.machine else ''}"
        yield f"it carried out {what} for {row.actor or 'nobody'}, an order that this panel does not know (receipt {row.number}, job {row.job_uuid})."
        return
    if row.op == receipts.CANCELLED_BEFORE:
        return
    if (row.op, row.machine) != (job.op, job.machine_name):
        yield f"it carried out “{row.op}” of {row.machine or 'the host'}, where job {job.pk} says “{job.op}” of {job.machine_name or 'the host'}."
    elif row.order_sha256 and row.order_sha256 != receipts.order_digest(orders.to_send(job.order)):
        yield f"job {job.pk} does not say what was carried out: its order differs from the one of receipt {row.number}."
    if not row.actor.startswith(f"{job.actor_name} ("):
        yield f"it carried out job {job.pk} for {row.actor}, where the job says {job.actor_name}."
    if job.accepted_at and job.state in OUTCOMES and job.state != row.outcome:
        yield f"job {job.pk} has {job.state} here, and {row.outcome} by receipt {row.number}."


# --- as they stand


def look_for_missing(now: datetime) -> None:
    """An entry for each job that ended without a receipt, once."""
    told = Event.objects.filter(kind="receipt-missing", job=OuterRef("pk"))
    for host in Host.objects.filter(Exists(Receipt.objects.filter(host=OuterRef("pk")))):
        for job in missing(host, now).filter(finished_at__gt=now - LOOKED_BACK).exclude(Exists(told))[:AT_ONCE]:
            text = f"{host.name} has ended job {job.pk} ({job.op} {job.machine_name}) without a receipt.".replace(
                " )", ")"
            )
            entries.record("receipt-missing", text, on=job)


def missing(host: Host, now: datetime) -> QuerySet[Job]:
    """Jobs that this host has ended since it writes receipts, and of which there is none."""
    since = Receipt.objects.filter(host=host, generation=host.generation).aggregate(at=Min("received_at"))["at"]
    newest = Job.objects.aggregate(pk=Max("pk"))["pk"] or 0
    ended = Job.objects.filter(
        host=host, pk__gt=newest - JOBS_LOOKED_AT, state__in=[s.value for s in OUTCOMES], accepted_at__isnull=False,
        accepted_at__gt=since or now, finished_at__lt=now - GRACE,
    )  # fmt: skip
    return ended.select_related("host").exclude(Exists(Receipt.objects.filter(job_uuid=OuterRef("uuid"))))


@dataclass(frozen=True)
class Comparison:
    """`count` receipts of this generation; the newest `compared` of them were looked at. `since` is when the first came, None
    for a host that sends none."""

    since: datetime | None
    count: int
    compared: int
    faults: list[str]


def compare(host: Host, now: datetime | None = None) -> Comparison:
    """Both ledgers side by side: what stands on one side only, or differently on both."""
    now = now or timezone.now()
    own = Receipt.objects.filter(host=host, generation=host.generation)
    rows = list(own[:COMPARED])
    if not rows:
        return Comparison(None, 0, 0, [])
    jobs = {job.uuid: job for job in Job.objects.filter(host=host, uuid__in=[row.job_uuid for row in rows])}
    faults = [*islice(_faults(rows, jobs, b64decode(host.verify_key)), FAULTS)]
    for job in missing(host, now)[: max(0, FAULTS - len(faults))]:
        faults.append(f"Job {job.pk} ({job.op} {job.machine_name}) was ended by {host.name} without a receipt.")
    first = own.aggregate(at=Min("received_at"))["at"]
    return Comparison(first, own.count(), len(rows), faults)


def _faults(rows: list[Receipt], jobs: dict[UUID, Job], key: bytes) -> Iterator[str]:
    """Of receipts, the newest first."""
    for row, before in zip(rows, [*rows[1:], None], strict=True):
        if fault := _fault(row, key):
            yield f"Receipt {row.number}: {fault}"
        if before and before.epoch == row.epoch and before.number < row.number - 1:
            gap = f"{before.number + 1} to {row.number - 1}"
            yield (
                f"Receipts {gap} are missing."
                if before.number < row.number - 2
                else f"Receipt {row.number - 1} is missing."
            )
        elif before and before.epoch == row.epoch and before.hash != row.previous:
            yield f"Receipt {row.number} does not follow receipt {before.number}: one of them was replaced."
        for why in differences(row, jobs.get(row.job_uuid)):
            yield f"Receipt {row.number}: {why}"


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
