"""A sandbox's way out: slirp4netns carries its packets as ordinary sockets of this machine, whose network is not touched."""

import os
import select
import subprocess
from pathlib import Path

from nspawnpanel.sandbox.run import CLEAN, SandboxError

GATEWAY = "10.0.2.2"  # the outer machine's loopback
NAMESERVER = "10.0.2.3"  # forwards to the outer machine's name servers
MTU = 65520  # packets are never on a wire


class Uplink:
    """tap0 in the network namespace of the process `leader`, from connect() to close(), or to the death of this process."""

    def __init__(self, leader: int, log: Path) -> None:
        self._ready, tell = os.pipe()
        stay, self._leave = os.pipe()  # slirp4netns goes when the writing end is closed
        argv = [
            "slirp4netns", "--configure", f"--mtu={MTU}", f"--ready-fd={tell}", f"--exit-fd={stay}", str(leader), "tap0",
        ]  # fmt: skip
        try:
            with log.open("a") as said:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    env=CLEAN,
                    pass_fds=(tell, stay),
                    start_new_session=True,
                )
        finally:
            os.close(tell)
            os.close(stay)
        self.pid = self._process.pid

    def wait(self, seconds: float) -> None:
        """Return when the device is up. Raises SandboxError if it is not, within `seconds`."""
        with os.fdopen(self._ready, "rb") as answer:
            told, _, _ = select.select([answer], [], [], max(0.0, seconds))
            if not told or not answer.read(1):
                raise SandboxError("slirp4netns gave the host no way out")

    def close(self) -> None:
        """Take the device away."""
        os.close(self._leave)
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
