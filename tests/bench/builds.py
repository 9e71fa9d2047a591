"""Figures of builds: trees through the panel against the commands an administrator would type on the same host.

Commands are timed inside the host, so that entering it costs them nothing.
"""

import json
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from nspawnpanel.sandbox import Sandbox
from tests.bench.hosts import bare, fleet, milliseconds
from tests.person import Person

Measured = tuple[str, Sequence[float], Sequence[float], str]
PYTHON = "/opt/nspawnpanel/bin/python"
PAIRS = 15
TREES = "/var/lib/machines"
_TIMED = """
import subprocess, sys, time, json
began = time.perf_counter()
for argv in json.loads(sys.argv[1]):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print((time.perf_counter() - began) * 1000)
"""
# Ten machines started by hand at once, each asked over and over whether it is up.
_TEN = """
import subprocess, sys, threading, time
def one(name):
    subprocess.run(["machinectl", "start", name], check=True)
    while subprocess.run(["systemctl", "--machine", name, "is-system-running"], capture_output=True, text=True).stdout.strip() not in ("running", "degraded"):
        time.sleep(0.05)
began = time.perf_counter()
threads = [threading.Thread(target=one, args=(name,)) for name in sys.argv[1:]]
[t.start() for t in threads]; [t.join() for t in threads]
print((time.perf_counter() - began) * 1000)
"""


def inside(host: Sandbox, *argvs: Sequence[str], timeout: float = 600) -> float:
    """Milliseconds these commands take, one after the other."""
    return float(host.run([PYTHON, "-c", _TIMED, json.dumps(argvs)], timeout=timeout).stdout)


def order_to_outcome(job: dict[str, Any]) -> float:
    """Milliseconds from the order's row to its outcome's, by the panel's own clock."""
    ends = [datetime.fromisoformat(job[column]) for column in ("created_at", "finished_at")]
    return (ends[1] - ends[0]).total_seconds() * 1000


def first(ada: Person) -> dict[str, Any]:
    """The build that leaves the base."""
    return ada.succeed(ada.build("first", start=None), 600)


def gone(ada: Person, host: Sandbox, *names: str) -> None:
    for name in names:
        host.run(["machinectl", "terminate", name], check=False)
    for name in names:
        ada.sees(name, "stopped", 30)
        ada.succeed(ada_removes(ada, name))


def ada_removes(ada: Person, name: str) -> dict[str, Any]:
    before = ada.newest_job()
    ada.post(f"/hosts/alpha/machines/{name}/remove/", {"confirm": name})
    return ada.jobs_after(before)[0]


def forget_bases(host: Sandbox) -> None:
    host.run(["sh", "-c", "rm -f /var/lib/nspawnpanel/bases/*.json"])


def build_cold(runs: int = 3) -> Measured:
    """A build through the panel with everything it does, its base published, over bare mmdebstrap into memory."""
    with fleet() as (ada, host):
        host.run(["sh", "-c", "mkdir /run/bare && mount -t tmpfs tmpfs /run/bare"])
        ours, plain = [], []
        for number in range(runs):
            forget_bases(host)
            job = ada.succeed(ada.build(f"b{number}", start=None), 600)
            ours.append(order_to_outcome(job) / 1000)
            plain.append(inside(host, bare(ada, job["id"], f"/run/bare/{number}")) / 1000)
            host.run(["rm", "-rf", f"/run/bare/{number}"])
        return "build with its base, over bare mmdebstrap into tmpfs", ours, plain, "s"


def build_cold_debootstrap(runs: int = 2) -> Measured:
    """The same over debootstrap into the same pool."""
    with fleet() as (ada, host):
        ours, plain = [], []
        for number in range(runs):
            forget_bases(host)
            job = ada.succeed(ada.build(f"b{number}", start=None), 600)
            ours.append(order_to_outcome(job) / 1000)
            argv = bare(ada, job["id"], "x")
            include = next(word for word in argv if word.startswith("--include="))
            words = ["debootstrap", "--variant=minbase", include, "bookworm", f"{TREES}/plain{number}"]
            plain.append(inside(host, words, timeout=900) / 1000)
        return "build with its base, over debootstrap into the same pool", ours, plain, "s"


def build_second(runs: int = PAIRS) -> Measured:
    """A machine from a base, order to outcome, over `machinectl clone` of the same tree."""
    with fleet() as (ada, host):
        first(ada)
        ours, plain = [], []
        for number in range(runs + 1):
            ours.append(order_to_outcome(ada.succeed(ada.build(f"m{number}", start=None))))
            plain.append(inside(host, ["machinectl", "clone", "first", f"c{number}"]))
        return "machine from a base, order to outcome, over `machinectl clone`", ours[1:], plain[1:], "ms"


def build_second_step(runs: int = PAIRS) -> Measured:
    """The copying alone: the step of the job that makes the new tree."""
    with fleet() as (ada, host):
        first(ada)
        ours, plain = [], []
        for number in range(runs + 1):
            job = ada.succeed(ada.build(f"m{number}", start=None))
            ours.append(json.loads(job["result"])["seconds"]["bootstrap"] * 1000)
            plain.append(inside(host, ["machinectl", "clone", "first", f"c{number}"]))
        return "the copying step of it, over `machinectl clone`", ours[1:], plain[1:], "ms"


def build_again(runs: int = 5) -> Measured:
    """The second build of a recipe over the first."""
    with fleet() as (ada, host):
        cold = order_to_outcome(first(ada))
        del host
        ours = [order_to_outcome(ada.succeed(ada.build(f"m{number}", start=None))) for number in range(runs)]
        return "second identical build over the first", ours, [cold], "ms"


