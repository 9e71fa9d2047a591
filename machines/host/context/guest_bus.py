"""What a machine's own systemd says of itself, asked on the machine's system bus from outside: nothing is run in it.

Facts, tried on 252 and 257: whoever connects through /proc/LEADER/root is let in under the id the machine sees, also
“nobody” where it has ids of its own (systemd's private socket is not), and anybody may read a manager's state and its
units. An answer takes a millisecond. A machine without a message bus, or with another init, says nothing.

The other end may be hostile: the socket is opened by openat2 within the machine, connecting never waits (a full backlog
is EAGAIN), and only so many bytes are read, in so much time, of the few types that are expected.
"""

import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dbus_fast import Message

from machines.host.system import guarded, tree
from machines.host.system.bus import SYSTEMD, SYSTEMD_PATH

SOCKET = "run/dbus/system_bus_socket"
SECONDS = 1.0
MOST = 64 * 1024  # bytes of all answers together
NAMES = 20
UNKNOWN = (OSError, ValueError, struct.error, IndexError)  # what comes of answers that are none
_HELLO, _STATE, _FAILED = 1, 2, 3  # serial numbers of our three calls
_RETURN, _ERROR = 2, 3  # types of messages
_HEAD = struct.Struct("<cBBBIII")
_REPLY_TO = 5  # code of that header field


@dataclass(frozen=True)
class Guest:
    """`state` is systemd's SystemState: running, degraded, starting … or "" when it cannot be known; `failed` are the units
    that have failed inside, the first NAMES of them."""

    state: str = ""
    failed: tuple[str, ...] = ()


def ask(leader: int) -> Guest:
    """Of the machine whose init this is. Never raises for what a machine does; blocks for a second or two at most."""
    path = f"/proc/{leader}/root"
    try:
        return guarded.call(f"{path}/{SOCKET}", lambda: _ask(Path(path)), 2 * SECONDS)
    except UNKNOWN:
        return Guest()


def _ask(root: Path) -> Guest:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(SECONDS)
        _connect(line, root)
        line.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n" + b"".join(_calls()))
        answers = dict(_answers(_Incoming(line, time.monotonic() + SECONDS)))
    state = _Body(answers.get(_STATE, b""), at=4).text()  # a variant: length and letter of its type, then 4-aligned
    return Guest(state, tuple(_names(answers[_FAILED])) if _FAILED in answers else ())


def _connect(line: socket.socket, root: Path) -> None:
    """Raises OSError: nothing there, no socket, or the host's own bus, which somebody has bound into the machine."""
    with tree.opened(root, SOCKET) as fd:
        found = os.fstat(fd)
        if not stat.S_ISSOCK(found.st_mode) or _is_ours(found):
            raise OSError("no message bus of its own")
        line.connect(f"/proc/self/fd/{fd}")


def _is_ours(found: os.stat_result) -> bool:
    try:
        return os.path.samestat(found, os.stat(f"/{SOCKET}"))
    except OSError:
        return False


def _calls() -> Iterator[bytes]:
    bus, manager = "org.freedesktop.DBus", f"{SYSTEMD}.Manager"
    for serial, destination, path, interface, member, signature, body in (
        (_HELLO, bus, "/org/freedesktop/DBus", bus, "Hello", "", []),
        (_STATE, SYSTEMD, SYSTEMD_PATH, f"{bus}.Properties", "Get", "ss", [manager, "SystemState"]),
        (_FAILED, SYSTEMD, SYSTEMD_PATH, manager, "ListUnitsFiltered", "as", [["failed"]]),
    ):
        call = Message(destination, path, interface, member, signature=signature, body=list(body), serial=serial)
        yield bytes(call._marshall(False))


class _Incoming:
    """What comes, bounded in bytes and time."""

    def __init__(self, line: socket.socket, until: float) -> None:
        self._line, self._until, self._data, self._taken = line, until, b"", 0

    def take(self, count: int) -> bytes:
        """The next bytes. Raises OSError when they do not come, or when all is too much."""
        self._taken += count
        if self._taken > MOST:
            raise OSError("its answer is too long")
        while len(self._data) < count:
            self._more()
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def line(self) -> bytes:
        while b"\r\n" not in self._data:
            if len(self._data) > 1000:
                raise OSError("no line")
            self._more()
        text, _, self._data = self._data.partition(b"\r\n")
        return text

    def _more(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("it does not respond")
        self._line.settimeout(left)
        if not (more := self._line.recv(4096)):
            raise OSError("it closed the connection")
        self._data += more


def _answers(incoming: _Incoming) -> Iterator[tuple[int, bytes]]:
    """(serial of our call, body of its answer), until both questions are answered."""
    while not (said := incoming.line()).startswith(b"OK"):
        if not said.startswith(b"DATA"):
            raise OSError("access denied")
    open_ = {_STATE, _FAILED}
    while open_:
        order, kind, _, _, length, _, fields = _HEAD.unpack(incoming.take(_HEAD.size))
        if order != b"l":
            raise OSError("different byte order")
        header = incoming.take(-(-fields // 8) * 8)[:fields]
        body = incoming.take(length)
        serial = _reply_to(header)
        if kind in {_RETURN, _ERROR} and serial in open_:
            open_.discard(serial)
            if kind == _RETURN:
                yield serial, body


def _reply_to(header: bytes) -> int:
    """Which call a message answers: the field of that code, whose type is always u; 0 for none."""
    fields = _Body(header)
    while fields.at < len(header):
        fields.align(8)
        code, type_ = fields.byte(), fields.signature()
        if code == _REPLY_TO:
            return fields.number()
        if type_ == b"u":
            fields.number()
        elif type_ == b"g":
            fields.signature()
        else:
            fields.text()
    return 0


def _names(body: bytes) -> Iterator[str]:
    """The first member of each struct of an array of (ssssssouso)."""
    units = _Body(body)
    units.number()
    units.align(8)
    for _ in range(NAMES):
        if units.at >= len(body):
            return
        yield units.text()[:200]
        for _ in range(6):
            units.text()
        units.number()
        for _ in range(2):
            units.text()
        units.align(8)


@dataclass
class _Body:
    """Reads D-Bus's wire format, little end first. Raises struct.error, IndexError or UnicodeDecodeError past its end."""

    data: bytes
    at: int = 0

    def align(self, width: int) -> None:
        self.at = -(-self.at // width) * width

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        self.align(4)
        self.at += 4
        return int(struct.unpack_from("<I", self.data, self.at - 4)[0])

    def text(self) -> str:
        length = self.number()
        found = self.data[self.at : self.at + length]
        if len(found) < length:
            raise IndexError
        self.at += length + 1
        return found.decode()

    def signature(self) -> bytes:
        length = self.byte()
        found = self.data[self.at : self.at + length]
        self.at += length + 1
        return found
