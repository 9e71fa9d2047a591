"""Fedora's way, openSUSE's and Arch's on a real host: real dnf, zypper and pacstrap, repositories over file:// and HTTP,
up to machines that boot."""

import os
import time
from collections.abc import Iterator
from uuid import UUID

import pytest

from machines.contract import orders
from machines.contract.recipes import ArchRecipe, DebianRecipe, DnfRecipe, RpmRepository, SuseRecipe
from machines.contract.reports import Outcome
from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.valkey import Valkey
from tests.host.scratch_panel import ScratchPanel
from tests.live import small_repositories as small
from tests.live.builders import HTTP, Fleet, inside, told

TOOLS = ("dnf", "zypper", "rpm", "createrepo-c", "gpg", "gpg-agent", "arch-install-scripts", "pacman-package-manager",
         "makepkg", "libarchive-tools")  # fmt: skip


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey, Sandbox(f"rpm-{os.getpid()}-{worker}", CACHE) as host:
        small.install(host, *TOOLS)
        host.plant("seed")
        keys = [small.make_key(host, name) for name in ("tiny", "other")]
        small.make_rpm_repositories(host, small.RPM)
        small.make_pacman_packages(host, "/srv/arch", "tiny")
        small.serve(host)
        panel = ScratchPanel(host, valkey)
        panel.join()
        yield Fleet(panel, *keys)


@pytest.fixture(scope="module")
def built(fleet: Fleet) -> tuple[UUID, Outcome]:
    """The machine tiny, built over HTTP through a proxy and started."""
    recipe = fleet.recipe("hello", "@words", url=f"{small.OUTSIDE}/tiny", proxy=HTTP)
    job = fleet.order(recipe, start=True)
    outcome = fleet.panel.outcome(job, 120)
    assert outcome.state == "succeeded", (outcome.problem, fleet.panel.lines(job)[-30:])
    return job, outcome


def test_it_boots_and_gets_an_address(fleet, built):
    assert built[1].machine.state == "running"
    fleet.panel.until(lambda r: r.kind == "observed" and any(m.name == "tiny" and m.addresses for m in r.machines), 30)
    assert inside(fleet, "tiny", "cat", "/etc/hostname").strip() == "tiny-host"
    assert inside(fleet, "tiny", "cat", "/usr/share/words/farewell").strip() == "farewell"


def test_the_scripts_of_packages_ran_with_devices_and_proc_and_nothing_of_these_stays(fleet, built):
    assert fleet.host.read("/var/lib/machines/tiny/var/lib/tiny-system") == "it ran\n"
    assert fleet.host.run(["find", "/var/lib/machines/.nspawnpanel-base-" + built[1].result["base"]["id"] + "/dev",
                           "-mindepth", "1"]).stdout == ""  # fmt: skip
    assert "/.nspawnpanel" not in fleet.host.read("/proc/mounts")


def test_rpm_finds_its_database_where_the_machine_looks(fleet, built):
    place = "/var/lib/machines/tiny/usr/lib/sysimage/rpm"
    listed = fleet.host.run(["rpm", f"--dbpath={place}", "-qa", "--queryformat=%{NAME}\n"]).stdout.split()
    assert {"tiny-system", "hello", "greeting", "farewell"} <= set(listed)
    assert ".rpmdb" not in fleet.host.run(["ls", "-A", "/var/lib/machines/tiny/root"]).stdout
    packages = built[1].result["packages"]
    assert packages == ["farewell 2.0-3", "greeting 2.0-3", "hello 2.0-3", "tiny-system 1-1"]


def test_phases_progress_and_the_command_are_told(fleet, built):
    job, _ = built
    phases = [report.name for report in told(fleet, job, "phase")]
    assert phases == list(orders.Build.phases)
    notes = [report.note for report in told(fleet, job, "progress")]
    assert any("of 4 packages installed" in note for note in notes), notes
    commands = [report.argv for report in told(fleet, job, "command")]
    [install] = [argv for argv in commands if argv[0] == "dnf" and "install" in argv]
    assert {"--setopt=gpgcheck=1", "--setopt=localpkg_gpgcheck=1", "--releasever=43"} <= set(install)


