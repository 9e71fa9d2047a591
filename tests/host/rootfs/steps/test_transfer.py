"""Fetching and bringing archives, against a server that breaks off, refuses and lies."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from machines.contract.configuration import egress_rules
from machines.contract.problems import Problem
from machines.host.rootfs.steps import transfer
from machines.host.rootfs.steps.transfer import Panel

CONTENT = os.urandom(3_000_000)
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Asks `get` or `post` what to do with a request; notes what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.get: Callable[[Handler, int], Any] = lambda handler, at: handler.give(at, len(CONTENT))
        self.post: Callable[[Handler, int, bytes], Any] = lambda handler, at, part: handler.take(at, part)
        self.asked: list[tuple[str, int]] = []
        self.tokens: set[str] = set()
        self.kept = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/transfer/x/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        at = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.note("GET", at)
        self.server.get(self, at)

    def do_POST(self) -> None:
        at = int(self.path.split("offset=")[1].split("&")[0])
        part = self.rfile.read(int(self.headers["Content-Length"]))
        self.note("POST", at)
        self.server.post(self, at, part)

    def note(self, method: str, at: int) -> None:
        self.server.asked.append((method, at))
        self.server.tokens.add(self.headers["Authorization"])

    def give(self, first: int, until: int, content: bytes = CONTENT) -> None:
        """From `first` on, and break off at `until`."""
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:until])
        self.close_connection = True

    def take(self, at: int, part: bytes, sha256: str | None = None) -> None:
        if at != len(self.server.kept):
            self.say(409, f'{{"received": {len(self.server.kept)}}}')
            return
        self.server.kept += part
        whole = hashlib.sha256(self.server.kept).hexdigest() if len(self.server.kept) == len(CONTENT) else ""
        self.say(200, f'{{"received": {len(self.server.kept)}, "sha256": "{whole if sha256 is None else sha256}"}}')

    def say(self, status: int, text: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(transfer, "WAITS", (0, 0, 0))
    monkeypatch.setattr(transfer, "PART", 1_000_000)
    monkeypatch.setattr(transfer, "SUM_WAIT", 0.01)
    made = Server()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def panel(server: Server, seconds: float = 60) -> Panel:
    return Panel(server.url, "the-token", time.time() + seconds)


def fetch(server: Server, folder: Path) -> Path:
    file = folder / "fetched"
    panel(server).fetch(file, len(CONTENT), SUM, lambda _: None)
    return file


def refused(act: Callable[[], Any]) -> Problem:
    with pytest.raises(Problem) as caught:
        act()
    return caught.value


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    file = tmp_path / "packed"
    file.write_bytes(CONTENT)
    return file


def test_it_fetches_with_its_token(server, tmp_path):
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.tokens == {"Bearer the-token"}


def test_nothing_is_said_to_a_clouds_metadata_service(server, tmp_path, packed, monkeypatch):
    monkeypatch.setattr(egress_rules, "METADATA", (ip_network("127.0.0.1"),))
    assert refused(lambda: fetch(server, tmp_path)).code == "panel-refused"
    assert refused(lambda: panel(server).bring(packed, lambda _: None)).code == "panel-refused"
    assert server.asked == []


def test_it_goes_on_where_the_connection_broke(server, tmp_path):
    server.get = lambda handler, at: handler.give(at, at + 700_000)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[:2] == [("GET", 0), ("GET", 700_000)]


def test_it_gives_up_when_nothing_comes_any_more(server, tmp_path):
    server.get = lambda handler, at: handler.give(at, at)
    assert refused(lambda: fetch(server, tmp_path)).code == "panel-unreachable"
    assert len(server.asked) == 4


def test_a_panel_that_restarts_is_waited_for(server, tmp_path):
    server.get = lambda handler, at: handler.say(503) if len(server.asked) < 3 else handler.give(at, len(CONTENT))
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "word"), [(403, "token"), (404, "no longer on the panel"), (500, "500")])
def test_a_refusal_is_not_tried_again(server, tmp_path, status, word):
    server.get = lambda handler, _: handler.say(status)
    assert word in refused(lambda: fetch(server, tmp_path)).message
    assert len(server.asked) == 1


def test_it_follows_no_redirect(server, tmp_path):
    server.get = lambda handler, _: handler.say(302, Location="http://127.0.0.1:1/elsewhere")
    assert "elsewhere" in refused(lambda: fetch(server, tmp_path)).message


def test_a_changed_file_is_not_taken_on_half_way(server, tmp_path):
    server.get = lambda handler, at: handler.give(at, 700_000, CONTENT if at == 0 else CONTENT[:-1])
    assert refused(lambda: fetch(server, tmp_path)).code == "archive-changed"


def test_other_bytes_of_the_same_size_have_another_sum(server, tmp_path):
    server.get = lambda handler, at: handler.give(at, len(CONTENT), CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    assert refused(lambda: fetch(server, tmp_path)).code in {"checksum-wrong"}


def test_time_ends_it(server, tmp_path):
    problem = refused(lambda: panel(server, -1).fetch(tmp_path / "f", len(CONTENT), SUM, lambda _: None))
    assert problem.code == "timed-out"


@pytest.mark.parametrize("url", ["file:///etc/shadow", "ftp://panel/x", "gopher://x"])
def test_only_http_is_spoken(url):
    assert "https" in refused(lambda: Panel(url, "t", time.time() + 9)).message


def test_it_brings_in_parts_and_compares_the_sum(server, packed):
    assert panel(server).bring(packed, lambda _: None) == SUM
    assert server.kept == CONTENT
    assert server.asked[:3] == [("POST", 0), ("POST", 1_000_000), ("POST", 2_000_000)]


def test_an_answer_that_was_lost_is_not_sent_twice(server, packed):
    def post(handler: Handler, at: int, part: bytes) -> None:
        if len(server.asked) == 2:
            server.kept += part  # taken, but nobody hears of it
            handler.close_connection = True
        else:
            handler.take(at, part)

    server.post = post
    assert panel(server).bring(packed, lambda _: None) == SUM
    assert server.kept == CONTENT


def test_it_waits_for_the_panels_sum(server, packed):
    server.post = lambda handler, at, part: handler.take(at, part, None if len(server.asked) > 5 else "")
    assert panel(server).bring(packed, lambda _: None) == SUM
    assert len(server.asked) == 6


def test_what_arrived_differently_is_said(server, packed):
    server.post = lambda handler, at, part: handler.take(at, part, "0" * 64)
    assert refused(lambda: panel(server).bring(packed, lambda _: None)).code == "checksum-wrong"


def test_the_panels_own_words_arrive(server, packed):
    server.post = lambda handler, *_: handler.say(
        507, '{"error": "There is not enough disk space on the panel for 3 MB."}'
    )
    assert "not enough disk space" in refused(lambda: panel(server).bring(packed, lambda _: None)).message


def test_what_is_no_panel_is_said_to_be_none(server, packed):
    server.post = lambda handler, *_: handler.say(200, "<html>hello</html>")
    assert "NSPAWNPANEL_URL" in refused(lambda: panel(server).bring(packed, lambda _: None)).hint
