"""Problems born on a host; all of them may cross the wire.

Problem
├── CommandFailed       a tool ended with an error; knows argv, status and the tail of its output
├── MachineMissing      there is no image or no running machine of that name
├── MachineBusy         a build or removal of that name is under way
├── ConfigChanged       a file on the host is not the one the draft was based on
├── NameHasFiles        files lie under the name of a machine that is to be made
├── RolledBack          the machine did not come to life with it, so the files are as before
├── NoSpace             the disk is full, or would be
├── Stopped             a person cancelled the job
├── TookTooLong         the time limit passed
└── Misconfigured       this host's own settings, keys, ledger or policy cannot be used; the worker does not start
"""

import errno
import logging
import os
import re
import secrets
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from machines.contract.problems import Problem
from machines.host.system import guarded
from machines.host.system.paths import Paths

LOG = logging.getLogger(__name__)

_NOTED = "nspawnpanel_no_space"
FEW_INODES = 64  # so many free ones are none: every step of a job makes some
TAIL = 4000  # characters of a tool's output that travel with a problem


class CommandFailed(Problem):
    """A tool ended with an error. `status` is its exit status, negative for a signal (as in subprocess)."""

    code = "command-failed"

    def __init__(self, argv: Sequence[str], status: int, tail: str = "") -> None:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        last = tail.strip().splitlines()[-1:] or [""]
        super().__init__(f"{argv[0]} {how}. {last[0][:300]}".strip(), details=tail[-TAIL:])
        self.argv = list(argv)
        self.status = status
        self.tail = tail[-TAIL:]

    @property
    def line(self) -> str:
        """The command as it can be typed."""
        return shlex.join(self.argv)


class TookTooLong(Problem):
    code = "timed-out"


class Stopped(Problem):
    code = "cancelled"


class ConfigChanged(Problem):
    """A file on the host is not the one the draft was based on. The texts found go back in the outcome's result."""

    code = "config-changed"

    def __init__(self, name: str, nspawn: str, limits: str) -> None:
        super().__init__(
            f"The configuration of {name} was changed on the host since this draft was started; nothing was written.",
            hint="Review what is there now, then decide: keep it, or overwrite it with the draft.",
        )
        self.result = {"found_nspawn": _text(nspawn), "found_limits": _text(limits)}


class NameHasFiles(Problem):
    """Files lie under the name of a machine that is to be made, and nobody has decided what becomes of them. They go back
    in the outcome's result."""

    code = "name-has-files"

    def __init__(self, name: str, files: list[dict[str, object]], *, changed: bool) -> None:
        first = f"{files[0]['path']} already exists" if files else ""
        more = f", and {len(files) - 1} more" if len(files) > 1 else ""
        since = " It did not exist, or was different, when that was decided." if changed else ""
        super().__init__(
            f"There are files of {name} on this host: {first}{more}.{since} Nothing was changed.",
            hint="Keep them, replace them (copies are kept), or choose another name.",
        )
        self.result = {"leftovers": files}


