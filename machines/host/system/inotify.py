"""inotify(7) on the folders of images, settings files, drop-ins and autostart links; nobody signals their changes."""

import asyncio
import ctypes
import logging
import os
import struct
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from machines.host.system import guarded
from machines.host.system.paths import PROBE, Paths

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
        elsewhere = (each for each in paths.image_folders if each != paths.machines)
        self._flat = (paths.machines, paths.nspawn, paths.probes, paths.units / "machines.target.wants", *elsewhere)
        self._units = (paths.units, paths.control, paths.lasting_control, paths.vendor_units[0])
        self._watched: dict[int, Path] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        self._looking = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def watch(self) -> None:
        """From now on."""
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            LOG.warning("inotify is not available; changes of images and files are seen once a minute")
            return
        await self._look(first=True)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def look(self) -> None:
        """Look again which folders there are: a mount brings others under the same names, and no event tells."""
        if self._fd >= 0:
            self._look_soon()

    def _look_soon(self) -> None:
        task = asyncio.ensure_future(self._look())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self, *, first: bool = False) -> None:
        """Watch every folder there is, and of one that is missing the nearest that would show its coming.

        A folder that has come may hold files already, which nobody has seen come.
        """
        async with self._looking:
            for folder, there, watch in await guarded.aside(self._add_all):
                fresh = watch >= 0 and self._watched.get(watch) != there
                if fresh:
                    self._watched[watch] = there
                if fresh and there == folder and not first:
                    self._changed(_concerned(folder))

    def _add_all(self) -> list[tuple[Path, Path, int]]:
        """(folder, itself or the nearest that is there, its watch); beside the loop, for any of them may not answer."""
        found = [self._nearest(folder) for folder in (*self._flat, *self._units)]
        # Only now: one that comes after it was looked which there are is seen to come.
        return found + [self._nearest(folder) for folder in _dropin_folders(self._units)]

    def _nearest(self, folder: Path) -> tuple[Path, Path, int]:
        there = next((each for each in (folder, *folder.parents) if guarded.is_folder(each)), Path("/"))
        return folder, there, self._add(there)

    def _add(self, folder: Path) -> int:
        """Its watch, the same as before when it has one; -1 when it cannot be watched."""
        add = partial(self._libc.inotify_add_watch, self._fd, os.fsencode(folder), _CHANGES)
        try:
            return int(guarded.call(folder, add))
        except OSError:
            return -1

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
            anew = anew or bool(mask & _ANEW) or watch not in self._watched  # it was added this moment
            machine = self._machine(self._watched.get(watch, Path()), name)
            if machine is not None:
                self._changed(machine)
        if anew:
            self._look_soon()

    def _machine(self, folder: Path, name: str) -> str | None:
        """Whom it concerns; EVERY for the template, None for nobody."""
        if folder in self._flat:
            return None if name.startswith(PROBE) else machine_of(name)
        if folder.name.startswith(_UNIT):
            return machine_of(folder.name.removesuffix(".d")) if name.endswith(".conf") else None
        return machine_of(name.removesuffix(".d")) if folder in self._units and name.startswith(_UNIT) else None


def _concerned(folder: Path) -> str:
    return machine_of(folder.name.removesuffix(".d")) if folder.name.startswith(_UNIT) else EVERY


def _dropin_folders(units: Iterable[Path]) -> list[Path]:
    return [
        folder / name
        for folder in units
        for name in guarded.seen_names(folder)
        if name.startswith(_UNIT) and name.endswith(".service.d")
    ]


def machine_of(file: str) -> str:
    """The machine an image, a .nspawn file, a unit or an autostart link belongs to."""
    return file.removeprefix(_UNIT).removesuffix(".service").removesuffix(".nspawn").removesuffix(".raw")