def test_the_machine_can_update_itself_and_knows_no_proxy_of_ours(fleet, built):
    etc = "/var/lib/machines/tiny/etc"
    text = fleet.host.read(f"{etc}/yum.repos.d/nspawnpanel-tiny.repo")
    assert f"baseurl={small.OUTSIDE}/tiny\n" in text
    assert "gpgkey=file:///etc/pki/rpm-gpg/nspawnpanel-tiny.asc\n" in text
    assert "gpgcheck=1\n" in text
    assert fleet.key in fleet.host.read(f"{etc}/pki/rpm-gpg/nspawnpanel-tiny.asc")
    assert fleet.host.run(["grep", "-rls", HTTP, etc], check=False).stdout == ""
    left = fleet.host.run(["find", f"{etc}/../var/lib/nspawnpanel", f"{etc}/../var/log", "-name", "*dnf*"], check=False)
    assert left.stdout == ""


def test_a_second_build_of_the_recipe_is_a_copy(fleet, built):
    recipe = fleet.recipe("hello", "@words", url=f"{small.OUTSIDE}/tiny", proxy=HTTP)
    began = time.monotonic()
    outcome = fleet.build(recipe, "second", start=True)
    assert (outcome.state, outcome.machine.state) == ("succeeded", "running")
    assert outcome.result["base"] == {**built[1].result["base"], "fresh": False}
    assert time.monotonic() - began < 15


def test_packages_are_kept_for_the_next_build(fleet, built):
    kept = fleet.host.run(["find", "/var/lib/nspawnpanel/cache/dnf", "-name", "*.rpm", "-printf", "%f\n"]).stdout
    assert "hello-2.0-3.noarch.rpm" in kept


def test_a_build_cancelled_over_its_packages_leaves_nothing(fleet):
    job = fleet.order(fleet.recipe("hello"), "never", fresh=True)
    fleet.panel.until(lambda r: r.kind == "phase" and r.job == job and r.name == "bootstrap", 30)
    fleet.panel.order(orders.Cancel(job=job))
    assert fleet.panel.outcome(job, 20).state == "cancelled"
    assert fleet.leftovers() == ""
    assert "/.nspawnpanel" not in fleet.host.read("/proc/mounts")


def test_an_unknown_package_is_named_with_the_tools_own_line(fleet):
    problem = fleet.fails(fleet.recipe("hello", "hullo"))
    assert problem["code"] == "package-unknown"
    assert "hullo" in problem["message"]
    assert "No match for argument: hullo" in problem["hint"]
    assert "hullo" in problem["details"]


def test_an_unknown_group_and_a_missing_dependency_are_named(fleet):
    group = fleet.fails(fleet.recipe("@wurds"))
    assert (group["code"], "wurds" in group["message"]) == ("package-unknown", True)
    broken = fleet.fails(fleet.recipe("broken"))
    assert "nowhere" in broken["message"]


def test_an_unsigned_package_is_refused(fleet):
    unsigned = RpmRepository(id="unsigned", url="file:///srv/unsigned", key=fleet.key)
    problem = fleet.fails(fleet.recipe("stranger", more=(unsigned,)))
    assert problem["code"] == "key-unknown", problem
    assert "stranger" in problem["message"]


def test_a_package_signed_by_another_key_is_refused(fleet):
    problem = fleet.fails(fleet.recipe(key=fleet.other_key))
    assert problem["code"] == "key-unknown", problem


@pytest.mark.parametrize(
    ("url", "code"),
    [("http://127.0.0.1:9/tiny", "mirror-unreachable"), (f"{HTTP}/no-such-release", "release-unknown")],
)
def test_a_repository_that_cannot_be_read_is_named_before_anything_begins(fleet, url, code):
    problem = fleet.fails(fleet.recipe(url=url))
    assert problem["code"] == code, problem
    assert "tiny" in problem["message"]


