"""Figures of builds: trees through the panel against the commands an administrator would type on the same host.

Commands are timed inside the host, so that entering it costs them nothing.
"""

import json
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from nspawnpanel.sandbox import CommandFailed, Sandbox
from tests.bench.hosts import bare, fleet, milliseconds
from tests.bench.measured import Measured, NotMeasured
from tests.person import Person

PYTHON = "/opt/nspawnpanel/bin/python"
PAIRS = 15
REST = 1.0  # seconds before either side, so that neither pays for what the other has left to be cleared away
TREES = "/var/lib/machines"
_TIMED = """
import subprocess, sys, time, json
began = time.perf_counter()
for argv in json.loads(sys.argv[1]):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print((time.perf_counter() - began) * 1000)
"""
# Trees that the two sides start from, by the name of the machine that is their model: the form's fields
MODELS: dict[str, dict[str, str]] = {"plain": {}, "trimmed": {"trim": "on", "prime": "on"}}
# Who is compared with whom: the figure's ending, the panel's tree, the other side's
PAIRINGS = (("", "plain", "plain"), ("_trimmed", "trimmed", "plain"), ("_both_trimmed", "trimmed", "trimmed"))
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
            time.sleep(REST)
            ours.append(milliseconds(lambda name=mine, token=token: up(ada, name, token)))
            host.write(f"/etc/systemd/nspawn/{theirs}.nspawn", host.read(f"/etc/systemd/nspawn/{mine}.nspawn"))
            gone(ada, host, mine)
            time.sleep(REST)
            plain.append(inside(
                host, ["btrfs", "subvolume", "snapshot", base, f"{TREES}/{theirs}"],
                ["systemctl", "start", f"systemd-nspawn@{theirs}.service"],
            ))  # fmt: skip
            host.run(["machinectl", "terminate", theirs])
            ada.sees(theirs, "stopped", 20)
        return "form to booted, over a snapshot and `systemctl start`", ours[1:], plain[1:], "ms"


def up(ada: Person, name: str, token: dict[str, str], **fields: str) -> None:
    """Order a machine and wait for it; a second page is not part of the click."""
    ada.build(name, token=token, **fields)
    while ada.machine(name).get("state") != "running":
        time.sleep(0.01)  # looking costs the cores it boots on


def ten_at_once(runs: int = 3) -> dict[str, Measured]:
    """Ten machines created and running, over ten trees that are there already, started at once by hand and asked until
    they run, as whoever knows no NotifyReady= has to.

    The panel's are of a base as its recipe makes it by default, then of one that is trimmed and primed as well.
    """
    with fleet() as (ada, host):
        for model, fields in MODELS.items():
            ada.succeed(ada.build(model, start=None, **fields), 600)
        ours, plain = times(), times()
        for turn in range(runs + 1):
            for model, fields in MODELS.items():
                ours[model].append(ten_through_the_panel(ada, host, f"{model}-t{turn}", fields))
                plain[model].append(ten_by_hand(ada, host, model, f"{model}-p{turn}"))
        return paired(
            "ten_at_once",
            "ten of the {} tree created and running, over ten `machinectl start` and polling of the {} one",
            ours,
            plain,
        )


Times = dict[str, list[float]]  # by the model, milliseconds of each run


def times() -> Times:
    return {model: [] for model in MODELS}


def paired(figure: str, what: str, ours: Times, plain: Times) -> dict[str, Measured]:
    """The figures of all pairings; the first run of each tree warms up."""
    return {
        f"{figure}{ending}": (what.format(mine, theirs), ours[mine][1:], plain[theirs][1:], "ms")
        for ending, mine, theirs in PAIRINGS
    }


def ten_through_the_panel(ada: Person, host: Sandbox, prefix: str, fields: dict[str, str]) -> float:
    names = [f"{prefix}-{number}" for number in range(10)]
    time.sleep(REST)
    took = milliseconds(lambda: all_up(ada, names, **fields))
    gone(ada, host, *names)
    return took


