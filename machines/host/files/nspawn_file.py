"""A machine's two files on disk: /etc/systemd/nspawn/NAME.nspawn and the drop-in of its unit; and, where it has binds, the one
that judges them at each start (bind_dropin.py), which comes and goes with them.

Both are written aside, synced and renamed, so that a power cut leaves the old file or the new one. What was replaced
is kept, see generations.py.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from machines.contract.configuration import nspawn
from machines.contract.names import MachineName
from machines.contract.orders import ABSENT, Configuration
from machines.contract.problems import Problem
from machines.host.policy import bind_dropin, protection
from machines.host.system import guarded
from machines.host.system.paths import Paths

OURS_LIMIT = 16 * guarded.SETTINGS_LIMIT  # bytes of a file that holds both, written as JSON
BEFORE = "before.json"  # in the folder of a job: what its machine's files were


@dataclass(frozen=True)
class Files:
    """The texts of both files; "" for a file that is not there."""

    nspawn: str = ""
    limits: str = ""

    @property
    def nspawn_sha256(self) -> str:
        return sha256(self.nspawn)

    @property
    def limits_sha256(self) -> str:
        return sha256(self.limits)


def sha256(text: str) -> str:
    """Of a file's text in hex; "absent" when there is no file."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest() if text else ABSENT


def wanted(configuration: Configuration) -> Files:
    """What shall be on disk: both texts with our first line."""
    number = configuration.revision
    return Files(
        nspawn=nspawn.mark(configuration.nspawn, number) if configuration.nspawn else "",
        limits=nspawn.mark(configuration.limits, number) if configuration.limits else "",
    )


def read(paths: Paths, name: MachineName) -> Files:
    """Both files as they are now; bytes that are no UTF-8 survive a round trip. Raises OSError."""
    return Files(nspawn=read_one(paths.nspawn_file(name)), limits=read_one(paths.limits_file(name)))


def read_one(file: Path, limit: int = guarded.SETTINGS_LIMIT) -> str:
    """A file's text, "" when there is none. Raises OSError; guarded.Unreadable for what would block or never end."""
    try:
        return guarded.whole(file, limit).decode(errors="surrogateescape")
    except FileNotFoundError:
        return ""


@dataclass(frozen=True)
class _Ready:
    """One file to be exchanged: where it lies, its new text in a file beside it (None: it goes), and what is replaced."""

    file: Path
    aside: Path | None
    before: str
    after: str


class Prepared:
    """Both files lying ready beside their places, whole and synced; so that nothing is left to do but to rename them."""

    def __init__(self, paths: Paths, name: MachineName, files: Files, before: Files, *, follow: bool = False) -> None:
        """`before` is what they may replace. With `follow` the file a link leads to is written, and the link stays.

        Raises OSError, or Problem file-is-link; then nothing is left.
        """
        self._ready: list[_Ready] = []
        self.changes_unit = False  # then systemd has to read drop-ins anew
        try:
            binds = paths.binds_file(name)
            judged = read_one(binds)
            for file, was, text in (
                (paths.limits_file(name), before.limits, files.limits),
                (binds, judged, bind_dropin.wanted(files.nspawn, judged)),
                (paths.nspawn_file(name), before.nspawn, files.nspawn),
            ):
                if was != text:
                    self.changes_unit |= file != paths.nspawn_file(name)
                    real = place_of(file, text, follow=follow)
                    self._ready.append(_Ready(real, _aside(real, text) if text else None, was, text))
        except BaseException:
            self.drop()
            raise

    def put(self) -> None:
        """Make both files so; their folders are to be synced yet. Raises OSError, or Problem files-changed when what
        would be replaced is something else by now."""
        for ready in self._ready:
            if read_one(ready.file) not in {ready.before, ready.after}:
                raise Problem(
                    f"{ready.file} has just been changed by someone else; it was not touched.", code="files-changed",
                    retryable=True, hint="Review what is there now, then decide.",
                )  # fmt: skip
        for ready in self._ready:
            _exchange(ready.file, ready.aside)

    def sync(self) -> None:
        for ready in self._ready:
            sync_folder(ready.file.parent)

    def drop(self) -> None:
        """Leave everything as it was."""
        for ready in self._ready:
            if ready.aside:
                ready.aside.unlink(missing_ok=True)
                _forget_empty(ready.file.parent)


