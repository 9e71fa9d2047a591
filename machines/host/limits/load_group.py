"""A machine's control group as a proof needs it: a place for the load in it, and its meters, on both versions.

Facts: on version 2 a group that hands controllers to its children holds no processes, so the load gets a leaf of its own
beside payload and supervisor, and is counted in the unit's group above. On version 1 a process belongs to one group per
hierarchy, and inner ones may hold it. systemd makes no cpuacct group on version 1 without accounting; in the hybrid
layout the unified hierarchy counts CPU time all the same. What was charged stays charged where it was: a load must
enter before it takes memory.
"""

import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from machines.host.system import cgroup
from machines.host.system.paths import Paths

LEAF = "nspawnpanel-proof"
_PDEATHSIG = 1  # PR_SET_PDEATHSIG
_CONTROLLERS = ("cpu", "cpuacct", "cpu,cpuacct", "memory", "pids", "systemd")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Group:
    """`name` as in the unit's ControlGroup property."""

    name: str
    root: Path = cgroup.ROOT

    def at(self, controller: str) -> Path:
        """Its folder for a controller; the unified one for ""."""
        if self.is_v2:
            return self.root / self.name.lstrip("/")
        return self.root / (controller or "unified") / self.name.lstrip("/")

    @property
    def is_v2(self) -> bool:
        return (self.root / "cgroup.controllers").exists()

    # --- a place for the load

    @contextlib.contextmanager
    def place(self):  # type: ignore[no-untyped-def]  # a context of files to write to
        """The cgroup.procs files a load writes itself into. The leaf is gone again afterwards."""
        leaf = self.at("") / LEAF
        if leaf.parent.is_dir():
            leaf.mkdir(exist_ok=True)
        folders = [leaf, *([] if self.is_v2 else [self.at(controller) for controller in _CONTROLLERS])]
        try:
            yield [folder / "cgroup.procs" for folder in folders if folder.is_dir()]
        finally:
            _remove(leaf)

    # --- meters

    def cpu_seconds(self) -> float | None:
        """CPU time of the whole machine; None where nothing counts it."""
        micro = _word(self.at("") / "cpu.stat", "usage_usec")
        if micro is not None:
            return micro / 1e6
        nano = _number(self.at("cpuacct") / "cpuacct.usage")
        return None if nano is None else nano / 1e9

    def throttled(self) -> int:
        """How often the kernel has held its CPU time back."""
        return _word(self.at("cpu") / "cpu.stat", "nr_throttled") or 0

    def memory(self) -> int | None:
        """Bytes it uses, its cache included; None where nothing counts them."""
        return _number(self.at("memory") / ("memory.current" if self.is_v2 else "memory.usage_in_bytes"))

    def memory_kept(self) -> int:
        """Bytes the kernel could not take back: what its processes hold."""
        return _word(self.at("memory") / "memory.stat", "anon" if self.is_v2 else "total_rss") or 0

    def kills(self) -> int:
        """How many processes the kernel has ended in it for want of memory."""
        return _word(self.at("memory") / ("memory.events" if self.is_v2 else "memory.oom_control"), "oom_kill") or 0

    @property
    def dies_together(self) -> bool:
        """Whether the kernel ends all of it when it ends one of its processes."""
        return _number(self.at("memory") / "memory.oom.group") == 1


def entering(files: list[Path], *, cpu_seconds: int, memory: int) -> Callable[[], None]:
    """What a load does between fork and exec: enter the group, become the first to be killed and the last to be served,
    die with who started it, and accept bounds of its own."""
    parent = os.getpid()

    def enter() -> None:
        _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        for file in files:
            file.write_text("0")
        Path("/proc/self/oom_score_adj").write_text("1000")
        os.nice(19)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return enter


def note_kills(paths: Paths, invocation: bytes, count: int) -> None:
    """Keep, for as long as this run of the machine's unit, that the kernel killed loads of ours: nobody shall look for
    what of the machine's own had died."""
    file = paths.scratch / f"proof-kills-{invocation.hex()}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(kills_noted(paths, invocation) + count))


def kills_noted(paths: Paths, invocation: bytes) -> int:
    return _number(paths.scratch / f"proof-kills-{invocation.hex()}") or 0


def _remove(leaf: Path) -> None:
    """A process that has just died leaves its group a moment later."""
    for _ in range(40):
        try:
            leaf.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _word(file: Path, word: str) -> int | None:
    """The number behind a word in a file of “word number” lines."""
    try:
        lines = file.read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.split()[:1] == [word]), None)
    except (OSError, ValueError, IndexError):
        return None
