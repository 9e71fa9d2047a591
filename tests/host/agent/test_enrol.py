"""A host joins, on its own side: against a door that answers as told."""

import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from nacl.signing import SigningKey

from machines.contract import enrolment
from machines.contract.problems import Problem
from machines.host.agent import enrol, enrol_request
from machines.host.context import keys, settings

PANEL, HOST = SigningKey.generate(), uuid4()
Reply = tuple[int, dict[str, Any]]


class Door:
    """An HTTP server; each question takes the next of its replies, the last one for ever."""

    def __init__(self, token: enrolment.Token) -> None:
        self.token, self.asked, self.replies = token, [], list[Reply | Callable[[enrolment.Claim], Reply]]()
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = self.rfile.read(int(self.headers["Content-Length"])).decode()
                claim = enrolment.read_claim(message, token.id, token.key.verify_key)
                door.asked.append((self.path, claim))
                given = door.replies.pop(0) if len(door.replies) > 1 else door.replies[0]
                status, body = given(claim) if callable(given) else given
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door(enrolment.Token(PANEL.verify_key, uuid4(), b"s" * 32))
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def state(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(settings, "FILE", tmp_path / "etc/host.env")
    monkeypatch.setattr(enrol_request, "PAUSE", 0.0)
    return tmp_path / "state"


def answered(
    *, key: SigningKey = PANEL, redis_url: str = "redis://u:p@panel:6379/0"
) -> Callable[[enrolment.Claim], Reply]:
    secret = enrolment.Secret(redis_url=redis_url, panel_keys=[b64encode(bytes(PANEL.verify_key)).decode()])

    def reply(claim: enrolment.Claim) -> Reply:
        said = enrolment.seal_welcome(secret, key, claim=claim, host=HOST, name="alpha", generation=3, at=claim.at)
        return 200, {"state": "answered", "answer": said}

    return reply


def join(door: Door, state: Path, said: list[str] | None = None, url: str = "") -> str:
    heard = [] if said is None else said
    return enrol.join(door.token, url or door.url, state, heard.append, wait=lambda _: None)


def test_it_waits_until_it_is_accepted_and_then_writes_settings_that_the_worker_reads(door, state):
    door.replies = [(200, {"state": "pending"}), (200, {"state": "pending"}), (200, {"state": "accepted"}), answered()]
    said: list[str] = []
    join(door, state, said)
    own = keys.load(state / "keys")
    assert said[0].split()[-6:] == enrol.fingerprint(own).split()
    assert [words for words in said if "Waiting" in words] == ["Waiting for an administrator to accept this host …"]
    assert settings.FILE.stat().st_mode & 0o777 == 0o600
    read = settings.read(settings._from_file(settings.FILE))
    assert (read.host, read.generation, read.redis_url) == (HOST, 3, "redis://u:p@panel:6379/0")
    assert list(read.panel_keys.values()) == [PANEL.verify_key]
    assert not (state / "keys.joining").exists()
    assert {path for path, _ in door.asked} == {f"/enrol/{door.token.id}/"}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((410, {"error": "This token has expired."}), "This token has expired."),
        ((409, {"error": "Another host has used this token."}), "Another host has used"),
        ((403, {"error": "no\x1b[2J"}), "no�"),
        ((403, {}), "The panel answers 403."),
        ((302, {}), "The panel answers 302."),
        ((410, {"error": "x" * 5000}), "x" * 500),
    ],
)
def test_a_refusal_is_said_in_the_panels_words_and_nothing_is_changed(door, state, reply, said):
    door.replies = [reply]
    with pytest.raises(Problem) as refused:
        join(door, state)
    assert said in refused.value.message
    assert len(refused.value.message) <= 500
    assert not settings.FILE.exists()
    assert not (state / "keys").exists()


def test_an_answer_of_a_panel_that_is_not_the_tokens_is_not_believed(door, state):
    door.replies = [answered(key=SigningKey.generate())]
    with pytest.raises(Problem, match="is not the panel of this token"):
        join(door, state)
    assert not settings.FILE.exists()
    assert not (state / "keys").exists()


def test_settings_of_two_lines_are_not_written(door, state):
    door.replies = [answered(redis_url="redis://u:p@panel/0\nLD_PRELOAD=/tmp/x")]
    with pytest.raises(Problem, match="control character"):
        join(door, state)
    assert not settings.FILE.exists()


def test_broken_off_it_goes_on_with_the_same_keys(door, state):
    door.replies = [(200, {"state": "pending"}), (410, {"error": "no"}), answered()]
    with pytest.raises(Problem):
        join(door, state)
    join(door, state)
    assert len({claim.verify for _, claim in door.asked}) == 1


def test_a_host_that_joins_again_has_new_keys_and_keeps_the_old_ones_until_it_is_answered(door, state):
    before = keys.make(state / "keys")
    door.replies = [(410, {"error": "no"})]
    with pytest.raises(Problem):
        join(door, state)
    assert keys.load(state / "keys").sign == before.sign
    door.replies = [answered()]
    join(door, state)
    assert keys.load(state / "keys").sign != before.sign
    assert keys.load(state / "keys").box != before.box


def test_a_panel_that_is_away_for_a_moment_is_asked_again(door, state):
    door.replies = [(503, {}), (502, {}), answered()]
    join(door, state)
    assert settings.FILE.exists()


def test_a_panel_that_is_not_there_is_named(door, state):
    with pytest.raises(Problem, match=r"127\.0\.0\.1:1/.*cannot be reached"):
        join(door, state, url="http://127.0.0.1:1")


@pytest.mark.parametrize("url", ["panel.example", "ftp://panel.example", "https://", "file:///etc/passwd"])
def test_an_address_that_is_none_is_refused(door, state, url):
    with pytest.raises(Problem, match="must begin with https"):
        join(door, state, url=url)


def test_clocks_that_differ_are_told_of(door, state):
    secret = enrolment.Secret(redis_url="redis://u:p@h/0", panel_keys=[b64encode(bytes(PANEL.verify_key)).decode()])
    door.replies = [
        lambda claim: (200, {"answer": enrolment.seal_welcome(
            secret, PANEL, claim=claim, host=HOST, name="alpha", generation=1, at=claim.at - 300)})
    ]  # fmt: skip
    said: list[str] = []
    join(door, state, said)
    assert any("300 s apart" in words for words in said)