def _text(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")


class RolledBack(Problem):
    """The machine did not come to life with a new configuration; `what` says what became of its files."""

    code = "rolled-back"

    def __init__(self, name: str, reason: str, what: str) -> None:
        super().__init__(
            f"{reason}, so {what}",
            hint=f"The log of {name} from that time shows what it was waiting for; the draft is kept, so you "
            "can fix it.",
        )


class MachineMissing(Problem):
    code = "machine-missing"


class MachineBusy(Problem):
    code = "machine-busy"


class NoSpace(Problem):
    code = "no-space"


class Misconfigured(Problem):
    code = "host-misconfigured"


# What tools print when write(2) fails with ENOSPC or EDQUOT, in the C locale.
_FULL = ("No space left on device", "Disk quota exceeded", "not enough free space", "don't have enough free space")


def is_full(text: str) -> bool:
    """Whether a tool's output says that the disk is full."""
    return any(words in text for words in _FULL)


def no_space(where: str, details: str = "", *, needs: str = "") -> NoSpace:
    """A full disk, or one without inodes: which it is, and how much is free; what it would have taken (`needs`, a sentence), and
    the last words of the tool that met it."""
    room = look(where)
    hint = "Remove machines you no longer need or enlarge the file system, then try again."
    if room is None:
        message = f"There is no space left in {where}."
    elif room.lacks_inodes:
        message = f"There are no inodes left in {where}: {room.free_inodes:,} of {room.inodes:,} are free."
        hint = (
            "Remove what contains many small files, or use a file system with more inodes for the machines; then "
            "try again."
        )
    else:
        lacks = "is not enough space" if needs else "is no space left"
        message = f"There {lacks} in {where}: {_mib(room.free)} of {_mib(room.size)} MiB are free."
    return NoSpace(f"{message} {needs}".strip(), hint=hint, details=details)


def _mib(bytes_: int) -> str:
    return f"{bytes_ // 1024**2:,}"


@dataclass(frozen=True)
class Room:
    """Of a file system: bytes and inodes in all, and those that are free for everybody; no inodes where they are not counted."""

    size: int
    free: int
    inodes: int
    free_inodes: int

    @property
    def lacks_inodes(self) -> bool:
        return self.inodes > 0 and self.free_inodes < FEW_INODES


def look(where: str) -> Room | None:
    """None when it does not answer, or is not there."""
    try:
        found = guarded.call(where, lambda: os.statvfs(where))
    except OSError:
        return None
    unit = found.f_frsize
    return Room(found.f_blocks * unit, found.f_bavail * unit, found.f_files, found.f_favail)


def full_place(file: str) -> str:
    """The folder that is full when a file could not be written. Names that are relative to an open folder say nothing; then
    it is where we write that has the least room."""
    own = Paths()
    places = (own.machines, own.state, own.nspawn, own.scratch)
    if ours := next((str(place) for place in places if file.startswith(f"{place}/")), ""):
        return ours
    if file.startswith("/"):
        above = [str(folder) for folder in (Path(file), *Path(file).parents) if look(str(folder)) is not None]
        return next((folder for folder in above if Path(folder).is_dir()), "/")
    rooms = [(str(place), room) for place in (*places, Path(tempfile.gettempdir())) if (room := look(str(place)))]
    lacking = [place for place, room in rooms if room.lacks_inodes]
    return (lacking or [place for place, _ in sorted(rooms, key=lambda pair: pair[1].free)] or ["the file system"])[0]


def note_room(error: BaseException | None) -> None:
    """For whoever is about to throw away what a job has half made: what is free is told as it was when there was too little."""
    if error is not None and not hasattr(error, _NOTED) and (full := _full(error)) is not None:
        setattr(error, _NOTED, full)


def _full(error: BaseException) -> NoSpace | None:
    """What a full disk has made of an error; None for all others."""
    if isinstance(error, CommandFailed) and is_full(error.tail):
        return no_space(full_place(_said_of(error.tail)), error.tail)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        named = isinstance(error.filename, (str, bytes))
        return no_space(full_place(os.fsdecode(error.filename) if named else ""))
    return None


def _said_of(text: str) -> str:
    """The file a tool could not write, as it said it; "" where it did not."""
    line = next((line for line in text.splitlines() if any(words in line for words in _FULL)), "")
    found = re.search(r"['‘\"](/[^'’\"]+)['’\"]", line)
    return found[1] if found else ""


def from_os_error(error: OSError) -> Problem:
    """An OSError as a problem: full disks with their figures, the rest as they are."""
    if (full := getattr(error, _NOTED, None) or _full(error)) is not None:
        return full
    if isinstance(error, guarded.Unreadable):
        return Problem(
            f"{error.filename} cannot be read: {guarded.reason(error)}", code="unreadable",
            hint="Check on the host what is there and where it points to.",
        )  # fmt: skip
    return Problem(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), code="io-error")


def as_problem(error: Exception, where: str) -> Problem:
    """Anything that was raised, as something that may cross the wire. The unknown keeps its trace in the host's log,
    which the command `where` shows."""
    if (full := getattr(error, _NOTED, None) or _full(error)) is not None:
        return full
    if isinstance(error, Problem):
        return error
    if isinstance(error, OSError):
        return from_os_error(error)
    reference = secrets.token_hex(4)
    LOG.error("Internal error %s", reference, exc_info=error)
    return Problem(f"Internal error on the host (reference {reference}).", hint=f"See its log for details: {where}")
