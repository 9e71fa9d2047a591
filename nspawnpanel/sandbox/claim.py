"""Who runs which sandbox: a lock per name, and in the lock's file what its owner started.

A process that was killed cannot tidy up. Its lock is free, though, and its note names the processes it left, so the
next sandbox that starts from the same cache clears them away. A pid is only trusted with its start time beside it.
"""

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nspawnpanel.sandbox.run import SandboxError


class Claim:
    """One name, held by this process until release()."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path = file, path
        self.name = path.name.removeprefix(".").removesuffix(".lock")

    def note(self, *processes: int, keep: bool) -> None:
        """Write down what must be ended, and whether the host's tree may be deleted, should this process die."""
        started = {str(pid): start for pid in processes if (start := _start_time(pid))}
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps({"keep": keep, "processes": started}))
        self._file.flush()

    def clear_away(self) -> bool:
        """Kill what the note names and still runs; returns whether the host's tree is to be kept."""
        self._file.seek(0)
        try:
            noted = json.loads(self._file.read() or "{}")
        except ValueError:  # its owner was killed while it wrote
            return True
        for pid, start in noted.get("processes", {}).items():
            if _start_time(int(pid)) == start:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        return bool(noted.get("keep", True))

    def release(self, *, forget: bool = False) -> None:
        """Let the name go; `forget` removes every trace of it beside the trees."""
        if forget:
            hosts = self._path.parent
            for file in (*hosts.glob(f".{self.name}.*"), hosts / f".#{self.name}.lck"):  # the last is nspawn's own
                file.unlink(missing_ok=True)
        self._file.close()


def take(hosts: Path, name: str, mode: str = "a+") -> Claim:
    """Hold `name` of the folder `hosts`. Raises SandboxError while another process does."""
    path = hosts / f".{name}.lock"
    while True:
        file = path.open(mode)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise SandboxError(f"a sandbox named {name} is already running from {hosts.parent.parent}") from None
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return Claim(file, path)
        file.close()  # forgotten by its owner between our open and our lock


def abandoned(hosts: Path) -> Iterator[Claim]:
    """Every name nobody holds, held by us now; the caller releases each."""
    for path in hosts.glob(".*.lock"):
        with contextlib.suppress(SandboxError, FileNotFoundError):
            yield take(hosts, path.name.removeprefix(".").removesuffix(".lock"), mode="r+")


def _start_time(pid: int) -> str:
    """When a process started, in ticks since boot; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
