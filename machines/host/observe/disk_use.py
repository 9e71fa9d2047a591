"""How much disk each image uses, counted slowly in the background: once in ten minutes per image, at the lowest
priority, one at a time."""

import logging
import threading
import time

from machines.contract.problems import Problem
from machines.host.context.host_context import Image, Slow
from machines.host.files.files_on_disk import target_of
from machines.host.observe.inventory import SLOW
from machines.host.system.run import run

LOG = logging.getLogger(__name__)
FIRST_AFTER = 20.0  # seconds after the worker's start
ROUND = 30.0


def start(slow: Slow) -> None:
    """Count the images of the last inventory, for ever and in a thread; the figures appear in `slow.disk`."""
    threading.Thread(target=_keep_counting, args=(slow,), name="disk-use", daemon=True).start()


def _keep_counting(slow: Slow) -> None:
    time.sleep(FIRST_AFTER)
    while True:
        for image in list(slow.images.values()):
            counted_at, _ = slow.disk.get(image.name, (-SLOW, 0))
            if time.monotonic() - counted_at >= SLOW and not target_of(image.path):
                _count(image, slow)
        time.sleep(ROUND)


def _count(image: Image, slow: Slow) -> None:
    """An image that takes more than five minutes to count is left uncounted for this round."""
    argv = [
        "nice", "-n", "19",
        "ionice", "-c", "3",
        "du", "--summarize", "--one-file-system", "--block-size=1", "--", str(image.path),
    ]  # fmt: skip
    _, before = slow.disk.get(image.name, (0.0, 0))
    try:
        used = int(run(argv, timeout=300, codes=(0, 1)).out.split()[0])
    except (Problem, ValueError, IndexError) as error:
        LOG.info("The size of %s could not be determined: %s", image.path, error)
        used = before
    slow.disk[image.name] = (time.monotonic(), used)
