"""A host put back to an older copy of itself, and its own old words put in again: what the panel shows of it."""

import time
from typing import Any
from uuid import UUID

import pytest

from machines.contract import routes
from nspawnpanel.sandbox import Sandbox
from nspawnpanel.stack import Stack
from tests.person import Person, until

STATE, COPY = "/var/lib/nspawnpanel", "/var/lib/nspawnpanel-copy"
SPOOLED = f"""
import sqlite3
rows = sqlite3.connect("{STATE}/ledger.db").execute("select body from spool order by number desc limit 5")
print(*(body for body, in rows), sep="\\n")
"""


def worker(host: Sandbox, verb: str) -> None:
    host.run(["systemctl", verb, "nspawnpanel-host.service"])


def alpha(ada: Person) -> dict[str, Any]:
    return ada.rows("SELECT * FROM machines_host WHERE name = 'alpha'")[0]


@pytest.fixture
def copied(ada: Person, alpha_host: Sandbox) -> str:
    alpha_host.plant("put-back")
    ada.sees("put-back", "stopped", 15)
    return "put-back"


def put_back(host: Sandbox) -> None:
    host.run(["sh", "-c", f"rm -rf {STATE} && mv {COPY} {STATE}"])


def test_what_a_dead_host_said_last_is_no_sign_of_life_when_it_is_put_in_again(ada, panel: Stack, alpha_host):
    worker(alpha_host, "stop")
    try:
        said = alpha_host.run(["python3", "-c", SPOOLED]).stdout.split()
        time.sleep(1)  # what was on its way has come
        before = alpha(ada)
        stream = routes.stream(str(UUID(before["id"])))
        for _ in range(3):
            for body in said:
                panel.valkey.admin().xadd(stream, {"r": body})
            until(
                lambda: (
                    not panel.valkey.admin().xlen(stream) or alpha(ada)["stream_position"] != before["stream_position"]
                ),
                10,
            )
            time.sleep(1)
        assert said
        assert alpha(ada)["stream_position"] != before["stream_position"], "they were read"
        assert alpha(ada)["last_seen"] == before["last_seen"]
        assert not ada.rows("SELECT * FROM machines_event WHERE kind = 'host-restored'")
    finally:
        worker(alpha_host, "start")
    until(lambda: alpha(ada)["last_seen"] > before["last_seen"], 20)


def test_a_host_put_back_to_a_copy_is_noticed_said_and_takes_orders_at_once(ada, alpha_host, copied):
    """Its state directory and what lies under /var/lib/machines, as when a virtual machine goes back to a snapshot."""
    worker(alpha_host, "stop")
    alpha_host.run(["cp", "-a", STATE, COPY])
    worker(alpha_host, "start")
    ada.succeed(ada.press("start", copied))
    ada.succeed(ada.press("terminate", copied))
    alpha_host.plant("younger")
    ada.sees("younger", "stopped", 15)
    epoch = alpha(ada)["ledger_epoch"]
    worker(alpha_host, "stop")
    put_back(alpha_host)
    alpha_host.run(["rm", "-r", "/var/lib/machines/younger"])
    worker(alpha_host, "start")
    until(lambda: alpha(ada)["ledger_epoch"] == epoch + 1, 20, lambda: str(alpha(ada)))
    assert ada.succeed(ada.press("start", copied), 20)["problem"] is None
    ada.succeed(ada.press("terminate", copied), 20)
    until(lambda: ada.machine("younger").get("state", "missing") == "missing", 15)
    [event] = ada.rows("SELECT text FROM machines_event WHERE kind = 'host-restored'")
    assert "alpha was restored from an older copy of itself" in event["text"]
    assert event["text"].split(":")[0] in ada.get("/hosts/alpha/")
    undecided = "SELECT * FROM machines_job WHERE state IN ('queued', 'sent', 'accepted', 'running')"
    assert not ada.rows(undecided)
