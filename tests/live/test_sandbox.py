"""The sandbox host itself: a Debian that hosts machines, and that leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from machines.contract import apt_sources
from nspawnpanel.sandbox import CACHE, Sandbox, SandboxError, kill_group, pool

ME = f"{os.getpid()}-{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}"
UNIT = "systemd-nspawn@web.service"


@pytest.fixture(scope="module")
def host() -> Iterator[Sandbox]:
    """A host of this module's own, with one small machine running in it."""
    with Sandbox(f"test-{ME}", CACHE) as host:
        host.plant("web")
        host.run(["machinectl", "start", "web"])
        wait_for(lambda: "192.168." in addresses(host, "web"), "web got no address")
        yield host


def mirror(host: Sandbox) -> str:
    """The name of the machine that this host's own packages come from."""
    return urlsplit(apt_sources.archive(apt_sources.parse_one_line(host.read("/etc/apt/sources.list")))).hostname or ""


def wait_for(condition: Callable[[], bool], failure: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, failure
        time.sleep(0.1)


def addresses(host: Sandbox, machine: str) -> str:
    listed = json.loads(host.run(["machinectl", "list", "--output=json"]).stdout or "[]")
    return str(next((row["addresses"] for row in listed if row["machine"] == machine), ""))


def inside(host: Sandbox, script: str, **options: bool) -> subprocess.CompletedProcess[str]:
    argv = ["systemd-run", "--machine=web", "--pipe", "--wait", "--quiet", "--", "/bin/bash", "-c", script]
    return host.run(argv, **options)


def traces(name: str) -> list[str]:
    """Everything on this machine that belongs to the sandbox `name`: processes, mounts, control groups, trees."""
    processes = [
        cmdline.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        for cmdline in Path("/proc").glob("[0-9]*/cmdline")
        if cmdline.exists()
    ]
    found = [line for line in processes if f"--machine {name} " in line]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"hosts/{name}" in line]
    groups = (group for _, groups, _ in os.walk("/sys/fs/cgroup") for group in groups)
    found += [group for group in groups if group.startswith("nspawnpanel") and name in group]
    return found + [str(path) for path in (CACHE / "pool" / "hosts").glob(f"*{name}*")]


def test_systemd_is_up_without_a_failed_unit(host: Sandbox) -> None:
    assert host.run(["systemctl", "is-system-running"]).stdout.strip() == "running"
    assert host.failed == []


def test_it_runs_the_systemd_of_its_suite(host: Sandbox) -> None:
    assert host.run(["systemctl", "--version"]).stdout.startswith("systemd 252")


def test_names_resolve(host: Sandbox) -> None:
    assert host.run(["getent", "hosts", mirror(host)]).stdout


def test_files_go_in_and_out(host: Sandbox) -> None:
    host.write("/etc/new/folder/secret", "one\ntwo\n", mode=0o600)
    assert host.read("/etc/new/folder/secret") == "one\ntwo\n"
    assert host.run(["stat", "--format=%a", "/etc/new/folder/secret"]).stdout == "600\n"


def test_the_workers_python_finds_its_libraries_and_the_checkout(host: Sandbox) -> None:
    code = (
        "import celery, nacl.signing, pydantic, dbus_fast, redis.asyncio, machines.contract as c; print(c.__path__[0])"
    )
    done = host.run(["/opt/nspawnpanel/bin/python", "-c", code])
    assert done.stdout.strip() == "/opt/nspawnpanel/src/machines/contract"


def test_a_command_that_takes_too_long_is_ended_inside_too(host: Sandbox) -> None:
    with pytest.raises(SandboxError, match=r"did not end within 0\.5 seconds"):
        host.run(["sleep", "4711"], timeout=0.5)
    assert host.run(["pgrep", "-f", "^sleep 4711"], check=False).stdout == ""


def test_a_process_inside_can_be_followed_and_ended(host: Sandbox) -> None:
    process = host.popen(["sh", "-c", "echo here; exec sleep 4712"])
    assert process.stdout
    assert process.stdout.readline() == "here\n"
    kill_group(process)
    process.communicate()
    assert host.run(["pgrep", "-f", "^sleep 4712"], check=False).stdout == ""


def test_a_machine_reaches_the_world_through_the_host(host: Sandbox) -> None:
    script = f"exec 3<>/dev/tcp/{mirror(host)}/80; printf 'HEAD / HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3"
    assert inside(host, script).stdout.startswith("HTTP/")


