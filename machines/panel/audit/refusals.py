"""Refusals are entries too, but a flood of them fills no database: beyond PER_SOURCE an hour they are counted, and the
history says how many there were."""

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from machines.models import Event, RefusalCount
from machines.panel.audit import entries, origin

HOUR = timedelta(hours=1)
PER_SOURCE, PER_ALL = 20, 500  # entries an hour
SOURCES = 5000  # that are counted by themselves; what comes from more counts for all together alone
ALL = ""


def record(kind: str, text: str, *, source: str, by: Any = "", **more: Any) -> bool:
    """An entry for a refusal, or its count. False when it was only counted."""
    now = timezone.now()
    with transaction.atomic():
        if not all(_may_write(each, most, now) for each, most in ((source, PER_SOURCE), (ALL, PER_ALL))):
            return False
        entries.record(kind, text, by=by, result=Event.Result.REFUSED, **more)
    return True


def _may_write(source: str, most: int, now: datetime) -> bool:
    rows = RefusalCount.objects.select_for_update()
    row = rows.filter(source=source).first()
    if row is None:
        if source != ALL and RefusalCount.objects.count() >= SOURCES:
            return True  # counted among all
        row = rows.get_or_create(source=source, defaults={"since": now})[0]
    if not row.since <= now < row.since + HOUR:
        _say(row)
        row.since, row.written, row.held = now, 0, 0
    is_free = row.written < most
    row.written, row.held = row.written + is_free, row.held + (not is_free)
    row.save()
    return is_free


def say_held(now: datetime) -> None:
    """What was only counted in hours that are over."""
    with transaction.atomic():
        for row in RefusalCount.objects.select_for_update().filter(since__lte=now - HOUR)[:SOURCES]:
            _say(row)
            row.delete()


def _say(row: RefusalCount) -> None:
    """The total of all says what no source of its own counted."""
    if not row.held:
        return
    whom = f"from {row.source}" if row.source else "from all addresses together"
    text = f"{row.held} more refusals {whom} in the hour from {timezone.localtime(row.since):%Y-%m-%d %H:%M} were only counted."
    with origin.of(origin.NOWHERE):
        entries.record("refusals-counted", text, address=row.source.partition("/")[0], result=Event.Result.REFUSED)
