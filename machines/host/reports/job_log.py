"""The log of a job that runs in a unit of its own: one JSON object per line in STATE/jobs/<id>/log.

Why a file and not the journal: its size in bytes is a cursor that cannot be vacuumed, rate-limited or split, so a
worker that was killed goes on at the very byte it had reported, and every line arrives once and in order. The unit
prints its own words on standard output too, for whoever reads the journal. The logs of the last fifty jobs that have
ended are kept, as far as they fit into KEPT_BYTES.
"""

import contextlib
import errno
import json
import os
import time
from collections.abc import Collection
from pathlib import Path
from uuid import UUID

from machines.host.context.job_output import Entry
from machines.host.storage import rmtree

FILE = "log"
# Bytes and lines, as many as the panel keeps of a job unless it was told otherwise; a tool that says more is cut off
LIMIT, LINES = 64 * 1024 * 1024, 200_000
CUT = f"The log is truncated here: this job wrote more than {LINES:,} lines or {LIMIT >> 20} MiB."
KEPT, KEPT_BYTES = 50, 512 * 1024 * 1024
LONGEST = 20_000  # bytes of an entry, about
RESULT_TRIES = 20
CHUNK = 1024 * 1024


def exists(folder: Path) -> bool:
    """Whether a job's unit has ever begun to write."""
    return (folder / FILE).exists()


class JobLog:
    """The writing end, in the unit. A full disk costs lines, never the job."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._torn = self._size > 0  # whatever was there may end in half a line
        self._lines, self._is_cut = 0, False

    def tell(self, entry: Entry) -> bool:
        """Write one entry; False when the disk had no room for it."""
        if entry["k"] in {"line", "progress", "command"}:
            if self._is_cut:
                return True
            self._is_cut = self._size + LONGEST > LIMIT or (entry["k"] == "line" and self._lines >= LINES)
            if self._is_cut:
                entry = {"k": "line", "at": entry.get("at", 0.0), "s": "p", "t": CUT}
            self._lines += entry["k"] == "line"
        data = ("\n" if self._torn else "") + json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"
        raw = data.encode(errors="replace")
        try:
            written = os.write(self._fd, raw)
        except OSError:
            written = 0
        self._torn = written != len(raw) and (written > 0 or self._torn)
        self._size += written
        return written == len(raw)

    def result(self, state: str, problem: dict[str, object] | None, result: dict[str, object]) -> None:
        """The job's end; on disk before the unit ends. What the job had taken is freed by now, so a full disk is waited
        for a little. Raises OSError when it stays full."""
        entry = {"k": "result", "at": 0.0, "state": state, "problem": problem, "result": result}
        for _ in range(RESULT_TRIES):
            if self.tell(entry):
                os.fsync(self._fd)
                return
            time.sleep(0.5)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), FILE)


def read_from(folder: Path, cursor: int) -> tuple[list[Entry], int]:
    """Entries written after `cursor` (bytes) and the new cursor; at most about 1 MiB. Half-written lines wait.

    The result comes alone, after everything before it was read.
    """
    try:
        with (folder / FILE).open("rb") as file:
            file.seek(cursor)
            data = file.read(CHUNK)
    except FileNotFoundError:
        return [], cursor
    entries: list[Entry] = []
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        entry = _entry(line)
        if entry and entry["k"] == "result" and entries:
            break
        cursor += len(line)
        if entry:
            entries.append(entry)
    return entries, cursor


def _entry(line: bytes) -> Entry:
    """{} for the torn end of a write on a full disk."""
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and "k" in entry:
            return entry
    return {}


def last_lines(folder: Path, count: int) -> list[str]:
    """The last lines of a job's log, for explaining how it died."""
    try:
        size = (folder / FILE).stat().st_size
    except OSError:
        return []
    entries, _ = read_from(folder, max(0, size - CHUNK // 4))
    return [str(entry["t"]) for entry in entries if entry["k"] == "line"][-count:]


def put_away(folder: Path) -> None:
    """A job has ended: its log stays, whatever else it had written goes. Raises OSError when something of that is left."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name != FILE:
            rmtree.remove(entry)
    with contextlib.suppress(OSError):  # a log is in there
        folder.rmdir()


def keep_last(jobs: Path, unfinished: Collection[UUID]) -> None:
    """Of jobs that have ended the last fifty keep their folders, as far as their logs fit into KEPT_BYTES; the last one
    keeps its own, and that of one which goes on is not touched, however old. Raises OSError."""
    working = {str(job) for job in unfinished}
    ended = []
    for folder in jobs.iterdir() if jobs.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # two jobs may end at once
            if folder.is_dir() and folder.name not in working:
                ended.append((folder.stat().st_mtime, folder))
    kept = 0
    for place, (_, folder) in enumerate(sorted(ended, reverse=True)):
        kept += _size(folder / FILE)
        if place and (place >= KEPT or kept > KEPT_BYTES):
            rmtree.remove(folder)


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except FileNotFoundError:
        return 0
