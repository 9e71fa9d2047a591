"""What stands in Redis' place may answer anything: the worker's memory and its threads live through it."""

import socket
import threading
import tracemalloc
from collections.abc import Iterator

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from machines.host.reports import resp


class Impostor(threading.Thread):
    """Answers every connection with the same bytes, as often as asked, and reads what it gets."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.link = socket.create_server(("127.0.0.1", 0))
        self.says, self.times = b"", 1

    def run(self) -> None:
        while True:
            try:
                client, _ = self.link.accept()
            except OSError:
                return
            with client:
                client.recv(1000)
                try:
                    for _ in range(self.times):
                        client.sendall(self.says)
                except OSError:
                    continue


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    made = Impostor()
    made.start()
    yield made
    made.link.close()


def asked(impostor: Impostor, says: bytes, times: int = 1) -> object:
    impostor.says, impostor.times = says, times
    url = f"redis://127.0.0.1:{impostor.link.getsockname()[1]}"
    without = {"driver_info": None, "retry": Retry(NoBackoff(), 0)}  # it asks nothing else first
    with Redis.from_url(url, socket_timeout=5, **without, **resp.CONNECTION) as redis:
        return redis.execute_command("ECHO", "x")


@pytest.mark.parametrize(
    ("says", "wanted"),
    [
        (b"+OK\r\n", b"OK"),
        (b":7\r\n", 7),
        (b"$3\r\nabc\r\n", b"abc"),
        (b"$-1\r\n", None),
        (b"*2\r\n:1\r\n$1\r\nx\r\n", [1, b"x"]),
    ],
)
def test_what_redis_says_is_read(impostor, says, wanted):
    assert asked(impostor, says) == wanted


def test_what_redis_refuses_is_an_error(impostor):
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        asked(impostor, b"-WRONGTYPE no list\r\n")


@pytest.mark.parametrize(
    "says",
    [
        b"*1\r\n" * 200_000, b"*" + b"9" * 5000 + b"\r\n", b":x\r\n", b":" + b"9" * 5000 + b"\r\n", b"$-7\r\n", b"$x\r\n",
        b"?\r\n", b"\r\n", b"\xff" * 100 + b"\r\n", b"+" + b"x" * 3_000_000, b"%1\r\n", b"*3\r\n$1",
        b"*1000000000\r\n" + b"$-1\r\n" * 300_000,
    ],
)  # fmt: skip
def test_what_is_no_reply_is_a_broken_connection(impostor, says):
    with pytest.raises(RedisError):
        asked(impostor, says)


def test_a_value_beyond_the_limit_is_thrown_away_as_it_comes(impostor):
    size = 64 * 1024 * 1024
    tracemalloc.start()
    try:
        impostor.says = b"$%d\r\n" % size + b"x" * size + b"\r\n"
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        assert asked(impostor, impostor.says) == resp.TOO_LONG
        assert tracemalloc.get_traced_memory()[1] - before < 4 * resp.REPLY_BYTES
    finally:
        tracemalloc.stop()


def test_what_follows_it_in_the_same_reply_is_read(impostor):
    long = b"$%d\r\n" % (resp.REPLY_BYTES + 1) + b"x" * (resp.REPLY_BYTES + 1) + b"\r\n"
    assert asked(impostor, b"*3\r\n$1\r\na\r\n" + long + b"$1\r\nb\r\n") == [b"a", resp.TOO_LONG, b"b"]


def test_a_line_without_end_is_given_up(impostor):
    with pytest.raises(Broken, match="larger"):
        asked(impostor, b"x" * 1_000_000, times=100)
