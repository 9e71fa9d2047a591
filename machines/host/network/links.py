"""A machine's links: which of the host's lead into it, and what /proc tells of the other side. The doctor follows them, and
the effective settings are read off them."""

import re
from dataclasses import dataclass

from machines.host.network import addresses, netlink
from machines.host.network.netlink import Link

_IGMP = re.compile(r"^[0-9]+\t([^\t\n\v\f\r :/]+)", re.MULTILINE)  # what the kernel lets a link be called


@dataclass(frozen=True)
class Cable:
    """Both ends of a veth between host and machine; `bridge` is what the host's end is in."""

    host: Link
    inside: Link | None
    bridge: Link | None

    @property
    def is_main(self) -> bool:
        """Whether it is nspawn's own, host0; the others are VirtualEthernetExtra=."""
        return self.inside.name == "host0" if self.inside else self.host.name.startswith(("ve-", "vb-"))

    @property
    def server(self) -> Link:
        """The link of the host on which it meets the host: the bridge, or its own end."""
        return self.bridge or self.host

    @property
    def is_bridged(self) -> bool:
        """Whether it is in a bridge of somebody's, not a zone's: then the host may have no part in its network."""
        return self.bridge is not None and not self.bridge.name.startswith("vz-")


def cables(space: int, host: dict[int, Link], inside: dict[int, Link]) -> list[Cable]:
    """The veths of the machine whose network namespace has this number, its own first. Links by index."""
    ends = [link for link in host.values() if link.kind == "veth" and link.peer_space == space]
    found = [Cable(end, inside.get(end.peer), host.get(end.master)) for end in ends]
    return sorted(found, key=lambda cable: (not cable.is_main, cable.host.name))


def of_machine(leader: int) -> list[Cable]:
    """The veths of the machine of this first process. Raises Problem."""
    space = netlink.space_of(leader)
    if space is None:
        return []
    host, inside = ({link.index: link for link in netlink.links(each)} for each in (None, space))
    return cables(space, host, inside)


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


def up_inside(leader: int) -> list[str]:
    """Names of its links that are up: such a link has joined at least one group."""
    return parse_igmp(_of_process(leader, "igmp"))


def parse_igmp(text: str) -> list[str]:
    return _IGMP.findall(text)[:50]


def has_way_out(leader: int) -> bool:
    """Whether it has a default route, of either family."""
    return is_default_in(_of_process(leader, "route"), _of_process(leader, "ipv6_route"))


def is_default_in(four: str, six: str) -> bool:
    if any(line.split()[1:2] == ["00000000"] and line.split()[7:8] == ["00000000"] for line in four.splitlines()[1:]):
        return True
    rows = (line.split() for line in six.splitlines())
    return any(len(row) > 9 and row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo" for row in rows)
