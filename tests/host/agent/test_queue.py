"""What lies in the queue: a real Redis, a real worker, and everything that is not the panel's."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
from redis import Redis

from machines.contract import envelope, orders, routes
from machines.contract.envelope import key_id
from machines.contract.problems import EnvelopeRefused
from machines.contract.reports import AnyReport
from machines.host.agent import message
from machines.host.context import keys
from machines.host.reports import resp
from machines.panel.courier.mailbox import Mailbox
from nspawnpanel.valkey import Valkey

ROOT = Path(__file__).parents[3]
PANEL = SigningKey(b"p" * 32)
KEYS = {key_id(PANEL.verify_key): PANEL.verify_key}


class Queue:
    """A host's queue, its worker, and what it says."""

    def __init__(self, valkey: Valkey, state: Path) -> None:
        self.valkey, self.state, self.host = valkey, state, uuid4()
        self.key = routes.prefix(str(self.host)) + routes.queue(str(self.host))
        self.admin = Redis.from_url(valkey.admin_url)
        self.courier = Mailbox(valkey.admin_url)
        self.position: bytes | str = "0"
        self.reports: list[AnyReport] = []

    def begin(self, url: str = "") -> None:
        self.admin.execute_command("ACL", "SETUSER", "h", "reset", "on", ">pw", *routes.host_acl(str(self.host)))
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "NSPAWNPANEL_HOST_ID": str(self.host),
            "NSPAWNPANEL_GENERATION": "1", "NSPAWNPANEL_REDIS_URL": url or self.valkey.url("h", "pw"),
            "NSPAWNPANEL_PANEL_KEYS": b64encode(bytes(PANEL.verify_key)).decode(), "NSPAWNPANEL_STATE": str(self.state),
        }  # fmt: skip
        self.worker = subprocess.Popen(
            [sys.executable, "-m", "tests.host.queue_worker"], cwd=ROOT, env=environment,
            stdout=subprocess.DEVNULL, stderr=(self.state.parent / "worker.log").open("w"),
        )  # fmt: skip
        self.sign = None

    def seal(self, expires: float = 0.0) -> tuple[Any, str]:
        job, now = uuid4(), time.time()
        made = envelope.Envelope(
            host=self.host, generation=1, job=job, order=orders.to_wire(orders.Start(name="web")), issued=now,
            expires=expires or now + 600, actor=envelope.Actor(name="ada", role="administrator"),
        )  # fmt: skip
        return job, envelope.seal(made, PANEL)

    def carries_out(self, seconds: float = 10) -> bool:
        """Whether a genuine order, sent now as the courier sends it, is carried out in that time."""
        job, sealed = self.seal()
        self.courier.send(self.host, sealed)
        return self.hears(lambda report: report.kind == "outcome" and report.job == job, seconds)

    def hears(self, wanted: Callable[[AnyReport], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.admin.xread({routes.stream(str(self.host)): self.position}, count=500, block=100)
            for position, fields in self._entries(found):
                self.position = position
                self.reports.append(self._read(fields[b"r"].decode()))
            # As the courier does: while more than 1 MB of reports lies there, its host keeps the rest to itself
            self.admin.xtrim(routes.stream(str(self.host)), minid=self.position, approximate=False)
            if any(wanted(report) for report in self.reports):
                return True
        return False

    @staticmethod
    def _entries(found: Any) -> list[Any]:
        pairs = list(found.values() if isinstance(found, dict) else [entries for _, entries in found])
        flat = pairs[0] if pairs else []
        return flat[0] if flat and isinstance(flat[0], list) else flat

    def _read(self, signed: str) -> AnyReport:
        self.sign = self.sign or keys.load(self.state / "keys").sign.verify_key
        return envelope.read_report(signed, self.sign, host=self.host, generation=1)[1]

    def resident(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.worker.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024

    def sample(self) -> dict[str, Any]:
        """A genuine message as Mailbox.send makes it, parsed."""
        other = uuid4()
        self.courier.send(other, self.seal()[1])
        raw = self.admin.rpop(routes.prefix(str(other)) + routes.queue(str(other)))
        return json.loads(raw)

    def push(self, *raws: bytes | str) -> None:
        for start in range(0, len(raws), 5000):
            self.admin.lpush(self.key, *raws[start : start + 5000])

    def is_the_same(self) -> bool:
        """Whether the process that began still runs and carries out what the panel orders."""
        return self.carries_out(30) and self.worker.poll() is None


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    state = tmp_path_factory.mktemp("host") / "state"
    state.mkdir()
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        made = Queue(valkey, state)
        made.begin()
        assert made.carries_out(30)
        yield made
        made.worker.kill()
        made.worker.wait()


DEEP = "[" * 100_000
NASTY: list[Any] = [
    None, True, -1, 0, 2**63, 10**300, 1e308, float("nan"), float("inf"), "", "x" * 1000, "2099-01-01T00:00:00+00:00",
    "\0", "\ud800", "é" * 300, [], {}, [[]], [None], {"a": {"b": []}}, {"": 1}, "application/x-python-serialize",
    "application/x-yaml", "base64", "zlib", "utf-16", "celery.chain", [["celery.chain", {}]],
]  # fmt: skip


def paths_in(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key in data if isinstance(data, dict) else ():
        yield from paths_in(data[key], (*path, key))


def changed(data: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The same with another value there; `...` takes the key away."""
    copy = json.loads(json.dumps(data))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


def bodies(sample: dict[str, Any]) -> Iterator[bytes]:
    """Every layer of the body: what is no base64, no JSON, no arguments, or asks for more."""
    args, kwargs, embed = json.loads(b64decode(sample["body"]))
    yield from (DEEP.encode(), b"\xff" * 100, b"", zlib.compress(b"0" * 10**6), b"\x80\x04cos\nsystem\n.")
    for value in NASTY:
        for made in (
            value,
            [value, kwargs, embed],
            [[value], kwargs, embed],
            [args, value, embed],
            [args, kwargs, value],
        ):
            yield json.dumps(made).encode(errors="surrogatepass")
        for key in (*embed, "more"):
            yield json.dumps([args, kwargs, {**embed, key: value}]).encode()
    yield json.dumps([args * 2, kwargs, embed]).encode()
    yield json.dumps([args, kwargs, embed]).encode() + b"]"


def messages(sample: dict[str, Any]) -> Iterator[bytes]:
    """Some thousands of what may lie in a queue, at every layer around the envelope."""
    raw = json.dumps(sample).encode()
    yield from (
        b"",
        b"x",
        b"{}",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"\x00" * 9,
        b"\xff\xfe",
        DEEP.encode(),
        b'{"a":' * 50_000,
    )
    yield from (raw[:end] for end in range(0, len(raw), 3))
    yield from (raw[:at] + b"\xff" + raw[at + 1 :] for at in range(0, len(raw), 3))
    yield from (
        raw.replace(b'"headers"', b'"headers": {}, "headers"'),
        raw.replace(b'"body"', b'"body": "QQ==", "body"'),
    )
    yield raw.replace(b'"retries": 0', b'"retries": ' + b"9" * 5000)
    yield raw.replace(b'"headers": {', b'"headers": {"x": ' + b"[" * 5000)
    for path in paths_in(sample):
        yield from (json.dumps(changed(sample, path, value)).encode() for value in (*NASTY, ...))
    for body in bodies(sample):
        yield json.dumps({**sample, "body": b64encode(body).decode()}).encode()
        yield json.dumps({**sample, "body": body.decode(errors="replace"), "properties": {}}).encode()
    for header in ("eta", "expires", "compression", "timelimit", "stamps", "task", "id", "more", "redelivered"):
        yield from (json.dumps(changed(sample, ("headers", header), value)).encode() for value in NASTY)


def refused(raw: bytes) -> bool:
    try:
        message.sealed_in(raw, KEYS)
    except EnvelopeRefused:
        return True
    return False


# --- one message


@pytest.fixture(scope="module")
def sample(queue) -> dict[str, Any]:
    return queue.sample()


def test_what_the_panel_sends_is_taken(sample):
    raw = json.dumps(sample).encode()
    assert message.sealed_in(raw, KEYS) == json.loads(b64decode(sample["body"]))[0][0]
    assert not refused(json.dumps(sample, separators=(",", ":")).encode())


def test_the_largest_order_fits_and_a_larger_message_is_not_looked_at(sample):
    made = envelope.sign(envelope._ORDER_DOMAIN, b"x" * envelope.ORDER_LIMIT, PANEL)
    body = json.dumps([[made], *json.loads(b64decode(sample["body"]))[1:]]).encode()
    raw = json.dumps({**sample, "body": b64encode(body).decode()}).encode()
    assert message.sealed_in(raw, KEYS) == made
    assert len(raw) < resp.REPLY_BYTES
    assert refused(raw + b" " * message.LONGEST)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("task", "celery.chain"),
        ("eta", "2099-01-01T00:00:00"),
        ("expires", 1),
        ("retries", 3),
        ("group", "x"),
        ("stamps", {"a": 1}),
    ],
)
def test_a_caught_order_in_another_message_is_refused(sample, header, value):
    assert refused(json.dumps(changed(sample, ("headers", header), value)).encode())


@pytest.mark.parametrize("key", ["callbacks", "errbacks", "chain", "chord", "more"])
def test_nothing_rides_beside_the_order(sample, key):
    args, kwargs, embed = json.loads(b64decode(sample["body"]))
    body = json.dumps([args, kwargs, {**embed, key: [{"task": "carry_out"}]}]).encode()
    assert refused(json.dumps({**sample, "body": b64encode(body).decode()}).encode())


def test_whoever_signed_it_is_asked_before_anything_is_parsed(sample, monkeypatch):
    def parsed(*_args, **_more):
        raise AssertionError("parsed")

    _, kwargs, embed = json.loads(b64decode(sample["body"]))
    forged = envelope.sign(envelope._ORDER_DOMAIN, b"{}", SigningKey.generate())
    body = b64encode(json.dumps([[forged], kwargs, embed]).encode()).decode()
    raw = json.dumps({**sample, "body": body}).encode()
    monkeypatch.setattr(json, "loads", parsed)
    assert refused(raw)


@given(st.binary(max_size=3000))
@settings(max_examples=500, deadline=None)
def test_no_bytes_are_taken_for_an_order(raw):
    assert refused(raw)
    assert refused(b'{"body": "' + b64encode(raw) + b'", "headers": {"task": "carry_out"}}')


@given(data=st.data())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_message_is_the_same_order_or_none(sample, data):
    raw = bytearray(json.dumps(sample).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    wanted = json.loads(b64decode(sample["body"]))[0][0]
    assert refused(bytes(raw)) or message.sealed_in(bytes(raw), KEYS)[:-2] == wanted[:-2]


# --- a worker


def test_a_genuine_order_is_carried_out(queue):
    assert queue.carries_out()


def test_three_bytes_do_not_end_it(queue):
    queue.push(*[b"junk", b"x", b"{}"] * 40)
    assert queue.is_the_same()


def test_thousands_of_malformed_messages_neither_end_it_nor_make_it_grow(queue, sample, capsys):
    every = list(messages(sample))
    queue.push(*every[:500])
    assert queue.is_the_same()
    before = queue.resident()
    for start in range(0, len(every), 1000):
        queue.push(*every[start : start + 1000])
        assert queue.is_the_same()
    grown = queue.resident() - before
    with capsys.disabled():
        print(f"\n{len(every)} malformed messages: the worker ended 0 times and grew by {grown / 1e6:.1f} MB")
    assert grown < 30_000_000


def test_messages_that_want_to_be_kept_are_not_kept(queue, sample):
    """300 with an eta of 2099 held 200 MB."""
    later = changed(sample, ("headers", "eta"), "2099-01-01T00:00:00+00:00")
    later["properties"]["more"] = "x" * 600_000
    before = queue.resident()
    for _ in range(300):
        queue.push(json.dumps(later).encode())
    assert queue.is_the_same()
    assert queue.resident() - before < 30_000_000


def test_megabytes_of_messages_are_thrown_away_as_they_come(queue):
    before = queue.resident()
    for _ in range(50):
        queue.push(b"x" * 3_000_000)
    assert queue.is_the_same()
    assert queue.resident() - before < 30_000_000


def test_a_genuine_order_among_many_tiny_ones_is_still_found(queue):
    queue.push(*[b"x"] * 50_000)
    job, sealed = queue.seal()
    queue.courier.send(queue.host, sealed)
    queue.push(*[b"x"] * 50_000)
    assert queue.hears(lambda report: report.kind == "outcome" and report.job == job, 60)
    assert queue.is_the_same()


def test_queues_of_other_priorities_are_not_listened_to(queue):
    queue.admin.lpush(queue.key + "\x06\x163", b"junk")
    assert queue.is_the_same()
    assert queue.admin.llen(queue.key + "\x06\x163") == 1


@pytest.mark.parametrize("command", ["SET {} x", "HSET {} a b"])
def test_what_is_no_list_in_the_queue_s_place_is_said_and_outlived(queue, command):
    queue.admin.execute_command(*command.format(queue.key).split())
    told = len(queue.reports)
    assert queue.hears(lambda r: r in queue.reports[told:] and "queue" in getattr(r, "trouble", {}), 10)
    queue.admin.delete(queue.key)
    assert queue.is_the_same()


def is_told_of_junk(report) -> bool:
    return report.kind == "refused" and "not from the panel" in report.message


def test_what_is_thrown_away_is_counted_and_told_within_bounds(queue):
    queue.push(*[b"junk"] * 5000)
    assert queue.is_the_same()
    told = [report for report in queue.reports if report.kind == "refused"]
    assert 0 < len(told) < 200
    # What earlier tests threw away may have used up what is told at once; one more is told each few seconds
    assert any(queue.push(b"junk") or queue.hears(is_told_of_junk, 6) for _ in range(4))


def test_a_flood_of_junk_does_not_hide_why_a_signed_order_was_refused(queue):
    queue.push(*[b"junk"] * 500)
    job, sealed = queue.seal(expires=1.0)
    queue.courier.send(queue.host, sealed)
    assert queue.hears(lambda report: report.kind == "refused" and report.job == job, 10)


# --- what stands in Redis' place


ANSWERS = [
    b":7\r\n", b"+OK\r\n", b"*1\r\n$1\r\nx\r\n", b"*2\r\n:1\r\n:2\r\n", b"*2\r\n$1\r\nk\r\n$-1\r\n", b"*3\r\n:1\r\n:2\r\n:3\r\n", b"*-7\r\n",
    b"*2\r\n$1\r\nk\r\n*1\r\n:1\r\n", b"-NOPERM no\r\n", b"-LOADING\r\n", b"-\r\n", b"?\r\n", b"*1\r\n" * 5000, b"$9\r\nabc", b"*9999999999999\r\n",
    b":" + b"9" * 5000 + b"\r\n", b"%1\r\n+a\r\n+b\r\n", b"\xff\xfe\r\n", b"",
]  # fmt: skip


class Impostor(threading.Thread):
    """Agrees to everything; asked for a message it gives one of these answers after the other, and hangs up."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.link, self.given = socket.create_server(("127.0.0.1", 0)), 0

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=self.link.accept()[:1], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            while asked := client.recv(100_000):
                if b"BRPOP" in asked:
                    client.sendall(ANSWERS[self.given % len(ANSWERS)])
                    self.given += 1
                    return
                for name in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", asked):
                    client.sendall(b"+PONG\r\n" if name == b"PING" else b"+OK\r\n")


def test_whoever_stands_in_redis_place_does_not_end_the_worker(queue, tmp_path):
    """Each answer breaks a connection, and the worker makes another one."""
    (tmp_path / "state").mkdir()
    impostor, other = Impostor(), Queue(queue.valkey, tmp_path / "state")
    impostor.start()
    other.begin(f"redis://h:pw@127.0.0.1:{impostor.link.getsockname()[1]}/0")
    deadline = time.monotonic() + 60
    while impostor.given < len(ANSWERS) and time.monotonic() < deadline and other.worker.poll() is None:
        time.sleep(0.05)
    alive = other.worker.poll() is None
    other.worker.kill()
    other.worker.wait()
    impostor.link.close()
    assert (alive, impostor.given >= len(ANSWERS)) == (True, True)
