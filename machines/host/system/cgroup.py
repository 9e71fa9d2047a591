"""What the kernel enforces of a unit's limits, read from its control group.

Fact: after a daemon-reload, systemd 257 shows the new values and the kernel still has the old ones (252 applies them).
So what systemctl show says is no proof; this is. Both hierarchies are read; what a hierarchy lacks is left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PAGE = 4096
DEFAULTS = {"CPUWeight": "100", "IOWeight": "100", "MemoryLow": "0", "MemoryMin": "0", "AllowedCPUs": ""}
V1_UNLIMITED = 0x7FFFFFFFFFFFF000


def _plain(text: str) -> str:
    return "infinity" if text == "max" else text


def _quota_v2(text: str) -> str:
    """cpu.max is QUOTA PERIOD in µs; systemd counts µs per second."""
    quota, period = text.split()
    return "infinity" if quota == "max" else str(int(quota) * 1_000_000 // int(period))


def _v1_memory(text: str) -> str:
    return "infinity" if int(text) >= V1_UNLIMITED else text


def _v1_shares(text: str) -> str:
    """cpu.shares is 1024 where CPUWeight= is 100."""
    return str(round(int(text) * 100 / 1024))


def _weight(text: str) -> str:
    """io.weight is "default N" and perhaps lines for devices."""
    return text.split()[1] if text.startswith("default") else text.split(maxsplit=1)[0]


# key of contract/configuration/limits.py → (file, how its text reads)
V2: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "MemoryMax": ("memory.max", _plain),
    "MemoryHigh": ("memory.high", _plain),
    "MemoryLow": ("memory.low", _plain),
    "MemoryMin": ("memory.min", _plain),
    "MemorySwapMax": ("memory.swap.max", _plain),
    "CPUQuota": ("cpu.max", _quota_v2),
    "CPUWeight": ("cpu.weight", _plain),
    "TasksMax": ("pids.max", _plain),
    "IOWeight": ("io.weight", _weight),
    "MemoryZSwapMax": ("memory.zswap.max", _plain),
    "AllowedCPUs": ("cpuset.cpus", str),
    "AllowedMemoryNodes": ("cpuset.mems", str),
}


# key → the controller, and the files one of which must be there for the kernel to enforce it
_WEIGHTS = ("io.weight", "io.bfq.weight")
FILES_V2: Mapping[str, tuple[str, ...]] = {
    **{key: ("memory", file) for key, (file, _) in V2.items() if key.startswith("Memory")},
    **dict.fromkeys(("CPUQuota", "CPUQuotaPeriodSec"), ("cpu", "cpu.max")),
    **dict.fromkeys(("CPUWeight", "StartupCPUWeight"), ("cpu", "cpu.weight")),
    "TasksMax": ("pids", "pids.max"),
    **dict.fromkeys(("IOWeight", "StartupIOWeight", "IODeviceWeight"), ("io", *_WEIGHTS)),
    **dict.fromkeys(("IOReadBandwidthMax", "IOWriteBandwidthMax", "IOReadIOPSMax", "IOWriteIOPSMax"), ("io", "io.max")),
    "IODeviceLatencyTargetSec": ("io", "io.latency"),
    "AllowedCPUs": ("cpuset", "cpuset.cpus"),
    "AllowedMemoryNodes": ("cpuset", "cpuset.mems"),
    "CPUSetPartition": ("cpuset", "cpuset.cpus.partition"),
}
FILES_V1: Mapping[str, tuple[str, ...]] = {
    "MemoryMax": ("memory", "memory.limit_in_bytes"),
    **dict.fromkeys(("CPUQuota", "CPUQuotaPeriodSec"), ("cpu", "cpu.cfs_quota_us")),
    **dict.fromkeys(("CPUWeight", "StartupCPUWeight"), ("cpu", "cpu.shares")),
    "TasksMax": ("pids", "pids.max"),
    **dict.fromkeys(("IOWeight", "StartupIOWeight"), ("blkio", "blkio.weight", "blkio.bfq.weight")),
    "IODeviceWeight": ("blkio", "blkio.weight_device", "blkio.bfq.weight_device"),
    "IOReadBandwidthMax": ("blkio", "blkio.throttle.read_bps_device"),
    "IOWriteBandwidthMax": ("blkio", "blkio.throttle.write_bps_device"),
    "IOReadIOPSMax": ("blkio", "blkio.throttle.read_iops_device"),
    "IOWriteIOPSMax": ("blkio", "blkio.throttle.write_iops_device"),
}
VERSION_1 = "cgroup v1"
GROUPS_LOOKED_AT = 50


def missing(group: str, root: Path = ROOT) -> dict[str, str]:
    """The limits that this control group has no file for: key → the file, or VERSION_1 where such a limit is unknown."""
    if not group:
        return {}
    if _is_v2(root):
        top = root / group.lstrip("/")
        return {key: files[0] for key, (_, *files) in FILES_V2.items() if top.is_dir() and not _any(top, files)}
    tops = {key: root / controller / group.lstrip("/") for key, (controller, *_) in FILES_V1.items()}
    found = {
        key: files[0] for key, (_, *files) in FILES_V1.items() if tops[key].is_dir() and not _any(tops[key], files)
    }
    return found | dict.fromkeys(FILES_V2.keys() - FILES_V1.keys(), VERSION_1)


def lacking(root: Path = ROOT) -> dict[str, str]:
    """The same for this host before anything runs. What cannot be told, as no control group has the controller switched
    on yet, is left out."""
    if not _is_v2(root):
        groups = {controller: _groups(root / controller) for controller, *_ in FILES_V1.values()}
        found = {
            key: files[0] for key, (controller, *files) in FILES_V1.items() if not _in_any(groups[controller], files)
        }
        return found | dict.fromkeys(FILES_V2.keys() - FILES_V1.keys(), VERSION_1)
    has, lacks = _words(root / "cgroup.controllers"), dict[str, str]()
    for key, (controller, *files) in FILES_V2.items():
        groups_with = [top for top in _groups(root)[1:] if controller in _words(top / "cgroup.controllers")]
        if controller not in has or (groups_with and not _in_any(groups_with, files)):
            lacks[key] = files[0]
    return lacks


def _is_v2(root: Path) -> bool:
    return (root / "cgroup.controllers").exists()


def _any(top: Path, files: Iterable[str]) -> bool:
    return any((top / file).exists() for file in files)


def _in_any(tops: Iterable[Path], files: Sequence[str]) -> bool:
    return any(_any(top, files) for top in tops)


def _groups(top: Path) -> list[Path]:
    """A folder and the control groups right below: version 1 has some files at the top too, version 2 none."""
    try:
        return [top, *(entry for entry in sorted(top.iterdir())[:500] if entry.is_dir())][:GROUPS_LOOKED_AT]
    except OSError:
        return []


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def enforced(group: str, root: Path = ROOT) -> dict[str, str]:
    """The limits of a control group (as in the unit's ControlGroup property), by the keys of contract/configuration/limits.py, in the
    form of limits.effective(). Limits the kernel does not show are left out."""
    if not group:
        return {}
    if (root / "cgroup.controllers").exists():
        found = {key: _read(root / group.lstrip("/") / file, parse) for key, (file, parse) in V2.items()}
    else:
        found = _v1(group, root)
    return {key: value for key, value in found.items() if value}


def _v1(group: str, root: Path) -> dict[str, str]:
    at = {controller: root / controller / group.lstrip("/") for controller in ("memory", "cpu", "pids")}
    quota = _read(at["cpu"] / "cpu.cfs_quota_us", str)
    period = _read(at["cpu"] / "cpu.cfs_period_us", str)
    return {
        "MemoryMax": _read(at["memory"] / "memory.limit_in_bytes", _v1_memory),
        "TasksMax": _read(at["pids"] / "pids.max", _plain),
        "CPUWeight": _read(at["cpu"] / "cpu.shares", _v1_shares),
        "CPUQuota": "" if not quota or not period else "infinity" if quota == "-1" else _quota_v2(f"{quota} {period}"),
    }


def _read(file: Path, parse: Callable[[str], str]) -> str:
    try:
        return parse(file.read_text().strip())
    except (OSError, ValueError, IndexError):
        return ""


def same(key: str, one: str, other: str) -> bool:
    """Whether two values of a limit mean the same: memory is kept in whole pages, CPUs are a set, quotas are rounded."""
    if one == other:
        return True
    if key == "AllowedCPUs":
        return cpus(one) == cpus(other)
    if not (one.isdigit() and other.isdigit()):
        return False
    slack = PAGE if key.startswith("Memory") else 1000 if key == "CPUQuota" else 0
    return abs(int(one) - int(other)) <= slack


def cpus(text: str) -> frozenset[int]:
    """0-3,7 or 0-3 7 → the numbers."""
    found: set[int] = set()
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
