"""A btrfs pool for a host whose images lie on a plain file system: whether it is offered, and how large it may be."""

import math
from dataclasses import dataclass

from machines.contract.permissions import Permission
from machines.contract.states import MachineState
from machines.models import Host, Machine, User

GIB = 1024**3
LEAST, USUAL = 2, 50  # GiB


@dataclass(frozen=True)
class Room:
    """What a pool must hold and where it would lie, in GiB; the host decides by what it finds then."""

    used: float
    free: float
    running: tuple[str, ...] = ()

    @property
    def least(self) -> int:
        """A quarter more than what is there, and something for the next machine."""
        return max(LEAST, math.ceil(self.used * 1.25) + 1)

    @property
    def most(self) -> int:
        return max(0, math.floor(self.free) - 1)

    @property
    def fits(self) -> bool:
        return self.most >= self.least

    @property
    def usual(self) -> int:
        """Twice what is there, if that leaves the host half of what is free."""
        return min(max(self.least, self.most // 2), max(self.least, math.ceil(self.used * 2), USUAL))


def is_offered(host: Host, user: User) -> bool:
    """Where every machine is a full copy, to people who may change hosts."""
    return host.facts.get("pool_type") == "ext4" and user.may(Permission.ADMINISTER)


def room(host: Host) -> Room:
    """Out of what the host last reported: one query."""
    machines = list(Machine.objects.listed().filter(host=host).values("name", "state", "disk_bytes"))
    bases = sum(base.get("bytes") or 0 for base in host.facts.get("bases") or [])
    used = sum(machine["disk_bytes"] or 0 for machine in machines) + bases
    up = tuple(sorted(m["name"] for m in machines if MachineState(m["state"]).is_up))
    return Room(used / GIB, (host.facts.get("disk_free") or 0) / GIB, up)
