"""The panel's HTTP connections: how many there may be, and how slow one may be. For uvicorn, which bounds neither.

Facts (uvicorn 0.54, h11 0.16): a keep-alive time counts only after an answer; a head or a body that never ends stays open,
and so does an answer that nobody reads. h11 bounds a head and what it has not parsed; httptools does not.
TCP_INFO's bytes_acked (Linux ≥ 4.1) is what the other side has taken, SIOCOUTQ what it still has to.
"""

import asyncio
import contextlib
import fcntl
import ipaddress
import socket
import struct
import termios
import time
from collections import Counter
from enum import Enum
from typing import Any, ClassVar

import h11
from django.conf import settings
from uvicorn.protocols.http.h11_impl import H11Protocol

from machines.panel.web import attempts

MOST = 1000  # connections of one process
PER_ADDRESS = 100  # an IPv4 address or IPv6 /64; a trusted proxy's is not counted
HEAD_BYTES = 32 * 1024
HEAD_TIME = 10.0  # seconds until a request's head is whole
WINDOW = 15.0  # seconds, in each of which a body must bring, or a reader take, WINDOW × PACE
PACE = 1024  # bytes a second
GLANCE = 1.0  # seconds between two looks at all connections
_BYTES_ACKED = 120  # offset in struct tcp_info


class Doing(Enum):
    HEAD = "waits for a head"
    BODY = "waits for a body"
    TAKING = "waits for its answer to be taken"
    WORK = "waits for us"


class Crowd:
    """All connections of this process, oldest first."""

    def __init__(self) -> None:
        self.members: dict[Connection, str] = {}
        self.of: Counter[str] = Counter()
        self._looking: asyncio.TimerHandle | None = None

    def enter(self, new: "Connection") -> None:
        """Whoever has sent no whole head makes room, the oldest first; if nobody can, the new one goes."""
        address = new.address
        if address and self.of[address] >= PER_ADDRESS and not self._make_room(address):
            return new.transport.abort()
        if len(self.members) >= MOST and not self._make_room(None):
            return new.transport.abort()
        self.members[new] = address
        self.of[address] += 1
        self._look_later(new.loop)
        return None

    def leave(self, gone: "Connection") -> None:
        address = self.members.pop(gone, None)
        if address is None:
            return
        self.of[address] -= 1
        if not self.of[address]:
            del self.of[address]

    def _make_room(self, address: str | None) -> bool:
        for each, its in self.members.items():
            if (address is None or its == address) and each.doing() is Doing.HEAD:
                self.leave(each)
                each.transport.abort()
                return True
        return False

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._looking is None and self.members:
            self._looking = loop.call_later(GLANCE, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = None
        now = time.monotonic()
        for each in list(self.members):
            if each.is_late(now):
                each.transport.abort()
        self._look_later(loop)


class Connection(H11Protocol):
    """uvicorn's, for `--http machines.panel.web.connections:Connection`; `manage.py web` sets it."""

    crowd: ClassVar[Crowd] = Crowd()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        self._received = 0
        self._last: tuple[Doing, Any] = (Doing.HEAD, None)
        self._since, self._had = time.monotonic(), 0
        self.address = _counted_as(self.client)
        self.crowd.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def doing(self) -> Doing:
        """What this connection waits for. Its own time is nobody's fault but ours."""
        if self.conn.their_state is h11.SEND_BODY:
            return Doing.WORK if self.flow.read_paused else Doing.BODY
        if self._untaken():
            return Doing.TAKING
        busy = self.cycle is not None and not self.cycle.response_complete
        return Doing.WORK if busy else Doing.HEAD

    def is_late(self, now: float) -> bool:
        doing = self.doing()
        if (doing, self.cycle) != self._last:
            self._last, self._since, self._had = (doing, self.cycle), now, self._moved(doing)
            return False
        if doing is Doing.HEAD:
            return now - self._since > HEAD_TIME
        if doing is Doing.WORK or now - self._since <= WINDOW:
            return False
        before, self._since, self._had = self._had, now, self._moved(doing)
        return self._had - before < WINDOW * PACE

    def _moved(self, doing: Doing) -> int:
        """Bytes so far, in the direction in which they should go."""
        return self._taken() if doing is Doing.TAKING else self._received

    def _untaken(self) -> int:
        """Bytes of answers that the other side has not yet taken from us or from the kernel."""
        ours = self.transport.get_write_buffer_size()
        with contextlib.suppress(OSError, ValueError):
            return ours + int(struct.unpack("i", fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])
        return ours

    def _taken(self) -> int:
        with contextlib.suppress(OSError, ValueError, struct.error):
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
            return int(struct.unpack_from("Q", info, _BYTES_ACKED)[0])
        return 0


def _counted_as(client: tuple[str, int] | None) -> str:
    """ "" for those that are not counted by address: proxies of ours, which bring everybody."""
    host = client[0] if client else ""
    return "" if not host or _is_trusted(host) else attempts.network(host)[0]


def _is_trusted(host: str) -> bool:
    found = ipaddress.ip_address(host.partition("%")[0])
    return any(found in ipaddress.ip_network(each, strict=False) for each in settings.TRUSTED_PROXIES)
