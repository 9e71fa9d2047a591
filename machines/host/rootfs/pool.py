"""Where trees are made and thrown away: subvolumes where the pool is btrfs, folders elsewhere."""

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

from machines.contract.problems import Problem
from machines.host.rootfs import btrfs
from machines.host.rootfs import tree as files
from machines.host.run import run
from machines.host.this_host import Task

BTRFS_TOP = 256  # inode of the top of every subvolume
# linux/magic.h; ext2 and ext3 have ext4's
FILE_SYSTEMS = {
    0x9123683E: "btrfs", 0xEF53: "ext4", 0x58465342: "xfs", 0x01021994: "tmpfs", 0x2FC12FC1: "zfs", 0xF2F52010: "f2fs",
    0x794C7630: "overlayfs", 0xCA451A4E: "bcachefs", 0x6969: "nfs",
}  # fmt: skip
# What a copy keeps besides contents: hard links by themselves, owners by number, capabilities and ACLs as xattrs
TAR = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--sort=none")

_GET_FLAGS, _SET_FLAGS, _IMMUTABLE, _APPEND_ONLY = (
    0x80086601,
    0x40086602,
    0x10,
    0x20,
)  # linux/fs.h, where a long has 64 bits

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
    return tree.is_dir() and tree.stat().st_ino == BTRFS_TOP and is_btrfs(tree)


def can_snapshot(source: Path, folder: Path) -> bool:
    """Whether a snapshot of a tree can lie in a folder: a subvolume, and of the folder's own file system."""
    return is_subvolume(source) and btrfs.file_system(source) == btrfs.file_system(folder) != b""


def snapshot(task: Task, source: Path, tree: Path) -> None:
    """A writable snapshot of a subvolume: what the command does, without the process, which costs twice as much.

    Raises OSError.
    """
    task.voice.command(["btrfs", "subvolume", "snapshot", "--", str(source), str(tree)])
    with files.directory(source, ".") as original, files.directory(tree.parent, ".") as folder:
        btrfs.snapshot(original, folder, tree.name)


def copy(task: Task, source: Path, tree: Path, *, one_file_system: bool = False) -> None:
    """A full copy that shares blocks where the file system can, with hard links, xattrs and capabilities.

    Raises CommandFailed.
    """
    make(tree)
    more = ["--one-file-system"] if one_file_system else []
    argv = ["cp", "--archive", "--reflink=auto", *more, "--no-target-directory", "--", str(source), str(tree)]
    task.run(argv, timeout=1800)


def check_whole(tree: Path, mounts: Iterable[Path]) -> bool:
    """Whether a copy of a tree must stay on its file system, because something else is mounted inside.

    Subvolumes inside are on it, but no tool knows: raises Problem image-is-mixed for a tree with both.
    """
    inside = [str(mount) for mount in mounts if mount != tree]
    if inside and any(subvolume != tree for subvolume in subvolumes(tree)):
        raise Problem(
            f"{tree} has subvolumes in it, and something is mounted at {', '.join(inside[:5])}: a copy would have too much "
            "or too little.",
            code="image-is-mixed", hint="Unmount on the host what is mounted inside the image, then try again.",
        )  # fmt: skip
    return bool(inside)


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
    """Remove a tree and everything in it: mounts first, subvolumes from the inside out. Nothing there is fine.

    Raises CommandFailed or OSError when something of it is left.
    """
    if not os.path.lexists(tree):
        return
    if tree.is_symlink():
        tree.unlink()
        return
    for mount in mounts_below(tree):
        run(["umount", "--lazy", "--", mount], timeout=30, codes=(0, 32))
    if not tree.is_dir():
        tree.unlink()
        return
    found = subvolumes(tree)
    for subvolume in reversed(found):
        _make_writable(subvolume)
    for subvolume in found:
        run(["btrfs", "subvolume", "delete", "--", str(subvolume)], timeout=120)
    if os.path.lexists(tree):
        _remove(tree)


def _make_writable(subvolume: Path) -> None:
    """Nothing is deleted out of a subvolume that is read-only, not even another subvolume. Raises OSError."""
    with files.directory(subvolume, ".") as top:
        if btrfs.is_read_only(top):
            btrfs.mark(top, read_only=False)


def _remove(tree: Path) -> None:
    """rm refuses nothing but what is immutable: then the mark is taken off and it is tried once more."""
    argv = ["rm", "--recursive", "--force", "--one-file-system", "--", str(tree)]
    try:
        run(argv, timeout=600)
    except Problem:
        run(unmark(tree), timeout=300, codes=(0, 1))
        run(argv, timeout=600)


def allow_rename(image: Path) -> None:
    """machined makes a directory read-only by marking it immutable, and then it cannot be renamed either. Raises OSError."""
    if not image.is_dir() or is_subvolume(image):
        return
    with files.directory(image, ".") as opened, contextlib.suppress(OSError):  # a file system without such marks
        flags = bytearray(8)
        fcntl.ioctl(opened, _GET_FLAGS, flags)
        (marks,) = struct.unpack("l", flags)
        if marks & _IMMUTABLE:
            fcntl.ioctl(opened, _SET_FLAGS, struct.pack("l", marks & ~_IMMUTABLE))


def is_marked(file: Path) -> bool:
    """Whether a file or folder is immutable or append-only, so that root cannot remove it (or out of it) either; of a link
    nobody can tell."""
    with contextlib.suppress(OSError):
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            flags = bytearray(8)
            fcntl.ioctl(opened, _GET_FLAGS, flags)
            return bool(struct.unpack("l", flags)[0] & (_IMMUTABLE | _APPEND_ONLY))
        finally:
            os.close(opened)
    return False


def unmark(tree: Path) -> list[str]:
    """The command that lets immutable and append-only files be removed; it ends with 1 where a file has no such marks."""
    return ["chattr", "-R", "-f", "-i", "-a", "--", str(tree)]


def mounts_below(tree: Path) -> list[str]:
    """Mount points inside the tree and the tree itself if it is one, deepest first."""
    points = [line.split(b" ")[4] for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n") if line]
    plain = [os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), point)) for point in points]
    return sorted((p for p in plain if p == str(tree) or p.startswith(f"{tree}/")), key=len, reverse=True)


def subvolumes(tree: Path) -> list[Path]:
    """Subvolumes in the tree and the tree itself if it is one, deepest first; [] off btrfs."""
    if not tree.is_dir() or not is_btrfs(tree):
        return []
    found = [tree] if tree.stat().st_ino == BTRFS_TOP else []
    mounts = set(mounts_below(tree))  # os.path.ismount() takes every subvolume for one
    for folder, names, _ in os.walk(tree):
        names[:] = [name for name in names if os.path.join(folder, name) not in mounts]
        found += [Path(folder, n) for n in names if os.lstat(os.path.join(folder, n)).st_ino == BTRFS_TOP]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)
