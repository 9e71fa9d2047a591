"""A removal that dies between any two of its changes leaves nothing half-removed that could start, and is finished later."""

import asyncio
import fcntl
import inspect
import os
import struct
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from uuid import UUID

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.context.host_context import HostContext, Task
from machines.host.context.job_output import JobOutput
from machines.host.files import belongings
from machines.host.machine import remove
from machines.host.system import guarded
from machines.host.system.bus import BusError
from tests.host.killed import dies_before

JOB = UUID(int=7)
WEB = MachineName("web")
UNIT = "systemd-nspawn@web.service"
FILES = 20


class Bus:
    """machined and systemd of a host with one image, which nothing runs."""

    def __init__(self, paths, state: tuple[str, str] = ("inactive", "dead")) -> None:
        self.paths, self.state = paths, state
        self.elsewhere = ""
        self.is_stopped = lambda: False

    def do(self, work, timeout: float = 0):
        return asyncio.run(work) if inspect.isawaitable(work) else work

    @property
    def images(self) -> list:
        return [p for p in (self.paths.image(WEB), self.paths.raw_image(WEB)) if os.path.lexists(p)]

    async def machined(self, method: str, _signature: str = "", _body=()):
        if method == "ListImages":
            return [[("web", "directory", False, 5, 5, 0, 0, 0, "/web")] if self.images else []]
        if method == "GetImage" and (self.images or self.elsewhere):
            return ["/web"]
        raise BusError(f"org.freedesktop.machine1.NoSuch{method.removeprefix('Get')}", "No")

    async def properties(self, *_):
        return {"Path": self.elsewhere or str(self.images[0]), "Type": "directory", "ReadOnly": False}

    async def unit(self, *_):
        if self.is_stopped():
            self.state = ("inactive", "dead")
        return {"ActiveState": self.state[0], "SubState": self.state[1]}


@pytest.fixture
def host(paths, programs):
    programs.says("systemctl")
    return HostContext(paths, Bus(paths), SimpleNamespace())


@pytest.fixture
def web(paths):
    """The link that starts it."""
    return make(paths)


def make(paths):
    """A machine that starts with the host, with limits somebody has set."""
    limit = paths.lasting_control / f"{UNIT}.d/50-MemoryMax.conf"
    link = paths.units / "machines.target.wants" / UNIT
    for folder in (paths.image(WEB) / "usr", limit.parent, link.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        (paths.image(WEB) / f"usr/{number}").write_text("x")
    paths.nspawn_file(WEB).write_text(nspawn.mark("[Exec]\n", 1))
    limit.write_text("[Service]\nMemoryMax=64M\n")
    link.symlink_to("/usr/lib/systemd/system/systemd-nspawn@.service")
    return link


def task(said: list[str] | None = None, **order: str) -> Task:
    heard = [] if said is None else said
    output = JobOutput(lambda entry: heard.append(entry.get("t", "")))
    return Task(JOB, orders.Remove(name="web", **order), output, time.time(), time.time() + 60)


def is_whole(tree) -> bool:
    return len(os.listdir(tree / "usr")) == FILES


def test_between_any_two_steps_nothing_half_removed_can_start_and_the_rest_is_done_later(host, paths, programs, web):
    (programs.folder / "systemctl").unlink()
    (programs.folder / "systemctl").symlink_to("/bin/true")  # a quick one
    change, seen = 1, set()
    while dies_before(change, lambda: remove.remove(host, task())):
        there, starts = paths.image(WEB).exists(), os.path.lexists(web)
        assert there or not starts, f"before change {change} a link starts what is gone"
        assert not there or is_whole(paths.image(WEB)), f"before change {change} half a machine has the name"
        seen.add((there, starts))
        remove.remove(host, task())
        assert belongings.of(paths, WEB) == []
        assert os.listdir(paths.machines) == []
        change += 1
        make(paths)
    assert change > 15
    assert seen == {(True, True), (True, False), (False, False)}


def test_a_machine_made_meanwhile_under_the_name_is_left_alone(host, paths, web):
    paths.aside(JOB).mkdir()
    assert remove.remove(host, task()) == {"removed": True}
    assert is_whole(paths.image(WEB))
    assert len(belongings.of(paths, WEB)) == 3
    assert not paths.aside(JOB).exists()


def test_what_cannot_be_hidden_is_as_it_was(host, paths, web, monkeypatch):
    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(paths.machines), "rename", fails)
    with pytest.raises(OSError, match="Input"):
        remove.remove(host, task())
    assert os.readlink(web).endswith("systemd-nspawn@.service")
    assert is_whole(paths.image(WEB))
    assert len(belongings.of(paths, WEB)) == 3


