"""A control group of its own for every sandbox, in each hierarchy this machine has.

Facts: systemd-nspawn --keep-unit makes a cgroup namespace but no group, so without one of our own the systemd of a
sandbox would write its slices at the top of the outer hierarchy, and two sandboxes would share them. Where systemd
runs outside it owns the tree, and the group must be a scope with Delegate=yes. On version 2 a group that hands
controllers to its children may hold no processes (the root of a real machine excepted).
"""

import contextlib
import errno
import os
import signal
import time
from pathlib import Path

SYSTEMD_RUNS = Path("/run/systemd/system")
# The shell moves itself, then becomes the command: no process is ever outside its group.
_ENTER = 'while [ "$1" != -- ]; do echo 0 > "$1"; shift; done; shift; exec "$@"'


def enter(unit: str, argv: list[str]) -> list[str]:
    """`argv`, started inside the group `unit`, which is made here or by the outer systemd."""
    if SYSTEMD_RUNS.is_dir():
        scope = ["systemd-run", "--scope", "--quiet", "--collect", f"--unit={unit}", "--property=Delegate=yes"]
        return [*scope, "--", *argv]
    groups = [_make(root, own, unit) for root, own in _hierarchies()]
    return ["/bin/sh", "-c", _ENTER, "enter", *(str(group / "cgroup.procs") for group in groups), "--", *argv]


def leave_nothing(unit: str) -> None:
    """Kill what still runs in the group `unit` and remove it with all groups below. Needs no group to be there."""
    if SYSTEMD_RUNS.is_dir():
        return  # the scope goes with its last process
    for root, _ in _hierarchies():
        for folder, names, _ in os.walk(root):  # unlike glob it does not mind groups that go while it looks
            if unit in names:
                _remove(Path(folder) / unit)


def _hierarchies() -> list[tuple[Path, Path]]:
    """Mount point of every hierarchy, and this process's own group there."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        own[names] = path
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.append((Path(mount), _below(Path(mount), own.get("", "/"))))
        elif kind == "cgroup":
            names = next((n for n in own if n and set(n.split(",")) <= set(options.split(","))), "")
            found.append((Path(mount), _below(Path(mount), own.get(names, "/"))))
    return found


def _below(mount: Path, path: str) -> Path:
    own = mount / path.lstrip("/")
    return own if own.is_dir() else mount  # a container sees paths of a tree that is not mounted here


def _make(root: Path, own: Path, unit: str) -> Path:
    group = own / unit
    if (root / "cgroup.controllers").exists():
        _hand_down(own)
    group.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):  # version 1: empty in a new group, and then nobody may enter
        if (own / name).exists() and (group / name).exists() and not (group / name).read_text().strip():
            (group / name).write_text((own / name).read_text())
    if (group / "cgroup.clone_children").exists():
        (group / "cgroup.clone_children").write_text("1")
    return group


def _hand_down(own: Path) -> None:
    """Version 2: let children of `own` have its controllers, moving its processes out of the way if they are in it."""
    controllers = (own / "cgroup.controllers").read_text().split()
    wanted = " ".join(f"+{name}" for name in controllers)
    if not wanted or set(controllers) <= set((own / "cgroup.subtree_control").read_text().split()):
        return
    try:
        (own / "cgroup.subtree_control").write_text(wanted)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        (own / "outside").mkdir(exist_ok=True)
        for pid in (own / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (own / "outside" / "cgroup.procs").write_text(pid)
        (own / "cgroup.subtree_control").write_text(wanted)


def _remove(group: Path, patience: float = 5.0) -> None:
    deadline = time.monotonic() + patience
    while group.is_dir():
        _kill(group)
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if time.monotonic() > deadline:
            return
        if group.is_dir():
            time.sleep(0.05)  # a dying process leaves its group a moment after its parent has reaped it


def _kill(group: Path) -> None:
    for folder, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            for pid in Path(folder, "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
