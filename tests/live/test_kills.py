"""Kills at random moments: every job ends, and what is under a machine's name is whole or not there at all.

KILLS says how many (KILLS=50 takes about a quarter of an hour), SEED repeats a run. Who is killed: the worker, the builder,
both, what the builder has started, or everything at once with whatever had not reached the disk; when: after a random part
of the time such a job takes, or before a random one of the changes it makes.
"""

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.recipes import AnyRecipe, CloneRecipe, DebianRecipe, FirstBoot, PullRecipe
from machines.contract.reports import Outcome
from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.valkey import Valkey
from tests.host.scratch_panel import SERVICE, ScratchPanel
from tests.live import archive_taker, power, seams

KILLS = int(os.environ.get("KILLS", "3"))
SEED = int(os.environ.get("SEED", "7"))
DECIDED = 60.0  # seconds from a kill to the outcome, where the job does not simply go on
AGAIN = 3.0  # seconds after which an order that nobody has accepted is sent again, as the courier does
SERVER = "http://127.0.0.1:8098"
# What is done, in turn: builds are what takes longest and changes most. What a copy of a tree is depends on the disk.
KINDS = {
    "btrfs": (
        "build",
        "copy",
        "remove",
        "export",
        "pull",
        "clone",
        "build",
        "apply",
        "started",
        "disk",
        "build_base",
        "remove",
    ),
    "ext4": (
        "export",
        "clone",
        "apply",
        "remove",
        "pull",
        "build",
        "copy",
        "clone",
        "build_base",
        "export",
        "started",
        "remove",
    ),
}
if only := os.environ.get("KINDS", ""):
    KINDS = dict.fromkeys(os.environ.get("DISKS", "btrfs,ext4").split(","), tuple(only.split(",")))
SWIFT = {"copy", "started", "clone"}  # what the worker does itself where it is a snapshot
BARE = {"remove", "export", "build_base"}  # what leaves no machine of the job's name
WITH_BASE = {"build", "copy", "started", "build_base"}
ORIGIN = """
mkdir -p /srv/images; cp -a /var/lib/machines/web /srv/web
"""
PLACED = """
cd /var/lib/machines; btrfs -q subvolume create origin 2>/dev/null || mkdir origin; cp -a /srv/web/. origin/; sync
"""
CULPRITS = ("worker", "builder", "both", "tool", "power", "power", "seam", "seam")
PUBLISH = """
mkdir -p /srv/images; cd /srv/images
tar -C /var/lib/machines/web --sort=name -cf tree.tar .; gzip -1 tree.tar
truncate -s 1G disk; mkfs.btrfs -q disk; mkdir -p /mnt/image; mount -o loop disk /mnt/image
cp -a /var/lib/machines/web/. /mnt/image/; umount /mnt/image; gzip -1 -c disk > disk.raw.gz; rm disk
systemd-run --quiet --unit=images python3 -m http.server 8098 --bind 127.0.0.1 --directory /srv/images
for try in $(seq 100); do python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8098))' 2>/dev/null && break; sleep 0.1; done
"""
# Everything a job could leave anywhere; its own log stays, and so do the caches. An image's lock is systemd's own: an empty
# file that machined takes away without a word to the disk, so a cut of power may bring it back.
LEFT = r"""
cd /; find /var/lib/machines /etc/systemd/nspawn /tmp /var/tmp /run/nspawnpanel -mindepth 1 -maxdepth 1 2>/dev/null | grep -vE 'systemd-private-|/\.#[^/.][^/]*\.lck$'
find /etc/systemd/system /run/systemd/system /run/systemd/transient /run/systemd/nspawn | grep -E 'nspawn@|np-probe|nspawnpanel-job'
find /var/lib/nspawnpanel -mindepth 1 | grep -vE '/jobs/[^/]*(/log)?$|/cache/(apt|lists)/|/ledger|/ballast$|/removed(/|$)'
find /var/lib/nspawnpanel/cache -path '*/lists/*' -prune -o -type f -size 0 -print
cut -d' ' -f5 /proc/self/mountinfo; losetup --noheadings --output BACK-FILE | grep -E 'nspawnpanel-|killed'
systemctl list-units --all --plain --no-legend 'nspawnpanel-job-*' 'systemd-nspawn@*' | cut -d' ' -f1
btrfs subvolume list /disk | cut -d' ' -f9; ps -eo args | grep -E '[n]spawnpanel-[0-9a-f]{8}-|[u]nit_job'
true
"""
WHOLE = "cd /var/lib/machines/$0/usr; find . -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum"


@dataclass
class Life:
    """Of a job that nobody kills: how long it takes, how many changes it makes, and what its machine's /usr is then."""

    seconds: float
    changes: int
    whole: str


