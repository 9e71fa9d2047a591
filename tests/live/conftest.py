"""One panel and one sandbox host for the run: real systemd, real machined, real Valkey, real courier and worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nspawnpanel.sandbox import CACHE, Sandbox, can_boot
from nspawnpanel.stack import Stack
from nspawnpanel.valkey import free_port
from tests.live.person import Person

POLICY = Path(__file__).parents[2] / "machines/host/policy.toml"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    reason = can_boot()
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.live)
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"no real host: {reason}"))


@pytest.fixture(scope="session")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("panel"), free_port()) as stack:
        yield stack


@pytest.fixture(scope="session")
def alpha_host(panel: Stack) -> Iterator[Sandbox]:
    """A booted sandbox that has joined the panel as alpha."""
    with Sandbox("live-alpha", CACHE) as host:
        host.write("/etc/nspawnpanel/policy.toml", POLICY.read_text())
        panel.join(host, "alpha")
        panel.manage("wait_for_host", "alpha", "--seconds", "30")
        yield host


@pytest.fixture(scope="session")
def ada(panel: Stack, alpha_host: Sandbox) -> Person:
    """The administrator."""
    return Person(panel)
