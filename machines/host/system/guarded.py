"""The one way to read a path that others can shape: settings files, units, drop-ins, folders of them, what is in a tree.

It may be a FIFO, a device, a file without end, or lead into a mount that hangs. So nothing is opened that would wait,
only regular files are read, only so many bytes, and each read is done in a thread of its own, with a deadline. A thread that
hangs cannot be ended; it is remembered, and until it comes back whatever leads to that place, or into the same network
mount, is refused at once. How many may hang is bounded; beyond that everything is refused.

Facts: open(2) of a FIFO waits for a writer without O_NONBLOCK; a terminal would become ours without O_NOCTTY. A path
into a FUSE or NFS mount whose server is gone waits for ever in any call that walks it, readlink(2) and stat(2) as well.
"""

import asyncio
import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from machines.contract.problems import printable
from machines.contract.reports import FILE_LIMIT

SECONDS = 3.0  # a read may take
THREADS = 32  # reads at once, those that hang among them
SETTINGS_LIMIT = 8 * FILE_LIMIT  # bytes of a settings file, a unit, a drop-in
MOST_LINKS = 40  # on the way to a file, as the kernel's own limit
READ_ONLY = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NULL = os.makedev(1, 3)  # /dev/null, which systemd reads as an empty file
MOUNTS = Path("/proc/self/mountinfo")
NETWORK = ("nfs", "cifs", "smb", "9p", "ceph", "afs", "autofs", "fuse", "lustre", "gfs2", "ocfs2")

_OCTAL = re.compile(r"\\([0-7]{3})")

Answer = TypeVar("Answer")


class Unreadable(OSError):
    """What is there cannot be read; `strerror` is the reason as a sentence, `filename` what it is about."""


@dataclass(frozen=True)
class Contents:
    """A regular file's bytes and what fstat(2) says of it. `whole` is False when it has more than were asked for."""

    data: bytes
    state: os.stat_result
    whole: bool


@dataclass(eq=False)
class _Read:
    """One call in its thread. `at` is the path it touches now."""

    path: str
    work: Callable[["_Read"], Any]
    at: str = ""
    answer: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            self.answer.append(self.work(self))
        except BaseException as error:
            self.error = error

    def step(self, at: str) -> None:
        """Go on to a path. Raises Unreadable when another read hangs there, or in the same network mount."""
        self.at = at
        if _hanging and (dead := {at, network_mount(at)} & _dead()):
            raise _hangs(self.path, dead.pop())


_room = threading.BoundedSemaphore(THREADS)
_idle: list[SimpleQueue[_Read]] = []  # of threads that wait for their next read: a new one costs four times more
_hanging: set[_Read] = set()  # those whose deadline has passed
_lock = threading.Lock()


def call(path: str | Path, work: Callable[[], Answer], seconds: float | None = None) -> Answer:
    """What `work`, which touches `path`, returns or raises; Unreadable when it does not in time or has hung before."""

    def begin(read: _Read) -> Answer:
        read.step(read.path)
        return work()

    return _call(str(path), begin, seconds)


def _call(path: str, work: Callable[[_Read], Answer], seconds: float | None = None) -> Answer:
    read, seconds = _Read(path, work, at=path), SECONDS if seconds is None else seconds
    if len(_hanging) >= THREADS or not _room.acquire(timeout=seconds):
        raise Unreadable(errno.EAGAIN, f"{THREADS} other reads on this host are hanging.", path)
    _idle_thread(path).put(read)
    if not read.ended.wait(seconds) and _remember(read):
        raise _hangs(path, network_mount(read.at) or read.at)
    if read.error is not None:
        raise read.error
    answer: Answer = read.answer[0]
    return answer


def _idle_thread(path: str) -> SimpleQueue[_Read]:
    """The inbox of one. Raises Unreadable, and gives its place back, on a host that has no thread left."""
    with _lock:
        if _idle:
            return _idle.pop()
    inbox: SimpleQueue[_Read] = SimpleQueue()
    try:
        threading.Thread(target=_keep_reading, args=(inbox,), name="guarded-read", daemon=True).start()
    except RuntimeError as error:
        _room.release()
        raise Unreadable(errno.EAGAIN, "This host has no thread left to read it.", path) from error
    return inbox


def _keep_reading(inbox: SimpleQueue[_Read]) -> None:
    while True:
        read = inbox.get()
        read.run()
        _come_back(read, inbox)
        del read  # and what it has read


def _hangs(path: str, at: str) -> Unreadable:
    """In the same words each time, or it would look like a change."""
    return Unreadable(errno.ETIMEDOUT, "It does not respond." if at == path else f"{at} does not respond.", path)


def _remember(read: _Read) -> bool:
    """Whether it hangs; it may have come back this moment."""
    with _lock:
        if read.ended.is_set():
            return False
        _hanging.add(read)
        return True


def _come_back(read: _Read, inbox: SimpleQueue[_Read]) -> None:
    with _lock:
        read.ended.set()
        _idle.append(inbox)
        _hanging.discard(read)
    _room.release()


def _dead() -> set[str]:
    """Paths where a read hangs, and the network mounts they lie in."""
    with _lock:
        hanging = [read.at for read in _hanging]
    return {*hanging, *map(network_mount, hanging)} - {""}


