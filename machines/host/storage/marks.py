"""The marks of chattr(1) on files and folders that are open: immutable and append-only, which stop root, too.

Facts: a directory with either cannot lose, gain or rename an entry, and cannot be renamed or removed itself. On btrfs the
same holds for the top of a subvolume, and a snapshot has the marks of its original. Links, devices, FIFOs and sockets have none.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # linux/fs.h, where a long has 64 bits
IMMUTABLE, APPEND_ONLY = 0x10, 0x20
_NONE = {errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}  # of a file system that has no such marks


def of(opened: int) -> int:
    """Its flags; 0 where there are none. Raises OSError."""
    flags = bytearray(8)
    try:
        fcntl.ioctl(opened, _GET_FLAGS, flags)
    except OSError as error:
        if error.errno in _NONE:
            return 0
        raise
    return int(struct.unpack("l", flags)[0])


def put(opened: int, flags: int) -> None:
    """Give it these flags. Raises OSError."""
    fcntl.ioctl(opened, _SET_FLAGS, struct.pack("l", flags))


def take_off(opened: int, marks: int = IMMUTABLE | APPEND_ONLY) -> int:
    """Take these marks off; the flags it had, 0 when it had none of them. Raises OSError."""
    flags = of(opened)
    if not flags & marks:
        return 0
    put(opened, flags & ~marks)
    return flags


def take_off_file(folder: int, name: str) -> bool:
    """The same of a regular file in an open folder; whether there was something to take off. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return False
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            return bool(take_off(opened))
        finally:
            os.close(opened)
    return False
