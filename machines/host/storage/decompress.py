"""What is inside a packed file, as a stream that only goes forward and ends at its limits.

A packed file that anybody may have made is unpacked by the usual tools, each bounded in memory, and by nobody faster than it
is read. The limits hold for what comes out: its size, and how often larger it is than what went in.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from machines.contract.problems import Problem
from machines.host.system import tools
from machines.host.system.faults import CommandFailed, no_space
from machines.host.system.run import reading

MAGIC = {
    b"\x1f\x8b": ("gzip",),
    b"BZh": ("bzip2",),
    b"\xfd7zXZ\x00": ("xz", "--memlimit=512MiB"),
    b"\x28\xb5\x2f\xfd": ("zstd", "--memory=512MiB"),
}
RATIO, RATIO_FROM = 200, 1024**3  # what grows more than so much is a bomb, once it is of some size
HEADERS = 4 * 1024 * 1024  # bytes that may describe one entry
KEEP_FREE = 1024**3  # bytes of the pool, for the machines that run
LOOK_EVERY = 64 * 1024 * 1024
_PIECE = 1024 * 1024

Told = Callable[[float, str], None]


@dataclass(frozen=True)
class Limits:
    """`packed` is the size of the archive itself, `most` what may come out of it, in bytes."""

    packed: int
    most: int


def refuse(reason: str, *, code: str = "archive-refused", hint: str = "") -> NoReturn:
    raise Problem(
        f"The archive is rejected: {reason}", code=code,
        hint=hint or "Nothing of it is kept. Create it again, from a root filesystem you trust.",
    )  # fmt: skip


@contextlib.contextmanager
def opened(file: Path, limits: Limits) -> Iterator["Stream"]:
    """An archive's contents, whatever it is packed with. Raises Problem tool-missing or archive-refused."""
    with file.open("rb") as source:
        begin = source.read(6)
    argv = next((argv for magic, argv in MAGIC.items() if begin.startswith(magic)), None)
    with file.open("rb") as source:  # anew: a program gets it from its beginning
        if argv is None:
            yield Stream(source, limits)
            return
        if tools.which(argv[0]) is None:
            tools.refuse_without([(argv[0],)])
        try:
            with reading([*argv, "--decompress", "--stdout"], source) as pipe:
                yield Stream(pipe, limits)
        except CommandFailed as failed:
            refuse(f"{argv[0]} cannot decompress it: {(failed.tail.splitlines() or [failed.message])[-1][:300]}")


class Stream:
    """A file that only goes forward and ends at its limits: all that tarfile may read from."""

    def __init__(self, pipe: IO[bytes], limits: Limits) -> None:
        self._pipe, self._limits = pipe, limits
        self._at = self._header = 0

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        """Part of a header. More than any entry needs is refused before it is held in memory."""
        self._header += size
        if self._header > HEADERS:
            refuse("an entry has headers of more than 4 MiB.")
        return self._take(size)

    def seek(self, position: int) -> None:
        """Forward, by reading on."""
        if position < self._at:
            refuse("an entry is out of order.")
        while self._at < position:
            if not self._take(min(_PIECE, position - self._at)):
                return

    def entry(self) -> None:
        """What comes next is described anew."""
        self._header = 0

    def content(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes. Raises Problem when there are fewer."""
        while size > 0:
            piece = self._take(min(_PIECE, size))
            if not piece:
                refuse("it is truncated in the middle of a file.")
            size -= len(piece)
            yield piece

    def rest(self) -> Iterator[bytes]:
        """Everything up to the end."""
        while piece := self._take(_PIECE):
            yield piece

    def _take(self, size: int) -> bytes:
        data = self._pipe.read(size)
        self._at += len(data)
        if self._at > self._limits.most:
            refuse(
                f"unpacked it has more than {self._limits.most // 1024**3} GiB.", code="archive-too-large",
                hint="This host's policy sets the limit (max_archive_gib).",
            )  # fmt: skip
        if self._at > max(RATIO_FROM, RATIO * self._limits.packed):
            refuse(
                f"unpacked it is more than {RATIO} times as large as packed, like a decompression bomb.",
                code="archive-bomb",
            )
        return data


def look_for_room(folder: Path) -> None:
    """Raises NoSpace before the machines that run would miss it."""
    free = shutil.disk_usage(folder).free
    if free < KEEP_FREE:
        raise no_space(str(folder), needs=f"{KEEP_FREE // 1024**2:,} MiB are kept free for running machines.")


def unpack_raw(stream: Stream, file: Path, limits: Limits, told: Told) -> int:
    """A disk image into a new file, holes where it has nothing; its size. Raises Problem or OSError."""
    size, looked, nothing = 0, 0, bytes(_PIECE)
    with file.open("xb") as out:
        os.fchmod(out.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        for piece in stream.rest():
            size += len(piece)
            if piece == nothing[: len(piece)]:
                out.seek(size)
            else:
                out.write(piece)
            told(min(1.0, size / max(1, limits.packed * 4)), f"{size // 1024**2} MiB unpacked")
            if size - looked > LOOK_EVERY:
                looked = size
                look_for_room(file.parent)
        out.truncate(size)
    if size == 0:
        refuse("it is empty.")
    return size