@dataclass
class House:
    """A host on a disk of its own, and what a job of each kind is like there."""

    panel: ScratchPanel
    disk: str
    taker: str
    lives: dict[str, Life]

    @property
    def host(self) -> Sandbox:
        return self.panel.sandbox

    def left(self) -> set[str]:
        return set(self.host.run(["sh", "-c", LEFT]).stdout.splitlines())

    def whole(self, name: str) -> str:
        """A digest of all it consists of; of a disk image its size, it is fetched in one piece and verified."""
        if self.host.run(["test", "-e", f"/var/lib/machines/{name}.raw"], check=False).returncode == 0:
            return self.host.run(["stat", "--format=%s", f"/var/lib/machines/{name}.raw"]).stdout
        return self.host.run(["bash", "-ec", WHOLE, name]).stdout

    def is_there(self, name: str) -> bool:
        listed = self.host.run(["ls", "-A", "/var/lib/machines"]).stdout.split()
        return name in listed or f"{name}.raw" in listed

    def order(self, kind: str, name: str) -> orders.Order:
        """For a removal with the machine that is to go."""
        if kind in {"remove", "apply"}:
            made = self.panel.do(build(name, CloneRecipe(source="origin")), 120)
            assert made.state == "succeeded", made.problem
            return orders.Remove(name=name) if kind == "remove" else self.apply(name)
        if kind == "clone":
            return build(name, CloneRecipe(source="origin"))
        if kind == "export":
            return orders.Export(name="origin", url=self.taker, limit=2**32)
        if kind == "build_base":
            return orders.BuildBase(recipe=DebianRecipe(release="bookworm"), first_boot=FirstBoot())
        if kind in {"pull", "disk"}:
            file = "tree.tar.gz" if kind == "pull" else "disk.raw.gz"
            sha256 = self.host.run(["sha256sum", f"/srv/images/{file}"]).stdout.split()[0]
            recipe = PullRecipe(
                url=f"{SERVER}/{file}", verify="sha256", sha256=sha256, format="tar" if kind == "pull" else "raw"
            )
            return build(name, recipe)
        return build(name, DebianRecipe(release="bookworm"), fresh=kind == "build", start=kind == "started")

    def apply(self, name: str) -> orders.Apply:
        """Over the files of that machine as they are, with ones that are both other."""
        sums = self.host.run(["sha256sum", f"/etc/systemd/nspawn/{name}.nspawn", limits_file(name)]).stdout.split()[::2]
        return orders.Apply(name=name, configuration=orders.Configuration(
            revision=2, nspawn=nspawn.mark("[Exec]\nNotifyReady=no\n", 2), limits="[Service]\nMemoryMax=2G\n",
            replaces_nspawn=sums[0], replaces_limits=sums[1],
        ))  # fmt: skip

    def role(self, kind: str) -> str:
        return role(self.disk, kind)

    def outcome(self, job: UUID, text: str, seconds: float) -> Outcome:
        """What became of it; an order nobody has accepted is sent again until then."""
        deadline, sent = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < deadline:
            mine = [report for report in self.panel.reports if getattr(report, "job", None) == job]
            if ended := next((report for report in mine if isinstance(report, Outcome)), None):
                return ended
            if not mine and time.monotonic() - sent > AGAIN:
                self.panel.push(text)
                sent = time.monotonic()
            self.panel.read()
        raise AssertionError(f"{job} is undecided after {seconds:.0f} s; its last reports: {mine[-3:]}")

    def measure(self, kind: str) -> None:
        name = f"measured-{kind}"
        order = self.order(kind, name)
        seams.arm(self.host, self.role(kind), 0)
        began = time.monotonic()
        outcome = self.panel.do(order, 300)
        took = time.monotonic() - began
        assert outcome.state == "succeeded", outcome.problem
        changes = seams.disarm(self.host)
        whole = self.whole(name) if kind not in BARE else ""
        self.lives[kind] = Life(took, changes, whole)
        if kind not in BARE:
            self.remove(name)

    def remove(self, name: str) -> None:
        self.panel.do(orders.Terminate(name=name))
        outcome = self.panel.do(orders.Remove(name=name))
        assert outcome.state == "succeeded", outcome.problem


def build(name: str, recipe: AnyRecipe, *, fresh: bool = False, start: bool = False) -> orders.Build:
    configuration = orders.Configuration(
        revision=1, nspawn=nspawn.mark("[Exec]\nNotifyReady=yes\n", 1), limits="[Service]\nMemoryMax=1G\n"
    )
    return orders.Build(
        name=name, recipe=recipe, first_boot=FirstBoot(), configuration=configuration, start=start, enable=start, fresh=fresh
    )  # fmt: skip


def limits_file(name: str) -> str:
    return f"/etc/systemd/system/systemd-nspawn@{name}.service.d/50-nspawnpanel.conf"


def role(disk: str, kind: str) -> str:
    """Who does the work."""
    return "worker" if kind == "apply" or (disk == "btrfs" and kind in SWIFT) else "builder"


