"""The commands of a Debian build, and how their output reads."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from machines.contract.apt_sources import Source
from machines.contract.problems import Problem
from machines.contract.recipes import DebianRecipe, FirstBoot
from machines.host.rootfs.systems import bootstrappers, debian
from machines.host.rootfs.systems.bootstrappers import Plan
from machines.host.system.faults import CommandFailed
from machines.host.system.run import run

MAIN = Source("http://m/debian", "bookworm", ("main",))
TREE = Path("/var/lib/machines/.x.tmp")


def test_mmdebstrap_gets_every_operand_after_the_dashes(tmp_path):
    plan = Plan("bookworm", "minbase", ["systemd", "dbus"], [MAIN], more=["deb [signed-by=/k] http://x y z"],
                keyring="/ring", options=tmp_path / "apt.conf", packages=tmp_path, lists=tmp_path / "lists")  # fmt: skip
    argv = bootstrappers.mmdebstrap(plan, TREE)
    after = argv[argv.index("--") + 1 :]
    assert after[:2] == ["bookworm", str(TREE)]
    assert after[2:] == ["deb [signed-by=/ring] http://m/debian bookworm main", "deb [signed-by=/k] http://x y z"]
    assert any(f"mount --bind {tmp_path}" in word for word in argv)
    assert f"""--setup-hook=cp --archive {tmp_path}/lists/. "$1"/var/lib/apt/lists/""" in argv
    assert "--include=systemd,dbus" in argv
    assert f"--aptopt={tmp_path}/apt.conf" in argv


def test_an_old_release_gets_the_merged_usr_its_packages_do_not_bring(tmp_path):
    hooks = {
        merge: [
            word.removeprefix("--setup-hook=")
            for word in bootstrappers.mmdebstrap(Plan("x", "minbase", [], [MAIN], merge_usr=merge), TREE)
            if word.startswith("--setup-hook=")
        ]
        for merge in (True, False)
    }
    assert hooks[False] == []
    run(["sh", "-euc", *hooks[True], "sh", str(tmp_path)])
    assert {name: str((tmp_path / name).readlink()) for name in ("bin", "lib")} == {"bin": "usr/bin", "lib": "usr/lib"}
    assert (tmp_path / "lib").is_dir()
    assert "bullseye" in debian.OLD
    assert "bookworm" not in debian.OLD


def test_debootstrap_takes_one_mirror(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrappers, "SCRIPTS", tmp_path)
    (tmp_path / "bookworm").touch()
    argv = bootstrappers.debootstrap(Plan("bookworm", "minbase", ["systemd"], [MAIN]), TREE)
    assert argv[-3:] == ["bookworm", str(TREE), "http://m/debian"]
    assert "--" not in argv, "it does not know it"


def test_debootstrap_checks_signatures_also_without_a_keyring_of_ours():
    assert "--force-check-gpg" in bootstrappers.debootstrap(Plan("bookworm", "minbase", [], [MAIN]), TREE)


@pytest.mark.parametrize(("distribution", "script"), [("debian", "sid"), ("ubuntu", "gutsy")])
def test_a_release_debootstrap_is_too_old_for_is_built_by_its_distributions_general_script(
    tmp_path, monkeypatch, distribution, script
):
    monkeypatch.setattr(bootstrappers, "SCRIPTS", tmp_path)
    plan = Plan("newest", "minbase", ["systemd"], [MAIN], distribution=distribution)
    assert bootstrappers.debootstrap(plan, TREE)[-2:] == ["http://m/debian", script]


def test_a_mirror_without_updates_gives_its_lists_for_what_it_has(monkeypatch, tmp_path):
    """Without lists nothing is taken from the cache."""
    monkeypatch.setattr(debian.bootstrappers, "tool", lambda _: "mmdebstrap")
    monkeypatch.setattr(debian.bootstrappers, "keyring", lambda _: "/ring")
    monkeypatch.setattr(debian, "_apt_options", lambda _: None)
    monkeypatch.setattr(debian, "_lists", lambda _, sources: tmp_path if len(sources) == 1 else None)
    monkeypatch.setattr(debian, "check_mirror", lambda *_, needed: needed)
    recipe, output = DebianRecipe(release="bookworm", mirror="http://m/debian"), SimpleNamespace(line=lambda _: None)
    building = SimpleNamespace(recipe=recipe, task=SimpleNamespace(output=output), state=None)
    debian.prepare(building)
    assert (building.state.sources, building.state.lists) == ([MAIN], tmp_path)


@pytest.mark.parametrize(
    ("release", "first_boot", "mirror", "has", "lacks"),
    [
        ("bookworm", FirstBoot(), "http", {"systemd-resolved"}, {"ca-certificates", "locales", "tzdata"}),
        ("bullseye", FirstBoot(), "https", {"ca-certificates"}, {"systemd-resolved"}),
        ("jammy", FirstBoot(), "http", {"systemd", "dbus"}, {"systemd-resolved"}),
        ("noble", FirstBoot(), "http", {"systemd-resolved"}, set()),
        ("trixie", FirstBoot(locale="de_DE.UTF-8", timezone="Europe/Berlin"), "http", {"locales", "tzdata"}, set()),
    ],
)
def test_packages_are_what_a_machine_needs(release, first_boot, mirror, has, lacks):
    wanted = debian.packages_for(
        DebianRecipe(release=release, packages=("nginx", "dbus")),
        first_boot,
        [Source(f"{mirror}://m/d", release, ("main",))],
    )
    assert {"systemd", "dbus", "nginx"} | has <= set(wanted)
    assert not lacks & set(wanted)
    assert len(wanted) == len(set(wanted))


def test_progress_never_goes_back():
    seen: list[tuple[int, float, str]] = []
    entered: list[str] = []
    progress = bootstrappers.Progress(lambda *said: seen.append((len(entered), *said)), entered.append)
    for text in [
        "Get:1 http://m InRelease [1 kB]",
        "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
        "Get:1 http://m a", "Get:2 http://m b", "Unpacking a (1) ...", "Setting up a (1) ...", "Unpacking b (1) ...", "Setting up b (1) ...",
        "0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.",
        "Get:1 http://m c", "Unpacking c (1) ...", "Setting up c (1) ...",
    ]:  # fmt: skip
        progress.line(text)
    steps = [(step, fraction) for step, fraction, _ in seen]
    assert steps == sorted(steps)
    assert steps[-1] == (1, pytest.approx(0.99))
    assert (entered, seen[-1][2]) == (["packages"], "1 of 1 packages installed")


def test_debootstrap_s_progress_never_goes_back_and_never_ends_early():
    seen: list[float] = []
    progress = bootstrappers.Progress(lambda fraction, _: seen.append(fraction), print)
    for doing in (
        "Retrieving",
        "Validating",
        "Retrieving",
        "Extracting",
        "Unpacking",
        "Configuring",
        "Unpacking",
        "Configuring",
    ):
        for number in range(100):
            progress.line(f"I: {doing} package{number}...")
    assert seen == sorted(seen)
    assert 0.9 < seen[-1] < 1


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("E: Unable to locate package nosuch-x", "package-unknown", "nosuch-x"),
        ("E: Couldn't find these debs: nosuch-y", "package-unknown", "nosuch-y"),
        ("E: Package 'nosuch-z' has no installation candidate", "package-unknown", "nosuch-z"),
        ("tar: x: Cannot write: No space left on device", "no-space", "no space left"),
        (
            "E: Failed to fetch http://m/x  Could not connect to m:80 (1.2.3.4)",
            "mirror-unreachable",
            "could not be reached",
        ),
        ("E: The repository 'http://m/debian sid InRelease' is not signed.", "key-unknown", "The repository 'http"),
        ("E: Release signed by unknown key (key id 4BBBB0C3E662E43C)", "key-unknown", "4BBBB0C3E662E43C"),
        (
            "E: The repository 'http://m nothere Release' does not have a Release file.",
            "release-unknown",
            "no suite “nothere”",
        ),
        (
            "E: Failed to fetch http://m/tiny.deb  Hash Sum mismatch",
            "checksum-wrong",
            "http://m/tiny.deb  Hash Sum mismatch",
        ),
        (
            "E: Failed to fetch http://m/Packages  File has unexpected size (188 != 181). Mirror sync in progress?",
            "checksum-wrong",
            "unexpected size",
        ),
        ("E: something else", "bootstrap-failed", "something else"),
    ],
)
def test_failures_are_told_as_what_they_are(said, code, words):
    found = bootstrappers.explain(CommandFailed(["mmdebstrap"], 25, said), [said, "E: mmdebstrap failed to run"], TREE)
    assert found.code == code
    assert words in found.message
    assert said in found.details


def test_an_archive_with_an_unknown_key_is_named():
    said = [
        "Err:2 http://m x InRelease", "  The following signatures couldn't be verified: NO_PUBKEY 2885A77E4F9AA359",
        "W: GPG error: http://m x InRelease: The following signatures couldn't be verified: NO_PUBKEY 2885A77E4F9AA359",
        "E: The repository 'http://m x InRelease' is not signed.",
    ]  # fmt: skip
    found = bootstrappers.explain(CommandFailed(["mmdebstrap"], 25, ""), said, TREE)
    assert found.message.endswith("known key: http://m x InRelease: " + said[1].strip())


def test_a_file_with_a_wrong_sum_is_named():
    said = [
        "Err:1 http://m x/main amd64 tiny 1",
        "  Hash Sum mismatch",
        "E: Failed to fetch http://m/tiny.deb  Hash Sum mismatch",
    ]
    found = bootstrappers.explain(CommandFailed(["mmdebstrap"], 25, ""), said, TREE)
    assert found.message == "A file does not match the repository's signed index: http://m/tiny.deb  Hash Sum mismatch"


def test_the_tool_s_own_line_is_in_the_words_for_an_unknown_package():
    said = ["E: Unable to locate package nosuch", "E: mmdebstrap failed to run"]
    found = bootstrappers.explain(CommandFailed(["mmdebstrap"], 25, ""), said, TREE)
    assert found.message == "There is no package nosuch in this release (Unable to locate package nosuch)."


def test_a_missing_tool_names_its_package(monkeypatch, tmp_path):
    monkeypatch.setenv("NSPAWNPANEL_PATH", str(tmp_path))
    with pytest.raises(Problem) as caught:
        bootstrappers.tool()
    assert "apt install mmdebstrap" in caught.value.hint


@pytest.mark.parametrize(
    ("wanted", "host", "package"),
    [("ubuntu", "debian", "ubuntu-keyring"), ("debian", "ubuntu", "debian-archive-keyring")],
)
def test_another_distribution_s_missing_keys_are_named_with_their_package(monkeypatch, wanted, host, package):
    monkeypatch.setattr(debian.platform, "freedesktop_os_release", lambda: {"ID": host, "ID_LIKE": "debian"})
    with pytest.raises(Problem) as caught:
        debian._check_keyring(DebianRecipe(distribution=wanted, release="sid"), "")
    assert (caught.value.code, package in caught.value.hint) == ("key-unknown", True)


def test_without_any_mirror_it_says_so(monkeypatch):
    monkeypatch.setattr(debian.apt_sources, "read", list)
    with pytest.raises(Problem) as caught:
        debian.sources_for(DebianRecipe(release="sid"))
    assert caught.value.code == "mirror-unknown"
    assert debian.sources_for(DebianRecipe(release="sid", mirror="http://m/debian/"))[0].uri == "http://m/debian"
