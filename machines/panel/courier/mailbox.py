"""The way to a host's mailbox and from its stream. Only the courier uses it; Redis is never trusted with more.

Orders travel as the one Celery task `carry_out` in the host's own queue, under the host's own key prefix.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from machines.contract import envelope, routes
from machines.panel.courier import bounded
from machines.panel.courier.bounded import AnswerTooLarge
from machines.panel.hosts import redis_tls

BLOCK_MS = 1000
BATCH = 200
FEWER = (BATCH, 20, 1)  # reports of one host that are asked for, the next number where they are too large together
ENTRY_BYTES = 2 * envelope.REPORT_LIMIT  # a report is written in base64
SMALL = 1024 * 1024  # bytes of a stream whose first and last entry may be looked at
HIGHEST = 2**64 - 1  # of each of the two numbers of a stream position
Entries = list[tuple[str, str]]
TIMEOUT = 5  # seconds; longer than any command takes, shorter than a person waits


class Mailbox:
    """Sends to all hosts, reads all hosts. One object per thread: sending and reading do not share connections."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._app = Celery("nspawnpanel-courier", broker=url, set_as_current=False, fixups=[])
        self._app.conf.update(task_serializer="json", task_ignore_result=True, task_send_sent_event=False)
        self._producers: dict[UUID, Any] = {}
        # A blocking XREAD outlasts redis-py's default socket timeout
        self._redis: Any = bounded.client(url, socket_timeout=BLOCK_MS / 1000 + TIMEOUT, socket_connect_timeout=TIMEOUT)

    def send(self, host_id: UUID, envelope: str) -> None:
        """Put a sealed order into a host's mailbox. Raises redis or kombu errors; nothing is kept here."""
        try:
            self._send(host_id, envelope)
        except (redis.ResponseError, OperationalError) as error:
            if not _is_wrong_type(error):
                raise
            self.empty(host_id)  # something else lay there, which must not stand in the way of others' orders
            self._send(host_id, envelope)

    def _send(self, host_id: UUID, envelope: str) -> None:
        name = routes.queue(str(host_id))
        queue = Queue(name, routing_key=name)  # no exchange: bindings would be a set that the host could write to
        try:
            self._app.send_task(
                routes.TASK,
                args=(envelope,),
                producer=self._producer(host_id),
                queue=queue,
                retry=False,
                argsrepr="<sealed>",
                kwargsrepr="",
            )
        except Exception:
            self._producers.pop(host_id, None)  # the next try connects anew
            raise

    def _producer(self, host_id: UUID) -> Any:
        if host_id not in self._producers:
            connection = Connection(
                self._url,
                ssl=redis_tls.options(self._url) or False,
                transport_options={
                    "global_keyprefix": routes.prefix(str(host_id)),
                    "socket_timeout": TIMEOUT,
                    "socket_connect_timeout": TIMEOUT,
                },
            )
            self._producers[host_id] = self._app.amqp.Producer(connection)
        return self._producers[host_id]

    def empty(self, host_id: UUID) -> None:
        """Throw away what lies in a host's mailbox; what is still wanted is sent again from the database."""
        self._redis.delete(_queue(host_id))

    def begin_anew(self, host_id: UUID) -> None:
        """Throw away a host's stream, whatever it has become."""
        self._redis.delete(routes.stream(str(host_id)))

    def forget(self, host_id: UUID, position: str) -> None:
        """Let go of the reports up to this position. A host may put in more than Redis has room for; all hosts share it.

        The last of them goes too: its worker says nothing while more lies here than its own (host/reports/publisher.py), and
        a large entry of somebody who has its password would silence it for ever.
        """
        try:
            self._redis.xtrim(routes.stream(str(host_id)), minid=after(position), approximate=False)
        except redis.ResponseError as error:
            if not _is_wrong_type(error):  # of which the reader tells
                raise

    def wait_for_poke(self) -> bool:
        """Return when the web process says there is work, or after a second: whether it has."""
        return self._redis.brpop([routes.POKE], timeout=1) is not None

    def read(self, positions: dict[UUID, str]) -> tuple[dict[UUID, Entries], dict[UUID, str]]:
        """New reports of these hosts after the given stream positions, as (position, signed text), and of which hosts
        none can be read, and why. A host whose reports are too large, or no stream, costs the others nothing."""
        if not positions:
            return {}, {}
        streams: Any = {routes.stream(str(host_id)): position for host_id, position in positions.items()}
        by_stream = {routes.stream(str(host_id)).encode(): host_id for host_id in positions}
        try:
            answer = self._redis.execute_command(*_xread(streams, BATCH, BLOCK_MS))
        except AnswerTooLarge:
            return self._read_each(positions)
        except redis.ResponseError as error:
            if not _is_wrong_type(error):
                raise
            return self._read_each(positions)
        return {by_stream[stream]: _texts(entries) for stream, entries in (answer or {}).items()}, {}

    def _read_each(self, positions: dict[UUID, str]) -> tuple[dict[UUID, Entries], dict[UUID, str]]:
        found: dict[UUID, Entries] = {}
        faults: dict[UUID, str] = {}
        for host_id, position in positions.items():
            try:
                found[host_id] = self._read_one(routes.stream(str(host_id)), position)
            except AnswerTooLarge:
                faults[host_id] = "sent a report that exceeds the size limit"
            except redis.ResponseError as error:
                if not _is_wrong_type(error):
                    raise
                faults[host_id] = "has other data in Redis in place of its report stream"
        return {host_id: entries for host_id, entries in found.items() if entries}, faults

    def _read_one(self, stream: str, position: str) -> Entries:
        """Raises AnswerTooLarge where a single report is too large."""
        for count in FEWER:
            try:
                answer = self._redis.execute_command(*_xread({stream: position}, count))
            except AnswerTooLarge:
                if count == FEWER[-1]:
                    raise
            else:
                return _texts(next(iter(answer.values()))) if answer else []
        return []

    def measure(self, host_ids: Iterable[UUID]) -> dict[UUID, "Fill"]:
        """How much of Redis each of these hosts fills. All entries are counted: a host could make those small that a
        sample would take."""
        ids = list(host_ids)
        pipe: Any = self._redis.pipeline(transaction=False)
        for host_id in ids:
            pipe.execute_command("MEMORY", "USAGE", routes.stream(str(host_id)), "SAMPLES", 0)
        sizes: dict[UUID, int] = dict(zip(ids, (size or 0 for size in pipe.execute()), strict=True))
        about = self._look_at([host_id for host_id, size in sizes.items() if 0 < size < SMALL])
        return {host_id: Fill(size, about.get(host_id, 0)) for host_id, size in sizes.items()}

    def _look_at(self, ids: list[UUID]) -> dict[UUID, int]:
        """The time in the highest id of each of these small streams."""
        pipe: Any = self._redis.pipeline(transaction=False)
        for host_id in ids:
            pipe.execute_command("XINFO", "STREAM", routes.stream(str(host_id)))
        try:
            answers = pipe.execute(raise_on_error=False)
        except AnswerTooLarge:  # it grew meanwhile
            return {}
        known = ((host_id, each) for host_id, each in zip(ids, answers, strict=True) if isinstance(each, dict))
        return {host_id: time_of(each[b"last-generated-id"].decode()) for host_id, each in known}