def test_a_memory_limit_holds(host: Sandbox) -> None:
    host.run(["systemctl", "set-property", "--runtime", UNIT, "MemoryMax=128M"])
    eats = "set -o pipefail; head -c {size} /dev/zero | tail -c {size} > /dev/null"
    assert inside(host, eats.format(size="8M")).returncode == 0
    assert (
        inside(host, eats.format(size="256M"), check=False).returncode != 0
    )  # killed by the kernel, or its unit by systemd


def test_a_cpu_limit_holds(host: Sandbox) -> None:
    host.run(["systemctl", "set-property", "--runtime", UNIT, "CPUQuota=20%"])
    measured = inside(host, "time -p timeout 3 bash -c 'while :; do :; done'", check=False).stderr
    user = float(next(line.split()[1] for line in measured.splitlines() if line.startswith("user")))
    assert 0.1 < user / 3 < 0.35


def test_a_clone_is_a_snapshot_where_the_pool_is_btrfs(host: Sandbox) -> None:
    host.run(["machinectl", "clone", "web", "copy"])
    assert host.run(["machinectl", "show-image", "copy", "--property=Type", "--value"]).stdout in {
        "subvolume\n",
        "directory\n",
    }


def test_two_hosts_do_not_see_each_other(host: Sandbox) -> None:
    with Sandbox(f"other-{ME}", CACHE) as other:
        assert json.loads(other.run(["machinectl", "list", "--output=json"]).stdout or "[]") == []
        other.plant("web")
        other.run(["machinectl", "start", "web"])
        other.run(["machinectl", "terminate", "web"])
    assert host.run(["machinectl", "show", "web", "--property=State", "--value"]).stdout.strip() == "running"


def test_a_name_belongs_to_one_at_a_time(host: Sandbox) -> None:
    with pytest.raises(SandboxError, match="already running"):
        Sandbox(host.name, CACHE).start()


def test_nothing_is_left_after_the_end() -> None:
    name = f"gone-{ME}"
    with Sandbox(name, CACHE) as host:
        host.plant("web")
        host.run(["machinectl", "start", "web"])
        assert traces(name)
    assert traces(name) == []


def test_a_kept_host_is_found_again_and_a_reboot_keeps_it() -> None:
    host = Sandbox(f"kept-{ME}", CACHE, keep=True)
    try:
        with host:
            host.write("/root/note", "still here")
        with host:
            first = host.read("/proc/sys/kernel/random/boot_id")
            assert host.read("/root/note") == "still here"
            host.reboot()
            assert host.read("/root/note") == "still here"
            assert host.read("/proc/sys/kernel/random/boot_id") != first
    finally:
        host.destroy()


def test_a_boot_that_fails_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"broken-{ME}"
    host = Sandbox(name, CACHE)
    monkeypatch.setattr(Sandbox, "_argv", lambda self: ["sh", "-c", f"echo out of luck; exit 1 --machine {name} "])
    with pytest.raises(SandboxError, match=r"ended while booting\. Its console: out of luck"):
        host.start()
    host.destroy()
    assert traces(name) == []


def test_what_a_killed_run_left_is_cleared_by_the_next(host: Sandbox) -> None:
    name = f"killed-{ME}"
    code = f"from nspawnpanel.sandbox import *; Sandbox('{name}', CACHE).start(); print('up', flush=True); input()"
    run = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout
    assert run.stdin
    assert run.stdout.readline() == "up\n"
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert traces(name)
    with Sandbox(f"next-{ME}", CACHE):
        wait_for(lambda: traces(name) == [], f"left: {traces(name)}")


def test_a_tree_is_deleted_whatever_its_subvolumes_are_called() -> None:
    """Names that are no UTF-8, and subvolumes that are read-only with others inside."""
    tree = CACHE / "pool" / "hosts" / f"odd-{os.getpid()}"
    if not pool.is_btrfs(tree.parent):
        pytest.skip("there is no btrfs here")
    inside = os.fsencode(tree) + b"/caf\xe9"
    for path in (os.fsencode(tree), inside, inside + b"/\xff\n"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", path], check=True)
    subprocess.run(["btrfs", "property", "set", "-ts", inside, "ro", "true"], check=True)
    (tree / "link").symlink_to(inside)
    pool.drop(tree)
    assert not tree.exists()
