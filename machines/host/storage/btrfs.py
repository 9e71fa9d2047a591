"""Subvolumes by ioctl: those inside a tree, their marks, and snapshots of them that nothing in the tree can lead astray.

`btrfs subvolume snapshot` takes paths, and in the tree of a running machine a folder can become a link to anywhere between
the look and the call. Here only open directories are named, reached by tree.py.
Paths are the names' own bytes, as os.fsdecode() makes text of them: whoever made a subvolume need not have heard of UTF-8.
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from machines.contract.problems import Problem
from machines.host.storage import marks
from machines.host.system import tree

_SNAP_CREATE_V2 = 0x50009417  # linux/btrfs.h, each with a structure of 4096 bytes
_SNAP_DESTROY = 0x5000940F
_GET_SUBVOL_ROOTREF = 0xD000943D
_INO_LOOKUP_USER = 0xD000943E
_FS_INFO = 0x8400941F
_GET_FLAGS, _SET_FLAGS, _READ_ONLY = 0x80089419, 0x4008941A, 2
_ROOTREFS = 255  # that fit into one answer
TOP = 256  # inode of the top of every subvolume
MOST = 1000  # subvolumes in a tree that are copied with it


def nested(top: int) -> list[str]:
    """Paths of the subvolumes that lie in the subvolume of the open directory `top` itself, not deeper. Raises OSError."""
    found: list[str] = []
    least = 0
    while True:
        answer = bytearray(struct.pack("<Q", least) + bytes(4088))
        more = False
        try:
            fcntl.ioctl(top, _GET_SUBVOL_ROOTREF, answer)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:  # the answer is full and there are more
                raise
            more = True
        count = answer[8 + 16 * _ROOTREFS]
        refs = [struct.unpack_from("<QQ", answer, 8 + 16 * index) for index in range(count)]
        found += [path for tree_id, folder in refs if (path := _path(top, tree_id, folder))]
        if not more or not refs:
            return sorted(found)
        least = refs[-1][0] + 1


def _path(top: int, tree_id: int, folder: int) -> str:
    """Where a nested subvolume lies, "" when it went away just now."""
    answer = bytearray(struct.pack("<QQ", folder, tree_id) + bytes(4080))
    with contextlib.suppress(OSError):
        fcntl.ioctl(top, _INO_LOOKUP_USER, answer)
        name, path = bytes(answer[16:272]).split(b"\0")[0], bytes(answer[272:]).split(b"\0")[0]
        return os.fsdecode(path + name)
    return ""


@dataclass
class Nested:
    """The subvolumes of a copy: their paths, and which of them were read-only in the original."""

    paths: list[str] = field(default_factory=list)
    read_only: list[str] = field(default_factory=list)


def snapshot_nested(source: Path, target: Path) -> Nested:
    """In a snapshot of a subvolume those inside it are empty folders: fill them with snapshots too, all of them writable
    until keep_read_only().

    Raises OSError, and Problem when there are more than MOST: whoever is root in a machine makes as many as they like.
    """
    done = Nested()
    with tree.directory(source, ".") as top:
        _fill(source, target, top, "", done)
    return done


def _fill(source: Path, target: Path, within: int, above: str, done: Nested) -> None:
    for path in nested(within):
        whole = f"{above}{path}"
        if len(done.paths) == MOST:
            raise Problem(f"{source} has more than {MOST} subvolumes in it.", code="too-many-subvolumes")
        with contextlib.suppress(FileNotFoundError), tree.directory(source, whole) as inner:
            if os.fstat(inner).st_ino != TOP:
                continue
            with tree.parent(target, whole) as (folder, name), _unmarked(folder):
                os.rmdir(name, dir_fd=folder)
                snapshot(inner, folder, name)
            done.paths.append(whole)
            done.read_only += [whole] if is_read_only(inner) else []
            _fill(source, target, inner, f"{whole}/", done)


@contextlib.contextmanager
def _unmarked(folder: int) -> Iterator[None]:
    """An open folder without the marks that keep its entries as they are; they come back. Raises OSError."""
    flags = marks.take_off(folder)
    try:
        yield
    finally:
        if flags:
            marks.put(folder, flags)


def keep_read_only(target: Path, paths: Iterable[str]) -> None:
    """Mark these subvolumes of a tree read-only, as those of the original were. Raises OSError."""
    for path in paths:
        with tree.directory(target, path) as subvolume:
            mark(subvolume, read_only=True)


def is_read_only(subvolume: int) -> bool:
    """Whether the open subvolume has the mark. Raises OSError."""
    flags = bytearray(8)
    fcntl.ioctl(subvolume, _GET_FLAGS, flags)
    return bool(int(struct.unpack("<Q", flags)[0]) & _READ_ONLY)


def mark(subvolume: int, *, read_only: bool) -> None:
    """Give the open subvolume the mark, or take it away. Raises OSError."""
    fcntl.ioctl(subvolume, _SET_FLAGS, struct.pack("<Q", _READ_ONLY if read_only else 0))


def file_system(folder: Path) -> bytes:
    """What a btrfs file system is known by, the same in all of its subvolumes; b"" on others."""
    with contextlib.suppress(OSError), tree.directory(folder, ".") as top:
        return _number(top)
    return b""


def _number(opened: int) -> bytes:
    """The same of what is open, by an ioctl that no other file system answers."""
    answer = bytearray(1024)
    with contextlib.suppress(OSError):
        fcntl.ioctl(opened, _FS_INFO, answer)
        return bytes(answer[16:32])
    return b""


def snapshot(source: int, folder: int, name: str) -> None:
    """A writable snapshot of the open subvolume as `name` in the open folder. Raises OSError."""
    # struct btrfs_ioctl_vol_args_v2: fd, transid, flags, four unused, name
    wanted = struct.pack("<qQQ32s4040s", source, 0, 0, b"", os.fsencode(name))
    fcntl.ioctl(folder, _SNAP_CREATE_V2, bytearray(wanted))


def destroy(folder: int, name: str) -> None:
    """Remove the subvolume `name` of the open folder with all that is in it. Raises OSError: ENOTEMPTY when there is another
    subvolume in it."""
    fcntl.ioctl(folder, _SNAP_DESTROY, bytearray(struct.pack("<q4088s", 0, os.fsencode(name))))


def is_subvolume(opened: int) -> bool:
    """Whether an open folder is the top of one."""
    return os.fstat(opened).st_ino == TOP and bool(_number(opened))
