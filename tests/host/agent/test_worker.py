"""The worker's Celery app: its own task, its own queue, nothing of Django, nothing of Celery's own tasks."""

import asyncio
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from kombu.transport.redis import Transport
from nacl.signing import SigningKey

from machines.contract import reports, routes
from machines.host.agent import worker
from machines.host.agent.enrol import line
from machines.host.agent.tasks import doorway
from machines.host.agent.worker import Pulse
from machines.host.context import keys, settings
from machines.host.context.host_context import HostContext
from machines.host.policy.policy import Policy
from machines.host.system import threads
from machines.host.system.bus import Bus
from machines.host.system.faults import Misconfigured

ROOT = Path(__file__).parents[3]
HOST = UUID("12345678-1234-5678-1234-567812345678")
ROOT = Path(__file__).parents[3]


def env(**changed: str) -> dict[str, str]:
    from base64 import b64encode

    key = b64encode(bytes(SigningKey(b"k" * 32).verify_key)).decode()
    return {
        "NSPAWNPANEL_HOST_ID": str(HOST), "NSPAWNPANEL_GENERATION": "3", "NSPAWNPANEL_PANEL_KEYS": key,
        "NSPAWNPANEL_REDIS_URL": "redis://u:hidden@127.0.0.1:1/0", "NSPAWNPANEL_STATE": "/tmp/x", **changed,
    }  # fmt: skip


def test_settings_come_from_the_environment():
    own = settings.read(env())
    assert (own.host, own.generation, str(own.paths.state)) == (HOST, 3, "/tmp/x")
    assert "hidden" not in repr(own)


def test_the_panel_is_where_it_said_when_the_host_joined():
    assert settings.read(env(NSPAWNPANEL_PANEL_URL="http://[fd00::1]:8000/")).panels == ("http://[[]fd00::1]:8000/*",)


@pytest.mark.parametrize(
    ("redis", "panels"),
    [
        ("redis://127.0.0.1/0", ("*",)),
        ("redis://[::1]/0", ("*",)),
        ("redis://localhost/0", ("*",)),
        ("rediss://panel.example/0", ()),
    ],
)
def test_one_that_joined_before_that_was_said_may_have_it_beside_its_redis(redis, panels):
    assert settings.read(env(NSPAWNPANEL_REDIS_URL=redis)).panels == panels


@pytest.mark.parametrize(
    "changed",
    [
        {"NSPAWNPANEL_HOST_ID": "alpha"}, {"NSPAWNPANEL_GENERATION": ""}, {"NSPAWNPANEL_PANEL_KEYS": "abc"},
        {"NSPAWNPANEL_REDIS_URL": " "},
    ],
)  # fmt: skip
def test_nonsense_is_told_by_its_name(changed):
    with pytest.raises(Misconfigured, match="NSPAWNPANEL_"):
        settings.read(env(**changed))


def test_the_app_knows_one_task_and_one_queue():
    app = worker.make_app(settings.read(env()), Pulse(), Transport)
    doorway(app, lambda _: None, lambda _: None)
    worker.only_our_task(app)
    assert list(app.tasks) == [routes.TASK]
    assert [queue.name for queue in app.conf.task_queues] == [routes.queue(str(HOST))]
    assert app.conf.broker_transport_options["global_keyprefix"] == routes.prefix(str(HOST))
    assert app.conf.broker_transport_options["ack_emulation"] is False
    assert app.conf.worker_enable_remote_control is False
    assert app.conf.accept_content == ["json"]
    assert app.conf.broker_connection_max_retries is None


def test_a_message_with_more_than_an_envelope_is_refused():
    app = worker.make_app(settings.read(env()), Pulse(), Transport)
    taken, refused = [], []
    doorway(app, taken.append, refused.append)
    task = app.tasks[routes.TASK]
    task.apply(args=["sealed"])
    assert taken == ["sealed"]
    task.apply(args=["sealed"], link=app.signature("x"))
    task.apply(args=["sealed"], link_error=app.signature("x"))
    task.apply(args=[{"a": 1}])
    assert (taken, [p.code for p in refused]) == (["sealed"], ["envelope-unreadable"] * 3)


