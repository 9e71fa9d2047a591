"""Every operation on a host whose disk is full, or has no inodes left: it fails with a sentence that says which disk and how
much is free, leaves nothing half-made, and succeeds once there is room again.

The figures of caution with which jobs begin (a GiB free) are lowered here, so that small disks do and jobs fail midway.
"""

import os
from collections.abc import Iterator

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.recipes import CloneRecipe, DebianRecipe, FirstBoot, PullRecipe
from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.valkey import Valkey
from tests.host.scratch_panel import SERVICE, ScratchPanel
from tests.live import archive_taker

CAUTION = r"""
cd /opt/nspawnpanel/src/machines/host
for file in rootfs/build.py storage/decompress.py rootfs/btrfs_pool.py; do
    copy=/srv/$(basename $file); sed -E 's/^(ROOM|KEEP_FREE) = .*/\1 = 4096/' $file >$copy
    grep -qE '^(ROOM|KEEP_FREE) = 4096$' $copy; mount --bind $copy $file
done
"""
MAKE = {
    "ext4": "mkfs.ext4 -q -m 0 -N 40000",
    "inodes": "mkfs.ext4 -q -m 0 -N 40000",
}
SERVER = "http://127.0.0.1:8099"
DISK = """
truncate -s 800M /$0.disk; $1 /$0.disk; mkdir -p /disks/$0; mount -o loop /$0.disk /disks/$0; mkdir -m 700 /disks/$0/machines
cp -a /srv/tree /disks/$0/machines/origin; mount --bind /disks/$0/machines /var/lib/machines
"""
# What nobody needs: all the space but 24 MiB, or all inodes but 200, so that a job fails when it is half done
FILL = {
    "space": """d=/disks/$0/ballast; mkdir -p $d; dd if=/dev/urandom of=$d/midway bs=1M count=24 status=none; sync
for size in 128M 32M 8M 1M; do n=0; while fallocate -l $size $d/$size-$((n++)) 2>/dev/null; do :; done; done
for size in 256K 4K; do n=0; while dd if=/dev/urandom of=$d/$size-$((n++)) bs=$size count=1 status=none 2>/dev/null; do :; done; done; rm $d/midway; sync""",
    "inodes": "d=/disks/$0/ballast; mkdir -p $d; sync; for n in $(seq $(($(stat -fc %d /disks/$0) - 200))); do : > $d/$n; done",
}
ROOM = "rm -rf /disks/$0/ballast; sync"
# all that a job may have left: images, settings, links, temporary files, mounts, loop devices, units
LEFT = r"""
find /var/lib/machines /etc/systemd/nspawn /tmp /var/tmp /run/nspawnpanel -mindepth 1 -maxdepth 1 2>/dev/null | grep -vE 'systemd-private-|/\.#[^/.][^/]*\.lck$'
find /etc/systemd/system -name '*nspawn@*'; find /var/lib/nspawnpanel/jobs -mindepth 2 ! -name log
cut -d' ' -f5 /proc/self/mountinfo; systemctl list-units --all --plain --no-legend 'nspawnpanel-job-*' | cut -d' ' -f1; true
"""


@pytest.fixture(scope="module")
def panel(tmp_path_factory) -> Iterator[ScratchPanel]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey, Sandbox(f"full-{os.getpid()}-{worker}", CACHE) as host:
        host.plant("web")
        host.run(["bash", "-ec", CAUTION])
        host.run(
            [
                "bash",
                "-ec",
                "mkdir -p /srv/images /disks; mv /var/lib/machines/web /srv/tree; tar -C /srv/tree --sort=name -czf /srv/images/tree.tar.gz .",
            ],
            timeout=120,
        )
        host.run(
            [
                "systemd-run",
                "--quiet",
                "--unit=images",
                "python3",
                "-m",
                "http.server",
                "8099",
                "--bind",
                "127.0.0.1",
                "--directory",
                "/srv/images",
            ]
        )
        host.write("/etc/nspawnpanel/policy.toml", 'pull_addresses = ["127.0.0.1"]\n')
        made = ScratchPanel(host, valkey)
        made.join()
        yield made


@pytest.fixture(scope="module")
def url(panel) -> Iterator[str]:
    with archive_taker.listening(panel.sandbox) as address:
        yield address


@pytest.fixture(params=list(MAKE))
def disk(request, panel) -> Iterator[str]:
    """A small pool of its own under the machines; the worker looks at it anew."""
    kind, host = request.param, panel.sandbox
    host.run(["bash", "-ec", DISK, kind, MAKE[kind]], timeout=120)
    host.run(["systemctl", "restart", SERVICE])
    yield kind
    host.run(["bash", "-c", "umount --lazy /var/lib/machines; umount --lazy /disks/$0; rm /$0.disk", kind])


def build(name: str, recipe) -> orders.Build:
    return orders.Build(
        name=name, recipe=recipe, first_boot=FirstBoot(), start=False,
        configuration=orders.Configuration(revision=1, nspawn=nspawn.mark("[Exec]\nBoot=yes\n", 1), limits=""),
    )  # fmt: skip


def left(panel: ScratchPanel) -> list[str]:
    return sorted(panel.sandbox.run(["bash", "-c", LEFT]).stdout.splitlines())


def test_jobs_on_a_full_disk_fail_with_a_sentence_leave_nothing_and_succeed_with_room(panel, disk, url):
    host = panel.sandbox
    sha256 = host.run(["sha256sum", "/srv/images/tree.tar.gz"]).stdout.split()[0]
    pulled = PullRecipe(url=f"{SERVER}/tree.tar.gz", verify="sha256", sha256=sha256, format="tar")
    lacks = "inodes" if disk == "inodes" else "space"
    host.run(["bash", "-c", FILL[lacks], disk], timeout=120)
    before = left(panel)
    tried = {
        "pull": build("pulled", pulled), "clone": build("cloned", CloneRecipe(source="origin")),
        "build_base": orders.BuildBase(recipe=DebianRecipe(release="bookworm")), "export": orders.Export(name="origin", url=url, limit=2**30),
    }  # fmt: skip
    if lacks == "inodes":
        del tried["export"]  # takes one inode
    for name, order in tried.items():
        outcome = panel.do(order, 120)
        print(f"\n{disk}: {name}: {outcome.state} {outcome.problem and outcome.problem['message']}")
        assert outcome.problem, name
        assert outcome.problem["code"] == "no-space", (name, outcome.problem)
        assert " in /var/lib/machines: " in outcome.problem["message"]
        assert ("inodes left" if lacks == "inodes" else "MiB are free") in outcome.problem["message"]
        assert left(panel) == before, name
    for order in (
        orders.SetReadOnly(name="origin", read_only=True),
        orders.SetReadOnly(name="origin", read_only=False),
    ):
        assert panel.do(order).state == "succeeded"
    host.run(["bash", "-c", ROOM, disk])
    made = panel.do(build("pulled", pulled), 120)
    assert made.state == "succeeded", made.problem
    host.run(["bash", "-c", FILL[lacks], disk], timeout=120)
    removed = panel.do(orders.Remove(name="pulled"), 60)  # takes no room
    assert removed.state == "succeeded", removed.problem
    host.run(["bash", "-c", ROOM, disk])
    assert left(panel) == before
