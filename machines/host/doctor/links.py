"""Links and addresses, read from /sys and /proc: no program, and nothing is run inside a machine."""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from machines.host import addresses

NET = Path("/sys/class/net")
_UP = 0x1


@dataclass(frozen=True)
class Link:
    """A link of the host. `state` is the kernel's operstate: up, down, lowerlayerdown, unknown."""

    name: str
    index: int
    is_up: bool
    state: str
    bridge: str  # the bridge it is in, or ""

    @property
    def has_carrier(self) -> bool:
        """Whether both of its ends are up; of an end in another namespace the kernel says no more than that."""
        return self.is_up and self.state not in {"down", "lowerlayerdown"}


def all_names() -> list[str]:
    return sorted(link.name for link in NET.iterdir())


def read(name: str) -> Link | None:
    """A link of the host, or None when there is none of that name."""
    top = NET / name
    try:
        flags = int(_text(top / "flags"), 16)
        bridge = (top / "master").resolve().name if (top / "master").exists() else ""
        return Link(name, int(_text(top / "ifindex")), bool(flags & _UP), _text(top / "operstate"), bridge)
    except (OSError, ValueError):
        return None


def of_indices(indices: Collection[int]) -> list[str]:
    """Names of the host's links with these indices."""
    found = (read(name) for name in all_names())
    return [link.name for link in found if link is not None and link.index in indices]


def _text(file: Path) -> str:
    return file.read_text().strip()


def network(name: str) -> IPv4Network | None:
    """The first IPv4 network that lies on a link, its link-local one left out."""
    return parse_network(Path("/proc/net/route").read_text(), name)


def parse_network(text: str, name: str) -> IPv4Network | None:
    """The same of the kernel's table of routes: link, destination and gateway first, mask eighth, bytes in host order."""
    for row in (line.split() for line in text.splitlines()[1:]):
        if row[0] == name and row[2] == "00000000" and row[1] != "00000000":
            there, mask = (IPv4Address(bytes.fromhex(row[column])[::-1]) for column in (1, 7))
            if not there.is_link_local:
                return IPv4Network(f"{there}/{mask}")
    return None


# --- inside a machine, seen through /proc/LEADER/net


def _of_process(leader: int, file: str) -> str:
    """The beginning of a file; "" when it cannot be read."""
    try:
        return addresses.beginning(f"/proc/{leader}/net/{file}")
    except OSError:
        return ""


def inside(leader: int) -> list[str]:
    """Names of its links, loopback left out."""
    return parse_dev(_of_process(leader, "dev"))


def parse_dev(text: str) -> list[str]:
    names = (line.rpartition(":")[0].strip() for line in text.split("\n")[2:])
    return [name for name in names if name and name != "lo"][:50]


def has_way_out(leader: int) -> bool:
    """Whether it has a default route, of either family."""
    return is_default_in(_of_process(leader, "route"), _of_process(leader, "ipv6_route"))


def is_default_in(four: str, six: str) -> bool:
    if any(line.split()[1:2] == ["00000000"] and line.split()[7:8] == ["00000000"] for line in four.splitlines()[1:]):
        return True
    rows = (line.split() for line in six.splitlines())
    return any(len(row) > 9 and row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo" for row in rows)


def macs(leader: int) -> list[str]:
    """Hardware addresses of its links, as far as its link-local addresses give them away: 56:6d:12:1c:39:62."""
    return parse_macs(_of_process(leader, "if_inet6"))


def parse_macs(text: str) -> list[str]:
    found = []
    for packed in (address.packed for address in addresses.sixes(text)):
        if packed[:2] == b"\xfe\x80" and packed[11:13] == b"\xff\xfe":
            found.append(bytes([packed[8] ^ 2, *packed[9:11], *packed[13:]]).hex(":"))
    return found
