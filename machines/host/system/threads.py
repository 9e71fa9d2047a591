"""Threads that begin even when the host has none left: a machine without TasksMax= may have taken the last one.

Facts: Thread.start() raises RuntimeError then, fork(2) fails with EAGAIN. Whatever is left undone because of that would
stay so until the worker starts anew.
"""

import logging
import threading
import time
from collections.abc import Callable

LOG = logging.getLogger(__name__)
AGAIN_SECONDS = 1.0


def begin(work: Callable[..., object], name: str, *args: object) -> None:
    """Start a daemon thread; returns when it has started, which may be when there is room again."""
    while True:
        try:
            threading.Thread(target=work, args=args, name=name, daemon=True).start()
        except RuntimeError as error:
            LOG.warning("%s waits: %s", name, error)
            time.sleep(AGAIN_SECONDS)
        else:
            return


def every(seconds: float, work: Callable[[], object], name: str) -> None:
    """Repeat `work` in a thread of its own; a failure is logged and it goes on."""

    def loop() -> None:
        while True:
            try:
                work()
            except Exception:
                LOG.exception("%s failed", name)
            time.sleep(seconds)

    begin(loop, name)