@dataclass(frozen=True)
class Fill:
    """What a host's stream takes of Redis: bytes, and the milliseconds in its highest id, 0 where that was not looked at."""

    size: int
    highest: int = 0


def time_of(position: str) -> int:
    """The milliseconds in a stream position."""
    return int(position.partition("-")[0])


def after(position: str) -> str:
    """The lowest id that comes after a stream position; that itself, where none does."""
    first, _, second = position.partition("-")
    if int(second or 0) < HIGHEST:
        return f"{first}-{int(second or 0) + 1}"
    return f"{int(first) + 1}-0" if int(first) < HIGHEST else position


def _xread(streams: dict[str, str], count: int, block: int | None = None) -> Iterator[Any]:
    yield from ("XREAD", "COUNT", count)
    if block is not None:
        yield from ("BLOCK", block)
    yield from ("STREAMS", *streams, *streams.values())


def _texts(answer: list[Any]) -> Entries:
    """What is no text, or too large for a report, is read as one that nobody signed. redis-py nests the entries of a
    stream once more under RESP3."""
    return [(position.decode(), _text(fields or {})) for entries in answer for position, fields in entries]


def _text(fields: dict[bytes, bytes]) -> str:
    found = fields.get(b"r", b"")
    return found.decode(errors="replace") if len(found) <= ENTRY_BYTES else ""


def _is_wrong_type(error: Exception) -> bool:
    """Whether a key is not what it should be; kombu and a pipeline put words of their own before it."""
    return "WRONGTYPE " in str(error)


def _queue(host_id: UUID) -> str:
    return routes.prefix(str(host_id)) + routes.queue(str(host_id))


def begin_anew(admin_url: str, host_id: UUID) -> None:
    """Throw away a host's stream: its last position may be one that nothing can follow."""
    redis.Redis.from_url(admin_url, **redis_tls.options(admin_url)).delete(routes.stream(str(host_id)))


def add_user(admin_url: str, name: str, password: str, rules: list[str]) -> None:
    """Make or renew a Redis user with these rules, and keep the ACL where the server keeps it.

    Deleted first, for a new password alone leaves the connections of whoever had the old one open.
    """
    admin = redis.Redis.from_url(admin_url, **redis_tls.options(admin_url))
    admin.execute_command("ACL", "DELUSER", name)
    admin.execute_command("ACL", "SETUSER", name, "reset", "on", f">{password}", *rules)
    try:
        admin.execute_command("ACL", "SAVE")
    except redis.ResponseError as error:
        if "aclfile" not in str(error).lower() and "acl file" not in str(error).lower():
            raise
        admin.config_rewrite()
