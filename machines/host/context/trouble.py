"""What this host cannot read or do at the moment, by what it is about; every heartbeat tells of it.

A heartbeat proves that the worker lives, not that what it told of its machines is still so.
"""

import logging
import threading

from machines.contract.problems import printable

LOG = logging.getLogger(__name__)

MACHINES, FILES, LOOP, SPOOL, QUEUE = "machines", "files", "loop", "spool", "queue"  # what it may be about


class Trouble:
    """Shared by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}

    def note(self, about: str, why: str) -> bool:
        """Whether it is new. `why` is a sentence, the same one for as long as it is the same trouble."""
        why = printable(why)[:300]
        with self._lock:
            fresh = self._known.get(about) != why
            self._known[about] = why
        if fresh:
            LOG.warning("%s: %s", about, why)
        return fresh

    def queue(self, why: str) -> None:
        """`why` orders cannot be taken out of the queue; "" once they can."""
        if why:
            self.note(QUEUE, why)
        else:
            self.over(QUEUE)

    def over(self, about: str) -> None:
        with self._lock:
            ended = self._known.pop(about, None)
        if ended is not None:
            LOG.info("%s: it works again", about)

    def told(self) -> dict[str, str]:
        with self._lock:
            return dict(self._known)
