"""Hosts that were put back to an older copy of themselves: a snapshot of the machine, a backup of its state directory, a
disk that had not kept what it said it had.

Such a host numbers its reports a second time from where the copy stood, and its ledger does not know what it did since.
Of one epoch of a ledger every number is signed once, and none that was taken is newer than the newest that was taken: one
that is newer and has an old number proves it, whatever the clocks say. Then nothing of that epoch is taken any more. The
host gets a higher epoch and the number to go on after (contract.orders.Resynchronise), and tells everything anew.

A host put back together with its clock signs nothing that is newer. It reads offline, and is asked whether it is behind.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from django.utils import timezone

from machines.contract.problems import Problem
from machines.contract.states import JobState
from machines.models import Host, Job
from machines.panel.hosts import freshness

AGAIN = timedelta(seconds=5)  # between two orders to resynchronise
ASK_AGAIN = timedelta(seconds=30)  # the same where nothing proves that the host was put back
UNKNOWN = "Its host was restored from an older copy of itself and is being resynchronized."
UNDER_WAY = ("sent", "accepted", "running")
CODE = "host-restored"


class Place(Enum):
    """How a report stands to those that were taken."""

    NEXT = "next"
    GAP = "an earlier one is missing"
    BEFORE = "already received, or from a past epoch"
    OLDER_COPY = "of a ledger that was restored"


@dataclass(frozen=True)
class Sign:
    """What tells where a report belongs: epoch and number in its host's ledger, and when it was signed, by that clock."""

    epoch: int
    number: int
    at: float


def place(host: Host, sign: Sign) -> Place:
    """A host that knows no epoch goes by its numbers alone."""
    if host.resync_since and sign.epoch < host.resync_epoch:
        return Place.OLDER_COPY
    if sign.number > host.report_number and (sign.epoch == 0 or sign.epoch >= host.ledger_epoch):
        return Place.NEXT if sign.number == host.report_number + 1 else Place.GAP
    return Place.OLDER_COPY if sign.epoch and _is_news(host, sign.at) else Place.BEFORE


def _is_news(host: Host, at: float) -> bool:
    """Newer than all that was taken. What was signed in the future by a clock that was put right since is not."""
    return at > host.signed_at > 0 and freshness.is_past(host, at)


def counts_unnumbered(host: Host, epoch: int) -> bool:
    """Whether a report without a number is of the epoch that is taken."""
    return epoch == 0 or epoch >= (host.resync_epoch if host.resync_since else host.ledger_epoch)


def is_doubtful(host: Host, sign: Sign) -> bool:
    """Whether old reports are all that comes of a host. They may have been put in again, or its clock went back, too."""
    return bool(sign.epoch and host.last_seen and host.is_silent)


def plan(host: Host, sign: Sign) -> None:
    """Keep what the order to resynchronise says. The caller saves the host."""
    host.resync_epoch = max(host.ledger_epoch, host.resync_epoch - 1, sign.epoch) + 1
    host.resync_ahead = sign.at - time.time()


def declare(host: Host) -> None:
    """From now on it is known to be an older copy: whatever it was to do may be done or not. The caller saves the host."""
    host.resync_since, host.resend_asked_at = timezone.now(), None
    why = lost(host.name).to_wire()
    Job.objects.filter(host=host, state__in=UNDER_WAY).update(state=JobState.LOST, problem=why, finished_at=None)


def begin(host: Host, epoch: int) -> None:
    """The first report of a new epoch has come. The caller saves the host."""
    host.ledger_epoch, host.resync_since = epoch, None
    queued = Job.objects.filter(host=host, state=JobState.QUEUED)
    queued.update(send_next_at=timezone.now())
    queued.filter(problem__code=CODE).update(problem=None)


def words(host: Host) -> str:
    """What the event says."""
    last = f"; the panel has received {host.report_number:,} of its reports"
    last += f", the last one at {host.last_seen:%Y-%m-%d %H:%M:%S} UTC" if host.last_seen else ""
    return (
        f"{host.name} was restored from an older copy of itself: its report numbers went back{last}. All its "
        "data is being read again. What it did after that copy was made is not in its ledger."
    )


def lost(host: str) -> Problem:
    """Why nobody can say how a job went on."""
    return Problem(
        f"{host} was restored from an older copy of itself while this was in progress.", code=CODE,
        hint="It may or may not have been done: check the machine itself.",
    )  # fmt: skip


def waits(host: str) -> Problem:
    """Why an order is not sent meanwhile."""
    return Problem(
        f"{host} was restored from an older copy of itself and is being resynchronized.", code=CODE,
        hint="The request is sent as soon as that is done, within seconds while its worker is running.",
    )  # fmt: skip
