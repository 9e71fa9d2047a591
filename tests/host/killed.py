"""Work that is killed between two of its changes, in a child of the test: every seam of it can be tried in a moment."""

import os
import signal
import sys
from collections.abc import Callable

from machines.host.system import guarded

CHANGES = {"subprocess.Popen", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_DIRECTORY


def dies_before(change: int, do: Callable[[], object]) -> bool:
    """Whether a child that does it was killed before its change of that number; otherwise it has done all of it."""
    child = os.fork()
    if not child:
        guarded._idle.clear()  # no thread lives on in a child
        left = [change]

        def hook(event: str, args) -> None:
            if event in CHANGES or (event == "open" and args[2] and args[2] & WRITES):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            do()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
