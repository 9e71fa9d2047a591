"""inotify(7) on the folders of images, settings files, drop-ins and autostart links; nobody signals their changes."""

import asyncio
import ctypes
import logging
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from machines.host.paths import PROBE, Paths

LOG = logging.getLogger(__name__)

_CHANGES = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # modify, close-write, moved from, moved to, create, delete
_ANEW = 0x40000000 | 0x8000  # of a directory; a watch has ended: then look again which folders there are
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_UNIT = "systemd-nspawn@"
EVERY = ""  # what `changed` is called with when it concerns every machine


class Folders:
    """Calls `changed` in this loop with the machine that something in one of the folders belongs to.

    A folder that is not there yet is waited for, never made. Without inotify nothing happens; the inventory then sees
    changes once a minute.
    """

    def __init__(self, paths: Paths, changed: Callable[[str], None]) -> None:
        self._changed = changed
        elsewhere = [each for each in paths.image_folders if each.is_dir() and each != paths.machines]
        self._flat = (paths.machines, paths.nspawn, paths.probes, paths.units / "machines.target.wants", *elsewhere)
        self._units = (paths.units, paths.control, paths.lasting_control, paths.vendor_units[0])
        self._watched: dict[int, Path] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1

    async def watch(self) -> None:
        """From now on."""
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            LOG.warning("inotify is not available; changes of images and files are seen once a minute")
            return
        self._look(first=True)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def look(self) -> None:
        """Look again which folders there are: a mount brings others under the same names, and no event tells."""
        if self._fd >= 0:
            self._look()

    def _look(self, *, first: bool = False) -> None:
        """Watch every folder there is, and of one that is missing the nearest that would show its coming.

        A folder that has come may hold files already, which nobody has seen come.
        """
        for folder in (*self._flat, *self._units, *_dropin_folders(self._units)):
            there = next(each for each in (folder, *folder.parents) if each.is_dir())
            if self._add(there) and there == folder and not first:
                self._changed(machine_of(folder.name.removesuffix(".d")) if folder.name.startswith(_UNIT) else EVERY)

    def _add(self, folder: Path) -> bool:
        """Whether it was not watched yet."""
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), _CHANGES)
        fresh = watch >= 0 and self._watched.get(watch) != folder
        if fresh:
            self._watched[watch] = folder
        return fresh

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        at, anew = 0, False
        while at < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode(errors="replace")
            at += _EVENT.size + length
            anew = anew or bool(mask & _ANEW)
            machine = self._machine(self._watched.get(watch, Path()), name)
            if machine is not None:
                self._changed(machine)
        if anew:
            self._look()

    def _machine(self, folder: Path, name: str) -> str | None:
        """Whom it concerns; EVERY for the template, None for nobody."""
        if folder in self._flat:
            return None if name.startswith(PROBE) else machine_of(name)
        if folder.name.startswith(_UNIT):
            return machine_of(folder.name.removesuffix(".d")) if name.endswith(".conf") else None
        return machine_of(name.removesuffix(".d")) if folder in self._units and name.startswith(_UNIT) else None


def _dropin_folders(units: Iterable[Path]) -> list[Path]:
    return [each for folder in units if folder.is_dir() for each in folder.glob(f"{_UNIT}*.service.d")]


def machine_of(file: str) -> str:
    """The machine an image, a .nspawn file, a unit or an autostart link belongs to."""
    return file.removeprefix(_UNIT).removesuffix(".service").removesuffix(".nspawn").removesuffix(".raw")
