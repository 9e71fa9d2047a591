"""Whether this database is the one that the hosts have heard last, or an older copy that was put back.

A copy cannot know what was decided after it was made: an order that was withdrawn since would be sent. So the panel has an
epoch, and in it a mark that only rises, both in the database and in a file beside the courier's signing key. The mark rises
first in the database, then in the file: a database that is behind the file was put back. What this cannot see, as when the
file was put back too, the hosts tell: they have heard more than this panel has sent (contract.reports.Heard).

Then nothing is sent until an administrator has looked at what differs (restored.py), which begins a new epoch.
"""

import json
import logging
import os
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from django.db import transaction
from django.db.models import F, Max
from django.utils import timezone

from machines.contract.problems import Problem
from machines.contract.reports import Heard
from machines.models import Epoch, Host, Machine
from machines.panel.audit import durable, entries

log = logging.getLogger(__name__)

RESTORED = "panel-restored"  # code of the problem of an order that waits for that
MARK_EVERY = timedelta(seconds=10)
PAUSE = timedelta(seconds=60)  # without a mark, after which the courier was away
# How long a courier without a file waits for another one to raise the mark, which does so every MARK_EVERY
OTHERS_SECONDS = 15.0
TOLERANCE = 86400  # seconds by which a clock may have been ahead when an epoch began, which is named by its time
BELIEVED_AGAIN = timedelta(days=1)
BEHIND = "Its database is older than what the courier has recorded beside its signing key."
NO_FILE = "The courier has no epoch file, although the database was in use before."
HEARD_MORE = "{} has received more from this panel than this database knows."
NOT_BELIEVED = (
    "This is ignored: it reported that before an administrator decided, or names an epoch that cannot have begun yet."
)
LATCHED = "{} has received requests from two copies of this panel and obeys neither."


@dataclass(frozen=True, order=True)
class Place:
    """A place in the panel's line."""

    number: int
    mark: int


class Keeper:
    """A courier's own note of how far the panel's line has come. Couriers side by side have one file each, or share it."""

    def __init__(self, file: Path | None = None) -> None:
        """Without a file only memory holds it, as in tests of other things."""
        self._file = file
        self._known = _read(file) if file else None
        self._marked: datetime | None = None
        self._seen: tuple[int, float] | None = None  # the mark when there was no file, and when that was (monotonic)
        self.number = 0  # the epoch that is being written

    def check(self) -> bool:
        """Whether orders may be sent now; asked before every pass. Notices a database that was put back meanwhile, one
        from before there were epochs too; at the very first start there is neither file nor mark."""
        known = max(filter(None, (self._known, _read(self._file) if self._file else None)), default=None)
        row = Epoch.objects.get_or_create(pk=Epoch.ONLY)[0]
        place = Place(row.number, row.mark)
        if known is None and self._file and row.mark and row.restored_at is None:
            return self._wait_for_others(row)
        if known is not None and place < known:
            self._known = known
            alarm(BEHIND, above=known.number)
            return False
        if known is None or place.number > known.number:
            self._keep(place)
        self.number = row.number
        return row.restored_at is None

    def _wait_for_others(self, row: Epoch) -> bool:
        """Without a file: another courier at work on this database vouches for it by raising the mark."""
        seen = self._seen = self._seen or (row.mark, time.monotonic())
        if row.mark > seen[0]:
            self._keep(Place(row.number, row.mark))
        elif time.monotonic() - seen[1] > OTHERS_SECONDS:
            alarm(NO_FILE, above=row.number)
            self._keep(Place(row.number, row.mark))
        return False

    def mark(self, now: datetime, *, at_once: bool = False) -> None:
        """Raise the mark: in the database, then here. `at_once` when something was sent, ended or asked for."""
        if not at_once and self._marked is not None and self._marked <= now < self._marked + MARK_EVERY:
            return
        place = _raise(self.number, now)
        if place is not None and (self._known is None or place > self._known):
            self._keep(place)
        self._marked = now

    def _keep(self, place: Place) -> None:
        if self._file:
            _write(self._file, place)
        self._known, self._seen = place, None


def _raise(number: int, now: datetime) -> Place | None:
    """The mark once it is raised and on the disk; None where this epoch is not to be written any more."""
    with durable.synced(), transaction.atomic():
        own = Epoch.objects.filter(pk=Epoch.ONLY, number=number, restored_at=None)
        own.filter(marked_at__lt=now - PAUSE).update(resumed_from=F("marked_at"))
        if not own.update(mark=F("mark") + 1, marked_at=now):
            return None
        mark = Epoch.objects.values_list("mark", flat=True).get(pk=Epoch.ONLY)
    return Place(number, mark)


