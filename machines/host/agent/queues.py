"""One queue per machine name: work on one name is done in the order it came, work on different names at once."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

LOG = logging.getLogger(__name__)
WIDTH = 64  # names worked on at the same time; most of them wait for systemd
READY = 4  # threads that are there from the start: on a host that has no more, work still goes on

Work = Callable[[], None]


class Queues:
    def __init__(self, width: int = WIDTH) -> None:
        self._pool = ThreadPoolExecutor(width, thread_name_prefix="queue")
        self._queues: dict[str, deque[Work]] = {}
        self._lock = threading.Lock()
        ready = threading.Barrier(min(width, READY))
        for _ in range(ready.parties):
            self._pool.submit(ready.wait)

    def put(self, name: str, work: Work) -> None:
        """Do `work` when everything put before it under the same name is done."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is not None:
                queue.append(work)
                return
            self._queues[name] = deque([work])
        try:
            self._pool.submit(self._drain, name)
        except RuntimeError as error:  # no new thread can be had; it stands in the line of those that are there
            LOG.warning("Work on %s waits for a thread: %s", name, error)

    def _drain(self, name: str) -> None:
        while True:
            with self._lock:
                queue = self._queues[name]
                if not queue:
                    del self._queues[name]
                    return
                work = queue[0]
            try:
                work()
            except Exception:  # one order's fault must not stop the others of its machine
                LOG.exception("Work on %s failed", name)
            with self._lock:
                queue.popleft()
