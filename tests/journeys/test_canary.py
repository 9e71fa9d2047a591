"""A password that somebody types into a form is nowhere afterwards but, as a hash, in the machine itself."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from machines.panel.teams.tokens import PREFIX
from nspawnpanel.sandbox import Sandbox
from nspawnpanel.stack import Stack
from tests.person import Person

CANARY = "Canary-7f3a-correct-horse"
WHERE = ["/var/lib/nspawnpanel", "/etc", "/run", "/tmp", "/var/log", "/var/tmp", "/root"]  # of the host, machines aside


class Eavesdropper(threading.Thread):
    """Everything that is said to Redis, and every argument of every process, as long as it lasts."""

    def __init__(self, panel: Stack) -> None:
        super().__init__(name="eavesdropper", daemon=True)
        self.heard: list[str] = []
        self.commands: set[bytes] = set()
        self._panel = panel
        self.over = threading.Event()

    def run(self) -> None:
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        while not self.over.wait(0.01):
            for line in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.commands.add(line.read_bytes())

    def _listen(self) -> None:
        with self._panel.valkey.admin() as admin, admin.monitor() as monitor:
            for command in monitor.listen():
                self.heard.append(str(command))
                if self.over.is_set():
                    return


@pytest.fixture
def eavesdropper(panel: Stack) -> Iterator[Eavesdropper]:
    thread = Eavesdropper(panel)
    thread.start()
    yield thread
    thread.over.set()


def holding(folder: Path, word: str) -> list[str]:
    """Files that hold it."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


def hash_of(host: Sandbox, machine: str) -> str:
    shadow = host.read(f"/var/lib/machines/{machine}/etc/shadow")
    return next(line.split(":")[1] for line in shadow.splitlines() if line.startswith("root:"))


def test_a_password_is_in_no_database_log_queue_history_or_argument(ada: Person, panel, alpha_host, eavesdropper):
    job = ada.build("canary", start=None, root_password=CANARY)
    ada.succeed(job, 240)
    for page in (f"/jobs/{job['id']}/", f"/jobs/{job['id']}/log/raw/", "/hosts/alpha/machines/canary/", "/events/"):
        assert CANARY not in ada.get(page)
    eavesdropper.over.set()  # what follows names the words itself
    hashed = hash_of(alpha_host, "canary")
    assert hashed.startswith("$")  # it did arrive
    for word, places in ((CANARY, everywhere), (hashed, outside_the_tree)):
        assert places(panel, alpha_host, word) == []
        assert not [said for said in eavesdropper.heard if word in said]
        assert not [argv for argv in eavesdropper.commands if word.encode() in argv]
    assert len(eavesdropper.heard) > 10
    assert len(eavesdropper.commands) > 10


def test_an_api_token_and_a_session_are_nowhere_but_with_whom_they_were_given_to(ada: Person, panel, eavesdropper):
    ada.post("/settings/tokens/new/", {"name": "canary", "all_teams": "on", "all_hosts": "on", "days": "1"})
    found = re.search(re.escape(PREFIX) + r"[A-Za-z0-9_-]{40,}", ada.answer)
    assert found, ada.complaints()
    asked = Request(f"{panel.url}/api/whoami", headers={"Authorization": f"Bearer {found[0]}"})
    with urlopen(asked, timeout=30) as answer:
        assert json.load(answer)["token"]
    wrong = Request(f"{panel.url}/machines/", headers={"Authorization": f"Bearer {found[0]}x"})
    with contextlib.suppress(HTTPError):
        urlopen(wrong, timeout=30).close()
    session = next(cookie.value for cookie in ada.cookies if cookie.name == "session")
    for secret in (found[0], session):
        for page in ("/settings/tokens/", "/settings/sessions/", "/events/", "/jobs/"):
            assert secret not in ada.get(page)
        assert holding(panel.data, secret) == []
        assert not [said for said in eavesdropper.heard if secret in said]
        assert not [argv for argv in eavesdropper.commands if secret.encode() in argv]
    assert holding(panel.data, found[0][:8])  # its first letters are kept, so the rest was looked for where it would be


def everywhere(panel: Stack, host: Sandbox, word: str) -> list[str]:
    return outside_the_tree(panel, host, word) + searched(host, word, ["/var/lib/machines/canary"])


def outside_the_tree(panel: Stack, host: Sandbox, word: str) -> list[str]:
    deadline = time.monotonic() + 10  # the write-ahead log of the ledger holds a page until it is overwritten
    while (found := searched(host, word, WHERE)) and time.monotonic() < deadline:
        time.sleep(1)
    journal = host.run(["sh", "-c", 'journalctl --quiet --output=export | grep -cF -e "$0" || true', word]).stdout
    return (
        holding(panel.data, word)
        + found
        + ([f"{journal.strip()} lines of the journal"] if journal.strip() != "0" else [])
    )


def searched(host: Sandbox, word: str, folders: list[str]) -> list[str]:
    argv = [
        "grep",
        "--recursive",
        "--files-with-matches",
        "--fixed-strings",
        "--binary-files=text",
        "--devices=skip",
        "-e",
        word,
    ]
    return host.run([*argv, "--", *folders], check=False, timeout=120).stdout.splitlines()
