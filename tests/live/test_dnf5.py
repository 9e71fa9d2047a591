"""dnf 5 on a real host: the Debian release after trixie has it, and the host takes it from there."""

import os
from collections.abc import Iterator
from uuid import UUID

import pytest

from machines.contract import orders
from machines.contract.recipes import DnfRecipe, RpmRepository
from machines.contract.reports import Outcome
from nspawnpanel.sandbox import CACHE, CommandFailed, Sandbox, apt
from nspawnpanel.valkey import Valkey
from tests.host.scratch_panel import ScratchPanel
from tests.live import small_repositories as small
from tests.live.builders import HTTP, Fleet, inside, told

LATER = "forky"
TOOLS = ("dnf5", "rpm", "createrepo-c")


def install_from_later(host: Sandbox) -> None:
    """dnf 5 with what it needs, and nothing else of the later release. Skips where its packages do not fit today."""
    host.write(f"/etc/apt/sources.list.d/{LATER}.list", "".join(f"{each.line()}\n" for each in apt.debian(LATER)[:1]))
    host.write(f"/etc/apt/preferences.d/{LATER}", f"Package: *\nPin: release n={LATER}\nPin-Priority: 100\n")
    try:
        small.install(host, *TOOLS, release=LATER)
    except CommandFailed as failed:
        if not any(words in failed.stderr for words in ("unmet dependencies", "Unable to locate", "held broken")):
            raise
        pytest.skip(f"{LATER} has no dnf 5 that can be installed today: {failed.stderr.strip()[-300:]}")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    name = f"dnf5-{os.getpid()}-{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}"
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey, Sandbox(name, CACHE, suite="trixie") as host:
        install_from_later(host)
        host.plant("seed", "bookworm")
        keys = [small.make_key(host, each) for each in ("tiny", "other")]
        small.make_rpm_repositories(host)
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


def test_it_boots_with_an_address_and_has_what_was_ordered(fleet, built):
    assert built[1].machine.state == "running"
    fleet.panel.until(lambda r: r.kind == "observed" and any(m.name == "tiny" and m.addresses for m in r.machines), 30)
    assert inside(fleet, "tiny", "cat", "/etc/hostname").strip() == "tiny-host"
    assert inside(fleet, "tiny", "cat", "/usr/share/words/farewell").strip() == "farewell"
    assert built[1].result["packages"] == ["farewell 2.0-3", "greeting 2.0-3", "hello 2.0-3", "tiny-system 1-1"]
    assert fleet.host.read("/var/lib/machines/tiny/var/lib/tiny-system") == "it ran\n"
    assert fleet.host.run(["ls", "/var/lib/machines/tiny/usr/lib/sysimage/rpm/rpmdb.sqlite"]).stdout


def test_it_was_dnf_5_and_its_phases_and_progress_are_told(fleet, built):
    job, _ = built
    assert "Building with dnf5." in fleet.panel.lines(job)
    assert [report.name for report in told(fleet, job, "phase")] == list(orders.Build.phases)
    notes = [report.note for report in told(fleet, job, "progress")]
    assert any(note.endswith("of 4 packages installed") for note in notes), notes
    assert not any("of 6 packages" in note for note in notes), notes  # its two checks are no packages


def test_nothing_of_the_proxy_and_the_job_stays_in_the_machine(fleet, built):
    etc, var, state = (f"/var/lib/machines/tiny/{folder}" for folder in ("etc", "var", "usr/lib/sysimage"))
    assert fleet.host.run(["grep", "-rlas", "-e", HTTP, etc, var, state], check=False).stdout == ""
    names = ["-name", "dnf5.log*", "-o", "-name", "system-repo.lock", "-o", "-name", "nspawnpanel"]
    assert fleet.host.run(["find", var, *names]).stdout == ""


def test_its_failures_are_told_for_what_they_are(fleet):
    assert "no package hullo in" in fleet.fails(fleet.recipe("hello", "hullo"))["message"]
    assert "no group wurds in" in fleet.fails(fleet.recipe("@wurds"))["message"]
    assert "has nowhere, which broken" in fleet.fails(fleet.recipe("broken"))["message"]
    unreachable = fleet.fails(fleet.recipe(url="http://127.0.0.1:9/tiny"))
    assert (unreachable["code"], 'repository "tiny"' in unreachable["message"]) == ("mirror-unreachable", True)
    for url in (f"{HTTP}/no-such-release", "file:///srv/no-such-release"):
        assert fleet.fails(fleet.recipe(url=url))["code"] == "release-unknown"


def test_a_package_that_is_not_signed_by_the_recipes_key_is_refused(fleet):
    other = fleet.fails(fleet.recipe(key=fleet.other_key))
    assert (other["code"], "tiny-system" in other["message"]) == ("key-unknown", True), other
    unsigned = RpmRepository(id="unsigned", url="file:///srv/unsigned", key=fleet.key)
    refused = fleet.fails(fleet.recipe("stranger", more=(unsigned,)))
    assert (refused["code"], "stranger" in refused["message"]) == ("key-unknown", True), refused


def test_the_hosts_own_repositories_are_taken_but_not_their_carelessness(fleet):
    fleet.host.write("/etc/pki/tiny.asc", fleet.key)
    known = "gpgkey=file:///etc/pki/tiny.asc\n"
    for name, folder, key in (("tiny", "tiny", known), ("stranger", "unsigned", "")):
        text = f"[{name}]\nname={name}\nbaseurl=file:///srv/{folder}\npkg_gpgcheck=0\ngpgcheck=0\n{key}"
        fleet.host.write(f"/etc/yum.repos.d/{name}.repo", text)
    refused = fleet.fails(DnfRecipe(release="43", packages=("stranger",)))
    assert (refused["code"], "stranger" in refused["message"]) == ("key-unknown", True), refused
