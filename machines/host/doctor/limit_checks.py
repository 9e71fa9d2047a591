"""Limits of the kernel that all machines of a host share, against what is really used of them.

Facts: an inotify instance counts for the user who made it, and for root as well where it was made in a user namespace
root made (a machine with private users): so root's limit is everybody's. A host that is a container cannot set it. Keys count for each user of the host, thus for
each user of each machine with private users (keyrings(7)). A systemd takes about ten inotify instances.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from machines.contract.configuration.findings import INOTIFY_INSTANCES, Finding
from machines.host.doctor.facts import Facts
from machines.host.doctor.host_checks import found, is_forbidden, sysctl

PROC = Path("/proc")
NEAR = 0.8  # of a limit
PER_MACHINE, BESIDES = 10, 30  # inotify instances
MOST = 400_000  # open files looked at


@dataclass(frozen=True)
class Use:
    """How much of a limit is used; `name` is its sysctl, `what` is what it counts."""

    name: str
    what: str
    used: int
    limit: int

    @property
    def is_near(self) -> bool:
        return self.limit > 0 and self.used >= NEAR * self.limit

    @property
    def enough(self) -> int:
        """A value that leaves room."""
        return 2 * max(self.limit, self.used)


def _limit(name: str) -> int:
    """A limit of the kernel. Raises ValueError when it cannot be read."""
    said = sysctl(name)
    if not said.isdigit():
        raise ValueError(f"{name} cannot be read.")
    return int(said)


# --- inotify


@dataclass(frozen=True)
class Inotify:
    instances: int
    watches: int


def inotify_of_root(proc: Path = PROC) -> Inotify:
    """What root's own processes and those in user namespaces have."""
    instances, watches, seen = 0, 0, 0
    own = _namespace(proc / "self")
    for process in proc.iterdir():
        if process.name.isdigit() and _counts_for_root(process, own):
            for fd in _folder(process / "fd"):
                seen += 1
                if seen > MOST:
                    return Inotify(instances, watches)
                if _is_inotify(fd):
                    instances += 1
                    watches += _watches(process / "fdinfo" / fd.name)
    return Inotify(instances, watches)


def _counts_for_root(process: Path, own: str) -> bool:
    with contextlib.suppress(OSError):
        return process.stat().st_uid == 0 or _namespace(process) != own
    return False


def _namespace(process: Path) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(process / "ns/user")
    return ""


def _folder(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # it has ended meanwhile
        return []


def _is_inotify(fd: Path) -> bool:
    try:
        return os.readlink(fd) == "anon_inode:inotify"
    except OSError:
        return False


def _watches(info: Path) -> int:
    try:
        return sum(line.startswith("inotify ") for line in info.read_text().splitlines())
    except OSError:
        return 0


def inotify(observed: Facts) -> Iterator[Finding]:
    used, machines = inotify_of_root(), len(observed.running)
    limit = _limit("fs.inotify.max_user_instances")
    if used.instances >= NEAR * limit or limit < BESIDES + PER_MACHINE * machines:
        target = instances_wanted()
        may = not observed.is_container and not is_forbidden("fs.inotify.max_user_instances", str(target))
        facts = {"limit": limit, "used": used.instances, "machines": machines, "target": target}
        yield found("inotify-low", facts, can_fix=may)
    else:
        yield found("inotify-enough", used=used.instances, limit=limit)
    watches = Use("fs.inotify.max_user_watches", "inotify watches", used.watches, _limit("fs.inotify.max_user_watches"))
    if watches.is_near:
        yield _near(watches)


def instances_wanted() -> int:
    return max(INOTIFY_INSTANCES, 2 * _limit("fs.inotify.max_user_instances"))


# --- the rest


def kernel_limits(_: Facts) -> Iterator[Finding]:
    """Open files, processes, terminals and keys."""
    uses = [*_counts(), *keys((PROC / "key-users").read_text())]
    near = [use for use in uses if use.is_near]
    yield from (_near(use) for use in near[:5])
    if not near:
        yield found("kernel-limits-fine")


def _near(use: Use) -> Finding:
    return found("kernel-limit-near", {"name": use.name, "what": use.what, "used": use.used, "limit": use.limit, "target": use.enough})  # fmt: skip


def _counts() -> Iterator[Use]:
    opened, _, most = sysctl("fs.file-nr").split()
    yield Use("fs.file-max", "open files", int(opened), int(most))
    tasks = int((PROC / "loadavg").read_text().split()[3].partition("/")[2])
    yield Use("kernel.pid_max", "processes and threads", tasks, _limit("kernel.pid_max"))
    yield Use("kernel.threads-max", "processes and threads", tasks, _limit("kernel.threads-max"))
    yield Use("kernel.pty.max", "terminals", _limit("kernel.pty.nr"), _limit("kernel.pty.max"))


def keys(text: str) -> Iterator[Use]:
    """/proc/key-users, one user a line: “UID: usage nkeys/nikeys qnkeys/maxkeys qnbytes/maxbytes”."""
    for row in (line.split() for line in text.splitlines()):
        if len(row) == 5:
            user, prefix = row[0].rstrip(":"), "kernel.keys.root_" if row[0] == "0:" else "kernel.keys."
            for word, name, what in ((row[3], "maxkeys", "keys"), (row[4], "maxbytes", "bytes of keys")):
                used, _, limit = word.partition("/")
                yield Use(prefix + name, f"{what} of user {user}", int(used), int(limit))
