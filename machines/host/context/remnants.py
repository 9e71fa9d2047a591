"""What should be gone from this host and could not be removed, with the reason. Each sweep tries it again (agent/cleanup.py), and
every inventory tells of it until it is gone."""

import threading
import time

from machines.contract.problems import Problem, printable
from machines.contract.reports import Remnant

AGAIN_SECONDS = 600.0
AGAIN = "It is retried every ten minutes; the host's page shows it until it is gone."
TOLD = 100


class Remnants:
    """Shared by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Remnant] = {}

    def note(self, path: object, error: Exception) -> bool:
        """Whether it is new, or the reason is."""
        key, why = printable(str(path))[:1000], _below(str(path), reason(error))
        with self._lock:
            before = self._known.get(key)
            since = before.since if before else time.time()
            self._known[key] = Remnant(path=key, why=why, since=since)
        return before is None or before.why != why

    def keep_only(self, paths: set[str]) -> bool:
        """Forget those that a sweep has not met again; whether there were any."""
        kept = {printable(path)[:1000] for path in paths}
        with self._lock:
            gone = self._known.keys() - kept
            self._known = {path: known for path, known in self._known.items() if path not in gone}
        return bool(gone)

    def told(self) -> list[Remnant]:
        """The oldest first, as many as a report has."""
        with self._lock:
            return sorted(self._known.values(), key=lambda each: each.since)[:TOLD]


def _below(path: str, why: str) -> str:
    """Beside its own path only what lies below it need be said."""
    return why.removeprefix(f"{path}: ").replace(f"{path}/", "") or why


def reason(error: Exception) -> str:
    """Why something could not be removed: what exactly, and the reason."""
    if isinstance(error, OSError):
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        said = error.message if isinstance(error, Problem) else str(error)
    return printable(said)[:300] or type(error).__name__