# --- refused before the first byte


def refused(host, **order: str) -> str:
    with pytest.raises(Problem) as caught:
        remove.remove(host, task(**order))
    assert is_whole(host.paths.image(WEB))
    assert len(belongings.of(host.paths, WEB)) == 3
    assert not host.paths.aside(JOB).exists()
    return caught.value.code


def test_a_machine_whose_unit_is_up_is_not_removed(host, web):
    for state in (("active", "running"), ("activating", "start"), ("deactivating", "stop-sigterm")):
        host.bus.state = state
        assert refused(host) == "machine-running"


def test_one_that_only_waits_for_its_next_start_is_stopped_and_removed(host, paths, programs, web):
    host.bus.state = ("activating", "auto-restart")
    host.bus.is_stopped = lambda: any("stop" in call and UNIT in call for call in programs.calls())
    remove.remove(host, task())
    assert host.bus.state == ("inactive", "dead")
    assert not paths.image(WEB).exists()


def test_links_to_it_and_links_in_its_place_are_named(host, paths, web):
    alias = paths.machines / "alias"
    alias.symlink_to("web")
    assert refused(host) == "image-linked"
    alias.unlink()
    paths.image(WEB).rename(paths.machines.parent / "real")
    paths.image(WEB).symlink_to(paths.machines.parent / "real")
    assert refused(host) == "image-is-link"


def test_links_to_it_are_seen_where_the_pool_itself_is_reached_by_one(host, paths, web):
    paths.machines.rename(paths.machines.parent / "srv")
    paths.machines.symlink_to(paths.machines.parent / "srv")
    (paths.machines / "alias").symlink_to("web")
    assert refused(host) == "image-linked"


def test_a_link_into_a_mount_that_does_not_answer_holds_up_no_removal(host, paths, web, dead_mount, monkeypatch):
    monkeypatch.setattr(guarded, "SECONDS", 0.2)
    (paths.machines / "far").symlink_to(dead_mount / "far")
    removing = threading.Thread(target=remove.remove, args=(host, task()), daemon=True)
    removing.start()
    removing.join(20)
    assert not removing.is_alive()
    assert os.listdir(paths.machines) == ["far"]


def test_whoever_works_in_it_is_named_whatever_it_calls_itself(host, paths, web):
    """The kernel cuts a name after 15 bytes, wherever a letter ends."""
    pause = "import os, sys; os.chroot(sys.argv[1]); print(flush=True); sys.stdin.read()"
    name = "import ctypes; ctypes.CDLL(None).prctl(15, b'caf\\xe9', 0, 0, 0); " + pause
    with subprocess.Popen(
        [sys.executable, "-c", name, paths.image(WEB)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as inside:
        assert inside.stdout is not None
        inside.stdout.readline()
        assert refused(host) == "image-busy"
        inside.communicate()


def test_a_file_that_somebody_has_marked_immutable_is_seen_before_anything_goes(host, paths, web):
    file = paths.nspawn_file(WEB)
    if subprocess.run(["chattr", "+i", "--", file], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("no such marks here")
    try:
        assert refused(host) == "read-only"
    finally:
        subprocess.run(["chattr", "-i", "--", file], check=True)
    assert remove.remove(host, task()) == {"removed": True}


def test_of_two_images_of_one_name_the_one_that_counts_goes(host, paths, web):
    paths.raw_image(WEB).touch()
    said = []
    assert remove.remove(host, task(said)) == {"removed": True}
    assert os.listdir(paths.machines) == ["web.raw"]
    assert f"{paths.raw_image(WEB)} has the same name and is used from now on." in said


def test_images_elsewhere_are_named(host, paths, web):
    elsewhere = paths.machines.parent / "elsewhere"
    elsewhere.mkdir()
    host.bus.elsewhere = str(elsewhere)
    assert refused(host) == "image-elsewhere"


def test_files_and_images_nobody_has_seen_stay(host, paths, web):
    seen = belongings.of(paths, WEB)[0].sha256
    assert refused(host, image_id="1-1") == "image-changed"
    assert refused(host, replaces_nspawn="absent") == "files-changed"
    assert refused(host, replaces_nspawn=seen, replaces_limits="0" * 64) == "files-changed"
    assert remove.remove(host, task(replaces_nspawn=seen, replaces_limits="absent")) == {"removed": True}


def test_an_image_that_somebody_works_on_stays(host, paths, web):
    """As systemd-nspawn and machined lock it."""
    lock = os.open(paths.machines / ".#web.lck", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.fcntl(lock, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0))
    assert refused(host) == "image-busy"
    os.close(lock)
    remove.remove(host, task())
    assert os.listdir(paths.machines) == []
