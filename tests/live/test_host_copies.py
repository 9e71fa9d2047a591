"""Machines made from machines on a real host: clones, templates, disk images; and what fails leaves nothing."""

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.recipes import CloneRecipe, FirstBoot
from tests.host.scratch_panel import ScratchPanel

IDENTITY = "cat etc/hostname; grep -c . etc/machine-id; cat etc/ssh/ssh_host_ed25519_key var/lib/systemd/random-seed 2>/dev/null"


@pytest.fixture(scope="module")
def panel(scratch: ScratchPanel) -> ScratchPanel:
    """The machine origin has an identity, a subvolume inside, and file capabilities."""
    scratch.sandbox.plant("origin")
    sh(
        scratch,
        """cd /var/lib/machines/origin
        printf 'origin\\n' > etc/hostname; printf '127.0.0.1 localhost\\n127.0.1.1 origin\\n' > etc/hosts
        printf '%032d\\n' 7 > etc/machine-id; mkdir -p etc/ssh; echo key > etc/ssh/ssh_host_ed25519_key
        echo seed > var/lib/systemd/random-seed
        btrfs -q subvolume create srv/data; btrfs -q subvolume create srv/data/inner
        echo inside > srv/data/inner/file""",
    )
    return scratch


def sh(panel: ScratchPanel, script: str) -> str:
    return panel.sandbox.run(["bash", "-ec", script]).stdout


def clone(name: str, source: str = "origin", *, start: bool = False, **answers: object) -> orders.Build:
    told = {"locale": "", "timezone": "", **answers}
    return orders.Build(
        name=name, recipe=CloneRecipe(source=source), first_boot=FirstBoot.model_validate(told), start=start,
        configuration=orders.Configuration(revision=1, nspawn=nspawn.mark("[Exec]\nNotifyReady=yes\n", 1), limits=""),
    )  # fmt: skip


def identity(panel: ScratchPanel, name: str) -> list[str]:
    return sh(panel, f"cd /var/lib/machines/{name}; {IDENTITY} || true").split()


def leftovers(panel: ScratchPanel) -> str:
    return sh(panel, "ls -A /var/lib/machines | grep '^.nspawnpanel-[^b]' || true")


def test_a_clone_is_somebody_else_and_has_everything_of_the_original(panel):
    outcome = panel.do(clone("copy", start=True))
    assert (outcome.state, outcome.machine.state) == ("succeeded", "running"), outcome.problem
    hostname, *rest = identity(panel, "copy")
    assert hostname == "copy"
    assert "key" not in rest
    assert "seed" not in rest
    assert sh(panel, "cat /var/lib/machines/copy/etc/machine-id").strip() not in {"", f"{7:032d}"}
    assert "127.0.1.1 copy" in sh(panel, "cat /var/lib/machines/copy/etc/hosts")
    assert sh(panel, "cat /var/lib/machines/copy/srv/data/inner/file") == "inside\n"
    sh(panel, "echo changed > /var/lib/machines/copy/srv/data/inner/file")
    assert sh(panel, "cat /var/lib/machines/origin/srv/data/inner/file") == "inside\n"
    assert identity(panel, "origin") == ["origin", "1", "key", "seed"]
    assert leftovers(panel) == ""


def test_a_clone_that_is_a_snapshot_is_made_without_a_unit(panel):
    job = panel.order(clone("swift"))
    assert panel.outcome(job).state == "succeeded"
    said = panel.sandbox.run(["journalctl", "--no-pager", "--output=cat", f"--unit=nspawnpanel-job-{job}"]).stdout
    assert "Started" not in said


def test_a_clone_may_keep_who_the_original_is(panel):
    assert panel.do(clone("same", new_identity=False)).state == "succeeded"
    assert identity(panel, "same") == ["origin", "1", "key", "seed"]


def test_what_is_mounted_inside_is_not_copied_and_stays_mounted(panel):
    """A bind mount of the same file system, which cp and tar take for a part of the tree."""
    sh(
        panel,
        """cd /var/lib/machines; cp -a origin bound; mkdir -p bound/srv/outer bound/srv/beside /srv/precious
        echo precious > /srv/precious/file; mount --bind /srv/precious bound/srv/outer
        mount --bind /var/lib/machines/origin/srv/data bound/srv/beside""",
    )
    try:
        assert panel.do(clone("unbound", "bound")).state == "succeeded"
        assert sh(panel, "cd /var/lib/machines/unbound/srv; ls outer beside | sort") == "\nbeside:\nouter:\n"
        assert sh(panel, "cat /var/lib/machines/bound/srv/outer/file") == "precious\n"
    finally:
        sh(
            panel,
            """cd /var/lib/machines; umount bound/srv/outer bound/srv/beside; cat /srv/precious/file
            rm -rf --one-file-system bound unbound /srv/precious /etc/systemd/nspawn/unbound.nspawn""",
        )
    assert leftovers(panel) == ""


