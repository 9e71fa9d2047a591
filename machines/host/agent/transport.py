"""kombu's Redis transport, guarded: Celery gets messages that this module wrote, and nothing else.

Why: Celery and kombu trust whoever can write to the queue. Tried on Celery 5.7: three bytes that are no JSON end the
worker, and so do 27 of 72 malformed messages; one with an `eta` of 2099 is kept in memory until then. So each message is
taken as bytes of a bounded length, `admit` gives the sealed order in it or throws it away, and the order goes on in a
new message.

Junk is taken out many at a time (MULTI, BRPOP …, EXEC, for which a host's Redis user may do no more than before): among
a million of them a genuine order is still found in time. Queues of other priorities are not listened to.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Collection, Iterator
from queue import Empty
from typing import Any
from uuid import uuid4

from kombu.transport.redis import Channel, Transport
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import ResponseError

from machines.contract import routes
from machines.host.reports import resp, tls

AT_ONCE = 200  # messages taken out together; what does not fit into resp.REPLY_BYTES is thrown away
TURN_SECONDS = 0.2  # of throwing away, before the loop turns again
REST_SECONDS = 1.0  # after Redis refused, as where something that is no list lies in the queue's place

Admit = Callable[[bytes], str | None]  # the sealed order in a message, or None; never raises
Tell = Callable[[str], None]  # why the queue cannot be read; "" once it can

_tags = itertools.count(1)


def guarded(admit: Admit, tell: Tell, pins: Collection[str] = ()) -> type[Transport]:
    """The transport for one worker. `pins` as for tls.PinnedConnection."""
    own = {"admit": staticmethod(admit), "tell": staticmethod(tell), "pins": tuple(pins)}
    channel = type("HostChannel", (GuardedChannel,), own)
    return type("HostTransport", (Transport,), {"Channel": channel})


def clean(sealed: str, queue: str) -> dict[str, Any]:
    """The only kind of message that Celery sees on this host."""
    return {
        "body": json.dumps([[sealed], {}, {}]),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": routes.TASK, "id": str(uuid4())},
        "properties": {"delivery_tag": next(_tags), "delivery_info": {"exchange": "", "routing_key": queue}},
    }


class GuardedChannel(Channel):
    """Takes bytes out of the host's queue and lets through what `admit` makes of them."""

    admit: Admit
    tell: Tell
    pins: tuple[str, ...] = ()
    priority_steps = [0]
    connection_class_ssl = tls.PinnedConnection  # type: ignore[assignment, unused-ignore]
    _rests_until = 0.0

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        given = {**super()._connparams(asynchronous), **resp.CONNECTION}  # type: ignore[no-untyped-call]
        return {**given, "pins": self.pins} if issubclass(given["connection_class"], tls.PinnedConnection) else given

    def _size(self, _queue: str) -> int:
        """Asked when a queue is declared; nobody needs it, and something else may lie in its place."""
        return 0

    def _brpop_start(self, timeout: float | None = None) -> None:
        if time.monotonic() >= self._rests_until:
            super()._brpop_start(timeout)  # type: ignore[no-untyped-call]

    def _brpop_read(self, **_options: Any) -> bool:
        """Called by the event loop when an answer is there. Only a lost connection, or Empty, may be raised from here."""
        connection = self.client.connection
        try:
            with self._asking():
                raw = _bytes_in(self.client.parse_response(connection, "BRPOP"))
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = False
        self.tell("")
        if raw is None:
            raise Empty
        if not self._let_in(raw):
            self._clear()
        return True

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """What goes wrong is a lost connection, which Celery makes anew; or Empty, where Redis said no."""
        try:
            yield
        except self.connection_errors:
            raise
        except ResponseError as error:
            self._rests_until = time.monotonic() + REST_SECONDS
            self.tell(f"Redis does not let this host read its queue: {str(error)[:200]}")
            raise Empty from error
        except Exception as error:  # an answer to something else than was asked
            raise Broken(f"Redis answered what was not asked: {type(error).__name__}") from error

    def _let_in(self, raw: bytes) -> bool:
        """Whether it was one of the panel's."""
        sealed = self.admit(raw)
        if sealed is None:
            return False
        queue = self.active_queues[0]
        self.connection._deliver(clean(sealed, queue), queue)
        return True

    def _clear(self) -> None:
        """Throw away what lies behind junk, until there is nothing more, or enough has been found to do."""
        until = time.monotonic() + TURN_SECONDS
        while time.monotonic() < until and self.qos.can_consume():
            with self._asking():
                found = self._take_out()
            for raw in found:
                self._let_in(raw)
            if len(found) < AT_ONCE:
                return

    def _take_out(self) -> list[bytes]:
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            for _ in range(AT_ONCE):
                pipe.brpop(self.active_queues[0], timeout=1)  # within MULTI nothing waits
            return [raw for answer in pipe.execute() if (raw := _bytes_in(answer)) is not None]


def _bytes_in(answer: Any) -> bytes | None:
    """The message in an answer to BRPOP; None where nothing was there. Raises what such an answer brings about."""
    if not answer:
        return None
    _, raw = answer
    if not isinstance(raw, bytes):
        raise TypeError(type(raw).__name__)
    return raw
