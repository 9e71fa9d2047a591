"""Unpack an archive that anybody may have made, into an empty tree, so that nothing is ever written outside of it.

Python's tarfile reads the headers and nothing more; every entry is judged and then made by ourselves below an open
directory, in one pass, so there is no second program that could read the same bytes in another way.

What is kept: contents with their holes, owners by number, modes with set-user-ID, times, hard and symbolic links, FIFOs,
capabilities, ACLs and user attributes. A symbolic link may say whatever it likes, for it is only text until the machine
follows it inside its own root; but nothing is ever written through one. What is refused: names that are absolute or have
“..”, the same name twice, hard links to what the archive has not brought, device nodes other than those every machine gets
from systemd-nspawn anyway (they are left out), and more than the limits allow.
"""

import contextlib
import errno
import math
import os
import struct
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from machines.contract.configuration import carried
from machines.host.storage import attributes
from machines.host.storage.decompress import LOOK_EVERY, Limits, Stream, Told, look_for_room, refuse
from machines.host.system import tree as files
from machines.host.system.faults import no_space

ENTRIES = 2_000_000
DEPTH = 256  # folders in folders; whatever walks through the tree later holds one open each
NUMBER = 2**32 - 2  # the highest owner
GLOBALS, GLOBAL_BYTES = 100, 64 * 1024  # of headers for all entries that follow; tarfile copies them for each
FOLDER_NAMES = 128 * 1024 * 1024  # characters, of the names of folders that are kept until the end
DROPPED = 20  # names of attributes worth telling
LATEST = 2**33  # seconds
ATTRIBUTES, NAME, VALUE = 256, 255, 65536  # of one file: how many, and bytes of each; the kernel takes no larger ones
# major and minor of what systemd-nspawn gives every machine, or what is made there when it is needed
_USUAL_NODES = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (10, 200), (10, 229)}
_UNREADABLE = (
    tarfile.TarError, ValueError, OverflowError, IndexError, KeyError, struct.error, EOFError, RecursionError,
)  # fmt: skip
# What the kernel says when the archive is to blame, and not this host.
_ITS_FAULT = {
    errno.EINVAL, errno.ENAMETOOLONG, errno.E2BIG, errno.ERANGE, errno.EFBIG, errno.EMLINK, errno.ENOENT, errno.ENOTDIR,
    errno.EOVERFLOW, errno.EILSEQ,
}  # fmt: skip


@dataclass
class Tally:
    """What came out."""

    entries: int = 0
    bytes: int = 0
    left_out: int = 0  # device nodes
    dropped: set[str] = field(default_factory=set)  # some attributes this host does not take over, for people
    settings: list[str] = field(
        default_factory=list
    )  # of a machine, which are no part of its tree (contract/configuration/carried.py)


