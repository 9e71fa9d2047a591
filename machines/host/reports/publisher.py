"""Carries the spool to the host's Redis stream: event-driven, in pipelines, for ever.

Redis may be down, frozen or emptied: the publisher goes on from the last report it got rid of. All hosts share its memory,
so what the panel has not taken is no more than a window's size, and the rest waits in the spool: the panel shuts out a
host that puts in more (panel/courier/host_caps.py).
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Collection
from itertools import accumulate
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from machines.host.reports import ledger as books
from machines.host.reports import resp, tls
from machines.host.reports.ledger import Ledger

LOG = logging.getLogger(__name__)

AT_ONCE = 200  # reports in one pipeline
AT_ONCE_BYTES = 1024 * 1024  # of them together, unless one is larger
WINDOW = 1024 * 1024  # bytes of reports that may lie in Redis before the panel has taken them
LOOK_AGAIN = 0.1  # seconds between two looks whether it has
STREAM_LENGTH = 20_000
FIRST_PAUSE = 0.05
PATIENCE = 2.0  # seconds: longest pause between two tries to reach Redis


class Publisher(threading.Thread):
    """A thread; start() it once."""

    def __init__(self, ledger: Ledger, url: str, stream: str, pins: Collection[str] = ()) -> None:
        """`pins` as for tls.PinnedConnection."""
        super().__init__(name="publisher", daemon=True)
        self._db = books.connect(ledger.file, synchronous="NORMAL")
        self._redis = _client(url, pins)
        self._stream = stream
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._filled = 0  # bytes of the stream, when last looked at
        self._last = (
            0  # bytes of the report put in last: a panel of an older release lets go of it only with the next one
        )
        self._sent = books.published(self._db)
        self._set_back = 0  # how often
        self._noted = self._sent
        self._reached = time.monotonic()

    def wake(self) -> None:
        """There is something new in the spool."""
        self._wake.set()

    def silent_for(self) -> float:
        """Seconds since the publisher last had nothing left to say or said something."""
        return time.monotonic() - self._reached

    def resend(self, after: int) -> None:
        """Publish again everything after this number (the panel has missed something)."""
        with self._lock:
            self._sent = min(self._sent, after)
            self._set_back += 1
        self.wake()

    def say(self, body: str) -> None:
        """Publish a report that is not in the spool. Raises redis.RedisError."""
        self._redis.xadd(self._stream, {"r": body}, maxlen=STREAM_LENGTH, approximate=True)

    def run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                if not self._publish_some():
                    self._note()
                    self._wake.wait(timeout=5)
                pause = FIRST_PAUSE
            except (redis.RedisError, OSError, sqlite3.Error) as error:
                if pause == FIRST_PAUSE:
                    LOG.warning("Reports cannot be published, they wait in the spool: %s", error)
                time.sleep(pause)
                pause = min(PATIENCE, pause * 2)

    def _publish_some(self) -> bool:
        """One pipeline full, or a look whether there is room for one. False when nothing was left."""
        self._wake.clear()
        with self._lock:
            after, set_back = self._sent, self._set_back
        rows = _together(books.spooled_after(self._db, after, AT_ONCE))
        if not rows:
            self._reached = time.monotonic()
            return False
        if self._filled - self._last > WINDOW:
            time.sleep(LOOK_AGAIN)
            self._put([])
            return True
        self._put([body for _, body in rows])
        self._reached = time.monotonic()
        with self._lock:
            if self._set_back == set_back:
                self._sent = rows[-1][0]
        return True

    def _put(self, bodies: list[str]) -> None:
        """Publish these, and see how full the stream is then. Raises redis.RedisError."""
        pipe: Any = self._redis.pipeline(transaction=False)
        for body in bodies:
            pipe.xadd(self._stream, {"r": body}, maxlen=STREAM_LENGTH, approximate=True)
        pipe.memory_usage(self._stream, samples=0)
        *answers, filled = pipe.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        self._last = len(bodies[-1]) if bodies else self._last
        self._filled = filled if isinstance(filled, int) else 0  # a panel of an older release does not let us ask

    def _note(self) -> None:
        """Remember durably-enough where we are: after a crash a few reports go out twice, which changes nothing."""
        if self._noted != self._sent:
            books.set_published(self._db, self._sent)
            self._noted = self._sent


def _together(rows: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The first of them, as many as go into one pipeline."""
    sizes = accumulate(len(body) for _, body in rows)
    return rows[: max(1, sum(size <= AT_ONCE_BYTES for size in sizes))]


def _client(url: str, pins: Collection[str]) -> redis.Redis:
    """Retrying is ours: every call fails fast and the spool keeps the order."""
    return redis.Redis.from_url(
        url.replace("redis+socket://", "unix://", 1),
        socket_timeout=5,
        socket_connect_timeout=5,
        health_check_interval=10,
        retry=Retry(NoBackoff(), 0),
        **resp.CONNECTION,
        **tls.options(url, pins),
    )
