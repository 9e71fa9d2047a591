"""What belongs to a machine's name, on a real host: found, said, removed to the end, and never in half."""

import contextlib
import json
from collections.abc import Iterator
from uuid import UUID

import pytest

from machines.contract import orders
from machines.contract.recipes import CloneRecipe, FirstBoot
from tests.host.scratch_panel import PYTHON, SERVICE, ScratchPanel
from tests.live import leftovers, seams

ENABLED = "/etc/systemd/system/machines.target.wants/systemd-nspawn@{}.service"
TAKE = """
import json, sys, uuid
from machines.contract import orders
from machines.host.context import settings
from machines.host.reports import ledger
from machines.host.system.paths import Paths
own, job = settings.read(), uuid.uuid4()
book = ledger.Ledger(Paths(state=settings.state()).ledger, host=own.host, generation=own.generation)
with book.writing() as db:
    book.take(db, job, json.loads(sys.argv[1]), "ada", "accepted")
book.begin(job)
print(job)
"""
CANCEL = """
import sys, uuid
from machines.host.context import settings
from machines.host.reports import ledger
from machines.host.system.paths import Paths
own = settings.read()
ledger.Ledger(Paths(state=settings.state()).ledger, host=own.host, generation=own.generation).cancel(uuid.UUID(sys.argv[1]))
"""
ALL_OF = """
find /etc/systemd /run/systemd/{{nspawn,system,system.control}} /var/lib/nspawnpanel/generations -name '*{0}*' \
  -not -path '*/propagate/*' -not -path '*/unix-export/*' 2>/dev/null
find /var/lib/machines -maxdepth 1 -name '*{0}*'
"""


@pytest.fixture(params=["scratch", "later"])
def panel(request: pytest.FixtureRequest) -> ScratchPanel:
    return request.getfixturevalue(request.param)


def left(panel: ScratchPanel, name: str) -> list[str]:
    """Everything on the host with this name in it."""
    return panel.sandbox.run(["bash", "-c", ALL_OF.format(name)]).stdout.splitlines()


def shell(panel: ScratchPanel, script: str) -> str:
    return panel.sandbox.run(["bash", "-ec", script], timeout=60).stdout.strip()


def plant(panel: ScratchPanel, name: str) -> None:
    """A machine that starts with the host, in a subvolume of its own."""
    panel.sandbox.plant(name, "bookworm")
    shell(panel, f"machinectl enable {name}")


# --- removing


def test_limits_set_by_hand_and_every_other_file_of_a_removed_machine_do_not_wait_for_the_next_one(panel):
    plant(panel, "gone")
    shell(panel, """
        systemctl set-property systemd-nspawn@gone MemoryMax=64M
        systemctl set-property --runtime systemd-nspawn@gone CPUQuota=10%
        mkdir -p /srv/git /etc/systemd/nspawn /run/systemd/nspawn /etc/systemd/system/multi-user.target.wants /etc/systemd/system/systemd-nspawn@gone.service.d
        echo '[Exec]' > /srv/git/gone.nspawn; ln -s /srv/git/gone.nspawn /etc/systemd/nspawn/gone.nspawn
        echo '[Exec]' > /run/systemd/nspawn/gone.nspawn; echo '[Exec]' > /var/lib/machines/gone.nspawn
        echo '[Unit]' > /etc/systemd/system/systemd-nspawn@gone.service.d/90-mine.conf
        ln -s /usr/lib/systemd/system/systemd-nspawn@.service /etc/systemd/system/multi-user.target.wants/systemd-nspawn@gone.service
    """)  # fmt: skip
    outcome = panel.do(orders.Remove(name="gone"))
    assert outcome.state == "succeeded", outcome.problem
    assert left(panel, "gone") == []
    assert shell(panel, "cat /srv/git/gone.nspawn") == "[Exec]"
    [kept] = [line.split()[-1] for line in panel.lines(outcome.job) if line.startswith("Copies are kept")][-1:]
    assert shell(panel, f"cat {kept}/etc/systemd/system/systemd-nspawn@gone.service.d/90-mine.conf") == "[Unit]"
    assert shell(panel, "systemctl show -P MemoryMax systemd-nspawn@gone") == "infinity"
    shell(panel, f"rm -r /srv/git {kept}")


def removal_that_dies(panel: ScratchPanel, name: str, before: int) -> UUID:
    """The job of a removal that is killed before its change `before` of those to the image under its hidden name."""
    order = json.dumps(orders.to_wire(orders.Remove(name=name)))
    panel.sandbox.run(["systemctl", "stop", SERVICE])
    job = panel.sandbox.run([PYTHON, "-c", TAKE, order]).stdout.strip()
    seams.arm(panel.sandbox, "builder", before, ".removed")
    died = panel.sandbox.run([PYTHON, "-m", "machines.host.agent.unit_job", job], check=False)
    assert died.returncode != 0, died.stderr
    return UUID(job)


