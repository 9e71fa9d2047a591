"""The only way to touch files inside a machine's tree from the outside: what lies in there may be hostile.

Facts: a check of the resolved path was beaten by a renaming machine in 0.03 s; openat2(2) with RESOLVE_IN_ROOT held for
100,000 attempts. Python has no wrapper for it, so it is called through libc's syscall(). A FIFO blocks an open() for
ever without O_NONBLOCK. The last component is never followed when written: a file is made aside and renamed over it.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

_SYS_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS = 0x01, 0x02, 0x04
_RESOLVE_BENEATH, _RESOLVE_IN_ROOT = 0x08, 0x10
_TRIES = 50  # RESOLVE_IN_ROOT answers EAGAIN while something on the way is being renamed
READ_LIMIT = 64 * 1024
MOST = 100_000  # names of one directory

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _openat2(
    root: int, path: str, flags: int, mode: int = 0, *, resolve: int = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
) -> int:
    how = _How(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_TRIES):
        fd = _libc.syscall(_SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number not in {errno.EAGAIN, errno.EINTR}:
            raise OSError(number, os.strerror(number), path)
    raise OSError(errno.ELOOP, "it keeps being renamed", path)


@contextlib.contextmanager
def _top(root: Path) -> Iterator[int]:
    """The tree's top directory. Raises OSError when it is a symbolic link or no directory."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def open_folder(top: int, path: str, *, same_mount: bool = False) -> int:
    """A directory below another, reached through real directories alone, and with `same_mount` through no mount. Raises
    OSError: ELOOP for a symbolic link, EXDEV for a mount."""
    strict = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    strict |= _RESOLVE_NO_XDEV if same_mount else 0
    return _openat2(top, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=strict)


@contextlib.contextmanager
def _parent(root: Path, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """(open directory that holds the path's last component, that component). Missing directories are made on demand."""
    parts = PurePosixPath("/", path).parts[1:]
    if not parts or parts[-1] == "..":
        raise OSError(errno.EINVAL, "not a file of a root filesystem", path)
    with _top(root) as top:
        if make:
            _make_directories(top, parts[:-1])
        fd = _openat2(top, "/".join(parts[:-1]) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd, parts[-1]
        finally:
            os.close(fd)


def _make_directories(top: int, parts: tuple[str, ...], mode: int = 0o755) -> None:
    """Like mkdir -p inside the tree; what is there already is followed within the tree."""
    for depth in range(1, len(parts) + 1):
        fd = _openat2(top, "/".join(parts[: depth - 1]) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(parts[depth - 1], mode, dir_fd=fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def directory(root: Path, path: str) -> Iterator[int]:
    """An open directory of the tree. Raises OSError."""
    with _top(root) as top:
        fd = _openat2(top, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def parent(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """(open directory that holds the path's last component, that component). Raises OSError."""
    with _parent(root, path) as found:
        yield found


@contextlib.contextmanager
def opened(root: Path, path: str) -> Iterator[int]:
    """Something of the tree, whatever it is, without opening it for reading or writing (O_PATH). Unlike elsewhere the top
    may be /proc/PID/root. Raises OSError."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _openat2(top, path, os.O_PATH)
    finally:
        os.close(top)
    try:
        yield fd
    finally:
        os.close(fd)


def read_text(root: Path, path: str, limit: int = READ_LIMIT) -> str:
    """The text of a regular file of the tree, up to `limit` bytes; "" when there is none that can be read."""
    return _read(root, path, limit).decode(errors="replace")


def read_whole(root: Path, path: str, limit: int = READ_LIMIT) -> str:
    """The same, to be written back: every byte of it. Raises OSError when it has more than `limit`."""
    content = _read(root, path, limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return content.decode(errors="surrogateescape")


def _read(root: Path, path: str, limit: int) -> bytes:
    try:
        with _top(root) as top:
            fd = _openat2(top, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return b""
            return file.read(limit)
    except OSError:
        return b""


def exists(root: Path, path: str) -> bool:
    """Whether the path leads to something inside the tree."""
    try:
        with _top(root) as top:
            os.close(_openat2(top, path, os.O_PATH))
    except OSError:
        return False
    return True


def link(root: Path, path: str) -> str:
    """What a symbolic link of the tree says, followed nowhere; "" when it is none."""
    try:
        with _parent(root, path) as (folder, name):
            return os.readlink(name, dir_fd=folder)
    except OSError:
        return ""


def write_text(root: Path, path: str, text: str, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
    """Make or replace a file of the tree in one step; `owner` is (uid, gid). Raises OSError."""
    with _parent(root, path, make=True) as (folder, name):
        aside = f".{secrets.token_hex(8)}.tmp"
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(text.encode(errors="surrogateescape"))
                os.fchown(fd, *owner)
                os.fchmod(fd, mode)
            os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=folder)
            raise


def rewrite(root: Path, path: str, text: str) -> None:
    """Replace a file's text and keep its mode and owner. Raises OSError when it is no regular file of the tree."""
    with _parent(root, path) as (folder, name):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    write_text(root, path, text, stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid))


def names(root: Path, path: str) -> list[str]:
    """What lies in a directory of the tree, of more than MOST names only so many; [] when there is none."""
    try:
        with _top(root) as top:
            fd = _openat2(top, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        with os.scandir(fd) as found:
            return sorted(entry.name for entry in islice(found, MOST))
    finally:
        os.close(fd)


def make_directory(root: Path, path: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> None:
    """A directory of the tree; one that is there gets this mode and (uid, gid). Raises OSError."""
    with _parent(root, path, make=True) as (folder, name):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=folder)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            os.fchown(fd, *owner)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)


def symlink(root: Path, path: str, target: str) -> None:
    """Make a symbolic link, replacing a file or link of that name. Raises OSError."""
    with _parent(root, path, make=True) as (folder, name):
        aside = f".{secrets.token_hex(8)}.tmp"
        os.symlink(target, aside, dir_fd=folder)
        os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)


def unlink(root: Path, path: str) -> None:
    """Remove a file or link, never what a link leads to. Nothing there is fine. Raises OSError otherwise."""
    with contextlib.suppress(FileNotFoundError), _parent(root, path) as (folder, name):
        os.unlink(name, dir_fd=folder)


def remove_empty(root: Path, path: str) -> None:
    """Remove a directory that is empty, then the empty ones above it. Nothing there is fine."""
    with contextlib.suppress(OSError):
        while PurePosixPath("/", path) != PurePosixPath("/"):
            with _parent(root, path) as (folder, name):
                os.rmdir(name, dir_fd=folder)
            path = str(PurePosixPath("/", path).parent)


def check_top(root: Path) -> None:
    """The top of a finished tree must be a real directory of root's with an os-release. Raises OSError."""
    with _top(root) as top:
        found = os.fstat(top)
    if found.st_uid != 0 or found.st_mode & 0o022:
        raise OSError(errno.EPERM, "the root directory is not owned by root alone", str(root))
