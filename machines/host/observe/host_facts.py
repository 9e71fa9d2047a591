"""The host itself as one fact: what it is, what it has left, which tools it lacks."""

import logging
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from machines.contract import apt_sources
from machines.contract.configuration import limits, protected
from machines.contract.configuration.protected import Place
from machines.contract.problems import Problem, printable
from machines.contract.reports import BaseFact, Heard, Heartbeat, HostFact, LinkFact, ProtectedPlace
from machines.host.policy import bind_dropin, protection
from machines.host.policy.policy import Policy
from machines.host.storage import base_images, pool
from machines.host.system import cgroup, guarded, tools
from machines.host.system.paths import Paths
from machines.host.system.run import run

LOG = logging.getLogger(__name__)

WORKER = "0.1.0"
OOMD = "systemd-oomd.service"
NET = Path("/sys/class/net")


def boot_id() -> str:
    """Changes with every boot of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def memory() -> dict[str, int]:
    """Lines of /proc/meminfo in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) == 3}


def heartbeat(
    paths: Paths, trouble: Mapping[str, str], heard: Heard | None = None, panel_keys: Sequence[str] = ()
) -> Heartbeat:
    """The few figures that go out every ten seconds."""
    return Heartbeat(
        load=os.getloadavg()[0],
        memory_available=memory().get("MemAvailable", 0),
        disk_free=_disk(paths).free,
        boot_id=boot_id(),
        trouble=dict(trouble),
        heard=heard,
        panel_keys=list(panel_keys),
    )


def read(paths: Paths, policy: Policy, *, networkd: bool, oomd: bool = False) -> HostFact:
    """Everything about the host that the panel shows. A few ms; tools are looked for each time, versions read once."""
    disk, ram, own = _disk(paths), memory(), protection.own_places(paths)
    return HostFact(
        hostname=platform.node()[:300],
        os=_os_release().get("PRETTY_NAME", ""),
        kernel=platform.release(),
        architecture=platform.machine(),
        systemd=systemd_version(),
        worker=WORKER,
        boot_id=boot_id(),
        booted=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME),
        cpus=len(os.sched_getaffinity(0)),
        load=os.getloadavg()[0],
        memory_total=ram.get("MemTotal", 0),
        memory_available=ram.get("MemAvailable", 0),
        disk_total=disk.total,
        disk_free=disk.free,
        pool_type=pool_type(paths),
        cgroup=cgroup_layout(),
        networkd=networkd,
        lacks=lacks(oomd=oomd),
        **links().model_dump(),
        mirror=apt_sources.archive(apt_sources.read()),
        tools=tools.there(),
        missing=tools.missing(),
        package_manager=tools.manager(),
        policy=policy.facts(),
        protected=_protected(own),
        bad_binds=bind_dropin.told(paths, [*protected.TABLE, *own]),
        bases=_bases(paths),
    )


def links() -> LinkFact:
    """Its network links, read from the kernel."""
    # bonding_masters is a file
    names = sorted(link.name for link in NET.iterdir() if link.is_dir() and link.name != "lo")
    bridges = [printable(name) for name in names if (NET / name / "bridge").exists()]
    return LinkFact(bridges=bridges[:200], interfaces=[printable(name) for name in names][:500])


def lacks(*, oomd: bool) -> dict[str, str]:
    """Limits that nothing here enforces, with the file or the service that is not there."""
    managed = [key for key in limits.PROPERTIES if key.startswith("ManagedOOM") or key == "OOMRules"]
    return cgroup.lacking() | ({} if oomd else dict.fromkeys(managed, OOMD))


@cache
def systemd_version() -> int:
    """The number alone: 252, 257. 0 when it cannot be read."""
    try:
        return int(run(["systemctl", "--version"], timeout=10).out.split()[1].split(".")[0].split("~")[0])
    except (Problem, ValueError, IndexError):
        return 0


@cache
def _os_release() -> dict[str, str]:
    return platform.freedesktop_os_release()


def _pool(paths: Paths) -> Path:
    return paths.machines if guarded.seems_there(paths.machines) else paths.machines.parent


@dataclass(frozen=True)
class Disk:
    """Bytes of the file system that holds the images; both 0 when it does not answer."""

    total: int = 0
    free: int = 0


def _disk(paths: Paths) -> Disk:
    where = _pool(paths)
    try:
        found = guarded.call(where, lambda: shutil.disk_usage(where))
    except OSError as error:
        LOG.warning("%s cannot be looked at: %s", where, error)
        return Disk()
    return Disk(found.total, found.free)


def _protected(own: Sequence[Place]) -> list[ProtectedPlace]:
    """What this host adds to the table of what no machine may have, for the report."""
    return [
        ProtectedPlace(path=printable(each.path)[:1000], why=printable(each.why)[:200], secret=each.secret)
        for each in own
    ]


def _bases(paths: Paths) -> list[BaseFact]:
    """Those whose trees are there; none while the pool does not answer."""
    try:
        return guarded.call(paths.machines, lambda: base_images.facts(paths))
    except OSError as error:
        LOG.warning("Bases cannot be looked at: %s", error)
        return []


def pool_type(paths: Paths) -> str:
    """The file system that holds the images; it may change, see rootfs/btrfs_pool.py."""
    try:
        where = _pool(paths)
        return guarded.call(where, lambda: pool.type_of(where))
    except OSError:
        return ""


def cgroup_layout() -> Literal["", "v1", "v2", "hybrid"]:
    """v2 when the unified hierarchy is all there is, hybrid when both are mounted."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return "v2"
    if (root / "unified").exists():
        return "hybrid"
    return "v1" if (root / "systemd").exists() else ""
