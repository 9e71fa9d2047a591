"""The way to a host's mailbox and from its stream. Only the courier uses it; Redis is never trusted with more.

Orders travel as the one Celery task `carry_out` in the host's own queue, under the host's own key prefix.
"""

from typing import Any
from uuid import UUID

import redis
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue

from machines.contract import routes

BLOCK_MS = 1000
BATCH = 200
TIMEOUT = 5  # seconds; longer than any command takes, shorter than a person waits


class Mailbox:
    """Sends to all hosts, reads all hosts. One object per thread: sending and reading do not share connections."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._app = Celery("nspawnpanel-courier", broker=url, set_as_current=False, fixups=[])
        self._app.conf.update(task_serializer="json", task_ignore_result=True, task_send_sent_event=False)
        self._producers: dict[UUID, Any] = {}
        # A blocking XREAD outlasts redis-py's default socket timeout. Streams hold whatever their host put there: a byte
        # that is no UTF-8 must cost that entry and not the reading of all.
        self._redis = redis.Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors="replace",
            socket_timeout=BLOCK_MS / 1000 + TIMEOUT,
            socket_connect_timeout=TIMEOUT,
        )

    def send(self, host_id: UUID, envelope: str) -> None:
        """Put a sealed order into a host's mailbox. Raises redis or kombu errors; nothing is kept here."""
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
        self._redis.delete(routes.prefix(str(host_id)) + routes.queue(str(host_id)))

    def forget(self, host_id: UUID, position: str) -> None:
        """Let go of the reports before this position. A host may put in more than Redis has room for; all hosts share it."""
        self._redis.xtrim(routes.stream(str(host_id)), minid=position)

    def wait_for_poke(self) -> bool:
        """Return when the web process says there is work, or after a second: whether it has."""
        return self._redis.brpop([routes.POKE], timeout=1) is not None

    def read(self, positions: dict[UUID, str]) -> dict[UUID, list[tuple[str, str]]]:
        """New reports of these hosts after the given stream positions, as (position, signed text)."""
        streams: Any = {routes.stream(str(host_id)): position for host_id, position in positions.items()}
        by_stream = {routes.stream(str(host_id)): host_id for host_id in positions}
        answer: Any = self._redis.xread(streams, count=BATCH, block=BLOCK_MS) if streams else []
        pairs = answer.items() if isinstance(answer, dict) else answer
        return {
            by_stream[stream]: [(position, str(fields.get("r", ""))) for position, fields in _flat(entries)]
            for stream, entries in pairs
        }


def _flat(entries: Any) -> list[tuple[str, dict[str, str]]]:
    """redis-py nests the entries of a stream once more under RESP3."""
    if entries and isinstance(entries[0], list):
        return [pair for inner in entries for pair in inner]
    return list(entries)


def begin_anew(admin_url: str, host_id: UUID) -> None:
    """Throw away a host's stream: its last position may be one that nothing can follow."""
    redis.Redis.from_url(admin_url).delete(routes.stream(str(host_id)))


def add_user(admin_url: str, name: str, password: str, rules: list[str]) -> None:
    """Make or renew a Redis user with these rules, and keep the ACL where the server keeps it.

    Deleted first, for a new password alone leaves the connections of whoever had the old one open.
    """
    admin = redis.Redis.from_url(admin_url)
    admin.execute_command("ACL", "DELUSER", name)
    admin.execute_command("ACL", "SETUSER", name, "reset", "on", f">{password}", *rules)
    try:
        admin.execute_command("ACL", "SAVE")
    except redis.ResponseError as error:
        if "aclfile" not in str(error).lower() and "acl file" not in str(error).lower():
            raise
        admin.config_rewrite()
