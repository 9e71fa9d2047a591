"""Who listens on this host already, from /proc/net: a forwarded port takes its traffic away without a word.

Loopback listeners are left out: a forward does not reach them, nor they it.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NET = Path("/proc/net")
_LISTENING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
_LOOPBACK6 = "00000000000000000000000001000000"


def taken(net: Path = NET) -> dict[tuple[str, int], str]:
    """(tcp or udp, port) → the socket's inode, for every listener that can be reached from outside; of several that share a
    port, the first."""
    found: dict[tuple[str, int], str] = {}
    for listener, inode in _reachable(net):
        found.setdefault(listener, inode)
    return found


def sharing(listener: tuple[str, int], net: Path = NET) -> list[str]:
    """The inodes of all sockets that listen on this (tcp or udp, port), for one of them may be bound to one link."""
    return [inode for each, inode in _reachable(net) if each == listener]


def _reachable(net: Path) -> Iterator[tuple[tuple[str, int], str]]:
    for table, state in _LISTENING.items():
        for address, port, inode in _sockets(net / table, state):
            if not _is_loopback(address):
                yield (table[:3], port), inode


def _sockets(table: Path, state: str) -> Iterator[tuple[str, int, str]]:
    """(address in hex, port, inode) of a table's sockets in that state."""
    with contextlib.suppress(OSError):
        for line in table.read_text().splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and words[3] == state:
                address, _, port = words[1].rpartition(":")
                yield address, int(port, 16), words[9]


def _is_loopback(address: str) -> bool:
    return address.endswith("7F") if len(address) == 8 else address == _LOOPBACK6


def who(inode: str, proc: Path = Path("/proc")) -> str:
    """The program that has a socket; "a program on the host" when it cannot be told."""
    wanted = f"socket:[{inode}]"
    for process in proc.iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and any(os.readlink(fd) == wanted for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text(errors='replace').strip()} (process {process.name})"
    return "a program on the host"
