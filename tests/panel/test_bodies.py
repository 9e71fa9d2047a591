"""No request is larger than one part of an archive, whatever it says of itself."""

import asyncio
import errno

import pytest

from machines.panel.web import body_limit


def answer(headers: list, pieces: list[bytes], kind: str = "http") -> tuple[list, list]:
    """(messages the application got, messages that were sent) for a body in pieces."""
    came, sent = [], []
    queue = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]

    async def application(scope, receive, send):
        while (message := await receive())["type"] == "http.request" and queue:
            came.append(message)
        came.append(message)

    async def receive():
        return queue.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "headers": headers}
    asyncio.run(body_limit.small(application)(scope, receive, send))
    return came, sent


def test_small_bodies_pass():
    came, sent = answer([(b"content-length", b"6")], [b"abc", b"def"])
    assert b"".join(message["body"] for message in came) == b"abcdef"
    assert sent == []


@pytest.mark.parametrize("length", [str(body_limit.MOST + 1).encode(), b"-5", b"x"])
def test_a_large_one_is_refused_before_it_comes(length):
    came, sent = answer([(b"content-length", length)], [b"abc"])
    assert came == []
    assert sent[0]["status"] == 413


def test_one_that_never_said_how_long_it_is_is_cut_off():
    piece = bytes(1024 * 1024)
    came, _ = answer([(b"transfer-encoding", b"chunked")], [piece] * 10)
    assert came[-1]["type"] == "http.disconnect"
    assert len(came) == 9


def test_a_body_that_finds_no_space_gets_a_sentence():
    sent = []

    async def application(scope, receive, send):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def send(message):
        sent.append(message)

    asyncio.run(body_limit.small(application)({"type": "http", "headers": []}, None, send))
    assert sent[0]["status"] == 507
    assert b"disk is full" in sent[1]["body"]
