"""A real server under floods, that may have 300 MiB: others get their pages in time, and it stays."""

import http.client
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import pytest

from machines.panel.web import connections
from tests.test_half_requests import MIB, ROOT, environment_of, memory, server

MANY = 200
MALLORY, ADA = "198.51.100.66", "198.51.100.1"


@dataclass
class Browser:
    """Of one address, as a trusted proxy tells it; a connection for each request, and no keeping of what it is told."""

    port: int
    address: str
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(
        self, method: str, path: str, fields: dict[str, str] | None = None, *, stay: bool = True
    ) -> tuple[int, str]:
        """Status and page; 0 for one that was not answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Host": "localhost", "X-Forwarded-For": self.address, "Referer": f"http://localhost{path}",
                   "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
                   "Content-Type": "application/x-www-form-urlencoded"}  # fmt: skip
        try:
            connection.request(method, path, urlencode(fields or {}), headers)
            if not stay:
                return 0, ""
            answer = connection.getresponse()
            for each in answer.headers.get_all("Set-Cookie", []):
                name, _, rest = each.partition("=")
                self.cookies[name] = rest.partition(";")[0]
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def token(self) -> str:
        return re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.ask("GET", "/accounts/login/")[1])[1]

    def wait(self, path: str) -> float:
        """Seconds until a page is there; it must come."""
        began = time.monotonic()
        assert self.ask("GET", path)[0] == 200
        return time.monotonic() - began


@pytest.mark.parametrize("stay", [True, False], ids=["and wait", "and hang up"])
def test_hundreds_who_try_passwords_at_once_keep_nobody_else_waiting(tmp_path, capsys, stay):
    with server(tmp_path, "127.0.0.1", mib=300) as (port, process), ThreadPoolExecutor(MANY) as pool:
        mallory, ada = Browser(port, MALLORY), Browser(port, ADA)
        form = {"csrfmiddlewaretoken": mallory.token(), "password": "guessed"}
        quiet = ada.wait("/accounts/login/")

        def attempt(number: int) -> int:
            return mallory.ask("POST", "/accounts/login/", form | {"login": f"ada{number}"}, stay=stay)[0]

        flood = [pool.submit(attempt, number) for number in range(MANY)]
        times = [ada.wait("/accounts/login/") for _ in range(20)]
        began = time.monotonic()
        form_of_ada = {"csrfmiddlewaretoken": ada.token(), "login": "ada", "password": "mistyped"}
        assert ada.ask("POST", "/accounts/login/", form_of_ada)[0] in {200, 429}
        signing_in = time.monotonic() - began
        answers = Counter(each.result() for each in flood)
        most = memory(process)
        assert ada.wait("/accounts/login/")
    assert set(answers) <= ({200, 429, 503} if stay else {0})
    assert max(times) < max(
        2, 10 * quiet
    )  # this machine may have other things to do: then the quiet page was slow, too
    assert most < 300
    with capsys.disabled():
        print(f"\n{MANY} sign-ins at once, answers {dict(answers)}: another's page {max(times):.2f} s at most "
              f"(quiet: {quiet:.2f} s), another's sign-in {signing_in:.2f} s, {most} MiB")  # fmt: skip


PLANT = """
import django; django.setup()
from django.utils import timezone
from machines.contract import orders
from machines.models import LogChunk, Machine
from tests import make
make.user("mallory", password="known to her")
host = make.host()
Machine.objects.bulk_create(Machine(host=host, name=f"m{n:04}", state="running") for n in range(1000))
now = timezone.now()
job = make.job(orders.Start(name="web"), on=host, state="succeeded", accepted_at=now, started_at=now, finished_at=now)
lines = [[1.0, "o", "x" * 1023] for _ in range(64)]
chunks = (LogChunk(job=job, first=1 + 64 * n, count=64, size=64 * 1023, lines=lines) for n in range(1024))
LogChunk.objects.bulk_create(chunks, batch_size=64)
job.line_count = 64 * 1024
job.save(update_fields=["line_count"])
"""
DEAR = ["/machines/?per=200", "/jobs/1/", "/jobs/1/log/search/?q=nowhere&before=65537", "/hosts/alpha/"]
LOG_BYTES = 64 * MIB


@pytest.fixture
def planted(tmp_path):
    """A server with a thousand machines, a log of 64 MiB, and Mallory, who may see them."""
    with server(tmp_path, "127.0.0.1", mib=300) as (port, process):
        environment = environment_of(tmp_path) | {"DJANGO_SETTINGS_MODULE": "nspawnpanel.settings"}
        subprocess.run([sys.executable, "-c", PLANT], cwd=ROOT, env=environment, check=True)
        mallory = Browser(port, MALLORY)
        form = {"csrfmiddlewaretoken": mallory.token(), "login": "mallory", "password": "known to her"}
        assert mallory.ask("POST", "/accounts/login/", form)[0] == 302
        yield port, process, mallory


def test_hundreds_of_the_dearest_pages_at_once_keep_nobody_else_waiting(planted, capsys):
    port, process, mallory = planted
    ada = Browser(port, ADA)
    alone = {path: mallory.wait(path) for path in DEAR}
    began = time.monotonic()
    with ThreadPoolExecutor(MANY) as pool:
        flood = [pool.submit(mallory.ask, "GET", DEAR[number % len(DEAR)]) for number in range(MANY)]
        times = [ada.wait("/accounts/login/") for _ in range(20)]
        answers = Counter(each.result()[0] for each in flood)
    lasted = time.monotonic() - began
    most = memory(process)
    assert ada.wait("/accounts/login/")
    assert set(answers) <= {200, 503}
    assert answers[200] > 8
    assert max(times) < max(3, lasted / 2)  # who stood in line behind them would wait until they are through
    assert most < 300
    with capsys.disabled():
        dear = ", ".join(f"{path} {seconds:.2f} s" for path, seconds in alone.items())
        print(
            f"\n{MANY} of {dear} at once, answers {dict(answers)}: another's page {max(times):.2f} s at most of {lasted:.1f} s, {most} MiB"
        )


def test_who_takes_a_large_answer_a_byte_a_second_is_sent_away(planted, capsys):
    port, process, mallory = planted
    head = f"GET /jobs/1/log/raw/ HTTP/1.1\r\nHost: localhost\r\nCookie: session={mallory.cookies['session']}\r\n\r\n"
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(20)
        reader.connect(("127.0.0.1", port))
        reader.sendall(head.encode())
        assert reader.recv(12) == b"HTTP/1.1 200"
        began = time.monotonic()
        place = reader.getsockname()[1]
        while is_connected(port, place):
            assert time.monotonic() - began < 3 * connections.WINDOW
            reader.recv(1)
            time.sleep(1)
    most = memory(process)
    assert most < 300
    with capsys.disabled():
        print(
            f"\na log of {LOG_BYTES // MIB} MiB at a byte a second: sent away after {time.monotonic() - began:.0f} s, {most} MiB"
        )


def is_connected(port: int, peer: int) -> bool:
    """Whether the server still has its end of a connection: who is sent away still reads what the kernel kept."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = (f":{port:04X}", f":{peer:04X}")
    return any(each[1].endswith(ours[0]) and each[2].endswith(ours[1]) and each[3] == "01" for each in lines)
