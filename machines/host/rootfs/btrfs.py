"""Subvolumes by ioctl: those inside a tree, and snapshots of them that nothing in the tree can lead astray.

`btrfs subvolume snapshot` takes paths, and in the tree of a running machine a folder can become a link to anywhere between
the look and the call. Here only open directories are named, reached by tree.py.
"""

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path

from machines.contract.problems import Problem
from machines.host.rootfs import tree

_SNAP_CREATE_V2 = 0x50009417  # linux/btrfs.h, each with a structure of 4096 bytes
_GET_SUBVOL_ROOTREF = 0xD000943D
_INO_LOOKUP_USER = 0xD000943E
_ROOTREFS = 255  # that fit into one answer
_TOP = 256
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


def snapshot_nested(source: Path, target: Path) -> int:
    """In a snapshot of a subvolume those inside it are empty folders: fill them with snapshots too; how many they were.

    Raises OSError, and Problem when there are more than MOST: whoever is root in a machine makes as many as they like.
    """
    with tree.directory(source, ".") as top:
        return _fill(source, target, top, "", 0)


def _fill(source: Path, target: Path, within: int, above: str, done: int) -> int:
    """How many are done then."""
    for path in nested(within):
        whole = f"{above}{path}"
        if done == MOST:
            raise Problem(f"{source} has more than {MOST} subvolumes in it.", code="too-many-subvolumes")
        with contextlib.suppress(FileNotFoundError), tree.directory(source, whole) as inner:
            if os.fstat(inner).st_ino != _TOP:
                continue
            with tree.parent(target, whole) as (folder, name):
                os.rmdir(name, dir_fd=folder)
                snapshot(inner, folder, name)
            done = _fill(source, target, inner, f"{whole}/", done + 1)
    return done


def snapshot(source: int, folder: int, name: str) -> None:
    """A writable snapshot of the open subvolume as `name` in the open folder. Raises OSError."""
    # struct btrfs_ioctl_vol_args_v2: fd, transid, flags, four unused, name
    wanted = struct.pack("<qQQ32s4040s", source, 0, 0, b"", os.fsencode(name))
    fcntl.ioctl(folder, _SNAP_CREATE_V2, bytearray(wanted))