def network_mount(path: str) -> str:
    """The mount point of the file system a path lies in, when that needs somebody else to answer; else ""."""
    point, kind = "", ""
    for line in MOUNTS.read_bytes().decode(errors="surrogateescape").splitlines():
        head, _, tail = line.partition(" - ")
        at = unescaped(head.split(" ")[4])
        if len(at) >= len(point) and (path == at or path.startswith(at.rstrip("/") + "/")):
            point, kind = at, tail.split(" ")[0]
    return point if kind.startswith(NETWORK) else ""


def unescaped(point: str) -> str:
    """The kernel writes blanks, tabs, line ends and backslashes as octal numbers, in options of mounts some more signs."""
    return _OCTAL.sub(lambda code: chr(int(code[1], 8)), point)


def way(path: str) -> Iterator[str]:
    """Every path that is passed until a path is resolved, each link on the way followed; at most forty links."""
    left, at, links = [part for part in path.split("/") if part], "", 0
    while left:
        part = left.pop(0)
        if part in {".", ".."}:
            at = at if part == "." else os.path.dirname(at).rstrip("/")
            continue
        at = f"{at}/{part}"
        yield at
        try:
            target = os.readlink(at)
        except OSError:
            continue
        links += 1
        if links > MOST_LINKS:
            return
        left = [word for word in target.split("/") if word] + left
        at = "" if target.startswith("/") else os.path.dirname(at).rstrip("/")


def steps(path: str) -> list[str]:
    """The same, in time. Raises Unreadable."""

    def work(read: _Read) -> list[str]:
        found = []
        for at in way(path):
            read.step(at)
            found.append(at)
        return found

    return _call(path, work)


def _walk(read: _Read, path: str) -> None:
    """Go the whole way first, so that it is known where a read hangs."""
    for at in way(path):
        read.step(at)


async def aside(work: Callable[..., Answer], *args: Any) -> Answer:
    """Do `work`, which reads, beside the loop this is called in."""
    return await asyncio.get_running_loop().run_in_executor(None, work, *args)


# --- what is read


def contents(path: Path, limit: int = SETTINGS_LIMIT, *, follow: bool = True) -> Contents:
    """A regular file's first `limit` bytes; a link's last step is only taken with `follow`.

    Raises OSError: FileNotFoundError for nothing, ELOOP for a link that is not followed, Unreadable for what is no file.
    """
    return _call(str(path), partial(_contents, path, limit, follow))


def _contents(path: Path, limit: int, follow: bool, read: _Read) -> Contents:
    _walk(read, str(path if follow else path.parent))
    fd = os.open(path, READ_ONLY | (0 if follow else os.O_NOFOLLOW))
    try:
        state = os.fstat(fd)
        if stat.S_ISCHR(state.st_mode) and state.st_rdev == NULL:
            return Contents(b"", state, True)
        if not stat.S_ISREG(state.st_mode):
            raise Unreadable(errno.EINVAL, _what_it_is(state.st_mode), str(path))
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(fd)
    return Contents(data[:limit], state, len(data) <= limit)


def _what_it_is(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a directory", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }  # fmt: skip
    return f"It is {kinds.get(stat.S_IFMT(mode), 'something else')}, not a regular file."


def whole(path: Path, limit: int = SETTINGS_LIMIT, *, follow: bool = True) -> bytes:
    """All bytes of a regular file. Raises OSError as contents() does, and Unreadable when it has more than `limit`."""
    found = contents(path, limit, follow=follow)
    if not found.whole:
        raise Unreadable(errno.EFBIG, f"It is larger than {limit // 1024} KiB.", str(path))
    return found.data


def names(folder: Path) -> list[str]:
    """What lies in a folder, sorted. Raises OSError."""
    return _call(str(folder), partial(_names, folder))


def _names(folder: Path, read: _Read) -> list[str]:
    _walk(read, str(folder))
    return sorted(os.listdir(folder))


def seen_names(folder: Path) -> list[str]:
    """The same; [] when it cannot be read."""
    try:
        return names(folder)
    except OSError:
        return []


def state(path: Path, *, follow: bool = True) -> os.stat_result:
    """What stat(2) says of a path. Raises OSError."""
    return _call(str(path), partial(_state, path, follow))


def _state(path: Path, follow: bool, read: _Read) -> os.stat_result:
    _walk(read, str(path if follow else path.parent))
    return os.stat(path, follow_symlinks=follow)


def resolved(path: Path) -> str:
    """Where a path leads in the end, every link followed; the path itself when that cannot be told in time."""
    try:
        return steps(str(path))[-1]
    except (OSError, IndexError):
        return str(path)


def is_there(path: Path) -> bool:
    """Whether there is something of that name, a link that leads nowhere among it. Raises Unreadable."""
    try:
        state(path, follow=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def seems_there(path: Path) -> bool:
    """The same, and what does not answer is."""
    try:
        return is_there(path)
    except OSError:
        return True


def is_folder(path: Path) -> bool:
    """Whether it is a directory, as far as can be told in time."""
    try:
        return stat.S_ISDIR(state(path).st_mode)
    except OSError:
        return False


def reason(error: OSError) -> str:
    """Why something could not be read, as a sentence."""
    text = printable(str(error.strerror or error))[:290]
    return text if text.endswith(".") else f"{text}."
