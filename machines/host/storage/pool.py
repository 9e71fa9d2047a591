"""Where trees are made and thrown away: subvolumes where the pool is btrfs, folders elsewhere."""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from machines.contract.problems import Problem
from machines.host.context.host_context import Task
from machines.host.storage import btrfs, marks, rmtree
from machines.host.system import guarded
from machines.host.system import tree as files
from machines.host.system.run import run

# linux/magic.h; ext2 and ext3 have ext4's
FILE_SYSTEMS = {
    0x9123683E: "btrfs", 0xEF53: "ext4", 0x58465342: "xfs", 0x01021994: "tmpfs", 0x2FC12FC1: "zfs", 0xF2F52010: "f2fs",
    0x794C7630: "overlayfs", 0xCA451A4E: "bcachefs", 0x6969: "nfs",
}  # fmt: skip
# What a copy keeps besides contents: hard links by themselves, owners by number, capabilities and ACLs as xattrs
TAR = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--sort=none")

_CLONE_NEWNS, _MS_REC, _MS_SLAVE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 0x20000, 0x4000, 0x80000, 2, 8

_libc = ctypes.CDLL(None, use_errno=True)


def type_of(folder: Path) -> str:
    """The file system a folder lies on, by statfs(2): a name of FILE_SYSTEMS, else its number. Raises OSError."""
    buffer = (ctypes.c_long * 32)()  # struct statfs begins with f_type on every 64-bit machine
    if _libc.statfs(os.fsencode(folder), buffer) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    number = buffer[0] & 0xFFFFFFFF
    return FILE_SYSTEMS.get(number, f"{number:#x}")


def is_btrfs(folder: Path) -> bool:
    """Whether a folder lies on btrfs. Raises OSError."""
    return type_of(folder) == "btrfs"


def is_subvolume(tree: Path) -> bool:
    """Whether a tree can be copied by a snapshot."""
    return tree.is_dir() and tree.stat().st_ino == btrfs.TOP and is_btrfs(tree)


def can_snapshot(source: Path, folder: Path) -> bool:
    """Whether a snapshot of a tree can lie in a folder: a subvolume, and of the folder's own file system."""
    return is_subvolume(source) and btrfs.file_system(source) == btrfs.file_system(folder) != b""


def snapshot(task: Task, source: Path, tree: Path) -> None:
    """A writable snapshot of a subvolume: what the command does, without the process, which costs twice as much.

    Raises OSError.
    """
    task.output.command(["btrfs", "subvolume", "snapshot", "--", str(source), str(tree)])
    with files.directory(source, ".") as original, files.directory(tree.parent, ".") as folder:
        btrfs.snapshot(original, folder, tree.name)


def copy(task: Task, source: Path, tree: Path, *, mounts: Sequence[Path] = ()) -> None:
    """A full copy that shares blocks where the file system can, with hard links, xattrs and capabilities; without what is
    mounted inside.

    Raises CommandFailed.
    """
    make(tree)
    argv = ["cp", "--archive", "--reflink=auto", "--no-target-directory", "--", str(source), str(tree)]
    task.run(argv, timeout=1800, prepare=without(inside(source, mounts)))


def inside(tree: Path, mounts: Iterable[Path]) -> list[Path]:
    """Of the mount points at a tree's top or below those below, deepest first."""
    return sorted((mount for mount in mounts if mount != tree), key=lambda each: len(each.parts), reverse=True)


def without(mounts: Sequence[Path]) -> Callable[[], None] | None:
    """For a child that copies a tree: nothing is mounted there for it, so it finds what a snapshot would have. No tool's
    --one-file-system does that: it takes a bind mount of the same file system along, and leaves subvolumes out."""
    points = [os.fsencode(mount) for mount in mounts]

    def prepare() -> None:
        is_alone = _libc.unshare(_CLONE_NEWNS) == 0
        is_alone = is_alone and _libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None) == 0
        if not is_alone or any(_libc.umount2(point, _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0 for point in points):
            os.write(2, b"What is mounted inside the image cannot be left out.\n")
            os._exit(1)

    return prepare if points else None


def make(tree: Path) -> None:
    """A new empty tree, readable by root alone until it is finished. Raises OSError or CommandFailed."""
    if is_btrfs(tree.parent) and shutil.which("btrfs"):
        run(["btrfs", "subvolume", "create", "--", str(tree)], timeout=30)
        tree.chmod(0o755)
    else:
        tree.mkdir(mode=0o755)


def size(tree: Path) -> int:
    """Bytes a tree takes; 0 when it cannot be counted."""
    argv = ["du", "--summarize", "--one-file-system", "--block-size=1", "--", str(tree)]
    try:
        return int(run(argv, timeout=300, codes=(0, 1)).out.split()[0])
    except (Problem, ValueError, IndexError):
        return 0


def clear(tree: Path) -> None:
    """Remove a tree and everything in it: mounts first, then whatever is there (rmtree.py). Nothing there is fine.

    Raises rmtree.NotRemoved or OSError when something of it is left.
    """
    if not os.path.lexists(tree):
        return
    for mount in () if tree.is_symlink() else mounts_below(tree):
        with contextlib.suppress(Problem):  # what stays mounted is found there
            run(["umount", "--lazy", "--", mount], timeout=30)
    rmtree.remove(tree)


def allow_rename(image: Path) -> None:
    """machined makes a directory read-only by marking it immutable, and then it cannot be renamed either. Raises OSError."""
    if not image.is_dir() or is_subvolume(image):
        return
    with files.directory(image, ".") as opened, contextlib.suppress(OSError):  # whoever renames it is told then
        marks.take_off(opened, marks.IMMUTABLE)


def is_marked(file: Path) -> bool:
    """Whether a file or folder is immutable or append-only, so that root cannot remove it (or out of it) either; of a link
    nobody can tell."""
    with contextlib.suppress(OSError):
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return bool(marks.of(opened) & (marks.IMMUTABLE | marks.APPEND_ONLY))
        finally:
            os.close(opened)
    return False


def mounts_below(tree: Path) -> list[str]:
    """Mount points inside the tree and the tree itself if it is one, deepest first."""
    lines = os.fsdecode(guarded.MOUNTS.read_bytes()).split("\n")
    plain = [guarded.unescaped(line.split(" ")[4]) for line in lines if line]
    return sorted((p for p in plain if p == str(tree) or p.startswith(f"{tree}/")), key=len, reverse=True)


def subvolumes(tree: Path) -> list[Path]:
    """Subvolumes in the tree and the tree itself if it is one, deepest first; [] off btrfs."""
    if not tree.is_dir() or not is_btrfs(tree):
        return []
    found = [tree] if tree.stat().st_ino == btrfs.TOP else []
    mounts = set(mounts_below(tree))  # os.path.ismount() takes every subvolume for one
    for folder, names, _ in os.walk(tree):
        names[:] = [name for name in names if os.path.join(folder, name) not in mounts]
        found += [Path(folder, n) for n in names if os.lstat(os.path.join(folder, n)).st_ino == btrfs.TOP]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)
