"""A clock that is wrong, on a kernel whose clock is its own: orders wait in both directions, and pages say why."""

import pytest

from machines.contract.states import JobState
from tests.person import Person, until

SECONDS = 240  # two heartbeats and a machine's start; emulated, beside other tests
AWAY = 300  # seconds


@pytest.fixture
def stopped(ada, alpha_host) -> Person:
    """The machine web is stopped, the clock is left to nobody, and is right again afterwards."""
    until(lambda: ada.machine("web"), SECONDS)
    ada.succeed(ada.press("poweroff", "web"), SECONDS)
    alpha_host.run(["systemctl", "stop", "systemd-timesyncd.service"], check=False)
    yield ada
    set_clock(ada, alpha_host, 0)


def skew(ada: Person) -> float:
    return ada.rows("SELECT clock_skew FROM machines_host WHERE name = 'alpha'")[0]["clock_skew"] or 0.0


def set_clock(ada: Person, host, ahead: float) -> None:
    """Set the host's clock that many seconds ahead of what it was, and wait until the panel has measured it."""
    host.run(["date", f"--set={ahead - round(skew(ada)):+.0f} seconds"])
    until(lambda: abs(skew(ada) - ahead) < 20, SECONDS, lambda: str(skew(ada)))


def test_orders_wait_for_a_clock_that_is_behind_or_ahead_and_the_pages_say_so(stopped, alpha_host):
    ada = stopped
    set_clock(ada, alpha_host, -AWAY)
    job = ada.press("start", "web")
    assert "behind the panel" in ada.get(f"/jobs/{job['id']}/")
    set_clock(ada, alpha_host, AWAY)
    for page in (f"/jobs/{job['id']}/", "/hosts/alpha/"):
        assert "ahead of the panel" in ada.get(page), page
    assert ada.job(job["id"])["state"] in {JobState.QUEUED, JobState.SENT}
    set_clock(ada, alpha_host, 0)
    ended = ada.succeed(job, SECONDS)
    assert "ahead of the panel" not in ada.get("/hosts/alpha/")
    assert ended["state"] == JobState.SUCCEEDED