def place_of(file: Path, text: str, *, follow: bool) -> Path:
    """The file that is to be written; it is never put in the place of a link. Raises Problem file-is-link."""
    if not file.is_symlink():
        return file
    real = Path(guarded.resolved(file))
    if follow and text and guarded.is_there(real) and str(real) != os.devnull and os.access(real.parent, os.W_OK):
        if open_folder := protection.open_folder(str(file)):
            raise Problem(
                f"{file} is a symlink to {real}, and users other than root can write to {open_folder} on that path; nothing was written.",
                code="file-is-link", hint=f"Whoever can place a symlink there decides what root writes to: chown root: {open_folder}; chmod go-w {open_folder}",
            )  # fmt: skip
        return real
    why = "which masks these settings" if str(real) == os.devnull else "so it is managed elsewhere"
    raise Problem(
        f"{file} is a symlink to {real}, {why}; nothing was written.", code="file-is-link",
        hint=f"Change {real} at its source, or replace the symlink with a file on the host. With linked_files = \"follow\" in its policy.toml the host writes to the target of a symlink.",
    )  # fmt: skip


def forget_prepared(paths: Paths, name: MachineName) -> None:
    """Remove what somebody who was killed had lying ready. Raises OSError."""
    for file in (paths.limits_file(name), paths.binds_file(name), paths.nspawn_file(name)):
        _aside_of(file).unlink(missing_ok=True)
        _forget_empty(file.parent)


def write(paths: Paths, name: MachineName, files: Files) -> bool:
    """Make both files so; a text of "" removes the file. Whether systemd has to read drop-ins anew. Raises OSError."""
    prepared = Prepared(paths, name, files, read(paths, name))
    prepared.put()
    prepared.sync()
    return prepared.changes_unit


def write_one(file: Path, text: str) -> None:
    """Make one file so, whole and synced; "" removes it. Raises OSError."""
    if read_one(file, OURS_LIMIT) == text:
        return
    _exchange(file, _aside(file, text) if text else None)
    sync_folder(file.parent)


def keep(folder: Path, files: Files) -> None:
    """Keep, durably, what a job is about to replace, in the job's own folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_one(folder / BEFORE, json.dumps(asdict(files)))


def kept(folder: Path) -> Files | None:
    """What keep() has kept; None when the job has not come so far. Raises OSError or ValueError."""
    text = read_one(folder / BEFORE, OURS_LIMIT)
    return Files(**json.loads(text)) if text else None


def _aside_of(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


def _aside(file: Path, text: str) -> Path:
    """Its new text beside it, on disk. Raises OSError; then nothing of it is left, also on a disk that is full."""
    aside = _aside_of(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644), "wb") as out:
            os.fchmod(out.fileno(), 0o644)
            out.write(text.encode(errors="surrogateescape"))
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        aside.unlink(missing_ok=True)
        _forget_empty(file.parent)
        error.filename = error.filename or str(file)  # write(2) and fsync(2) name none
        raise
    return aside


def _exchange(file: Path, aside: Path | None) -> None:
    if aside:
        aside.rename(file)
        return
    file.unlink(missing_ok=True)
    _forget_empty(file.parent)


def _forget_empty(folder: Path) -> None:
    if folder.name.endswith(".service.d"):
        with contextlib.suppress(OSError):  # somebody else's drop-in is in there
            folder.rmdir()


def sync_folder(folder: Path) -> None:
    if not folder.exists():
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
