"""A host whose images lie on plain ext4 gets a btrfs pool in a file, or keeps what it had."""

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.recipes import CloneRecipe, FirstBoot
from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.valkey import Valkey
from tests.host.scratch_panel import ScratchPanel
from tests.live.conftest import WORKER

GIB = 1024**3
TO_EXT4 = """
mkdir -p /mnt/lib; mount -o loop /varlib.ext4 /mnt/lib
cp -a /var/lib/. /mnt/lib/; chmod 700 /mnt/lib/machines
cd /mnt/lib/machines/one; ln usr/bin/passwd usr/bin/passwd-again
python3 -c 'import os; os.setxattr("usr/bin/mount", "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))'
truncate -s 64M ../plain.raw; cd /; umount /mnt/lib
echo '/varlib.ext4 /var/lib ext4 loop 0 0' >> /etc/fstab
"""


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchPanel]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey, Sandbox(f"pool-{os.getpid()}-{WORKER}", CACHE) as host:
        host.plant("one")
        disk = host.tree / "varlib.ext4"
        with disk.open("xb") as file:
            file.truncate(6 * GIB)
        subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", str(disk)], check=True)
        host.run(["bash", "-ec", TO_EXT4], timeout=120)
        host.reboot()
        made = ScratchPanel(host, valkey)
        made.join()
        yield made


def sh(panel: ScratchPanel, script: str) -> str:
    return panel.sandbox.run(["bash", "-ec", script], timeout=120).stdout


def kind(panel: ScratchPanel) -> str:
    return sh(panel, "stat --file-system --format=%T /var/lib/machines").strip()


def listing(panel: ScratchPanel) -> list[str]:
    return sorted(sh(panel, "ls -A /var/lib | grep -v '^nspawnpanel$'; ls -A /var/lib/machines").split())


def told_pool_type(panel: ScratchPanel) -> str:
    before = len([r for r in panel.reports if r.kind == "inventory"])
    panel.order(orders.Refresh())
    panel.until(lambda _: len([r for r in panel.reports if r.kind == "inventory"]) > before, 30)
    return [r for r in panel.reports if r.kind == "inventory"][-1].host.pool_type


def test_what_stands_in_the_way_is_said_and_nothing_changes(panel):
    before = listing(panel)
    assert told_pool_type(panel) == "ext4"
    assert panel.do(orders.Pool(size=200 * GIB)).problem["code"] == "no-space"
    panel.do(orders.Start(name="one"))
    refused = panel.do(orders.Pool(size=2 * GIB))
    assert (refused.state, refused.problem["code"]) == ("failed", "machine-running")
    panel.do(orders.Terminate(name="one"))
    assert listing(panel) == before


def test_a_conversion_that_is_killed_leaves_what_was_there(panel):
    before = listing(panel)
    job = panel.order(orders.Pool(size=2 * GIB))
    panel.until(lambda r: r.kind == "phase" and r.job == job and r.name == "copy", 60)
    meanwhile = panel.do(orders.Start(name="one"))
    assert (meanwhile.state, meanwhile.problem["code"]) == ("failed", "machine-busy")
    sh(panel, f"systemctl kill --signal=KILL nspawnpanel-job-{job}.service")
    assert panel.outcome(job).state == "failed"
    assert listing(panel) == before
    assert kind(panel) == "ext2/ext3"
    assert panel.do(orders.Start(name="one")).state == "succeeded"
    panel.do(orders.Terminate(name="one"))


def test_the_images_are_copied_and_new_machines_are_snapshots(panel):
    counted = "cd {}; find . -xdev | wc -l; find . -xdev -links +1 -type f | wc -l; stat -c %a usr/bin/su"
    before = sh(panel, counted.format("/var/lib/machines/one"))
    made = panel.do(orders.Pool(size=2 * GIB), 240)
    assert made.state == "succeeded", made.problem
    assert kind(panel) == "btrfs"
    assert told_pool_type(panel) == "btrfs"
    assert sh(panel, counted.format("/var/lib/machines/one")) == before
    capability = (
        "import os; print(os.getxattr('/var/lib/machines/one/usr/bin/mount', 'security.capability').hex()[:16])"
    )
    assert panel.sandbox.run(["python3", "-c", capability]).stdout.strip() == "0100000200200000"
    assert sh(panel, "stat -c %i /var/lib/machines/one").strip() == "256"
    assert sh(panel, "ls /var/lib/machines.before-pool").split() == ["one", "plain.raw"]
    began = time.monotonic()
    copied = panel.do(orders.Build(
        name="two", recipe=CloneRecipe(source="one"), first_boot=FirstBoot(locale="", timezone=""), start=True,
        configuration=orders.Configuration(revision=1, nspawn=nspawn.mark("[Exec]\nNotifyReady=yes\n", 1), limits=""),
    ))  # fmt: skip
    assert (copied.state, copied.machine.state) == ("succeeded", "running"), copied.problem
    assert time.monotonic() - began < 30
    assert panel.do(orders.Pool(size=2 * GIB)).problem["code"] == "pool-own"


def test_it_is_there_after_the_next_boot(panel):
    panel.sandbox.reboot()
    assert kind(panel) == "btrfs"
    assert sh(panel, "machinectl list-images --no-legend | cut -d' ' -f1").split() == ["one", "plain", "two"]
    assert sh(panel, "systemctl is-active var-lib-machines.mount").strip() == "active"
