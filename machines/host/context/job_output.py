"""How a job speaks about itself, wherever it runs: in entries, which become reports (reporting.py) or stand in the log of
a job's unit first (job_log.py)."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from machines.contract.problems import printable

Entry = dict[str, Any]  # something a job says about itself; see JobOutput


class JobOutput:
    """How a job speaks about itself. `tell` takes one entry: {"k": kind, "at": seconds, …}."""

    def __init__(self, tell: Callable[[Entry], None]) -> None:
        self._tell = tell
        self._progressed = 0.0

    def line(self, text: str, source: str = "p") -> None:
        """One log line. Source o and e are a tool's output and error output, p our own words."""
        self._tell({"k": "line", "at": time.time(), "s": source, "t": printable(text)[:16_384]})

    def heard(self, source: str, text: str) -> None:
        """The same for run.Heard."""
        self.line(text, source)

    def phase(self, name: str, number: int, of: int) -> None:
        """A named step of the job begins: `number` of `of`."""
        self._tell({"k": "phase", "at": time.time(), "name": name, "number": number, "of": of})

    def command(self, argv: Sequence[str]) -> None:
        """The exact command that is about to run. It must hold no secret."""
        self._tell({"k": "command", "at": time.time(), "argv": [printable(str(word))[:8000] for word in argv][:1000]})

    def progress(self, fraction: float, note: str = "") -> None:
        """How far the phase is, 0..1; at most four times per second reach the panel."""
        if time.monotonic() - self._progressed > 0.25 or fraction >= 1:
            self._progressed = time.monotonic()
            self._tell(
                {
                    "k": "progress",
                    "at": time.time(),
                    "fraction": min(1.0, max(0.0, fraction)),
                    "note": printable(note)[:300],
                }
            )
