"""What proves that a host lives: a report that is new, in its place, and was signed within the last minute.

Whoever holds Redis can keep every report back and put in old ones again, as often as they like. So a host was last seen
when the report was signed that proves it, by its clock as measured (clocks.py), and not when that came. What was taken
before proves nothing, nor does what came too late.

What cannot be told: a whole stream of reports that is kept back for some time and then handed on at its own pace, or is
handed on ever more slowly, looks like a host whose clock is behind by that time. A dead host is then believed to live for
as long as its clock was said to be behind; and a clock that is more than a minute behind holds orders back and is shown.
"""

import time
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_

from django.db.models import Q

from machines.models import Host
from machines.panel.hosts import clocks

FRESH_SECONDS = 60.0
MOMENTS = ("last_seen", "facts_at", "inventory_at", "listed_at")  # of a host


def is_recent(host: Host, at: float) -> bool:
    """Whether something was signed within a minute of now. `at` in seconds since the epoch, by the host's clock."""
    return abs(clocks.by_ours(host, at) - time.time()) < FRESH_SECONDS


def is_past(host: Host, at: float) -> bool:
    """Whether something was signed before now, by a minute at most after."""
    return clocks.by_ours(host, at) < time.time() + FRESH_SECONDS


def note(host: Host, at: float) -> bool:
    """Keep when a new report in its place was signed; True where that proves that the host lives. The caller saves it."""
    if not is_recent(host, at):
        host.signed_at = max(host.signed_at, at)
        return False
    # A clock that was far ahead and was put right: what it has signed meanwhile is in the future now
    was_ahead = host.signed_at > at + FRESH_SECONDS
    host.signed_at = at if was_ahead else max(host.signed_at, at)
    seen = datetime.fromtimestamp(min(clocks.by_ours(host, at), time.time()), UTC)
    host.last_seen = max(host.last_seen or seen, seen)
    return True


def clamp_future(now: datetime) -> None:
    """What was kept while our own clock was ahead is in the future once that is right again: no dead host may be taken for
    one that lives until then."""
    latest = now + timedelta(seconds=FRESH_SECONDS)
    ahead = [Q(**{f"{name}__gt": latest}) for name in MOMENTS]
    for host in Host.objects.filter(reduce(or_, ahead)):
        moments = {name: getattr(host, name) for name in MOMENTS}
        Host.objects.filter(pk=host.pk).update(**{name: now for name, at in moments.items() if at and at > latest})


def moment(host: Host, ahead: float, before: datetime | None) -> datetime:
    """When facts were read that were signed `ahead` seconds after they came, by the host's clock; never before `before`,
    when older ones were."""
    now = time.time()
    # Before a second heartbeat has agreed with the last one, it is for both of them to say how the clock stands
    is_jump = host.clock_heard is not None and abs(ahead - host.clock_heard) <= clocks.AGREED
    told = now if is_jump else min(clocks.by_ours(host, now + ahead), now)
    at = datetime.fromtimestamp(max(told, 0.0), UTC)
    return max(at, before) if before else at
