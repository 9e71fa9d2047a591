"""What one host may take of the Redis that all share, and what happens to one that takes more.

First its stream is emptied; the second time within a minute its Redis user is off for some seconds; the third time it is
quarantined until an administrator releases it. An honest worker comes nowhere near: it waits while WINDOW bytes of its
reports have not been taken (host/reports/publisher.py). What is thrown away here it sends again from its spool.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Collection
from uuid import UUID

import redis
from django.conf import settings
from django.utils import timezone

from machines.contract import routes
from machines.contract.quantities import size
from machines.models import Host
from machines.panel.audit import entries
from machines.panel.courier import redis_check, removed_hosts
from machines.panel.courier.mailbox import Fill, Mailbox, time_of
from machines.panel.courier.redis_users import STRANGER, STRANGERS_AT_MOST, Clients, Guard
from machines.panel.hosts import budgets, quarantine

log = logging.getLogger(__name__)

STREAM_BYTES = 32 * 1024 * 1024
LEFT_BYTES = 256 * 1024  # of reports that were taken may lie there; a quarter of what its worker lets wait
CLIENTS = 64
CLIENT_BYTES = 16 * 1024 * 1024
REFUSED, REFUSED_SECONDS = 100, 10.0  # reports that this host did not sign, and in what time
READ_PER_SECOND, BYTES_PER_SECOND = 1_000, 8 * 1024 * 1024  # of its reports, over some time; the others wait in Redis
BURST_SECONDS = 5.0
TO_COME = 3600.0  # seconds by which the highest id of a stream may be ahead of Redis' clock, which may be set back
STRIKE_SECONDS = 60.0  # how long one is remembered
APART = 1.0  # seconds between two of them: the same thing may be seen by two threads


class Watch:
    """One for the courier, used by the thread that watches and by the one that reads."""

    def __init__(self, mailbox: Mailbox, guard: Guard | None) -> None:
        self._mailbox, self._guard = mailbox, guard
        self._lock = threading.Lock()
        self._strikes: dict[UUID, deque[float]] = defaultdict(deque)
        self._refused: dict[UUID, deque[float]] = defaultdict(deque)
        self._busy_until: dict[UUID, float] = {}  # when what was read of a host would have come at its highest rate
        self._checked = float("-inf")
        self._guard_fault = ""

    def look(self) -> None:
        """Measure what each host takes, hold back those that take too much, and let their Redis users follow."""
        given = Host.objects.values_list("id", "stream_position", "heard_epoch", "quarantined_at", "paused_until")
        hosts = {host_id: position for host_id, position, *_ in given}
        shut = {host_id for host_id, _, _, *when in given if quarantine.is_shut(*when)}
        # Workers of the release before do not wait while their reports are unread: after some hours they send all at once
        older = {host_id for host_id, _, heard_epoch, *_ in given if heard_epoch is None}
        fills, clients = self._mailbox.measure(hosts), self._steer(shut, hosts)
        for host_id, position in hosts.items():
            if host_id in shut:
                if fills[host_id].size:
                    self._mailbox.begin_anew(host_id)
            elif why := breach(fills[host_id], position, clients.get(routes.user(str(host_id)), Clients())):
                self.strike(host_id, why, most=2 if host_id in older and fills[host_id].size > STREAM_BYTES else 3)
            else:
                self._tidy(host_id, position, fills[host_id])
        for host in budgets.far_beyond():
            most = size(budgets.FAR_BEYOND * settings.REPORTS_PER_DAY)
            self._quarantine(host, f"has sent more than {most} of reports today")
        self._check()

    def _tidy(self, host_id: UUID, position: str, fill: Fill) -> None:
        """Whatever stands between a host and its next report, which neither it nor the reader would ever notice.

        What was taken lies there still when Redis failed at that moment, and its worker waits for it to go. A stream that
        begins anew has lower ids than were read where somebody chose those, or the clock of Redis was set back.
        """
        if 0 < fill.highest < time_of(position):
            Host.objects.filter(pk=host_id, stream_position=position).update(stream_position="0")
        elif fill.size > LEFT_BYTES:
            self._mailbox.forget(host_id, position)

    def _steer(self, shut: Collection[UUID], hosts: Collection[UUID]) -> dict[str, Clients]:
        """Let Redis users follow, and see what they hold. Where the guard cannot work, what can be done without it is done."""
        if not self._guard:
            return {}
        try:
            for host_id in removed_hosts.among(self._guard.follow(shut, hosts)):
                self._see_off(host_id)
            clients = self._guard.clients()
            if clients.get(STRANGER, Clients()).count > STRANGERS_AT_MOST:
                self._guard.turn_away(STRANGER)
        except (redis.ResponseError, redis.AuthenticationError) as error:  # its user is gone, or has lost its rights
            return self._without_guard(error)
        self._guard_fault = ""
        return clients

    def _see_off(self, host_id: UUID) -> None:
        """What a removed host has in Redis, its user last: while that is there, this is done again."""
        assert self._guard is not None
        self._guard.shut(host_id)
        self._mailbox.empty(host_id)
        self._mailbox.begin_anew(host_id)
        self._guard.dismiss(host_id)
        log.info("The Redis user of host %s, which was removed, is gone", host_id)

    def _without_guard(self, error: redis.RedisError) -> dict[str, Clients]:
        if not self._guard_fault:
            log.warning("Redis users cannot be switched: %s", error)
        self._guard_fault = f"The user of guard-url cannot disable hosts' users: {error}. Run manage.py prepare again."
        return {}

    def may_be_read(self, host_id: UUID) -> bool:
        """Whether more of its reports are read now. An honest worker waits with what it has to say; whoever does not
        fills its stream."""
        return self._busy_until.get(host_id, 0.0) <= time.monotonic() + BURST_SECONDS

    def note_read(self, host_id: UUID, count: int, size: int) -> None:
        """So many of its reports, of so many bytes together, have been read."""
        since = max(self._busy_until.get(host_id, 0.0), time.monotonic())
        self._busy_until[host_id] = since + max(count / READ_PER_SECOND, size / BYTES_PER_SECOND)

    def note_refused(self, host_id: UUID, count: int) -> bool:
        """So many reports in its stream were none of this host's. Whether that is too many: then its stream is gone."""
        now = time.monotonic()
        with self._lock:
            times = self._refused[host_id]
            times.extend([now] * count)
            while times and times[0] < now - REFUSED_SECONDS:
                times.popleft()
            if len(times) <= REFUSED:
                return False
            times.clear()
        why = f"sent more than {REFUSED} unsigned reports within {REFUSED_SECONDS:g} seconds"
        self.strike(host_id, why)
        return True

    def strike(self, host_id: UUID, why: str, *, most: int = 3) -> None:
        """Hold a host back, more firmly each time, as far as `most`. `why` is what it did, a sentence without its beginning
        and end."""
        if Host.objects.filter(pk=host_id).exclude(quarantined_at=None).exists():
            self._empty(host_id)
            return
        count = min(self._count(host_id), most)
        if not count:
            return
        log.warning("Host %s %s (strike %s)", host_id, why, count)
        self._empty(host_id)
        if (host := Host.objects.filter(pk=host_id).first()) is None:  # removed meanwhile
            return
        if count == 1:
            _tell(host, "stream-emptied", f"{host.name} {why}. Its reports in Redis were discarded.")
        elif count == 2:
            Host.objects.filter(pk=host_id).update(paused_until=timezone.now() + quarantine.PAUSE)
            text = (
                f"{host.name} {why}, again. Its Redis user is disabled for "
                f"{quarantine.PAUSE.total_seconds():g} seconds."
            )
            _tell(host, "host-paused", text)
        else:
            self._quarantine(host, f"{why}, more than twice within a minute")
        if count > 1:
            self._steer({host_id}, {host_id})
            self._empty(host_id)  # what came until its user was off, or that would count when it is on again

    def _count(self, host_id: UUID) -> int:
        """Which strike within a minute this is; 0 for one that has been counted."""
        now = time.monotonic()
        with self._lock:
            past = self._strikes[host_id]
            while past and past[0] < now - STRIKE_SECONDS:
                past.popleft()
            if past and now - past[-1] < APART:
                return 0
            past.append(now)
            return len(past)

    def _empty(self, host_id: UUID) -> None:
        self._mailbox.begin_anew(host_id)
        Host.objects.filter(pk=host_id).update(stream_position="0")

    def _quarantine(self, host: Host, why: str) -> None:
        """Its strikes are spent: one more after its release would quarantine it again."""
        with self._lock:
            self._strikes.pop(host.pk, None)
        fresh = Host.objects.filter(pk=host.pk, quarantined_at=None)
        if fresh.update(quarantined_at=timezone.now(), quarantine_why=f"{host.name} {why}.", paused_until=None):
            _tell(host, "host-quarantined", f"{host.name} {why}. It is quarantined.")
        self._mailbox.empty(host.pk)

    def _check(self) -> None:
        now = time.monotonic()
        if now - self._checked >= redis_check.EVERY:
            self._checked = now
            redis_check.keep([self._guard_fault] if self._guard_fault else redis_check.faults(self._guard))


def breach(fill: Fill, position: str, clients: Clients) -> str:
    """What a host does that none may, a sentence without its beginning and end; "" for nothing."""
    if fill.size > STREAM_BYTES:
        return f"put more than {size(STREAM_BYTES)} of unread reports into Redis"
    if max(fill.highest, time_of(position)) > (time.time() + TO_COME) * 1000:
        return "gave a report an ID that leaves no room for later ones"
    if clients.count > CLIENTS:
        return f"opened more than {CLIENTS} connections to Redis"
    if clients.size > CLIENT_BYTES:
        return f"had more than {size(CLIENT_BYTES)} on its connections to Redis"
    return ""


def _tell(host: Host, kind: str, text: str) -> None:
    entries.record(kind, text, on=host)
