"""The load of a proof: `python load_generator.py cpu SECONDS` or `… memory BYTES SECONDS`. It ends by itself.

It runs alone in a machine's control group, so it imports little and keeps little. Who starts it (limit_test.py) has made it
the first to be killed, and tied its life to its own.
"""

import mmap
import sys
import time

STEPS = 100
HOLD = 1.0  # seconds all of the memory is held


def processor(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(20_000):
            pass


def memory(count: int, seconds: float) -> None:
    """Fill memory in even steps over about `seconds`, then let it go."""
    block = mmap.mmap(-1, count)
    step = max(mmap.PAGESIZE, count // STEPS)
    content = b"\x01" * step
    for start in range(0, count, step):
        end = min(start + step, count)
        block[start:end] = content[: end - start]
        time.sleep(seconds / STEPS)
    time.sleep(HOLD)


if __name__ == "__main__":
    if sys.argv[1] == "cpu":
        processor(float(sys.argv[2]))
    else:
        memory(int(sys.argv[2]), float(sys.argv[3]))
