"""Builds of a distribution and the bases they leave, on a real host: the second machine is a copy with its own identity."""

import time
from uuid import UUID

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.envelope import seal_secret
from machines.contract.recipes import BuildSecrets, DebianRecipe, FirstBoot
from tests.host.scratch_panel import ScratchPanel

POLISHED = DebianRecipe(release="bookworm", packages=("openssh-server",), prime=True, trim=True)
# As a power cut may leave a file: its size, and nothing in it
DAMAGE = """
cd /var/lib/nspawnpanel/cache/apt
for deb in *; do
  if test "$(dpkg-deb --field $deb Package)" = openssh-server; then
    size=$(stat -c %s $deb); truncate -s 0 $deb; truncate -s $size $deb
  fi
done
"""


def build(name: str, recipe: DebianRecipe = POLISHED, **changed) -> orders.Build:
    values = {"first_boot": FirstBoot(), "start": False, **changed}
    configuration = orders.Configuration(revision=1, nspawn=nspawn.mark("[Exec]\nNotifyReady=yes\n", 1), limits="")
    return orders.Build(name=name, recipe=recipe, configuration=configuration, **values)


def read(panel: ScratchPanel, machine: str, file: str) -> str:
    return panel.sandbox.run(["cat", f"/var/lib/machines/{machine}/{file}"], check=False).stdout


@pytest.fixture(scope="module", autouse=True)
def _removed(scratch: ScratchPanel):
    """Other modules have the same host."""
    yield
    for name in ("first", "second", "third", "anew", "by-debootstrap"):
        scratch.do(orders.Remove(name=name))


@pytest.fixture(scope="module")
def first(scratch: ScratchPanel):
    """The outcome of the first build of the recipe, with its job."""
    job = scratch.order(build("first"))
    outcome = scratch.outcome(job, 300)
    assert outcome.state == "succeeded", (outcome.problem, scratch.lines(job)[-20:])
    return outcome


def test_the_first_build_leaves_a_base_and_says_what_is_in_it(scratch, first):
    assert first.result["base"]["fresh"]
    assert any(line.startswith("openssh-server ") for line in first.result["packages"])
    assert first.result["bytes"] > 50 * 1024**2
    names = scratch.sandbox.run(["ls", "-A", "/var/lib/machines"]).stdout.split()
    assert f".nspawnpanel-base-{first.result['base']['id']}" in names
    assert not [name for name in names if name.endswith((".tmp", ".base"))]


def test_the_next_is_a_copy_with_an_identity_of_its_own(scratch, first):
    hidden = BuildSecrets(
        root_password_hash="$6$salt$rootrootroot", user_password_hash="$6$salt$adaadaada"
    ).model_dump_json()
    answers = FirstBoot(user="ada", ssh_keys=("ssh-ed25519 AAAA ada@desk",), hostname="second.example")
    began = time.monotonic()
    outcome = scratch.do(build("second", first_boot=FirstBoot()), 60)
    took = time.monotonic() - began
    assert (outcome.state, outcome.result["base"]["fresh"]) == ("succeeded", False), outcome.problem
    assert took < 5, "a copy, not a build"
    with_user = scratch.order(
        build("third", first_boot=answers, start=True, sealed=seal_secret(hidden, scratch.box))
    )  # sudo makes it another base
    ended = scratch.outcome(with_user, 300)
    assert ended.state == "succeeded", (ended.problem, scratch.lines(with_user)[-5:])
    assert read(scratch, "third", "etc/hostname").strip() == "second.example"
    assert "ada:$6$salt$adaadaada:" in read(scratch, "third", "etc/shadow")
    assert "ada@desk" in read(scratch, "third", "home/ada/.ssh/authorized_keys")
    groups = [line for line in read(scratch, "third", "etc/group").splitlines() if line.startswith("sudo:")]
    assert groups[0].endswith(":ada")
    keys = [
        read(scratch, "third", "etc/ssh/ssh_host_ed25519_key.pub"),
        read(scratch, "first", "etc/ssh/ssh_host_ed25519_key.pub"),
    ]
    assert keys[0].startswith("ssh-ed25519"), "made at the first start"
    assert not keys[1], "never a key of the base's"
    assert read(scratch, "third", "etc/machine-id").strip()
    scratch.do(orders.Terminate(name="third"))


def test_it_was_trimmed_and_primed_and_nothing_of_that_boot_is_left(scratch, first):
    del first
    unit = scratch.sandbox.run(["readlink", "/var/lib/machines/second/etc/systemd/system/apt-daily.timer"]).stdout
    assert unit.strip() == "/dev/null"
    assert not read(scratch, "second", "etc/machine-id").strip()
    left = scratch.sandbox.run(["find", "/var/lib/machines/second/var/log/journal", "-name", "*.journal"], check=False)
    assert not left.stdout.strip()
    assert not scratch.sandbox.run(
        ["find", "/var/lib/machines/second/etc/systemd/system", "-name", "nspawnpanel-prime*"]
    ).stdout.strip()  # fmt: skip