def test_of_a_running_machine_it_is_a_snapshot_and_a_plain_copy_is_refused(panel):
    panel.do(orders.Start(name="origin"))
    job = panel.order(clone("alive"))
    assert panel.outcome(job).state == "succeeded"
    assert any("its state of this moment" in line for line in panel.lines(job))
    panel.do(orders.Terminate(name="origin"))
    sh(panel, "cp -a /var/lib/machines/swift /var/lib/machines/plain")  # a folder, not a subvolume
    panel.do(orders.Start(name="plain"))
    refused = panel.do(clone("never", "plain"))
    assert (refused.state, refused.problem["code"]) == ("failed", "machine-running")
    assert leftovers(panel) == ""
    panel.do(orders.Terminate(name="plain"))
    assert panel.do(clone("full", "plain")).state == "succeeded"


BOUNDED = """
cd /var/lib/machines; btrfs -q subvolume snapshot origin bounded
cd /opt/nspawnpanel/src; /opt/nspawnpanel/bin/python -c '
from pathlib import Path
from machines.contract.problems import Problem
from machines.host.storage import btrfs, pool
btrfs.MOST = 1
try:
    btrfs.snapshot_nested(Path("/var/lib/machines/origin"), Path("/var/lib/machines/bounded"))
except Problem as problem:
    print(problem.message)
pool.clear(Path("/var/lib/machines/bounded"))'
"""


def test_subvolumes_in_a_machine_are_not_copied_without_end(panel):
    """Whoever is root in a machine makes as many as they like."""
    assert sh(panel, BOUNDED) == "/var/lib/machines/origin has more than 1 subvolumes in it.\n"
    assert leftovers(panel) == ""


def test_ids_that_nspawn_has_shifted_begin_at_0_again(panel):
    sh(
        panel,
        """cat > /etc/systemd/nspawn/copy.nspawn <<'X'
[Exec]
NotifyReady=yes
PrivateUsers=pick
[Files]
PrivateUsersOwnership=chown
X
        """,
    )
    panel.do(orders.Terminate(name="copy"))
    started = panel.do(orders.Start(name="copy"))
    assert started.state == "succeeded", started.problem
    panel.do(orders.Terminate(name="copy"))
    assert sh(panel, "stat -c %u /var/lib/machines/copy").strip() != "0"
    outcome = panel.do(clone("unshifted", "copy", start=True))
    assert (outcome.state, outcome.machine.state) == ("succeeded", "running"), outcome.problem
    panel.do(orders.Terminate(name="unshifted"))
    strangers = "find /var/lib/machines/unshifted -xdev -uid +65535 -o -xdev -gid +65535 | head"
    assert sh(panel, strangers) == ""
    assert sh(panel, "stat -c %a /var/lib/machines/unshifted/usr/bin/passwd").strip() == "4755"


def test_a_template_is_not_written_to_and_machines_are_made_from_it(panel):
    panel.do(orders.Enable(name="origin"))
    marked = panel.do(orders.SetReadOnly(name="origin", read_only=True))
    assert (marked.state, marked.machine.read_only, marked.machine.enabled) == ("succeeded", True, False)
    assert panel.do(orders.SetReadOnly(name="origin", read_only=True)).state == "succeeded"
    made = panel.do(clone("from-template", start=True))
    assert (made.state, made.machine.read_only, made.machine.state) == ("succeeded", False, "running")
    assert panel.do(orders.SetReadOnly(name="origin", read_only=False)).machine.read_only is False
    running = panel.do(orders.SetReadOnly(name="from-template", read_only=True))
    assert running.problem["code"] == "machine-running"


def test_a_disk_image_is_cloned_with_a_name_of_its_own(panel):
    sh(
        panel,
        """cd /var/lib/machines; truncate -s 1G disk.raw; mkfs.btrfs -q disk.raw; mkdir -p /mnt/disk
        mount -o loop disk.raw /mnt/disk; cp -a swift/. /mnt/disk/; umount /mnt/disk""",
    )
    outcome = panel.do(clone("second", "disk", start=True))
    assert outcome.state == "succeeded", outcome.problem
    assert (outcome.machine.image_type, outcome.machine.state) == ("raw", "running")
    assert panel.sandbox.run(["machinectl", "shell", "second", "/usr/bin/true"], check=False).returncode in {0, 1}
    panel.do(orders.Terminate(name="second"))
    script = "mount -o loop,ro /var/lib/machines/second.raw /mnt/disk; cat /mnt/disk/etc/hostname; umount /mnt/disk"
    assert sh(panel, script).strip() == "second"
    assert leftovers(panel) == ""


def test_what_cannot_be_cloned_is_said(panel):
    assert panel.do(clone("orphan", "nobody")).problem["code"] == "machine-missing"
    sh(panel, "ln -s /srv /var/lib/machines/elsewhere")
    assert panel.do(clone("linked", "elsewhere")).problem["code"] == "image-unusable"
    assert panel.do(clone("copy")).problem["code"] == "name-taken"
    assert leftovers(panel) == ""
