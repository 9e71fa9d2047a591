"""What Redis may answer, bounded: who holds it, or stands in its place, must not fill the memory of a root process.

Facts: redis-py 8.1 reads a reply of any length into memory (a value may have 512 MiB), nests without end, and a number
that is none raises ValueError past everybody who waits for a RedisError.
"""

from typing import Any

from redis._parsers.resp2 import _RESP2Parser
from redis._parsers.socket import SocketBuffer
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import RedisError
from redis.utils import SENTINEL

REPLY_BYTES = 1024 * 1024  # of one reply that are kept; a value that does not fit any more reads as TOO_LONG
TOO_LONG = b""


class BoundedBuffer(SocketBuffer):
    """Keeps `left` bytes; what is beyond is read from the socket and thrown away."""

    left = REPLY_BYTES

    def read(self, length: int, timeout: Any = SENTINEL) -> bytes:
        if length < 0:
            raise Broken("Redis sent a value of a negative length.")
        if length > self.left:
            self._skip(length + len(b"\r\n"), timeout)
            return TOO_LONG
        self.left -= length
        return super().read(length, timeout)

    def _skip(self, length: int, timeout: Any) -> None:
        while length:
            thrown = len(self._buffer.read(length))
            length -= thrown
            if not thrown:
                self._buffer.seek(0)
                self._buffer.truncate()
                self._read_from_socket(timeout=timeout)

    def readline(self, timeout: Any = SENTINEL) -> bytes:
        line: bytes = self._buffer.readline()
        while not line.endswith(b"\r\n"):
            if len(line) > self.left:
                break
            self._read_from_socket(timeout=timeout)
            line += self._buffer.readline()
        self.left -= len(line)
        if self.left < 0:
            raise Broken("Redis sent a reply that is larger than any of ours.")
        return line[:-2]


class BoundedParser(_RESP2Parser):  # type: ignore[misc, unused-ignore]
    """RESP2 within REPLY_BYTES. Whatever cannot be read is a broken connection: it is closed, and made anew."""

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)  # type: ignore[no-untyped-call, unused-ignore]
        self._buffer = BoundedBuffer(connection._sock, self.socket_read_size, connection.socket_timeout)

    def read_response(self, disable_decoding: bool = False, timeout: Any = SENTINEL) -> Any:
        if self._buffer is not None:
            self._buffer.left = REPLY_BYTES
        try:
            return super().read_response(disable_decoding=disable_decoding, timeout=timeout)  # type: ignore[no-untyped-call, unused-ignore]
        except (RedisError, OSError):
            raise
        except Exception as error:  # the protocol is not kept
            raise Broken(f"Redis sent what is no reply: {type(error).__name__}") from error


CONNECTION: dict[str, Any] = {"parser_class": BoundedParser, "protocol": 2}  # for every connection of the worker