@pytest.fixture
def boots(panel: ScratchPanel) -> Iterator[ScratchPanel]:
    """A host whose processes can be killed before a change, and which starts its machines."""
    seams.install(panel.sandbox)
    with machines_target(panel, "enable"):
        yield panel
    seams.take_out(panel.sandbox)
    shell(panel, f"systemctl stop machines.target; systemctl start {SERVICE}")


@pytest.mark.parametrize(("before", "state"), [(1, "cancelled"), (2, "succeeded")])
@pytest.mark.usefixtures("boots")
def test_a_removal_that_is_cancelled_leaves_the_machine_as_it_was_or_ends(panel, before, state):
    """It can be taken back until the image has its hidden name; then it is said that it was not."""
    plant(panel, "half")
    job = removal_that_dies(panel, "half", before)
    panel.sandbox.run([PYTHON, "-c", CANCEL, str(job)])
    panel.sandbox.run(["systemctl", "start", SERVICE])
    outcome = panel.outcome(job)
    assert outcome.state == state, outcome.problem
    there = [] if before == 2 else [ENABLED.format("half"), "/var/lib/machines/half"]
    assert [path for path in left(panel, "half") if not path.endswith(".lck")] == there
    if there:
        assert outcome.machine.enabled
        assert panel.do(orders.Remove(name="half")).state == "succeeded"
    assert leftovers.of(panel.sandbox) == ""


@contextlib.contextmanager
def machines_target(panel: ScratchPanel, verb: str) -> Iterator[None]:
    """Enabled or disabled for a while."""
    was = shell(panel, "systemctl is-enabled machines.target || true")
    shell(panel, f"systemctl {verb} --quiet machines.target")
    yield
    shell(panel, f"systemctl {was.removesuffix('d')} --quiet machines.target")


@pytest.mark.parametrize(("before", "is_there"), [(1, True), (2, False)])
@pytest.mark.usefixtures("boots")
def test_a_removal_that_dies_half_way_leaves_nothing_that_starts_with_the_host(panel, before, is_there):
    """Killed before and after the image takes its hidden name; then the host “boots”: all that wants to start is started."""
    plant(panel, "half")
    job = removal_that_dies(panel, "half", before)
    assert ("/var/lib/machines/half" in left(panel, "half")) is is_there
    shell(panel, "systemctl daemon-reload; systemctl start machines.target")
    assert "half" not in shell(panel, "machinectl list --no-legend")
    panel.sandbox.run(["systemctl", "start", SERVICE])
    outcome = panel.outcome(job)
    assert (outcome.state, outcome.result) == ("succeeded", {"removed": True}), outcome.problem
    assert left(panel, "half") == []
    assert leftovers.of(panel.sandbox) == ""


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("image-mounted", "mkdir -p $image/srv; mount -t tmpfs none $image/srv", "umount $image/srv"),
        ("image-linked", "ln -s stays /var/lib/machines/other", "rm /var/lib/machines/other"),
        ("image-busy", "systemd-run -q --unit=hand systemd-nspawn --register=no --keep-unit -D $image -M hand sleep 60"
         "; until fuser -s $image/../.#stays.lck || pgrep -x sleep >/dev/null; do sleep 0.1; done", "systemctl stop hand"),
        ("read-only", "mount --bind $image/.. $image/..; mount -o remount,bind,ro $image/..", "umount -l $image/.."),
    ],
)  # fmt: skip
def test_what_would_stop_a_removal_half_way_stops_it_before_the_first_byte(panel, code, before, after):
    shell(
        panel,
        "mkdir -p /var/lib/machines/stays/usr; cp -a --reflink=auto /var/lib/machines/web/. /var/lib/machines/stays",
    )
    shell(panel, f"image=/var/lib/machines/stays; {before}")
    was = left(panel, "stays")
    outcome = panel.do(orders.Remove(name="stays"))
    assert (outcome.state, outcome.problem["code"]) == ("failed", code)
    assert left(panel, "stays") == was
    shell(panel, f"image=/var/lib/machines/stays; {after}")
    assert panel.do(orders.Remove(name="stays")).state == "succeeded"
    assert left(panel, "stays") == []


# --- starting with the host


def test_a_machine_that_a_link_of_somebody_starts_is_told_as_starting_with_the_host(panel):
    """systemd follows it although machines.target is off."""
    shell(panel, """
        mkdir -p /var/lib/machines/linked/usr /etc/systemd/system/multi-user.target.wants
        ln -s /usr/lib/systemd/system/systemd-nspawn@.service /etc/systemd/system/multi-user.target.wants/systemd-nspawn@linked.service
    """)  # fmt: skip
    with machines_target(panel, "disable"):
        fact = panel.do(orders.SetReadOnly(name="linked", read_only=False)).machine
        assert fact.enabled
        outcome = panel.do(orders.Disable(name="linked"))
    assert (outcome.state, outcome.machine.enabled) == ("succeeded", False)
    assert panel.do(orders.Remove(name="linked")).state == "succeeded"