def test_it_loads_no_orm_even_beside_the_panel():
    script = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'nspawnpanel.settings'\n"
        "from machines.host.agent import unit_job, worker\n"
        "bad = [m for m in sys.modules if m.startswith(('django.db', 'machines.models', 'machines.panel', 'nspawnpanel'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_keys_are_made_once_and_are_root_s_alone(tmp_path):
    first, again = keys.make(tmp_path / "keys"), keys.make(tmp_path / "keys")
    assert line(first) == line(again)
    assert line(first).startswith("np-host1:")
    assert len(line(first).split(":")) == 3
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "keys").iterdir())
    (tmp_path / "keys/sign").chmod(0o644)
    with pytest.raises(Misconfigured, match="is readable by others"):
        keys.load(tmp_path / "keys")


def test_a_host_that_never_joined_is_told_how(tmp_path):
    with pytest.raises(Misconfigured, match="cannot be read") as caught:
        keys.load(tmp_path)
    assert "machines.host.agent.enrol" in caught.value.hint


# --- a loop that hangs

TURNING = SimpleNamespace(stuck_for=lambda: 0.0)  # in the place of a bus


@pytest.fixture
def stuck(monkeypatch) -> Iterator[Bus]:
    """A bus whose loop waits in one call, as for a file that blocks."""
    monkeypatch.setattr(worker, "STUCK_SECONDS", 0.2)
    monkeypatch.setattr(Bus, "_stay_connected", lambda _self: asyncio.sleep(0))  # there is no bus to connect to
    bus, free = Bus(), threading.Event()
    bus._loop.call_soon_threadsafe(free.wait, 30)
    yield bus
    free.set()


def wait_until(true) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_loop_of_the_bus_that_hangs_is_told_and_where(stuck, paths, caplog):
    host = HostContext(paths, stuck, Policy())
    wait_until(lambda: stuck.stuck_for() > 0.3)
    worker.look_at_loop(host)
    assert "hangs" in host.trouble.told()["loop"]
    assert "threading.py" in caplog.text  # the place where it waits


def test_a_loop_that_turns_again_is_no_trouble(paths):
    host = HostContext(paths, TURNING, Policy())
    host.trouble.note("loop", "It hung.")
    worker.look_at_loop(host)
    assert host.trouble.told() == {}


def test_systemd_ends_a_worker_whose_loop_hangs(stuck, tmp_path, monkeypatch):
    """Its watchdog hears nothing any more, though the broker's loop turns."""
    pings: list[Callable[[], object]] = []
    monkeypatch.setattr(threads, "every", lambda _seconds, work, _name: pings.append(work))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    pulse = Pulse()
    worker.watchdog(pulse, stuck)
    worker.watchdog(pulse, TURNING)
    wait_until(lambda: stuck.stuck_for() > 3.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(0.3)
        pulse.beat()
        pings[0]()
        with pytest.raises(TimeoutError):
            systemd.recv(100)
        pulse.beat()
        pings[1]()
        assert systemd.recv(100) == b"WATCHDOG=1"


def test_a_worker_without_its_requirements_says_what_to_install_and_is_not_started_again():
    without = (
        "import runpy, sys; sys.modules['dbus_fast'] = None; runpy.run_module('machines.host', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 78
    assert "dbus_fast" in done.stderr
    assert f"pip install -r {ROOT}/machines/host/requirements.txt" in done.stderr


# --- a ledger that cannot be written


def test_a_worker_whose_disk_is_full_says_so_past_its_ledger(paths):
    told: list[reports.Heartbeat] = []

    def full(_report):
        raise sqlite3.OperationalError("database or disk is full")

    host = HostContext(paths, TURNING, Policy())
    reporter = SimpleNamespace(send_passing=full, send_unspooled=told.append)
    worker.beat(host, reporter, SimpleNamespace(is_short=lambda: True, heard=reports.Heard))
    assert told[0].trouble["spool"] == (
        f"The worker cannot write to {paths.state}: database or disk is full. It accepts no requests until it can."
    )
    reporter.send_passing = lambda _report: True
    worker.beat(host, reporter, SimpleNamespace(is_short=lambda: True, heard=reports.Heard))
    assert host.trouble.told()["spool"].startswith("There is almost no space left")
    worker.beat(host, reporter, SimpleNamespace(is_short=lambda: False, heard=reports.Heard))
    assert host.trouble.told() == {}
