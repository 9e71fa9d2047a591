"""How much disk each image uses, counted slowly in the background: once in ten minutes per image, at the lowest
priority, one at a time."""

import logging
import threading
import time
from pathlib import Path

from machines.contract.problems import Problem
from machines.host.inventory import SLOW, is_usable
from machines.host.paths import Paths
from machines.host.run import run
from machines.host.this_host import Slow

LOG = logging.getLogger(__name__)
FIRST_AFTER = 20.0  # seconds after the worker's start
ROUND = 30.0


def start(paths: Paths, slow: Slow) -> None:
    """Count for ever in a thread; the figures appear in `slow.disk`."""
    threading.Thread(target=_keep_counting, args=(paths, slow), name="disk-use", daemon=True).start()


def _keep_counting(paths: Paths, slow: Slow) -> None:
    time.sleep(FIRST_AFTER)
    while True:
        for image in _images(paths):
            counted_at, _ = slow.disk.get(image.stem if image.suffix == ".raw" else image.name, (-SLOW, 0))
            if time.monotonic() - counted_at >= SLOW:
                _count(image, slow)
        time.sleep(ROUND)


def _images(paths: Paths) -> list[Path]:
    try:
        return sorted(p for p in paths.machines.iterdir() if is_usable(p.name) and not p.is_symlink())
    except OSError:
        return []


def _count(image: Path, slow: Slow) -> None:
    """An image that takes more than five minutes to count is left uncounted for this round."""
    name = image.stem if image.suffix == ".raw" else image.name
    argv = [
        "nice",
        "-n",
        "19",
        "ionice",
        "-c",
        "3",
        "du",
        "--summarize",
        "--one-file-system",
        "--block-size=1",
        "--",
        str(image),
    ]
    _, before = slow.disk.get(name, (0.0, 0))
    try:
        used = int(run(argv, timeout=300, codes=(0, 1)).out.split()[0])
    except (Problem, ValueError, IndexError) as error:
        LOG.info("The size of %s could not be counted: %s", name, error)
        used = before
    slow.disk[name] = (time.monotonic(), used)
