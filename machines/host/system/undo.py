"""Steps back, stacked while something half-done grows, run in reverse unless success is declared."""

import logging
from collections.abc import Callable
from types import TracebackType

from machines.host.system.faults import note_room

LOG = logging.getLogger(__name__)


class Undo:
    """`with Undo() as undo: make(x); undo.push(remove, x); …; undo.keep()`."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def push(self, step: Callable[..., object], *args: object) -> None:
        """Add a step back: what undoes the thing just done."""
        self._steps.append(lambda: step(*args))

    def keep(self) -> None:
        """What was made so far stays, whatever happens from here on."""
        self._steps.clear()

    def __enter__(self) -> "Undo":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        note_room(error)
        while self._steps:
            step = self._steps.pop()
            try:
                step()
            except Exception:  # one step back that fails must not keep the others from being taken
                LOG.exception("A step back failed")
