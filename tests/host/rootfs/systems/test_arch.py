"""pacman's and zypper's words as they were recorded, and what is asked of them. The real tools run in tests/live."""

from pathlib import Path

import pytest

from machines.contract.problems import Problem
from machines.contract.recipes import ArchRecipe, FirstBoot
from machines.host.rootfs.systems import arch, suse
from machines.host.system.faults import CommandFailed

SAID = """\
==> Creating install root at /srv/tree
:: Synchronizing package databases...
 core downloading...
resolving dependencies...
Packages (3) greeting-2.0-3  base-2.0-3  hello-2.0-3
:: Retrieving packages...
 base-2.0-3-any downloading...
 hello-2.0-3-any downloading...
 greeting-2.0-3-any downloading...
checking keyring...
installing base...
installing greeting...
installing hello...
"""
ZYPPER = """\
3 new packages to install.
Retrieving package greeting-1-1.noarch (1/3),   5.8 KiB (    0   B unpacked)
Retrieving: tiny-system-1-1.x86_64 (tiny) (2/3),  41.1 MiB
(1/3) Installing: greeting-1-1.noarch [....done]
(3/3) Installing: hello-2.0-3.noarch [.....done]
"""


@pytest.mark.parametrize(
    ("make", "text", "fetched"), [(arch.PacstrapProgress, SAID, "3 of 3 packages fetched"), (suse.ZypperProgress, ZYPPER, "2 of 3 packages fetched")]
)  # fmt: skip
def test_progress_counts_packages_and_says_when_the_second_part_begins(make, text, fetched):
    told: list[tuple[float, str]] = []
    phases: list[str] = []
    progress = make(lambda fraction, note: told.append((fraction, note)), phases.append)
    for line in text.splitlines():
        progress.line(line)
    assert set(phases) == {"packages"}
    assert fetched in [note for _, note in told]
    assert told[-1] == (0.99, "3 of 3 packages installed")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("error: target not found: hullo", "package-unknown"),
        ("error: failed retrieving file 'core.db' from a.example : Could not resolve host: a.example", "mirror-unreachable"),
        ("error: failed retrieving file 'core.db' from a.example : The requested URL returned error: 404", "release-unknown"),
        ("error: failed retrieving file 'hello.pkg.tar.zst.sig' from a.example : The requested URL returned error: 404", "key-unknown"),
        ('error: base: signature from "Ada" is unknown trust', "key-unknown"),
        ("error: base: missing required signature", "key-unknown"),
        ("error: Partition / too full: 1000 blocks needed, 10 blocks free", "no-space"),
        ("error: failed to commit transaction (conflicting files)", "bootstrap-failed"),
    ],
)  # fmt: skip
def test_a_failure_is_told_for_what_it_is_with_the_tools_own_line(said, code):
    problem = arch.explain(CommandFailed(["pacstrap"], 1, said), [said], Path("/var/lib/machines/.new"))
    assert problem.code == code
    assert said in problem.details


def test_a_mirror_is_taken_with_or_without_the_place_of_its_repositories(tmp_path, monkeypatch):
    whole = ["https://a.example/arch/$repo/os/$arch"]
    assert arch.servers_for(ArchRecipe(mirror="https://a.example/arch/")) == whole
    assert arch.servers_for(ArchRecipe(mirror=whole[0])) == whole
    monkeypatch.setattr(arch, "HOST_MIRRORS", tmp_path / "mirrorlist")
    with pytest.raises(Problem) as caught:
        arch.servers_for(ArchRecipe())
    assert caught.value.code == "mirror-unknown"
    (tmp_path / "mirrorlist").write_text(f"# Server = https://no.example\nServer = {whole[0]}\n")
    assert arch.servers_for(ArchRecipe()) == whole


def test_what_is_installed_is_read_from_pacmans_database(tmp_path):
    folder = tmp_path / arch.LOCAL / "hello-2.0-3"
    folder.mkdir(parents=True)
    (folder / "desc").write_text("%NAME%\nhello\n\n%VERSION%\n2.0-3\n\n%BASE%\nhello\n")
    (tmp_path / arch.LOCAL / "ALPM_DB_VERSION").write_text("9\n")
    assert arch.installed(tmp_path) == ["hello 2.0-3"]


def test_the_hosts_own_repositories_are_checked_whatever_the_host_does():
    text = (
        "[oss]\nname=oss\nbaseurl=https://a.example\ngpgcheck=0\n[more]\nrepo_gpgcheck = 0\npkg_gpgcheck=0\nbaseurl=x\n"
    )
    checks = "gpgcheck=1\npkg_gpgcheck=1\n"
    assert suse.checked(text) == f"[oss]\n{checks}name=oss\nbaseurl=https://a.example\n[more]\n{checks}baseurl=x\n"


def test_groups_have_each_tools_own_way_of_writing():
    answers = FirstBoot(user="ada")
    assert arch.packages_for(ArchRecipe(packages=("@base-devel",)), answers) == ["base", "sudo", "base-devel"]
    leap = suse.packages_for(suse.SuseRecipe(release="15.6", packages=("@devel_basis",)), answers)
    assert {"pattern:devel_basis", "sudo", "systemd-network", "openSUSE-release"} <= set(leap)
    assert "NetworkManager" in suse.packages_for(suse.SuseRecipe(release="16.0"), FirstBoot())
    assert "systemd-network" in suse.packages_for(suse.SuseRecipe(release="tumbleweed"), FirstBoot())