def create_and_boot(runs: int = PAIRS) -> Measured:
    """From the POST of the form until the panel knows that the new machine is up, over a snapshot and `systemctl start`.

    Both boot with NotifyReady=yes.
    """
    with fleet() as (ada, host):
        first(ada)
        base = host.run(["sh", "-c", "ls -d /var/lib/machines/.nspawnpanel-base-*"]).stdout.split()[0]
        ours, plain = [], []
        for number in range(runs + 1):
            mine, theirs = f"m{number}", f"c{number}"
            token = ada.form_of("/machines/new/")
            ours.append(milliseconds(lambda name=mine, token=token: up(ada, name, token)))
            host.write(f"/etc/systemd/nspawn/{theirs}.nspawn", host.read(f"/etc/systemd/nspawn/{mine}.nspawn"))
            gone(ada, host, mine)
            plain.append(inside(
                host, ["btrfs", "subvolume", "snapshot", base, f"{TREES}/{theirs}"],
                ["systemctl", "start", f"systemd-nspawn@{theirs}.service"],
            ))  # fmt: skip
            host.run(["machinectl", "terminate", theirs])
            ada.sees(theirs, "stopped", 20)
        return "form to booted, over a snapshot and `systemctl start`", ours[1:], plain[1:], "ms"


def up(ada: Person, name: str, token: dict[str, str]) -> None:
    """Order a machine and wait for it; a second page is not part of the click."""
    ada.build(name, token=token)
    while ada.machine(name).get("state") != "running":
        time.sleep(0.002)


def ten_at_once(runs: int = 3) -> Measured:
    """Ten machines created and running, over ten trees that are there already, started at once and asked until they run."""
    with fleet() as (ada, host):
        first(ada)
        ours, plain = [], []
        for turn in range(runs):
            names = [f"t{turn}-{number}" for number in range(10)]
            ours.append(milliseconds(lambda names=names: all_up(ada, names)))
            gone(ada, host, *names)
            theirs = [f"p{turn}-{number}" for number in range(10)]
            for name in theirs:
                host.run(["machinectl", "clone", "first", name])
            plain.append(float(host.run([PYTHON, "-c", _TEN, *theirs], timeout=300).stdout.split()[-1]))
            for name in theirs:
                host.run(["machinectl", "terminate", name])
            for name in theirs:
                ada.sees(name, "stopped", 30)
        return "ten created and running, over ten `machinectl start` and polling", ours, plain, "ms"


def all_up(ada: Person, names: Sequence[str]) -> None:
    """Ordered at once; one look at all of them now and then, for looking costs the same two cores."""
    token = ada.form_of("/machines/new/")
    threads = [threading.Thread(target=lambda name=name: ada.build(name, token=token)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked = f"SELECT count(*) AS up FROM machines_machine WHERE state = 'running' AND name IN ({','.join('?' * len(names))})"
    while ada.rows(asked, *names)[0]["up"] < len(names):
        time.sleep(0.02)


# LXC from a snapshot of the very same base: no user namespace, no network, no machined.
_LXC = "/var/lib/machines/lxc"
_LXC_CONFIG = f"""lxc.uts.name = base
lxc.rootfs.path = btrfs:{_LXC}/base/rootfs
lxc.net.0.type = empty
lxc.apparmor.profile = unconfined
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
"""
_LXC_UP = """
import subprocess, sys, time
path, name = sys.argv[1:]
began = time.perf_counter()
subprocess.run(["lxc-copy", "-P", path, "-n", "base", "-N", name, "-s", "-B", "btrfs"], check=True)
subprocess.run(["lxc-start", "-P", path, "-n", name], check=True)
ask = ["lxc-attach", "-P", path, "-n", name, "--", "systemctl", "is-system-running", "--wait"]
while subprocess.run(ask, capture_output=True, text=True).stdout.strip() not in ("running", "degraded"):
    time.sleep(0.01)
print((time.perf_counter() - began) * 1000)
"""


def create_and_boot_lxc(runs: int = PAIRS) -> Measured:
    """From the POST of the form until the panel knows that the machine is up, over an LXC snapshot clone until it runs."""
    with fleet() as (ada, host):
        first(ada)
        base = host.run(["sh", "-c", "ls -d /var/lib/machines/.nspawnpanel-base-*"]).stdout.split()[0]
        host.run(["apt-get", "update"], timeout=300)
        host.run(["apt-get", "install", "--yes", "--no-install-recommends", "lxc"], timeout=300)
        host.write(f"{_LXC}/base/config", _LXC_CONFIG)
        host.run(["btrfs", "subvolume", "snapshot", base, f"{_LXC}/base/rootfs"])
        ours, plain = [], []
        for number in range(runs + 1):
            token = ada.form_of("/machines/new/")
            ours.append(milliseconds(lambda name=f"m{number}", token=token: up(ada, name, token)))
            gone(ada, host, f"m{number}")
            plain.append(float(host.run([PYTHON, "-c", _LXC_UP, _LXC, f"c{number}"]).stdout.split()[-1]))
            host.run(["lxc-stop", "-P", _LXC, "-n", f"c{number}", "-k"])
            host.run(["lxc-destroy", "-P", _LXC, "-n", f"c{number}"])
        return "form to booted, over an LXC snapshot clone until it runs", ours[1:], plain[1:], "ms"
