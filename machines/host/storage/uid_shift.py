"""Owners inside a tree that a machine with a user namespace has had: back to 0 and on, as in a tree nobody has started.

Where systemd-nspawn cannot map ids while mounting, it changes the owner of every file to a range of its own picking, and
takes the owner of the tree's top for the whole tree's. A copy with such owners is left with a range that belongs to the
original, and what is written into it from here would stay outside that range. With owners from 0 on, its first start
picks a range as for any new machine. chown(2) drops set-user-ID marks and capabilities, so both are put back.
"""

import contextlib
import os
import stat
import struct
from pathlib import Path

from machines.host.system import tree as files_of

RANGE = 0x10000  # ids in one machine's range; systemd-nspawn begins ranges at multiples of it
_CAPABILITY = "security.capability"
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_NAMED = (0x02, 0x08)  # entries for one user or group by its number


def first_id(tree: Path) -> int:
    """Where the tree's range of ids begins; 0 for a tree as it was built."""
    return os.lstat(tree).st_uid & ~(RANGE - 1)


def reset(tree: Path) -> int:
    """Bring every owner back to the range that begins at 0; how many files that were. Raises OSError."""
    first = first_id(tree)
    if first == 0:
        return 0
    count = 0
    for _, folders, files, folder in os.fwalk(tree, follow_symlinks=False):
        for name in (*folders, *files):
            _reset_one(name, folder, first)
        count += len(folders) + len(files)
    with files_of.directory(tree, ".") as top:
        _reset_one(".", top, first)
    return count + 1


def _reset_one(name: str, folder: int, first: int) -> None:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    uid, gid = _moved(found.st_uid, first), _moved(found.st_gid, first)
    if (uid, gid) == (found.st_uid, found.st_gid):
        return
    kept = {} if stat.S_ISLNK(found.st_mode) else _attributes(f"/proc/self/fd/{folder}/{name}")
    os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        return
    if found.st_mode & (stat.S_ISUID | stat.S_ISGID):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=folder)
    for attribute, value in kept.items():
        shifted = _capability(value, first) if attribute == _CAPABILITY else _acl(value, first)
        os.setxattr(f"/proc/self/fd/{folder}/{name}", attribute, shifted, follow_symlinks=False)


def _moved(number: int, first: int) -> int:
    return number - first if first <= number < first + RANGE else number


def _attributes(path: str) -> dict[str, bytes]:
    """Those that hold ids or are lost with a new owner."""
    kept = {}
    for attribute in (_CAPABILITY, *_ACLS):
        with contextlib.suppress(OSError):
            kept[attribute] = os.getxattr(path, attribute, follow_symlinks=False)
    return kept


def _capability(value: bytes, first: int) -> bytes:
    """One that counts only in the user namespace beginning at `first` (revision 3) becomes a plain one (revision 2)."""
    magic = struct.unpack_from("<I", value)[0]
    if magic >> 24 == 3 and len(value) == 24 and struct.unpack_from("<I", value, 20)[0] == first:
        return struct.pack("<I", 0x02000000 | magic & 0xFFFFFF) + value[4:20]
    return value


def _acl(value: bytes, first: int) -> bytes:
    entries = [_ACL_ENTRY.unpack_from(value, at) for at in range(4, len(value), _ACL_ENTRY.size)]
    moved = [(tag, rights, _moved(number, first) if tag in _ACL_NAMED else number) for tag, rights, number in entries]
    return value[:4] + b"".join(_ACL_ENTRY.pack(*entry) for entry in moved)
