"""A host joins a real panel by the one command of its page, and somebody compares the fingerprints."""

import contextlib
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from html import unescape
from typing import Protocol

from tests.person import Person, until

COMMAND = re.compile(r'<code id="join-host">(.*?)</code>')
FINGERPRINT = re.compile(r'name="fingerprint" value="((?:[0-9]{5} ){5}[0-9]{5})"')
Done = subprocess.CompletedProcess[str]


class Box(Protocol):
    """A sandbox host or a virtual machine."""

    def run(self, argv: Sequence[str], *, check: bool = ..., timeout: float = ...) -> Done: ...


def enrol(ada: Person, host: Box, name: str, seconds: float = 60) -> str:
    """What the command printed, once the page says that the host has joined."""
    url = ada.post("/enrolments/new/", {"name": name})
    with typed(host, command(ada, url), seconds) as done:
        compared = fingerprint(ada, url, seconds)
        ada.post(f"{url}accept/", {"fingerprint": compared}, page=url)
        until(lambda: 'id="joined"' in ada.get(url), seconds, lambda: f"{done} {ada.get(url)}")
    assert done[0].returncode == 0, done
    assert compared in " ".join(done[0].stdout.split())
    return done[0].stdout


def command(ada: Person, url: str) -> str:
    found = COMMAND.search(ada.get(url))
    assert found, ada.get(url)
    return unescape(found[1])


def fingerprint(ada: Person, url: str, seconds: float = 30) -> str:
    """That of the page, once the host has come."""
    until(lambda: FINGERPRINT.search(ada.get(url)), seconds, lambda: ada.get(url))
    found = FINGERPRINT.search(ada.get(url))
    assert found
    return found[1]


@contextlib.contextmanager
def typed(host: Box, line: str, seconds: float = 60) -> Iterator[list[Done]]:
    """The command, typed on the host; its outcome is in the list when this ends."""
    done: list[Done] = []
    run = lambda: done.append(host.run(["bash", "-c", line], check=False, timeout=2 * seconds))  # noqa: E731
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        thread.join()
