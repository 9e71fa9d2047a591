"""A btrfs pool in a file, for a host whose images lie on a plain file system: there every copy becomes a snapshot.

/var/lib/machines.raw and var-lib-machines.mount are systemd's own names for such a pool: most versions bring the unit, and
it is pulled in by every machine's. Everything is copied and compared aside, in a mount of this job's own, and takes its
place at the end in two renames and one mount. Until then nothing has changed, whatever happens; after the first rename the
new pool is complete, so a power cut in between leaves the one or the other, never half of one.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from machines.contract import orders
from machines.contract.problems import Problem
from machines.host.context.host_context import HostContext, Task
from machines.host.files import nspawn_file
from machines.host.observe import inventory
from machines.host.storage import disk_image, pool
from machines.host.storage.base_images import PACKED
from machines.host.system import systemctl, tools
from machines.host.system.faults import no_space
from machines.host.system.paths import Paths
from machines.host.system.undo import Undo

UNIT = "var-lib-machines.mount"
UNIT_TEXT = """\
# Written by nspawnpanel: images of machines in a btrfs file system of their own
[Unit]
Description=Virtual machine and container storage
ConditionPathExists={file}

[Mount]
What={file}
Where={folder}
Type=btrfs
Options=loop
"""
MARK = "trusted.nspawnpanel.job"
GIB = 1024**3
KEEP_FREE = GIB  # of the file system that holds the file
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_BASE = ".nspawnpanel-base-"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class _Pool:
    """One conversion under way."""

    host: HostContext
    task: Task
    size: int
    used: int = 0
    names: list[str] = field(default_factory=list)
    copied: int = 0

    @property
    def paths(self) -> Paths:
        return self.host.paths

    @property
    def aside(self) -> Path:
        """The file until it takes its place."""
        return self.paths.new_pool(self.task.job)

    @property
    def mounted(self) -> Path:
        """Where this job alone sees what is in it."""
        return _mount_point(self.paths, self.task.job)


def _mount_point(paths: Paths, job: UUID) -> Path:
    return paths.scratch / f"pool-{job}"


def make(host: HostContext, task: Task) -> dict[str, Any]:
    """Carry out a Pool order. Raises Problem or OSError; then everything is as it was."""
    assert isinstance(task.order, orders.Pool)
    work = _Pool(host, task, task.order.size)
    with Undo() as undo:
        for number, step in enumerate((_check, _make, _copy, _switch), 1):
            task.output.phase(step.__name__.lstrip("_"), number, 4)
            step(work, undo)
        undo.keep()
    before = work.paths.before_pool
    task.output.line(
        f"{host.paths.machines} is now a btrfs pool of {work.size / GIB:.0f} GiB, in {host.paths.pool_file}."
    )
    task.output.line(
        f"The previous contents are kept in {before}. Once everything works, remove them: rm -rf --one-file-system {before}"
    )
    return {"size": work.size, "images": len(work.names), "before": str(before)}


# --- check


def _check(work: _Pool, _: Undo) -> None:
    """Everything that can stand in the way, before anything is made."""
    paths, folder = work.paths, work.paths.machines
    if folder.is_symlink() or not folder.is_dir() or os.path.ismount(folder):
        raise Problem(
            f"{folder} is a symlink or a separate file system, so it is not replaced by a file.", code="pool-own",
            hint="Format that file system as btrfs instead, on the host.",
        )  # fmt: skip
    if pool.is_btrfs(folder):
        raise Problem(f"{folder} is on btrfs already.", code="pool-is-btrfs")
    for path in (paths.pool_file, paths.before_pool):
        if os.path.lexists(path):
            raise Problem(
                f"{path} already exists.", code="pool-in-the-way",
                hint="Check what it is; if it is not needed, move it away on the host.",
            )  # fmt: skip
    _check_tools()
    _check_nobody_runs(work)
    _check_nothing_mounted(folder)
    work.names, work.used = _names(folder), pool.size(folder)
    _check_room(work)


def _check_tools() -> None:
    tools.need("pool")
    disk_image.check_host()


def _check_nobody_runs(work: _Pool) -> None:
    lists = work.host.bus.do(inventory.read_lists(work.host))
    up = {unit.removeprefix("systemd-nspawn@").removesuffix(".service") for unit, state in lists.units.items()
          if inventory.is_up(state)}  # fmt: skip
    if running := sorted({*lists.running, *up}):
        raise Problem(
            f"{len(running)} machines are running: {', '.join(running[:10])}.", code="machine-running",
            hint="Power them off first; images cannot be copied while they change.",
        )  # fmt: skip


def _check_nothing_mounted(folder: Path) -> None:
    if inside := pool.inside(folder, map(Path, pool.mounts_below(folder))):
        raise Problem(
            f"Something is mounted in {folder}: {', '.join(map(str, inside[:5]))}.", code="pool-mounts",
            hint="Unmount it on the host, then try again; what is mounted is no part of an image.",
        )  # fmt: skip


def _check_room(work: _Pool) -> None:
    least = work.used + work.used // 4 + GIB
    if work.size < least:
        raise Problem(
            f"A pool of {work.size / GIB:.1f} GiB is too small for images of {work.used / GIB:.1f} GiB.",
            code="pool-too-small", hint=f"Take at least {least / GIB:.1f} GiB.",
        )  # fmt: skip
    free = shutil.disk_usage(work.paths.machines).free
    if free < work.size + KEEP_FREE:
        raise no_space(
            str(work.paths.pool_file.parent),
            needs=f"The pool takes {work.size / GIB:.1f} GiB at once, and 1 GiB should stay free.",
        )


def _names(folder: Path) -> list[str]:
    """What is copied: images, bases and whatever else lies there, but no locks and nothing half-made."""
    half_made = (".nspawnpanel-", ".#")
    return sorted(name for name in os.listdir(folder) if name.startswith(_BASE) or not name.startswith(half_made))


# --- make


def _make(work: _Pool, undo: Undo) -> None:
    """The file, with all its room, and a file system in it. Nobody else sees it mounted."""
    undo.push(clear, work.paths, work.task.job)
    fd = os.open(work.aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, work.size)
    finally:
        os.close(fd)
    os.setxattr(work.aside, MARK, str(work.task.job).encode())
    work.task.run(["mkfs.btrfs", "--quiet", "--label", "machines", "--", str(work.aside)], timeout=300)
    work.mounted.mkdir(mode=0o700, parents=True)
    undo.push(_unmount, work)
    work.task.run(["mount", "-t", "btrfs", "-o", "loop", "--", str(work.aside), str(work.mounted)])
    found = work.paths.machines.stat()
    os.chown(work.mounted, found.st_uid, found.st_gid)
    work.mounted.chmod(stat.S_IMODE(found.st_mode))


def _unmount(work: _Pool) -> None:
    if os.path.ismount(work.mounted):
        work.task.run(["umount", "--", str(work.mounted)], timeout=600)
    if work.mounted.exists():
        work.mounted.rmdir()


# --- copy


def _copy(work: _Pool, _: Undo) -> None:
    """One after the other; each is compared with its original in everything but contents."""
    images = work.host.bus.do(inventory.read_lists(work.host)).images
    for name in work.names:
        source, target = work.paths.machines / name, work.mounted / name
        work.task.output.progress(
            work.copied / max(1, work.used), f"{work.copied // 1024**2} of {work.used // 1024**2} MiB, {name}"
        )
        if name.startswith(_BASE) and name.endswith(PACKED):
            target = _unpack_base(work, source)
        else:
            _copy_one(work, source, target)
            _compare(source, target)
        if name.startswith(_BASE) or (name in images and images[name].read_only and target.is_dir()):
            work.task.run(["btrfs", "property", "set", "-ts", "--", str(target), "ro", "true"])
        work.copied += pool.size(source)
    work.task.output.progress(1.0, f"{len(work.names)} copied and compared")


def _copy_one(work: _Pool, source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        pool.make(target)
    argv = ["cp", "--archive", "--sparse=auto", "--no-target-directory", "--", str(source), str(target)]
    work.task.run(argv, timeout=7200)


def _unpack_base(work: _Pool, source: Path) -> Path:
    """Packed only where there are no snapshots."""
    target = work.mounted / source.name.removesuffix(PACKED)
    pool.make(target)
    work.task.run([*pool.TAR, "--extract", "--zstd", f"--file={source}", f"--directory={target}"], timeout=1800)
    return target


def _compare(source: Path, target: Path) -> None:
    """Raises Problem when a copy is not like its original."""
    (before, was), (after, now) = tree_digest(source), tree_digest(target)
    if was != now:
        raise Problem(
            f"The copy of {source.name} differs from the original ({before} files there, {after} here).",
            code="copy-differs", hint="Nothing was changed. If nobody changed the image in the meantime, check the host's disk.",
        )  # fmt: skip


def tree_digest(top: Path) -> tuple[int, str]:
    """(how many files, a digest of every name, kind, owner, mode, size, link, time and attribute) of a tree or file."""
    digest, count = hashlib.sha256(), 0
    for path in _walk(top):
        found = os.lstat(path)
        kind = stat.S_IFMT(found.st_mode)
        line = [
            os.path.relpath(path, top), kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns,
            0 if kind == stat.S_IFDIR else found.st_nlink, found.st_size if kind == stat.S_IFREG else 0, found.st_rdev,
            os.readlink(path) if kind == stat.S_IFLNK else "", _attributes(path),
        ]  # fmt: skip
        digest.update(repr(line).encode(errors="surrogateescape"))
        count += 1
    return count, digest.hexdigest()


def _walk(top: Path) -> list[str]:
    if not top.is_dir() or top.is_symlink():
        return [str(top)]
    found = [str(top)]
    for folder, folders, files in os.walk(top):
        found += [os.path.join(folder, name) for name in (*folders, *files)]
    return sorted(found)


def _attributes(path: str) -> list[tuple[str, bytes]]:
    names = sorted(name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("btrfs."))
    return [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]


# --- switch


def _switch(work: _Pool, undo: Undo) -> None:
    """Both take their places, and the pool is mounted, now and at every boot."""
    paths, task = work.paths, work.task
    _check_nobody_runs(work)
    if _names(paths.machines) != work.names:
        raise Problem(
            "Images were added or removed during the copy.", code="images-changed", retryable=True, hint="Try again."
        )
    task.run(["sync", "--file-system", "--", str(work.mounted)], timeout=600)
    _unmount(work)
    _provide_unit(work)
    paths.before_pool.mkdir(mode=0o700)
    work.aside.rename(paths.pool_file)
    exchange(paths.machines, paths.before_pool)
    task.output.line(f"{paths.before_pool} contains what was in {paths.machines}.")
    undo.push(_stop, work)
    task.run(["systemctl", "start", "--", UNIT], timeout=120)
    if not os.path.ismount(paths.machines) or not pool.is_btrfs(paths.machines):
        raise Problem("systemd did not mount the new pool.", code="pool-not-mounted", hint=f"See: journalctl -u {UNIT}")


def _stop(work: _Pool) -> None:
    if os.path.ismount(work.paths.machines):
        work.task.run(systemctl.stop(UNIT), timeout=120)


def _provide_unit(work: _Pool) -> None:
    """systemd's own unit where there is one; wanted by every boot."""
    paths = work.paths
    if not any((folder / UNIT).exists() for folder in paths.unit_folders):
        unit = paths.units / UNIT
        unit.write_text(UNIT_TEXT.format(file=paths.pool_file, folder=paths.machines))
    work.task.run(systemctl.daemon_reload())
    work.task.run(["systemctl", "add-wants", "--", "local-fs.target", UNIT])


def exchange(one: Path, other: Path) -> None:
    """Two folders swap their names in one step, renameat2(2). Raises OSError."""
    result = _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(one))


def clear(paths: Paths, job: UUID) -> None:
    """Put everything back where it was before this job, unless its pool is mounted: then it is complete and in use.

    First the file loses the name under which it would be mounted at the next boot; while it has the job's own name, what
    is not back yet can still be put back. Raises OSError.
    """
    aside = paths.new_pool(job)
    if not os.path.ismount(paths.machines) and _is_of(paths.pool_file, job):
        paths.pool_file.rename(aside)
        nspawn_file.sync_folder(aside.parent)
    if aside.exists() and paths.before_pool.is_dir():
        if os.listdir(paths.before_pool) and not os.listdir(paths.machines):
            exchange(paths.machines, paths.before_pool)
        paths.before_pool.rmdir()
        nspawn_file.sync_folder(aside.parent)
    aside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it is none, or still in use
        _mount_point(paths, job).rmdir()


def _is_of(file: Path, job: UUID) -> bool:
    try:
        return os.getxattr(file, MARK) == str(job).encode()
    except OSError:
        return False
