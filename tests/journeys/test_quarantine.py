"""Somebody has the Redis password of a real host, and uses it; its own worker goes on all the while."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from machines.contract import routes
from machines.panel.courier import host_caps
from nspawnpanel.sandbox import Sandbox
from nspawnpanel.stack import Stack
from tests.person import Person, until

NAME = "shut-out"
RELEASE = "/hosts/alpha/release/"


@pytest.fixture
def alpha_works_on(ada: Person) -> Iterator[None]:
    """Many tests after this one need the host: it is let in again, and speaks, whatever became of this one."""
    yield
    before = row(ada)["report_number"]

    def speaks() -> bool:
        if row(ada)["quarantined_at"]:
            ada.post(RELEASE, page="/hosts/alpha/")
        return row(ada)["report_number"] > before

    until(speaks, 60, lambda: f"alpha says nothing: {row(ada)}")


def host_environment(host: Sandbox) -> dict[str, str]:
    lines = host.run(["cat", "/etc/nspawnpanel/host.env"]).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def row(ada: Person) -> dict[str, Any]:
    return ada.rows("SELECT * FROM machines_host WHERE name = 'alpha'")[0]


def flood(thief: redis.Redis, stream: str) -> None:
    with contextlib.suppress(redis.RedisError):
        for _ in range(20):
            thief.xadd(stream, {"r": "x" * 3_000_000})


def test_a_host_whose_password_was_stolen_is_shut_out_and_works_on_when_it_is_released(
    panel: Stack, alpha_host: Sandbox, ada: Person, alpha_works_on, capsys
):
    alpha_host.plant(NAME)
    ada.sees(NAME, "stopped", 30)
    given = host_environment(alpha_host)
    url = given["NSPAWNPANEL_REDIS_URL"].replace(alpha_host.gateway, "127.0.0.1")
    stream = routes.stream(given["NSPAWNPANEL_HOST_ID"])
    began = time.monotonic()
    # One that does not rest: what counts is what happens within a minute
    with redis.Redis.from_url(url, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as thief:
        while not row(ada)["quarantined_at"]:
            assert time.monotonic() - began < host_caps.STRIKE_SECONDS, row(ada)
            flood(thief, stream)
    with capsys.disabled():
        print(f" quarantined after {time.monotonic() - began:.1f} s ", end="")
    waiting = ada.press("start", NAME)
    until(lambda: ada.job(waiting["id"])["problem"], 10)
    assert "is quarantined" in ada.get(f"/jobs/{waiting['id']}/")
    pid = alpha_host.run(["systemctl", "show", "-P", "MainPID", "nspawnpanel-host"]).stdout
    assert ada.post(RELEASE, page="/hosts/alpha/") == "/hosts/alpha/"
    ada.succeed(waiting, 60)
    assert alpha_host.run(["systemctl", "show", "-P", "MainPID", "nspawnpanel-host"]).stdout == pid
    ada.succeed(ada.press("poweroff", NAME))
    kinds = {event["kind"] for event in ada.rows("SELECT kind FROM machines_event")}
    assert {"stream-emptied", "host-paused", "host-quarantined", "host-released"} <= kinds
