"""Fixtures of the real thing: one panel, one sandbox host, one Chromium for the run, each only where it can be had."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from nspawnpanel.sandbox import CACHE, Sandbox, can_boot, can_emulate
from nspawnpanel.stack import REPOSITORY, Stack
from nspawnpanel.valkey import free_port
from tests.person import Person
from tests.sharing import ROOMS, folder_of

POLICY = REPOSITORY / "machines/host/policy/policy.toml"
INOTIFY, ENOUGH_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances"), 1024
REAL = tuple(ROOMS)
# Without these, Chromium calls home at every start
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def chromium() -> str | None:
    """The path of a real Chromium; Ubuntu's /usr/bin/chromium-browser is a stub of its snap and is not taken."""
    return next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)


def _is_worker(config: pytest.Config) -> bool:
    """Whether this is one of the processes that run tests for another, which looks after the machine."""
    return hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Every booted system takes half a dozen inotify instances of root's, machines with ids of their own too; the
    kernel's default of 128 is reached with some twenty, and the next one hangs in its boot or finds no address. It
    stays raised until the machine boots again: there may be another run beside this one."""
    if not _is_worker(session.config) and can_boot() is None and int(INOTIFY.read_text()) < ENOUGH_INOTIFY:
        INOTIFY.write_text(str(ENOUGH_INOTIFY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is real by its folder, and leave out, with the reason, what cannot run here. What fails soonest runs
    first: units (the one long one before all others), then hosts, hosts with a panel, the virtual machine, then browsers
    (whose event loop would be in the way of others)."""
    no_host, no_browser = can_boot(), None if chromium() else "no Chromium is installed"
    reasons = {"live": no_host, "journeys": no_host, "vm": can_emulate(), "browser": no_host or no_browser}
    order = {folder: place for place, folder in enumerate(REAL, start=1)}
    items.sort(key=lambda item: (order.get(folder_of(item.nodeid), 0), item.path.name != "test_postgresql.py"))
    for item in items:
        folder = folder_of(item.nodeid)
        if folder in REAL:
            item.add_marker(getattr(pytest.mark, folder))
            if reasons[folder]:
                item.add_marker(pytest.mark.skip(reason=reasons[folder]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    left_out = _left_out(terminalreporter)
    if left_out:
        terminalreporter.section("left out")
        for reason, count in left_out.items():
            terminalreporter.write_line(f"{count} real-host, virtual-machine or real-browser tests: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """CI must have run the real parts."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and _left_out(reporter) and session.exitstatus == 0:
        session.exitstatus = 1


def _left_out(reporter: Any) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for report in reporter.stats.get("skipped", []):
        if set(REAL) & set(report.keywords):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            reasons[reason] = reasons.get(reason, 0) + 1
    return reasons


@pytest.fixture(scope="session")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("panel"), free_port()) as stack:
        yield stack


@pytest.fixture(scope="session")
def alpha_host(panel: Stack) -> Iterator[Sandbox]:
    """A booted sandbox that has joined the panel as alpha."""
    with Sandbox(f"tests-{os.getpid()}", CACHE) as host:
        host.write("/etc/nspawnpanel/policy.toml", POLICY.read_text())
        panel.join(host, "alpha")
        yield host


@pytest.fixture(scope="session")
def ada(panel: Stack, alpha_host: Sandbox) -> Person:
    """The administrator."""
    return Person(panel)


@contextmanager
def a_browser() -> Iterator[Browser]:
    """Its event loop is in the way of whatever else the process does, so it is not there for a whole run."""
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium(), args=QUIET)
        yield chrome
        chrome.close()