class _Entry(tarfile.TarInfo):
    """tarfile takes a broken header for the end of the archive; here it is a refusal."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_Entry":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the two blocks of zeros at the end
            raise
        except tarfile.HeaderError as error:
            refuse("it is damaged, truncated, or not a tar archive." if buf else f"it is truncated: {error}.")


# --- writing


def unpack(stream: Stream, tree: Path, limits: Limits, told: Told) -> Tally:
    """All entries into `tree`, which is there and empty. Raises Problem or OSError; what is there then is worth nothing."""
    top = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _Unpacking(stream, top, tree, limits, told).run()
    finally:
        os.close(top)


class _Unpacking:
    def __init__(self, stream: Stream, top: int, tree: Path, limits: Limits, told: Told) -> None:
        self._stream, self._top, self._tree, self._limits, self._told = stream, top, tree, limits, told
        self._tally = Tally()
        self._implied: set[str] = set()  # directories made for their contents, not described yet
        self._times: list[tuple[str, float]] = []  # of directories, set when nothing is written into them any more
        self._held = 0  # characters in both
        self._folder: tuple[str, int] = ("", os.dup(top))
        self._looked = 0
        self._has_top = False

    def run(self) -> Tally:
        try:
            for entry in self._entries():
                self._take(entry)
            for path, time in reversed(self._times):
                with self._opened(path) as fd:
                    os.utime(fd, (time, time))
            return self._tally
        except OSError as error:
            raise self._explained(error) from error
        finally:
            os.close(self._folder[1])

    def _entries(self) -> Iterator[tarfile.TarInfo]:
        """Every entry, judged by its header alone; then the rest is read, so that a damaged end is found."""
        try:
            archive = tarfile.TarFile(
                fileobj=self._stream, mode="r", tarinfo=_Entry, encoding="utf-8", errors="surrogateescape"  # type: ignore[arg-type]
            )  # fmt: skip
            while (entry := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                _check_globals(archive.pax_headers)
                self._stream.entry()
                self._count()
                yield entry
        except _UNREADABLE as error:
            refuse(f"it is damaged, or not a tar archive ({error}).")
        if not self._tally.entries:
            refuse("it is empty.")
        for _ in self._stream.rest():
            pass

    def _count(self) -> None:
        self._tally.entries += 1
        if self._tally.entries > ENTRIES:
            refuse(f"it has more than {ENTRIES} entries.", code="archive-bomb")
        self._told(
            min(1.0, self._stream.tell() / max(1, self._limits.packed * 4)), f"{self._tally.entries} files unpacked"
        )
        if self._stream.tell() - self._looked > LOOK_EVERY:
            self._look_for_room()

    def _look_for_room(self) -> None:
        self._looked = self._stream.tell()
        look_for_room(self._tree)

    def _take(self, entry: tarfile.TarInfo) -> None:
        """Make it, or say which entry it is that cannot be."""
        try:
            self._make(entry)
        except _UNREADABLE as error:
            refuse(f"“{_shown(entry.name)}” has an invalid header ({error}).")
        except OSError as error:
            if error.errno not in _ITS_FAULT:
                raise
            refuse(f"“{_shown(entry.name)}” cannot be created: {error.strerror}.")

    def _make(self, entry: tarfile.TarInfo) -> None:
        parts = _parts(entry.name)
        if not parts:
            self._make_top(entry)
            return
        path = "/".join(parts)
        if parts[0] == carried.FOLDER:
            self._leave_aside(entry, path)
            return
        folder = self._enter("/".join(parts[:-1]), path)
        try:
            self._make_in(entry, folder, parts[-1], path)
        except FileExistsError:
            refuse(f"it contains “{_shown(path)}” twice.")

    def _leave_aside(self, entry: tarfile.TarInfo, path: str) -> None:
        if entry.isfile() and len(self._tally.settings) < DROPPED:
            self._tally.settings.append(_shown(path))

    def _make_in(self, entry: tarfile.TarInfo, folder: int, name: str, path: str) -> None:
        if entry.isdir():
            self._make_folder(entry, folder, name, path)
        elif entry.issym():
            os.symlink(entry.linkname, name, dir_fd=folder)
            self._own_link(entry, folder, name)
        elif entry.islnk():
            self._link(entry, folder, name, path)
        elif entry.isfile():
            self._make_file(entry, folder, name)
        elif entry.isfifo():
            os.mkfifo(name, 0o600, dir_fd=folder)
            self._own_link(entry, folder, name)
            os.chmod(name, entry.mode & 0o7777, dir_fd=folder)
        elif entry.isdev():
            self._leave_out(entry, path)
        else:
            refuse(f"“{_shown(path)}” is of a file type that is not allowed.")

    def _make_top(self, entry: tarfile.TarInfo) -> None:
        if self._has_top or not entry.isdir():
            refuse("its root directory appears twice, or is not a directory.")
        self._has_top = True
        self._describe(entry, self._top)
        self._times.append((".", _time(entry)))

    def _make_folder(self, entry: tarfile.TarInfo, folder: int, name: str, path: str) -> None:
        if path in self._implied:
            self._implied.discard(path)
        else:
            os.mkdir(name, 0o700, dir_fd=folder)
        with self._opened(path) as fd:
            self._describe(entry, fd)
        self._hold(path)
        self._times.append((path, _time(entry)))

    def _hold(self, path: str) -> None:
        """A path is kept in memory from here on."""
        self._held += len(path)
        if self._held > FOLDER_NAMES:
            refuse("its directory names are too long.", code="archive-bomb")

    def _make_file(self, entry: tarfile.TarInfo, folder: int, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            holes: list[tuple[int, int]] | None = getattr(
                entry, "sparse", None
            )  # (offset, size) of what is between them
            for offset, size in holes if holes is not None else [(0, entry.size)]:
                self._write(fd, offset, size)
            if holes is not None:
                self._end_in_a_hole(fd, entry)
            self._describe(entry, fd)
            os.utime(fd, (_time(entry), _time(entry)))
        finally:
            os.close(fd)

    def _end_in_a_hole(self, fd: int, entry: tarfile.TarInfo) -> None:
        """Holes take no room here, but they do in most copies."""
        if entry.size > self._limits.most:
            refuse(
                f"“{_shown(entry.name)}” is a file of {entry.size // 1024**3} GiB, most of it sparse.",
                code="archive-too-large", hint="This host's policy sets the limit (max_archive_gib).",
            )  # fmt: skip
        os.ftruncate(fd, entry.size)

    def _write(self, fd: int, offset: int, size: int) -> None:
        if offset < 0 or size < 0:
            refuse("a file has a negative size.")
        if offset:
            os.lseek(fd, offset, os.SEEK_SET)
        for piece in self._stream.content(size):
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
            self._tally.bytes += len(piece)
            if self._stream.tell() - self._looked > LOOK_EVERY:
                self._look_for_room()

    def _link(self, entry: tarfile.TarInfo, folder: int, name: str, path: str) -> None:
        """To what the archive has brought before, found without following anything."""
        target = _parts(entry.linkname, what=f"the hard link “{_shown(path)}” points to")
        if not target:
            refuse(f"the hard link “{_shown(path)}” points to a directory.")
        try:
            with self._opened("/".join(target[:-1])) as source:
                os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError as error:
            refuse(f"the hard link “{_shown(path)}” points to “{_shown(entry.linkname)}”: {error.strerror}.")

    def _leave_out(self, entry: tarfile.TarInfo, path: str) -> None:
        usual = entry.ischr() and path.startswith("dev/") and (entry.devmajor, entry.devminor) in _USUAL_NODES
        if not usual:
            refuse(f"“{_shown(path)}” is a device node ({entry.devmajor}:{entry.devminor}).")
        self._tally.left_out += 1

    # --- where it goes

    def _enter(self, path: str, wanted: str) -> int:
        """The directory an entry goes into, made where the archive has not described it. Never through a link."""
        if self._folder[0] == path:
            return self._folder[1]
        try:
            fd = self._open(path)
        except FileNotFoundError:
            self._imply(path, wanted)
            fd = self._open(path)
        except OSError as error:
            self._refuse_way(error, wanted)
        os.close(self._folder[1])
        self._folder = (path, fd)
        return fd

    def _imply(self, path: str, wanted: str) -> None:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            here = "/".join(parts[:depth])
            try:
                with self._opened("/".join(parts[: depth - 1])) as fd:
                    os.mkdir(parts[depth - 1], 0o755, dir_fd=fd)
            except FileExistsError:
                continue
            except OSError as error:
                self._refuse_way(error, wanted)
            self._hold(here)
            self._implied.add(here)

    @staticmethod
    def _refuse_way(error: OSError, wanted: str) -> NoReturn:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            refuse(f"“{_shown(wanted)}” goes through a link or a file.")
        raise error

    def _open(self, path: str) -> int:
        return files.open_folder(self._top, path) if path not in {"", "."} else os.dup(self._top)

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        fd = self._open(path)
        try:
            yield fd
        finally:
            os.close(fd)

    def _explained(self, error: OSError) -> Exception:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return no_space(str(self._tree.parent))
        return error

    # --- what it is like

    def _own_link(self, entry: tarfile.TarInfo, folder: int, name: str) -> None:
        """Owner and time of what is not opened."""
        os.chown(name, *_owner(entry), dir_fd=folder, follow_symlinks=False)
        os.utime(name, (_time(entry), _time(entry)), dir_fd=folder, follow_symlinks=False)

    def _describe(self, entry: tarfile.TarInfo, fd: int) -> None:
        """Owner first: changing it takes set-user-ID and capabilities away."""
        os.fchown(fd, *_owner(entry))
        os.fchmod(fd, entry.mode & 0o7777)
        given = list(attributes.read(entry.pax_headers))
        if len(given) > ATTRIBUTES or any(len(name) > NAME or len(value) > VALUE for name, value in given):
            self._refuse_attributes(entry)
        for name, value in given:
            if not (name == "security.capability" or name.startswith("user.") or name in attributes.ACLS.values()):
                self._drop(name)
                continue
            self._set(fd, name, value, entry)

    def _drop(self, name: str) -> None:
        if len(self._tally.dropped) < DROPPED:
            self._tally.dropped.add(_shown(name))

    def _set(self, fd: int, name: str, value: bytes, entry: tarfile.TarInfo) -> None:
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._drop(name)
                return
            if error.errno not in {errno.ENOSPC, errno.E2BIG, errno.ERANGE}:
                raise
            look_for_room(self._tree)  # some file systems call it “no space” when one file has too many attributes
            self._refuse_attributes(entry)

    @staticmethod
    def _refuse_attributes(entry: tarfile.TarInfo) -> NoReturn:
        refuse(f"“{_shown(entry.name)}” has more or larger extended attributes than a file can have.")


def _check_globals(headers: Mapping[str, str]) -> None:
    """Raises Problem for more than anybody has to say of all entries at once."""
    if len(headers) > GLOBALS or sum(len(key) + len(value) for key, value in headers.items()) > GLOBAL_BYTES:
        refuse("its global headers are too large to keep in memory.", code="archive-bomb")


def _parts(name: str, what: str = "") -> list[str]:
    """A name's components. Raises Problem for one that would lead out of the tree."""
    subject = what or "it has the name"
    if name.startswith("/"):
        refuse(f"{subject} “{_shown(name)}”, which is absolute.")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        refuse(f"{subject} “{_shown(name)}”, which points outside the root filesystem.")
    if len(parts) > DEPTH:
        refuse(f"{subject} “{_shown(name)}”, which is more than {DEPTH} directories deep.")
    return parts


def _shown(name: str) -> str:
    """A name for people, without what a terminal would obey."""
    text = name.encode(errors="surrogateescape").decode(errors="replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:200]


def _owner(entry: tarfile.TarInfo) -> tuple[int, int]:
    if not (0 <= entry.uid <= NUMBER and 0 <= entry.gid <= NUMBER):
        refuse(f"“{_shown(entry.name)}” has an invalid owner.")
    return entry.uid, entry.gid


def _time(entry: tarfile.TarInfo) -> float:
    time = float(entry.mtime)
    return min(max(time, 0.0), float(LATEST)) if math.isfinite(time) else 0.0
