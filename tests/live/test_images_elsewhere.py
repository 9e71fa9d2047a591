"""Images that are not where most are, links, mounts and odd subvolumes: found, copied, packed, and refused in time."""

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.recipes import CloneRecipe, FirstBoot
from tests.host.scratch_panel import ScratchPanel

ELSEWHERE = {"vendor": "/usr/lib/machines", "local": "/usr/local/lib/machines", "admin": "/etc/machines"}
MAKE = """
mkdir -p /usr/lib/machines /usr/local/lib/machines /etc/machines /srv/big
for tree in /usr/lib/machines/vendor /usr/local/lib/machines/local /srv/big/linked; do
    cp -a --reflink=auto /var/lib/machines/web $tree
done
btrfs -q subvolume snapshot /var/lib/machines/web /etc/machines/admin
ln -s /srv/big/linked /var/lib/machines/linked
cp -a --reflink=auto /var/lib/machines/web /var/lib/machines/twice; truncate -s 1M /var/lib/machines/twice.raw
"""
CLEAN = """
for name in admin-copy vendor-copy local-copy linked-copy odd-copy; do machinectl terminate $name || true; done 2>/dev/null
cd /var/lib/machines
btrfs property set -ts odd/srv/fixed ro false; btrfs property set -ts odd-copy/srv/fixed ro false
rm -f linked twice.raw
rm -rf --one-file-system /usr/lib/machines/vendor /usr/local/lib/machines/local /etc/machines/admin /srv/big twice
for tree in odd odd-copy; do rm -rf $tree; done
for name in admin vendor local linked; do machinectl remove $name-copy; done
rm -f /etc/systemd/nspawn/{admin,vendor,local,linked,odd}-copy.nspawn; rmdir /usr/local/lib/machines /etc/machines
"""


@pytest.fixture(scope="module", params=["scratch", "later"])
def panel(request: pytest.FixtureRequest):
    found: ScratchPanel = request.getfixturevalue(request.param)
    sh(found, MAKE)
    yield found
    found.sandbox.run(["bash", "-c", CLEAN], check=False)


def sh(panel: ScratchPanel, script: str) -> str:
    return panel.sandbox.run(["bash", "-ec", script]).stdout


def clone(source: str, name: str = "", *, start: bool = False) -> orders.Build:
    return orders.Build(
        name=name or f"{source}-copy", recipe=CloneRecipe(source=source),
        first_boot=FirstBoot(locale="", timezone=""), start=start,
        configuration=orders.Configuration(revision=1, nspawn=nspawn.mark("[Exec]\nNotifyReady=yes\n", 1), limits=""),
    )  # fmt: skip


def machine(panel: ScratchPanel, name: str):
    """As an inventory says that saw all of it: an earlier one may have been taken while it was copied here."""
    panel.order(orders.Refresh())
    seen = panel.until(
        lambda report: report.kind == "inventory" and any(m.name == name and m.os for m in report.machines)
    )
    return next(each for each in seen.machines if each.name == name)


@pytest.mark.parametrize("name", ["vendor", "local", "admin"])
def test_an_image_elsewhere_is_listed_with_its_place_and_can_be_cloned(panel, name):
    seen = machine(panel, name)
    assert seen.image_path == f"{ELSEWHERE[name]}/{name}"
    assert seen.os.startswith("Debian")
    assert (seen.read_only, seen.read_only_by) == ((False, "") if name == "admin" else (True, "vendor"))
    outcome = panel.do(clone(name, start=name == "vendor"), 120)
    assert outcome.state == "succeeded", outcome.problem
    assert outcome.machine.image_path == f"/var/lib/machines/{name}-copy"
    assert outcome.machine.read_only is False


def test_what_lies_below_usr_is_not_made_writable_and_the_page_is_told_why(panel):
    problem = panel.do(orders.SetReadOnly(name="vendor", read_only=False)).problem
    assert problem["code"] == "image-read-only"
    assert "/usr/lib/machines/vendor cannot be made writable" in problem["message"]