def test_a_trimmed_machine_boots_whole_and_starts_logind_for_the_first_who_needs_it(scratch, first):
    del first
    inside = ["systemctl", "--machine=second"]
    assert scratch.do(orders.Start(name="second"), 60).state == "succeeded"
    assert scratch.sandbox.run([*inside, "is-system-running"]).stdout.strip() == "running"
    logind = [*inside, "is-active", "systemd-logind.service"]
    assert scratch.sandbox.run(logind, check=False).stdout.strip() == "inactive"
    asked = ["systemd-run", "--machine=second", "--quiet", "--pipe", "--wait", "loginctl", "enable-linger", "root"]
    scratch.sandbox.run(asked)
    assert scratch.sandbox.run(logind).stdout.strip() == "active"
    assert scratch.do(orders.Reboot(name="second"), 60).state == "succeeded"
    assert scratch.sandbox.run(logind).stdout.strip() == "active", "somebody lingers"
    scratch.do(orders.Terminate(name="second"))


def test_a_worker_that_dies_over_a_copy_does_it_again(scratch, first):
    """Whatever moment it dies in, the job ends and the machine is whole."""
    del first
    for turn in range(5):
        job = scratch.order(build(f"k{turn}"))
        time.sleep(0.03 * turn)
        scratch.sandbox.run(["systemctl", "kill", "--signal=KILL", "nspawnpanel-host.service"])
        outcome = scratch.outcome(job, 60)
        assert outcome.state == "succeeded", outcome.problem
        assert read(scratch, f"k{turn}", "etc/hostname").strip() == f"k{turn}"
        scratch.do(orders.Remove(name=f"k{turn}"))
    assert "tmp" not in scratch.sandbox.run(["ls", "-A", "/var/lib/machines"]).stdout


def test_builds_beyond_the_hosts_limit_wait_and_know_their_place(scratch):
    recipe = DebianRecipe(release="bookworm", packages=("nano",))
    jobs = [scratch.order(build(f"line{number}", recipe)) for number in range(5)]

    def who_stands(place: int, among: set[UUID]) -> UUID:
        said = f"number {place} in the queue"
        return scratch.until(lambda r: r.kind == "progress" and r.job in among and r.note == said, 20).job

    line: list[UUID] = []  # two at once is the policy's default; which two began is theirs to settle
    for place in (1, 2, 3):
        line.append(who_stands(place, set(jobs) - set(line)))
    assert scratch.lines(line[0]) == ["Waiting for other jobs of this type on this host."]
    scratch.order(orders.Cancel(job=line[0]))
    assert who_stands(1, {line[1]}) == line[1]
    for job in line[1:]:
        scratch.order(orders.Cancel(job=job))
    for job in set(jobs) - set(line):
        scratch.order(orders.Cancel(job=job))
    assert {scratch.outcome(job, 30).state for job in jobs} == {"cancelled"}
    names = scratch.sandbox.run(["ls", "-A", "/var/lib/machines"]).stdout.split()
    assert not [name for name in names if name.startswith("line") or any(str(job) in name for job in jobs)]


def test_built_anew_it_takes_all_but_damaged_packages_from_the_cache_and_replaces_the_base(scratch, first):
    scratch.sandbox.run(["bash", "-euc", DAMAGE])
    job = scratch.order(build("anew", fresh=True))
    outcome = scratch.outcome(job, 300)
    assert (outcome.state, outcome.result["base"]["fresh"]) == ("succeeded", True)
    assert outcome.result["base"]["id"] == first.result["base"]["id"], "the same recipe and the same packages"
    said = scratch.lines(job)
    fetched = [line for line in said if line.startswith("Get:") and "InRelease" not in line]
    assert [" openssh-server " in line for line in fetched] == [True], fetched
    assert [line for line in said if line.startswith("Building in memory")]
    assert ".nspawnpanel-" not in scratch.sandbox.read("/proc/1/mounts")


def test_debootstrap_makes_the_same_machine(scratch):
    recipe = DebianRecipe(release="bookworm", tool="debootstrap", packages=("less",))
    job = scratch.order(build("by-debootstrap", recipe))
    outcome = scratch.outcome(job, 400)
    assert outcome.state == "succeeded", (outcome.problem, scratch.lines(job)[-20:])
    assert any(line.startswith("less ") for line in outcome.result["packages"])
    assert "debootstrap" not in read(scratch, "by-debootstrap", "etc/apt/sources.list")


def test_an_unknown_package_fails_with_the_tools_own_line_and_leaves_nothing(scratch):
    job = scratch.order(build("unknown", DebianRecipe(release="bookworm", packages=("no-such-package-here",))))
    outcome = scratch.outcome(job, 120)
    assert (outcome.state, outcome.problem["code"]) == ("failed", "package-unknown")
    assert "no-such-package-here" in outcome.problem["message"]
    assert str(UUID(str(job))) not in scratch.sandbox.run(["ls", "-A", "/var/lib/machines"]).stdout


def test_a_base_is_discarded_and_its_machines_stay(scratch, first):
    assert scratch.do(orders.RemoveBase(base=first.result["base"]["id"]), 60).state == "succeeded"
    assert first.result["base"]["id"] not in scratch.sandbox.run(["ls", "-A", "/var/lib/machines"]).stdout
    assert read(scratch, "second", "etc/hostname").strip() == "second"
