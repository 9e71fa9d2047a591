"""Hosts with their worker alone, one of each systemd, for all tests of a run that need no panel."""

import os
from collections.abc import Iterator

import pytest

from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.valkey import Valkey
from tests.host.scratch_panel import ScratchPanel

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchPanel]:
    """A host with systemd 252 and the machine web."""
    data = tmp_path_factory.mktemp("valkey")
    with Valkey(data) as valkey, Sandbox(f"worker-{os.getpid()}-{WORKER}", CACHE) as host:
        host.plant("web")
        made = ScratchPanel(host, valkey)
        made.join()
        yield made


@pytest.fixture(scope="session")
def later(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchPanel]:
    """A host with systemd 257 and the machine web."""
    data = tmp_path_factory.mktemp("valkey")
    with Valkey(data) as valkey, Sandbox(f"later-{os.getpid()}-{WORKER}", CACHE, suite="trixie") as host:
        host.plant("web", "bookworm")
        made = ScratchPanel(host, valkey)
        made.join()
        yield made