@pytest.mark.parametrize("name", ["vendor", "admin"])
def test_an_image_elsewhere_is_not_removed_and_its_own_path_is_named(panel, name):
    problem = panel.do(orders.Remove(name=name)).problem
    assert f"{ELSEWHERE[name]}/{name}" in problem["message"]
    assert sh(panel, f"test -d {ELSEWHERE[name]}/{name}/usr && echo there") == "there\n"


def test_an_image_elsewhere_is_marked_where_it_is(panel):
    assert panel.do(orders.SetReadOnly(name="admin", read_only=True)).machine.read_only is True
    assert panel.do(orders.SetReadOnly(name="admin", read_only=False)).machine.read_only is False


def test_a_link_is_cloned_from_where_it_leads_and_its_mark_is_left_alone(panel):
    assert machine(panel, "linked").os.startswith("Debian")
    job = panel.order(clone("linked"))
    assert panel.outcome(job, 120).state == "succeeded"
    assert "/var/lib/machines/linked is a symlink: /srv/big/linked is copied." in panel.lines(job)
    problem = panel.do(orders.SetReadOnly(name="linked", read_only=True)).problem
    assert problem["code"] == "image-is-link"
    assert "/srv/big/linked" in problem["message"]


def test_of_a_tree_and_a_disk_image_of_one_name_the_other_is_told(panel):
    seen = machine(panel, "twice")
    assert (seen.image_path, seen.hidden_images) == ("/var/lib/machines/twice", ["/var/lib/machines/twice.raw"])


ODD = r"""cd /var/lib/machines; btrfs -q subvolume snapshot web odd; cd odd/srv
btrfs -q subvolume create $'caf\xe9'; echo kept > $'caf\xe9/file'
btrfs -q subvolume create fixed; btrfs -q subvolume create fixed/$'in\xffside'; btrfs property set -ts fixed ro true
"""


def test_subvolumes_of_any_name_are_copied_and_those_that_were_read_only_stay_so(panel):
    sh(panel, ODD)
    job = panel.order(clone("odd"))
    assert panel.outcome(job, 120).state == "succeeded"
    assert any("3 subvolumes inside it are copied too, 1 of them read-only." in line for line in panel.lines(job))
    inside = sh(
        panel, r"cd /var/lib/machines/odd-copy/srv; cat $'caf\xe9/file'; btrfs property get -ts fixed ro; ls fixed"
    )
    assert inside.split("\n")[:2] == ["kept", "ro=true"]
    assert sh(panel, "cd /var/lib/machines/odd-copy/srv; btrfs property get -ts $'caf\\xe9' ro") == "ro=false\n"
    assert panel.do(orders.Remove(name="odd-copy"), 120).state == "succeeded"
    assert sh(panel, "ls /var/lib/machines | grep odd-copy || true") == ""


CLEAR = """cd /opt/nspawnpanel/src; /opt/nspawnpanel/bin/python -c '
from pathlib import Path
from machines.host.storage import pool
pool.clear(Path("/var/lib/machines/.nspawnpanel-odd.tmp"))'
"""


def test_a_half_made_tree_with_such_subvolumes_is_thrown_away_whole(panel):
    sh(panel, ODD.replace(" odd", " .nspawnpanel-odd.tmp"))
    sh(panel, CLEAR)
    assert sh(panel, "ls -A /var/lib/machines | grep nspawnpanel-odd || true") == ""


def test_a_missing_tool_stops_an_export_before_it_begins_and_the_doctor_names_it(panel):
    sh(panel, "mv /usr/bin/zstd /usr/bin/zstd.away")
    try:
        problem = panel.do(orders.Export(name="web", url="https://panel.example/transfer/x/", limit=2**30)).problem
        examined = panel.do(orders.Diagnose())
    finally:
        sh(panel, "mv /usr/bin/zstd.away /usr/bin/zstd")
    assert (problem["code"], problem["hint"]) == ("tool-missing", "Install what is missing there: apt install zstd")
    [missing] = [found for found in examined.result["findings"] if found["code"] == "tools-missing"]
    assert "zstd (exporting machines" in missing["facts"]["tools"]