def _read(file: Path) -> Place | None:
    """What the file says; None when it is not there. Raises ValueError for one that is not ours, OSError."""
    try:
        told = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    return Place(int(told["epoch"]), int(told["mark"]))


def _write(file: Path, place: Place) -> None:
    """In the old one's place at once, on the disk before this returns."""
    aside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with aside.open("w") as out:
        json.dump({"epoch": place.number, "mark": place.mark}, out)
        out.flush()
        os.fsync(out.fileno())
    aside.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# --- what is noticed


def alarm(why: str, *, above: int = 0, by: Host | None = None) -> None:
    """Take this database for an older copy from now on. Said twice, the first reason stays. `by` is the host that told so."""
    with transaction.atomic():
        row = Epoch.objects.select_for_update().get_or_create(pk=Epoch.ONLY)[0]
        row.above = max(row.above, above)
        if row.restored_at is None:
            row.restored_at, row.why, row.told_by = timezone.now(), why[:300], by.pk if by else None
            row.copied_at = row.resumed_from if by else row.marked_at
            row.newest_machine = Machine.objects.aggregate(newest=Max("pk"))["newest"] or 0
            text = (
                f"{restored_words(row.copied_at)} {why} Nothing is sent to hosts until an administrator has "
                "confirmed it."
            )
            entries.record("panel-restored", text)
            log.error("%s", text)
            if by:
                Host.objects.filter(pk=by.pk).update(believed_at=timezone.now())
        row.save()


def restored_words(copied_at: datetime | None) -> str:
    """This panel was restored from an older copy (of 2026-11-28 22:10)."""
    of = f" (of {timezone.localtime(copied_at):%Y-%m-%d %H:%M})" if copied_at else ""
    return f"This panel was restored from an older copy{of}."


def note_heard(host: Host, heard: Heard | None) -> str:
    """Keep what a host says it has heard; more than was sent means that this is an older copy. `host` as it is in the
    database after the report had come: what is counted there was counted before it was sent. Returns why the host is not
    believed, if so."""
    host.heard_epoch = heard.epoch if heard else None
    host.heard_sequence, host.heard_latched = (heard.sequence, heard.latched) if heard else (0, False)
    row = Epoch.objects.filter(pk=Epoch.ONLY).first()
    if heard is None or not is_beyond(host, row.number if row else 0):
        return ""
    why = (LATCHED if heard.latched else HEARD_MORE).format(host.name)
    if not _is_credible(host, heard, row):
        return f"{why} {NOT_BELIEVED}"
    alarm(why, above=heard.epoch, by=host)
    return ""


def is_beyond(host: Host, number: int) -> bool:
    """Whether a host has heard what a panel in this epoch has not sent."""
    heard = host.heard_epoch or 0
    return heard > number or (heard == number and (host.heard_latched or host.heard_sequence > host.sequence))


def _is_credible(host: Host, heard: Heard, row: Epoch | None) -> bool:
    """Hosts that lie must not keep the orders of all others back for ever: each is believed once a day, and no epoch
    begins in the future."""
    if heard.epoch > time.time() + TOLERANCE:
        return False
    if host.believed_at is None or (row and row.restored_at is not None):
        return True
    return timezone.now() - host.believed_at > BELIEVED_AGAIN


def is_restored() -> bool:
    return Epoch.objects.filter(pk=Epoch.ONLY, restored_at__isnull=False).exists()


def problem() -> Problem:
    """Why an order waits while this is taken for an older copy, and what to do."""
    return Problem(
        "This panel was restored from an older copy, so nothing is sent to hosts.", code=RESTORED,
        hint="An administrator has to check the differences and confirm it first.",
    )  # fmt: skip


def next_place(host: Host, number: int) -> tuple[int, int]:
    """The place of the next order for a host that changes something; (0, 0) for one that knows no line. Counted before
    it is sent, and never twice, whoever else does so."""
    if host.heard_epoch is None:
        return 0, 0
    with transaction.atomic():
        Host.objects.filter(pk=host.pk).update(sequence=F("sequence") + 1)
        return number, Host.objects.values_list("sequence", flat=True).get(pk=host.pk)


def present_place(host: Host, number: int) -> tuple[int, int]:
    """The place of an order that only reads: it counts for nothing, or a copy would catch up by asking."""
    return (0, 0) if host.heard_epoch is None else (number, host.sequence)
