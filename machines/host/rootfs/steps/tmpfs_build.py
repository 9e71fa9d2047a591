"""Trees filled in memory and copied into the pool when they are complete.

The many small writes of dpkg and rpm cost a disk far more than one copy of what they leave. The file system is mounted in
the mount namespace of the job's unit (PrivateMounts=), so it is gone with the job, however that ends; what it holds counts
as the job's own memory (MemoryMax=).
"""

import ctypes
import os
from pathlib import Path

from machines.host.rootfs.steps.building import Building
from machines.host.storage import pool

GIB = 1024**3
SMALLEST = 2 * GIB  # bytes; with less room than this nothing is begun in memory
SPARE = 1.5  # times the size a tree of this recipe had before

_libc = ctypes.CDLL(None, use_errno=True)


def free_space(at_once: int, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes one build may fill: half of what is available, shared by the builds this host does at once; 0 for too few."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    share = int(lines["MemAvailable"].split()[0]) * 1024 // 2 // at_once
    return share if share >= SMALLEST else 0


def use(building: Building) -> bool:
    """Let the tree grow in memory, if there is enough of it. Raises OSError."""
    policy = building.host.policy
    bytes_ = free_space(policy.max_parallel_builds) if policy.builds_in_memory else 0
    if not bytes_ or building.expected * SPARE > bytes_:
        return False
    building.in_memory = True
    building.tree.mkdir(mode=0o755)
    target = os.fsencode(building.tree)
    if _libc.mount(b"tmpfs", target, b"tmpfs", 0, f"size={bytes_},mode=0755".encode()) != 0:
        building.in_memory = False
        return False
    building.task.output.line(f"Building in memory, up to {bytes_ // 1024**2} MiB.")
    return True


def settle(building: Building) -> None:
    """The tree is filled: copy it into the pool, where it goes on. Raises CommandFailed or OSError."""
    filled = building.tree
    building.in_memory = False
    pool.copy(building.task, filled, building.tree)
    pool.clear(filled)


def leave(building: Building) -> None:
    """Give the memory back and what was filled up. Raises CommandFailed or OSError."""
    pool.clear(building.tree)
    building.in_memory = False
