"""The kernel's links, addresses and routes, of this host and of a machine, asked of rtnetlink(7): no program, no fork,
and nothing is run inside a machine.

Facts: a machine's namespace has a number here once a link leads into it (RTM_GETNSID of its leader); with that number
the kernel answers for it (IFLA_TARGET_NETNSID, Linux 4.20), so nobody has to enter it. A veth's other end is named by
its index and that number. machined names neither: of a machine in a bridge or zone it knows the bridge alone, of extra
links none. Tried on 6.18 with machines of systemd 252 and 257.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from machines.contract.problems import Problem

SECONDS = 5.0  # the kernel answers at once or not at all
READ_AT_MOST = 4 << 20  # bytes of one answer: root inside a machine may make links without end
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR, _NEWROUTE, _GETROUTE, _NEWNSID, _GETNSID = 16, 18, 20, 22, 24, 26, 88, 90
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _STRICT = 270, 12
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_LINK, _ADDRESS, _ROUTE = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=BBBBBBBBI")
_UP = 0x1
# IFLA_OPERSTATE, RFC 2863
_STATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")

Interface = IPv4Interface | IPv6Interface


@dataclass(frozen=True)
class Link:
    """A link as its own namespace sees it. `peer` is the index of the other end of a veth or of what a macvlan sits on,
    `peer_space` the number of the namespace that is in (None: this one). `master` is a bridge's index, 0 for none.
    """

    name: str
    index: int
    is_up: bool = True
    state: str = "up"
    kind: str = ""  # veth, bridge, macvlan …; "" for a card
    master: int = 0
    peer: int = 0
    peer_space: int | None = None

    @property
    def has_carrier(self) -> bool:
        """Whether both of its ends are up; of an end in another namespace the kernel says no more than that."""
        return self.is_up and self.state not in {"down", "lowerlayerdown"}


def space_of(pid: int) -> int | None:
    """The number of a process's network namespace; None when no link leads there from here. Raises Problem."""
    for _, body in _ask(_GETNSID, b"\0\0\0\0" + _packed(2, struct.pack("=I", pid)), _NEWNSID):
        number = struct.unpack("=i", _attributes(body[4:]).get(1, struct.pack("=i", -1)))[0]
        return number if number >= 0 else None
    return None


def links(space: int | None = None) -> list[Link]:
    """Every link of this host, or of the namespace of that number. Raises Problem."""
    where = _packed(46, struct.pack("=i", space)) if space is not None else b""
    lean = _packed(29, struct.pack("=I", 1 << 3))  # without statistics
    return [_link(body) for _, body in _ask(_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + lean + where, _NEWLINK, _DUMP)]


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    said = _attributes(body[_LINK.size :])
    space = _number(said, 37, -1)
    state = said.get(16, b"\0")[0]
    return Link(
        name=said.get(3, b"").rstrip(b"\0").decode(errors="replace"),
        index=index,
        is_up=bool(flags & _UP),
        state=_STATES[state] if state < len(_STATES) else "unknown",
        kind=_attributes(said.get(18, b"")).get(1, b"").rstrip(b"\0").decode(errors="replace"),
        master=_number(said, 10, 0),
        peer=_number(said, 5, 0),
        peer_space=space if space >= 0 else None,
    )


def addresses(space: int | None = None) -> list[tuple[int, Interface]]:
    """(index of the link, address with its prefix). Raises Problem."""
    where = _packed(10, struct.pack("=i", space)) if space is not None else b""
    found: list[tuple[int, Interface]] = []
    for _, body in _ask(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0) + where, _NEWADDR, _DUMP):
        _, prefix, _, _, index = _ADDRESS.unpack_from(body)
        said = _attributes(body[_ADDRESS.size :])
        packed = said.get(2) or said.get(1, b"")  # a local one and its peer, or the same
        if len(packed) == 4:
            found.append((index, IPv4Interface((packed, prefix))))
        elif len(packed) == 16:
            found.append((index, IPv6Interface((packed, prefix))))
    return found


def way_to(address: IPv4Address | IPv6Address) -> int:
    """The index of the link by which this host sends to an address; 0 when it knows no way. Raises Problem."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    asked = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + _packed(1, address.packed)
    try:
        found = next((body for _, body in _ask(_GETROUTE, asked, _NEWROUTE)), b"")
    except NoAnswer as error:
        if error.number in {101, 113}:  # ENETUNREACH, EHOSTUNREACH
            return 0
        raise
    return _number(_attributes(found[_ROUTE.size :]), 4, 0)


class NoAnswer(Problem):
    """The kernel refused; `number` is its errno."""

    code = "netlink-failed"

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"The kernel does not list its network links: {text}")
        self.number = number


def _ask(kind: int, body: bytes, wanted: int, flags: int = 0) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each message of the answer."""
    request = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body
    read = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as asking:
        asking.settimeout(SECONDS)
        asking.setsockopt(_SOL_NETLINK, _STRICT, 1)  # or a namespace asked for is overlooked
        asking.bind((0, 0))
        asking.send(request)
        while read < READ_AT_MOST:
            data = asking.recv(1 << 16)
            read += len(data)
            for got, part in _messages(data):
                if got == _DONE:
                    return
                if got == _ERROR:
                    _raise_for(part)
                if got == wanted:
                    yield got, part
            if not flags & _DUMP:
                return


def _raise_for(part: bytes) -> None:
    number = -struct.unpack_from("=i", part)[0]
    if number:
        raise NoAnswer(number, OSError(number, "").strerror or f"error {number}")


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found


def _packed(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _number(said: dict[int, bytes], kind: int, otherwise: int) -> int:
    return int(struct.unpack("=i", said[kind])[0]) if len(said.get(kind, b"")) == 4 else otherwise