def plan() -> list[tuple[str, int, str, str, float]]:
    """(on what disk, number, what is done, who is killed, after which part of its life)."""
    rounds = []
    for disk, kinds in KINDS.items():
        dice = random.Random(SEED)
        for number in range(KILLS):
            kind, culprit = kinds[number % len(kinds)], dice.choice(CULPRITS)
            alone = role(disk, kind) == "worker"
            if (alone and culprit in {"builder", "tool"}) or (kind == "remove" and culprit == "tool"):
                culprit = "seam"  # nobody else is at work, or it is machined, which goes on
            part = round(dice.uniform(0, 1.3 if culprit == "power" else 1.05), 3)
            rounds.append((disk, number, kind, culprit, part))
    return rounds


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[House]:
    disk = request.param
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    data = tmp_path_factory.mktemp("valkey")
    with (
        Valkey(data) as valkey,
        Sandbox(f"kills-{os.getpid()}-{worker}", CACHE) as host,
        archive_taker.listening(host) as url,
    ):
        host.plant("web")
        planned = [kind for where, _, kind, _, _ in plan() if where == disk]
        first = ["build"] if WITH_BASE & set(planned) else []  # leaves the base
        kinds = dict.fromkeys([*first, *planned])
        host.run(["bash", "-ec", ORIGIN])
        if {"pull", "disk"} & kinds.keys():
            host.run(["bash", "-ec", PUBLISH], timeout=120)
        power.plug_in(host, disk)
        host.run(["bash", "-ec", PLACED])
        seams.install(host)
        host.write("/etc/nspawnpanel/policy.toml", 'pull_addresses = ["127.0.0.1"]\n')
        panel = ScratchPanel(host, valkey)
        panel.join()
        made = House(panel, disk, url, {})
        for kind in kinds:
            made.measure(kind)
        yield made


def strike(house: House, job: UUID, culprit: str) -> None:
    unit = f"nspawnpanel-job-{job}.service"
    if culprit in {"worker", "both"}:
        house.host.run(["systemctl", "kill", "--signal=KILL", SERVICE])
    if culprit in {"builder", "both"}:
        house.host.run(["systemctl", "kill", "--kill-whom=all", "--signal=KILL", unit], check=False)
    if culprit == "tool":
        group = f"/sys/fs/cgroup*/nspawnpanel.slice/{unit}/cgroup.procs /sys/fs/cgroup/systemd/nspawnpanel.slice/{unit}/cgroup.procs"
        script = f"for pid in $(cat {group} 2>/dev/null); do [ $pid = $(systemctl show -P MainPID {unit}) ] || kill -KILL $pid; done"
        house.host.run(["sh", "-c", script], check=False)
    if culprit == "power":
        power.cut(house.host)


@pytest.mark.parametrize(("house", "number", "kind", "culprit", "part"), plan(), indirect=["house"])
def test_whoever_is_killed_the_job_ends_and_nothing_is_half_there(house, number, kind, culprit, part):
    name, life, before = f"killed-{number}", house.lives[kind], house.left()
    order = house.order(kind, name)
    began, (job, text) = time.monotonic(), house.panel.seal(order)
    if culprit == "seam":
        seams.arm(house.host, house.role(kind), 1 + int(part * life.changes))
    house.panel.push(text)
    if culprit != "seam":
        time.sleep(part * life.seconds)
        strike(house, job, culprit)
    killed = time.monotonic()
    outcome = house.outcome(job, text, 300)
    decided = time.monotonic() - (began if culprit == "seam" else killed)
    at = seams.disarm(house.host) if culprit == "seam" else None
    when = f"{part:.2f} of its life" + (f", before change {at} of {life.changes}" if at else "")
    print(f"\n{house.disk} {number}: {kind}: {culprit} at {when}: {outcome.state} {decided:.1f} s later")
    if outcome.state != "succeeded":
        assert decided < DECIDED + (life.seconds if culprit == "seam" else 0)
        assert culprit == "tool" or outcome.problem["code"] in {"job-died", "job-lost"}, outcome.problem
        assert outcome.problem["message"]
        assert culprit != "worker", outcome.problem
        assert kind != "remove", outcome.problem
        assert house.role(kind) != "worker", outcome.problem
    check_whole_or_gone(house, kind, name, outcome)
    check_nothing_is_left(house, before)


def check_whole_or_gone(house: House, kind: str, name: str, outcome: Outcome) -> None:
    """Succeeded means there, whole, with its name and its files; everything else means gone."""
    if kind in BARE or outcome.state != "succeeded":
        assert not house.is_there(name)
        return
    assert house.is_there(name)
    assert house.whole(name) == house.lives[kind].whole
    if kind != "disk":
        assert house.host.read(f"/var/lib/machines/{name}/etc/hostname").strip() == name
    wanted = "NotifyReady=no" if kind == "apply" else "NotifyReady=yes"
    if kind == "apply":
        assert "MemoryMax=2G" in house.host.read(limits_file(name))
    assert wanted in house.host.read(f"/etc/systemd/nspawn/{name}.nspawn")
    house.remove(name)


def check_nothing_is_left(house: House, before: set[str]) -> None:
    """What the worker clears away beside its work may take a moment."""
    patience = time.monotonic() + 10
    while (left := house.left()) != before and time.monotonic() < patience:
        house.panel.read()
    assert sorted(left - before) == []
    assert sorted(before - left) == []
