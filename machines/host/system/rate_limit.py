"""How often something may be done that others bring about: so many at once, then one per period."""

import threading
import time


class Budget:
    """So many at once, then one per period: a flood of forged messages must not become a flood of reports."""

    def __init__(self, most: int, period: float) -> None:
        self._most, self._period = most, period
        self._left, self._at = float(most), time.monotonic()
        self._held_back = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether one more may go out now."""
        with self._lock:
            now = time.monotonic()
            self._left = min(self._most, self._left + (now - self._at) / self._period)
            self._at = now
            if self._left < 1:
                self._held_back += 1
                return False
            self._left -= 1
            return True

    def held_back(self) -> int:
        """How many did not go out since this was last asked."""
        with self._lock:
            held_back, self._held_back = self._held_back, 0
            return held_back