def test_without_repositories_the_hosts_own_are_taken_and_if_there_are_none_it_is_said(fleet):
    bare = DnfRecipe(release="43", packages=("hello",))
    assert fleet.fails(bare)["code"] == "mirror-unknown"
    fleet.host.write("/etc/pki/tiny.asc", fleet.key)
    fleet.host.write(
        "/etc/yum.repos.d/tiny.repo",
        f"[tiny]\nname=tiny\nbaseurl={HTTP}/tiny\ngpgcheck=0\ngpgkey=file:///etc/pki/tiny.asc\n",
    )
    outcome = fleet.panel.do(orders.BuildBase(recipe=bare), 60)
    assert outcome.state == "succeeded", outcome.problem
    assert "hello 2.0-3" in outcome.result["packages"]
    fleet.host.write(
        "/etc/yum.repos.d/stranger.repo", "[stranger]\nname=stranger\nbaseurl=file:///srv/unsigned\ngpgcheck=0\n"
    )
    refused = fleet.panel.do(orders.BuildBase(recipe=DnfRecipe(release="43", packages=("stranger",))), 60)
    assert refused.problem["code"] == "key-unknown", refused.problem


# --- zypper


@pytest.fixture(scope="module")
def green(fleet: Fleet) -> tuple[UUID, Outcome]:
    """The machine green, built by zypper through a proxy and started."""
    job = fleet.order(fleet.suse("hello", "rpm", url=f"{small.OUTSIDE}/tiny", proxy=HTTP), "green", start=True)
    outcome = fleet.panel.outcome(job, 120)
    assert outcome.state == "succeeded", (outcome.problem, fleet.panel.lines(job)[-30:])
    return job, outcome


def test_zyppers_machine_boots_with_an_address_and_its_own_rpm_knows_what_is_installed(fleet, green):
    assert green[1].machine.state == "running"
    fleet.panel.until(lambda r: r.kind == "observed" and any(m.name == "green" and m.addresses for m in r.machines), 30)
    listed = inside(fleet, "green", "rpm", "--query", "--all", "--queryformat=%{NAME} ").split()
    assert {"tiny-system", "hello", "greeting"} <= set(listed)
    assert {"hello 2.0-3", "tiny-system 1-1", "rpm 4-1"} <= set(green[1].result["packages"])
    assert "The machine's own rpm converts its package database." in fleet.panel.lines(green[0])


def test_zyppers_phases_and_progress_are_told_and_nothing_of_the_job_stays(fleet, green):
    assert [report.name for report in told(fleet, green[0], "phase")] == list(orders.Build.phases)
    notes = [report.note for report in told(fleet, green[0], "progress")]
    assert any("of 4 packages installed" in note for note in notes), notes
    tree = "/var/lib/machines/green"
    assert "gpgcheck=1\n" in fleet.host.read(f"{tree}/etc/zypp/repos.d/nspawnpanel-tiny.repo")
    assert fleet.host.run(["grep", "-rls", HTTP, f"{tree}/etc"], check=False).stdout == ""
    assert fleet.host.run(["find", f"{tree}/var/lib/nspawnpanel"], check=False).stdout == ""


def test_zyppers_failures_are_told_for_what_they_are(fleet):
    assert "hullo" in fleet.fails(fleet.suse("hullo"))["message"]
    assert fleet.fails(fleet.suse(url="http://127.0.0.1:9/tiny"))["code"] == "mirror-unreachable"
    wrong = fleet.fails(fleet.suse(key=fleet.other_key))
    assert wrong["code"] == "key-unknown", wrong
    unsigned = RpmRepository(id="unsigned", url="file:///srv/unsigned", key=fleet.key)
    refused = fleet.fails(fleet.suse("stranger", more=(unsigned,)))
    assert refused["code"] == "key-unknown", refused


def test_zypper_believes_no_key_that_lies_beside_an_index(fleet):
    small.make_signed_index(fleet.host, "/srv/foreign", "other")
    foreign = fleet.fails(fleet.suse(url=f"{HTTP}/foreign"))
    assert (foreign["code"], "repomd.xml" in foreign["message"]) == ("key-unknown", True), foreign


def test_zypper_takes_an_index_signed_by_a_key_it_was_given_or_the_host_trusts(fleet):
    small.make_signed_index(fleet.host, "/srv/signed", "tiny")
    given = fleet.panel.do(orders.BuildBase(recipe=fleet.suse("hello", url=f"{HTTP}/signed")), 60)
    assert given.state == "succeeded", given.problem
    bare = SuseRecipe(release="15.6", packages=("hello",))
    fleet.host.write("/srv/tiny.asc", fleet.key)
    fleet.host.write(
        "/etc/zypp/repos.d/tiny.repo",
        f"[tiny]\nname=tiny\nenabled=1\nbaseurl={HTTP}/signed\ngpgkey=file:///srv/tiny.asc\n",
    )
    assert fleet.fails(bare)["code"] == "key-unknown"
    fleet.host.run(["rpm", "--import", "/srv/tiny.asc"])
    trusted = fleet.panel.do(orders.BuildBase(recipe=bare), 60)
    assert trusted.state == "succeeded", trusted.problem