# --- a new machine of that name


def copy(name: str, becomes: str = "refuse", seen: list[dict[str, str]] | None = None) -> orders.Build:
    return orders.Build(
        name=name, recipe=CloneRecipe(source="web"), first_boot=FirstBoot(), start=False, leftovers=becomes,
        configuration=orders.Configuration(revision=1, nspawn="[Exec]\nBoot=yes\n", limits="[Service]\nTasksMax=500\n"),
        seen=[orders.SeenFile(path=file["path"], sha256=file["sha256"]) for file in seen or ()],
    )  # fmt: skip


def test_files_written_before_the_machine_are_told_and_never_overwritten_unseen(panel):
    """By hand, and what `systemctl set-property` set for an earlier machine of that name."""
    shell(panel, """
        mkdir -p /etc/systemd/nspawn; printf '[Exec]\\nHostname=mine\\n' > /etc/systemd/nspawn/prep.nspawn
        systemctl set-property systemd-nspawn@prep MemoryMax=64M
    """)  # fmt: skip
    hand, limit = (
        "/etc/systemd/nspawn/prep.nspawn",
        "/etc/systemd/system.control/systemd-nspawn@prep.service.d/50-MemoryMax.conf",
    )
    panel.order(orders.Refresh())
    panel.until(lambda r: r.kind == "inventory" and [hand, limit] == [
        file.path for each in r.host.leftovers if each.name == "prep" for file in each.files
    ])  # fmt: skip
    refused = panel.do(copy("prep"))
    assert refused.problem["code"] == "name-has-files"
    seen = refused.result["leftovers"]
    assert [(file["path"], file["kind"]) for file in seen] == [(hand, "settings"), (limit, "limit")]
    assert (shell(panel, f"cat {hand}"), leftovers.of(panel.sandbox)) == ("[Exec]\nHostname=mine", "")

    kept = panel.do(copy("prep", "keep", seen))
    assert kept.state == "succeeded", kept.problem
    assert shell(panel, f"cat {hand}") == "[Exec]\nHostname=mine"
    assert shell(panel, "systemctl show -P MemoryMax systemd-nspawn@prep") == str(64 * 1024**2)
    shell(panel, f"machinectl remove prep; printf '[Exec]\\nHostname=mine\\n' > {hand}")

    replaced = panel.do(copy("prep", "replace", seen))
    assert replaced.state == "succeeded", replaced.problem
    assert "Boot=yes" in shell(panel, f"cat {hand}")
    assert shell(panel, "systemctl show -P MemoryMax systemd-nspawn@prep") == "infinity"
    [keeps] = [line.split()[-1] for line in panel.lines(replaced.job) if line.startswith("Copies are kept")]
    assert shell(panel, f"cat {keeps}{hand}") == "[Exec]\nHostname=mine"
    assert panel.do(orders.Remove(name="prep")).state == "succeeded"
    assert left(panel, "prep") == []


# --- links


def test_a_settings_file_that_is_a_link_is_told_and_never_replaced(panel):
    """As NixOS or a repository of configurations makes them."""
    file, managed = "/etc/systemd/nspawn/managed.nspawn", "/srv/git/managed.nspawn"
    shell(panel, f"""
        mkdir -p /var/lib/machines/managed/usr /etc/systemd/nspawn /srv/git
        printf '[Exec]\\nHostname=git\\n' > {managed}; ln -s {managed} {file}
    """)  # fmt: skip
    told = panel.until(
        lambda r: r.kind == "observed_files" and any(m.name == "managed" and m.files for m in r.machines)
    )
    [first, *_] = next(machine.files for machine in told.machines if machine.name == "managed")
    assert (first.path, first.target, "Hostname=git" in first.text) == (file, managed, True)
    configuration = orders.Configuration(
        revision=1, nspawn="[Exec]\nHostname=ours\n", limits="", replaces_nspawn=first.sha256
    )
    refused = panel.do(orders.Apply(name="managed", configuration=configuration))
    assert (refused.state, refused.problem["code"]) == ("failed", "file-is-link")
    assert shell(panel, f"readlink {file}; cat {managed}") == f"{managed}\n[Exec]\nHostname=git"
    assert shell(panel, "ls -A /etc/systemd/nspawn /srv/git | grep new || true") == ""
    assert panel.do(orders.Remove(name="managed")).state == "succeeded"
    assert shell(panel, f"test ! -L {file}; cat {managed}; rm -r /srv/git") == "[Exec]\nHostname=git"