def ten_by_hand(ada: Person, host: Sandbox, model: str, prefix: str) -> float:
    names = [f"{prefix}-{number}" for number in range(10)]
    for name in names:  # a clone has its model's settings
        host.run(["machinectl", "clone", model, name])
        host.run(["sed", "--in-place", "/^NotifyReady=/d", f"/etc/systemd/nspawn/{name}.nspawn"])
    time.sleep(REST)
    took = float(host.run([PYTHON, "-c", _TEN, *names], timeout=300).stdout.split()[-1])
    for name in names:
        host.run(["machinectl", "terminate", name])
    for name in names:
        ada.sees(name, "stopped", 30)
    return took


def all_up(ada: Person, names: Sequence[str], **fields: str) -> None:
    """Ordered at once; one look at all of them now and then, for looking costs the same two cores."""
    token = ada.form_of("/machines/new/")
    threads = [threading.Thread(target=lambda name=name: ada.build(name, token=token, **fields)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked = f"SELECT count(*) AS up FROM machines_machine WHERE state = 'running' AND name IN ({','.join('?' * len(names))})"
    while ada.rows(asked, *names)[0]["up"] < len(names):
        time.sleep(0.02)


# LXC has the machine's tree and a veth as systemd-nspawn has, but no user namespace.
_LXC = "/srv/lxc"
_LXC_CONFIG = """lxc.uts.name = {name}
lxc.rootfs.path = btrfs:{lxc}/{name}/rootfs
lxc.net.0.type = veth
lxc.net.0.flags = up
lxc.apparmor.profile = unconfined
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
"""
# Milliseconds until the commands given have ended, and until systemd inside says that it runs
_UNTIL_UP = """
import json, subprocess, sys, time
makes, ask = json.loads(sys.argv[1])
began = time.perf_counter()
for argv in makes:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
made = time.perf_counter()
while subprocess.run(ask, capture_output=True, text=True).stdout.strip() not in ("running", "degraded"):
    time.sleep(0.01)
print(json.dumps([(made - began) * 1000, (time.perf_counter() - began) * 1000]))
"""
UP_YET = ("systemctl", "is-system-running", "--wait")


def until_up(host: Sandbox, makes: Sequence[Sequence[str]], enter: Sequence[str]) -> tuple[float, float]:
    """Milliseconds until these commands, which make and start a container, have ended, and until it has booted."""
    script = json.dumps([makes, [*enter, *UP_YET]])
    made, booted = json.loads(host.run([PYTHON, "-c", _UNTIL_UP, script], timeout=120).stdout.splitlines()[-1])
    return made, booted


def install(host: Sandbox, *packages: str) -> None:
    """What is compared with, from where the host has its own packages. Raises NotMeasured where it does not install."""
    host.run(["apt-get", "update"], timeout=300)
    try:
        host.run(["apt-get", "install", "--yes", "--no-install-recommends", *packages], timeout=300)
    except CommandFailed as failed:
        raise NotMeasured(f"{packages[0]} does not install here: {failed.stderr.strip()[-200:]}") from failed


def form_to_booted(ada: Person, host: Sandbox, name: str, **fields: str) -> float:
    """Milliseconds from the POST of the form until the panel knows that the machine is up; then it goes again."""
    token = ada.form_of("/machines/new/")
    time.sleep(REST)
    took = milliseconds(lambda: up(ada, name, token, **fields))
    gone(ada, host, name)
    return took


def create_and_boot_lxc(runs: int = PAIRS) -> dict[str, Measured]:
    """From the POST of the form until the panel knows that the machine is up, over an LXC snapshot clone until it runs."""
    with fleet() as (ada, host):
        install(host, "lxc")
        ours, plain = times(), times()
        for model, fields in MODELS.items():
            lxc_model(ada, host, model, fields)
            for number in range(runs + 1):
                ours[model].append(form_to_booted(ada, host, f"m{number}", **fields))
                plain[model].append(lxc_clone(host, model, f"c{number}"))
        return paired(
            "create_and_boot_lxc",
            "form to booted, {} tree, over an LXC snapshot clone of the {} one until it runs",
            ours,
            plain,
        )


def lxc_model(ada: Person, host: Sandbox, model: str, fields: dict[str, str]) -> None:
    """A machine of the panel's that never ran: LXC clones its very tree."""
    ada.succeed(ada.build(model, start=None, **fields), 600)
    host.write(f"{_LXC}/{model}/config", _LXC_CONFIG.format(name=model, lxc=_LXC))
    host.run(["btrfs", "subvolume", "snapshot", f"{TREES}/{model}", f"{_LXC}/{model}/rootfs"])


def lxc_clone(host: Sandbox, model: str, name: str) -> float:
    one = ["-P", _LXC, "-n", name]
    time.sleep(REST)
    copy = ["lxc-copy", "-P", _LXC, "-n", model, "-N", name, "-s", "-B", "btrfs"]
    took = until_up(host, [copy, ["lxc-start", *one]], ["lxc-attach", *one, "--"])[1]
    host.run(["lxc-stop", *one, "-k"])
    host.run(["lxc-destroy", *one])
    return took


_LXD_SETUP = """\
storage_pools: [{name: default, driver: btrfs, config: {source: /srv/lxd}}]
networks: [{name: lxdbr0, type: bridge, config: {ipv4.address: 10.77.0.1/24, ipv6.address: none}}]
profiles:
- name: default
  devices:
    root: {path: /, pool: default, type: disk}
    eth0: {name: eth0, network: lxdbr0, type: nic}
"""
_LXD_IMAGE = f"""
cd /srv; printf 'architecture: %s\ncreation_date: 1\n' $(uname -m) > metadata.yaml; tar -cf model.tar metadata.yaml
tar -C {TREES} --numeric-owner --xattrs --transform 's,^model,rootfs,' -rf model.tar model
lxc image import model.tar --alias model
"""


def create_and_boot_lxd(runs: int = PAIRS) -> dict[str, Measured]:
    """The same over LXD's `launch` of an image of the same tree: until it has booted too, and until `launch` has ended,
    when the container may still be booting. LXD is set up as its own questions propose, on btrfs with a bridge."""
    with fleet() as (ada, host):
        install(host, "lxd", "dnsmasq-base")
        ada.succeed(ada.build("model", start=None), 600)
        try:
            host.run(["lxd", "init", "--preseed"], input=_LXD_SETUP)
            host.run(["sh", "-ec", _LXD_IMAGE], timeout=300)
            host.run(["lxc", "launch", "model", "warm"], timeout=300)  # unpacks the image, once
        except CommandFailed as failed:
            raise NotMeasured(f"LXD's daemon does not work here: {failed.stderr.strip()[-200:]}") from failed
        owner = host.run(["stat", "--format=%u", "/srv/lxd/containers/warm/rootfs/etc"]).stdout.strip()
        way = "mounts with shifted owners" if owner == "0" else "gives every file a new owner"
        host.run(["lxc", "delete", "--force", "warm"])
        ada.succeed(ada.build("trimmed", start=None, **MODELS["trimmed"]), 600)
        ours, light, launched, booted = [], [], [], []
        for number in range(runs + 1):
            ours.append(form_to_booted(ada, host, f"m{number}"))
            light.append(form_to_booted(ada, host, f"t{number}", **MODELS["trimmed"]))
            time.sleep(REST)
            name = f"c{number}"
            made, up_at = until_up(host, [["lxc", "launch", "model", name]], ["lxc", "exec", name, "--"])
            launched.append(made)
            booted.append(up_at)
            host.run(["lxc", "delete", "--force", name])
        launch = f"LXD's `launch`, which {way}"
        return {
            "create_and_boot_lxd": (f"form to booted, over {launch}, until it runs", ours[1:], booted[1:], "ms"),
            "create_and_boot_lxd_trimmed": (f"the same of the trimmed tree, over {launch}, of the plain one", light[1:], booted[1:], "ms"),
            "create_and_boot_lxd_launch": ("form to booted, over that `launch` alone, which ends before it has booted", ours[1:], launched[1:], "ms"),
        }  # fmt: skip