# --- pacstrap


@pytest.fixture(scope="module")
def blue(fleet: Fleet) -> tuple[UUID, Outcome]:
    """The machine blue, built by pacstrap through a proxy and started."""
    recipe = ArchRecipe(packages=("hello",), mirror=f"{small.OUTSIDE}/arch", proxy=HTTP)
    job = fleet.order(recipe, "blue", start=True)
    outcome = fleet.panel.outcome(job, 120)
    assert outcome.state == "succeeded", (outcome.problem, fleet.panel.lines(job)[-30:])
    return job, outcome


def test_pacstraps_machine_boots_with_an_address_and_has_what_was_ordered(fleet, blue):
    assert blue[1].machine.state == "running"
    fleet.panel.until(lambda r: r.kind == "observed" and any(m.name == "blue" and m.addresses for m in r.machines), 30)
    assert blue[1].result["packages"] == ["base 2.0-3", "greeting 2.0-3", "hello 2.0-3"]
    tree = "/var/lib/machines/blue"
    assert fleet.host.read(f"{tree}/var/lib/tiny-system") == "it ran\n"
    assert fleet.host.read(f"{tree}/etc/pacman.d/mirrorlist") == f"Server = {small.OUTSIDE}/arch/$repo/os/$arch\n"
    assert fleet.host.run(["grep", "-rls", HTTP, f"{tree}/etc"], check=False).stdout == ""
    assert not fleet.host.run(["ls", "-A", f"{tree}/etc/pacman.d/gnupg"], check=False).stdout  # no secret of the host's


def test_pacstraps_phases_and_progress_are_told(fleet, blue):
    assert [report.name for report in told(fleet, blue[0], "phase")] == list(orders.Build.phases)
    notes = [report.note for report in told(fleet, blue[0], "progress")]
    assert any("of 3 packages" in note for note in notes), notes
    kept = fleet.host.run(["ls", "/var/lib/nspawnpanel/cache/pacman"]).stdout
    assert "hello-2.0-3-any.pkg.tar.gz" in kept


def test_pacstraps_failures_are_told_for_what_they_are(fleet):
    mirror = f"{HTTP}/arch"
    assert "hullo" in fleet.fails(ArchRecipe(packages=("hullo",), mirror=mirror))["message"]
    assert fleet.fails(ArchRecipe(mirror="http://127.0.0.1:9/arch"))["code"] == "mirror-unreachable"
    assert fleet.fails(ArchRecipe())["code"] == "mirror-unknown"
    unsigned = fleet.fails(ArchRecipe(packages=("stranger",), mirror=mirror))
    assert unsigned["code"] == "key-unknown", unsigned
    fleet.host.write("/usr/share/keyrings/archlinux.gpg", fleet.other_key)
    foreign = fleet.fails(ArchRecipe(mirror=mirror))
    assert foreign["code"] == "key-unknown", foreign


# --- an archive that is trusted by keys the host does not have


def test_ubuntu_is_built_by_its_own_keys_or_not_at_all(fleet):
    small.make_ubuntu(fleet.host, "/srv/ubuntu", "tiny")
    known = {"distribution": "ubuntu", "release": "noble", "components": ("main", "universe")}
    recipes = [DebianRecipe(**known, mirror=f"{HTTP}/ubuntu", tool=tool) for tool in ("mmdebstrap", "debootstrap")]
    assert fleet.fails(DebianRecipe(**known))["code"] == "mirror-unknown"
    without = fleet.fails(recipes[0])
    assert (without["code"], "ubuntu-keyring" in without["hint"]) == ("key-unknown", True)
    fleet.host.run(
        [
            "gpg",
            "--homedir",
            small.GNUPG,
            "--output",
            "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
            "--export",
            "other",
        ]
    )
    for recipe in recipes:
        foreign = fleet.fails(recipe)
        assert (foreign["code"], "A repository is not signed" in foreign["message"]) == ("key-unknown", True), foreign
