"""inotify(7) on the folders of images, settings files and autostart links; machined signals none of their changes."""

import asyncio
import ctypes
import logging
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

LOG = logging.getLogger(__name__)

_CHANGES = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # modify, close-write, moved from, moved to, create, delete
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows


async def watch(folders: Iterable[Path], changed: Callable[[str], None]) -> None:
    """From now on call `changed` in this loop with the machine that something in one of the folders belongs to.

    Folders that are missing are made. Without inotify nothing happens; the inventory then sees changes once a minute.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        LOG.warning("inotify is not available; changes of images are seen once a minute")
        return
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        libc.inotify_add_watch(fd, os.fsencode(folder), _CHANGES)
    asyncio.get_running_loop().add_reader(fd, _read, fd, changed)


def _read(fd: int, changed: Callable[[str], None]) -> None:
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return
    at = 0
    while at < len(data):
        *_, length = _EVENT.unpack_from(data, at)
        name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode(errors="replace")
        at += _EVENT.size + length
        changed(machine_of(name))


def machine_of(file: str) -> str:
    """The machine an image, a .nspawn file or an autostart link belongs to."""
    return file.removeprefix("systemd-nspawn@").removesuffix(".service").removesuffix(".nspawn").removesuffix(".raw")
