"""A real server under floods, that may have 300 MiB: others get their pages in time, and it stays."""

import http.client
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlencode

import pytest

from tests.test_half_requests import memory, server

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
    assert max(times) < 2
    assert most < 300
    with capsys.disabled():
        print(f"\n{MANY} sign-ins at once, answers {dict(answers)}: another's page {max(times):.2f} s at most "
              f"(quiet: {quiet:.2f} s), another's sign-in {signing_in:.2f} s, {most} MiB")  # fmt: skip
