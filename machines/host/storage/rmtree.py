"""Remove a tree to its last entry, as rm -rf does not: marked immutable or append-only at any depth, with subvolumes in it
that are read-only or marked, deeper than any path can say, with names that are no text.

What lies in a tree may be hostile, and there is nobody to ask: nothing is followed, nothing is left through a mount, and
one folder is open at a time, however deep it lies. A subvolume goes in one step, so inside one only folders are looked
through, for other subvolumes. What cannot be removed stays, and everything else goes.

Facts, tried on btrfs and ext4: a subvolume that is read-only, or whose own top or parent is marked, keeps those in it; its marks can be
taken off only while it is writable. What is used as swap cannot be removed, nor can the subvolume it lies in.
"""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from machines.contract.configuration.protected import is_in
from machines.host.storage import btrfs, marks
from machines.host.system import swaps, tree

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SAID = 1000  # characters of a path


class NotRemoved(OSError):
    """What is left and why: `filename` is the first thing that could not be removed, `strerror` the reason."""


def remove(path: Path) -> None:
    """A file, link or tree. Nothing there is fine. Raises NotRemoved, when all the rest of it is gone, or OSError."""
    folder = os.open(path.parent, _FOLDER & ~os.O_NOFOLLOW)
    walk = _Walk(str(path.parent), folder)
    try:
        walk.remove(path.name)
    finally:
        os.close(walk.folder)
    if walk.first is not None:
        raise walk.first


@dataclass
class _Level:
    """A folder that is being emptied. `above` is (device, inode) of the one it lies in, `failed` how much could not be
    removed before; a `part` of a subvolume goes with it, and is only looked through."""

    name: str
    above: tuple[int, int]
    failed: int
    is_subvolume: bool
    is_part: bool
    folders: list[str] = field(default_factory=list)


class _Walk:
    def __init__(self, above: str, folder: int) -> None:
        self.folder = folder  # the one that is open
        self.first: NotRemoved | None = None
        self._above, self._failed = above, 0
        self._levels: list[_Level] = []

    def remove(self, name: str) -> None:
        self._begin(name)
        while self._levels:
            if folders := self._levels[-1].folders:
                self._begin(folders.pop())
            else:
                self._end()

    def _begin(self, name: str) -> None:
        """Go into a folder, or remove what is none."""
        try:
            opened = tree.open_folder(self.folder, name, same_mount=True)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                self._unlink(name)
            else:
                self._note(name, error)
            return
        try:
            if self._is_gone(name, opened):
                os.close(opened)
                return
            self._enter(name, opened)
        except OSError as error:
            os.close(opened)
            self._note(name, error)

    def _is_gone(self, name: str, opened: int) -> bool:
        """Whether it was a subvolume with no other inside, which goes at once. Raises OSError."""
        if not btrfs.is_subvolume(opened):
            marks.take_off(opened)
            return False
        if btrfs.is_read_only(opened):
            btrfs.mark(opened, read_only=False)
        marks.take_off(opened)
        try:
            btrfs.destroy(self.folder, name)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
        return True

    def _enter(self, name: str, opened: int) -> None:
        above, is_subvolume = os.fstat(self.folder), btrfs.is_subvolume(opened)
        inside = bool(self._levels) and (self._levels[-1].is_part or self._levels[-1].is_subvolume)
        level = _Level(name, (above.st_dev, above.st_ino), self._failed, is_subvolume, inside)
        before, self.folder = self.folder, opened
        self._levels.append(level)
        os.close(before)
        self._look(level)

    def _look(self, level: _Level) -> None:
        """Remove what is no folder, and know what is."""
        whole = level.is_part or level.is_subvolume
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        level.folders.append(entry.name)
                    elif not whole:
                        self._unlink(entry.name)
        except OSError as error:
            self._note(".", error)

    def _end(self) -> None:
        """Back to the folder above, and remove the one that is empty now."""
        level = self._levels.pop()
        above = os.open("..", _FOLDER, dir_fd=self.folder)
        os.close(self.folder)
        self.folder = above
        found = os.fstat(above)
        if (found.st_dev, found.st_ino) != level.above:
            raise OSError(errno.ESTALE, "it is being moved while it is removed", self._path(level.name))
        if level.is_part and not level.is_subvolume:
            return
        try:
            if level.is_subvolume:
                btrfs.destroy(self.folder, level.name)
            else:
                os.rmdir(level.name, dir_fd=self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            if self._failed == level.failed:  # else it is only not empty
                self._note(level.name, error)

    def _unlink(self, name: str) -> None:
        try:
            try:
                os.unlink(name, dir_fd=self.folder)
            except PermissionError:
                if not marks.take_off_file(self.folder, name):
                    raise
                os.unlink(name, dir_fd=self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self._note(name, error)

    # --- what is left

    def _note(self, name: str, error: OSError) -> None:
        self._failed += 1
        if self.first is None:
            path = self._path(name)
            self.first = NotRemoved(error.errno or errno.EIO, reason(error, path), path)

    def _path(self, name: str) -> str:
        """For people, so only as long as they read."""
        parts: list[str] = []
        for part in (self._above, *(level.name for level in self._levels), name):
            parts.append(part)
            if sum(map(len, parts)) > _SAID:
                return "/".join([*parts[:-1], "…"])
        return "/".join(parts).removesuffix("/.")


def reason(error: OSError, path: str) -> str:
    """Why something cannot be removed, as part of a sentence."""
    if error.errno == errno.EXDEV:
        return "something is mounted there"
    if error.errno in {errno.EPERM, errno.EBUSY, errno.ETXTBSY} and (swap := _swap_below(path)):
        return f"{swap} is used as swap"
    return error.strerror or str(error)


def _swap_below(path: str) -> str:
    return next((file for file in swaps.files() if is_in(file, path)), "")
