"""A job's log as server-sent events: who may hold how many streams, what is sent, and when a stream ends.

Facts: a web server waits for open streams before it exits (uvicorn, without a limit of its own), and tells the
application only afterwards; so the signal is heard here. A closed browser tab cancels the generator at its next await.
Database work runs in the loop's bounded thread pool, not in a thread and a connection per stream.
"""

import asyncio
import json
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from types import FrameType
from typing import Any, TypeVar
from uuid import UUID, uuid4

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.db import Error, IntegrityError, connection
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.module_loading import import_string

from machines.models import Job, StreamPlace
from machines.panel.logs import log_lines, log_reader

log = logging.getLogger(__name__)
Found = TypeVar("Found")

POLL = 0.25
HEARTBEAT = 15
RECHECK = 5  # seconds; session and right
LIFETIME = 3600  # then the browser comes again
PER_USER = 5
LEASE = 90  # seconds; a lease that nobody renews ends by itself

_stopping = threading.Event()


@cache
def _hear_the_stop() -> None:
    """Let streams end when the server is told to stop; what listened before is still called."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        earlier = signal.getsignal(number)

        def stop(signum: int, frame: FrameType | None, earlier: Any = earlier) -> None:
            _stopping.set()
            if callable(earlier):
                earlier(signum, frame)

        if callable(earlier):
            signal.signal(number, stop)


@dataclass
class Lease:
    """One of the few streams a person may hold open, whichever web process serves it. A process that dies releases
    nothing: its leases run out."""

    holder: UUID

    @classmethod
    def take(cls, user_id: int) -> "Lease | None":
        """Each place is taken by one statement, so of any number of takers at once one has it; another looks again."""
        lease, now = cls(uuid4()), timezone.now()
        for _ in range(PER_USER):  # whoever loses has seen a place go
            held = dict(StreamPlace.objects.filter(user_id=user_id).values_list("place", "until"))
            free = next((place for place in range(PER_USER) if place not in held or held[place] < now), None)
            if free is None:
                return None
            if lease._claim(user_id, free, now, is_held=free in held):
                return lease
        return None

    def _claim(self, user_id: int, place: int, now: datetime, *, is_held: bool) -> bool:
        """Take a place that is free, or whose holder let it lapse; whether nobody was faster."""
        taken = {"holder": self.holder, "until": now + timedelta(seconds=LEASE)}
        if is_held:
            return StreamPlace.objects.filter(user_id=user_id, place=place, until__lt=now).update(**taken) == 1
        try:
            StreamPlace.objects.create(user_id=user_id, place=place, **taken)
        except IntegrityError:
            return False
        return True

    def renew(self) -> bool:
        """Whether it still was ours."""
        return bool(self._mine().update(until=timezone.now() + timedelta(seconds=LEASE)))

    def release(self) -> None:
        self._mine().delete()

    def _mine(self) -> QuerySet[StreamPlace]:
        return StreamPlace.objects.filter(holder=self.holder)


def still_allowed(session_key: str | None, job_id: int) -> bool:
    """Whether the session lives and its person may see this job: asked anew, for both can end while a stream is open."""
    request = HttpRequest()
    request.session = import_string(f"{settings.SESSION_ENGINE}.SessionStore")(session_key)
    user = get_user(request)
    return user.is_authenticated and Job.objects.visible_to(user).filter(pk=job_id).exists()


@dataclass
class Follower:
    """What one stream has sent of a job, and what is next. `look` asks the database, once or twice."""

    job_id: int
    line: int
    over: bool = False
    behind: bool = False  # there is more than one look brings
    _began: float | None = None
    _seen: tuple[int, list[Any]] | None = None
    _told: set[tuple[int, str]] = field(default_factory=set)

    def look(self) -> list[str]:
        """The events since the last look."""
        job = Job.objects.only(*_COLUMNS).filter(pk=self.job_id).first()
        if job is None:
            self.over = True
            return []
        now = (job.line_count, job.phases)
        if now == self._seen and not self.behind and not job.is_final:
            return []
        if self._began is None or not self.line:
            self._began = log_reader.began(job)
        more = min(job.line_count - self.line, log_reader.SHOWN)
        rows = log_reader.after(self.job_id, self.line, more) if more > 0 else []
        events = list(self._events(job, rows))
        self._seen = now
        self.behind = bool(rows) and self.line < job.line_count
        if job.is_final and not self.behind:
            self.over = True
            events.append(event("end", _end(job)))
        return events

    def _events(self, job: Job, rows: list[log_lines.LogRow]) -> Iterator[str]:
        """Lines, and each phase before the lines that it owns."""
        for mark in job.phases:
            name, line = mark["name"], mark["line"]
            if line <= self.line or (line, name) in self._told or (rows and line > rows[-1][0] + 1):
                continue
            yield from self._lines([row for row in rows if self.line < row[0] < line])
            yield event("phase", {"name": name, "line": line, "at": mark["at"]})
            self._told.add((line, name))
        yield from self._lines([row for row in rows if row[0] > self.line])

    def _lines(self, rows: list[log_lines.LogRow]) -> Iterator[str]:
        if rows:
            self.line = rows[-1][0]
            yield event("lines", log_lines.lines(rows, self._began or 0.0), number=self.line)


_COLUMNS = (
    "state", "phases", "line_count", "created_at", "accepted_at", "started_at", "finished_at", "cancelled_by",
)  # fmt: skip


def _end(job: Job) -> dict[str, Any]:
    tail = log_reader.before(job.pk, job.line_count + 1)
    start = log_reader.began(job)
    return {
        "state": job.state,
        "text": log_reader.closing(job),
        "error_line": log_reader.error_line(job, tail),
        "at": log_reader.ended(job, start),
    }


def event(name: str, data: str | dict[str, Any], number: int | None = None) -> str:
    """One event on the wire. A line break in the data would end it, so each line gets its own field."""
    text = data if isinstance(data, str) else json.dumps(data)
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {name}\n" + "".join(f"data: {line}\n" for line in text.splitlines() or [""]) + "\n"


async def follow(job_id: int, line: int, *, session_key: str | None, lease: Lease) -> AsyncIterator[str]:
    """The events of a job after `line` until it has ended and all is said."""
    _hear_the_stop()
    follower = Follower(job_id, line)
    begun = checked = spoke = time.monotonic()
    try:
        yield "retry: 2000\n\n"
        while not follower.over and not _stopping.is_set():
            for text in await _in_pool(_look, follower):  # rendering included, so that it does not hold up the loop
                spoke = time.monotonic()
                yield text
            now = time.monotonic()
            if now - checked > RECHECK:
                checked = now
                if now - begun > LIFETIME or not await _in_pool(_recheck, session_key, lease, follower.job_id):
                    return
            if now - spoke > HEARTBEAT:
                spoke = now
                yield ": still here\n\n"
            if not follower.behind and not follower.over:
                await asyncio.sleep(POLL)
    finally:
        await asyncio.shield(_in_pool(_release, lease))  # also when a closed tab cancels us


def _look(follower: Follower) -> list[str]:
    try:
        return follower.look()
    except Error as error:  # away for a moment; the next look gets a new connection
        log.warning("A log stream could not read the database: %s", error)
        connection.close()
        return []


def _recheck(session_key: str | None, lease: Lease, job_id: int) -> bool:
    return lease.renew() and still_allowed(session_key, job_id)


def _release(lease: Lease) -> None:
    try:
        lease.release()
    except Error as error:  # it runs out by itself
        log.warning("The place of a log stream could not be released: %s", error)
        connection.close()


async def _in_pool(function: Callable[..., Found], *args: Any) -> Found:
    return await sync_to_async(function, thread_sensitive=False)(*args)
