"""Answers of Redis that are read no further than they may be large: what a host put into its stream is its own choice.

redis-py reads an answer whole before anybody sees its size, and the courier's memory is all hosts'. This counts while it
reads, and gives up on the connection where an answer goes on for too long.
"""

import contextlib
from typing import Any

import redis
from redis._parsers.resp3 import _RESP3Parser  # the only place where the size of what comes next is known
from redis._parsers.socket import SocketBuffer

from machines.panel.hosts import redis_tls

ANSWER_BYTES = 16 * 1024 * 1024
PART = 256  # bytes that a part of an answer costs beside what it says


class AnswerTooLarge(redis.RedisError):
    """No error of the connection, or redis-py would ask for the same once more."""


class _Buffer(SocketBuffer):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._taken = 0

    def read(self, length: int, *given: Any, **named: Any) -> bytes:
        self._count(length)
        return super().read(length, *given, **named)

    def readline(self, *given: Any, **named: Any) -> bytes:
        self._count(PART)
        return super().readline(*given, **named)

    def purge(self) -> None:
        """An answer is complete."""
        self._taken = 0
        super().purge()

    def _count(self, more: int) -> None:
        self._taken += more
        if self._taken > ANSWER_BYTES:
            raise AnswerTooLarge(f"Redis answered with more than {ANSWER_BYTES} bytes")


class _Parser(_RESP3Parser):
    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._buffer = _Buffer(self._sock, self.socket_read_size, connection.socket_timeout)


def client(url: str, **options: Any) -> redis.Redis:
    """A client whose answers are bytes, ANSWER_BYTES at most. Its calls raise AnswerTooLarge."""
    return redis.Redis.from_url(
        url, parser_class=_Parser, protocol=3, redis_connect_func=_connected, **redis_tls.options(url), **options
    )


def _connected(connection: Any) -> None:
    """Where the memory of connections is limited (maxmemory-clients), the largest is closed: that would be the one to
    which a host's whole stream is on its way."""
    connection.on_connect()
    connection.send_command("CLIENT", "NO-EVICT", "ON")
    with contextlib.suppress(redis.ResponseError):  # a user made by an older release may not
        connection.read_response()
