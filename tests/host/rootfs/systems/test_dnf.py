"""dnf's and rpm's words as they were recorded, and what is asked of them. The real tools run in tests/live."""

from pathlib import Path

import pytest

from machines.contract.problems import Problem
from machines.contract.recipes import DnfRecipe, FirstBoot
from machines.host.rootfs.systems import dnf, rpms
from machines.host.system.faults import CommandFailed, NoSpace

FOUR = """\
Last metadata expiration check: 0:00:01 ago on Sun Nov 22 21:28:50 2026.
Dependencies resolved.
Downloading Packages:
(1/2): hello-2.0-3.noarch.rpm                   1.0 MB/s | 6.0 kB     00:00
(2/2): tiny-system-1-1.x86_64.rpm                46 MB/s |  41 MB     00:00
Running transaction check
Transaction check succeeded.
Running transaction test
Transaction test succeeded.
Running transaction
  Preparing        :                                                        1/1
  Installing       : hello-2.0-3.noarch                                     1/2
  Installing       : tiny-system-1-1.x86_64                                 2/2
  Running scriptlet: tiny-system-1-1.x86_64                                 2/2
  Verifying        : hello-2.0-3.noarch                                     1/2
Complete!
"""
FIVE = """\
Updating and loading repositories:
 tiny                                   100% |   1.3 MiB/s |  12.2 KiB |  00m00s
Repositories loaded.
Package      Arch   Version Repository      Size
Installing:
 tiny-system x86_64 0:1-1   tiny        96.1 MiB
Installing group/module packages:
 farewell    noarch 0:2.0-3 tiny         9.0   B
Installing groups:
 Words

Transaction Summary:
 Installing:         2 packages

Total size of inbound packages is 41 MiB. Need to download 41 MiB.
After this operation, 96 MiB extra will be used (install 96 MiB, remove 0 B).
[1/2] farewell-0:2.0-3.noarch           100% |   2.0 MiB/s |   6.3 KiB |  00m00s
[2/2] tiny-system-0:1-1.x86_64          100% | 439.9 MiB/s |  41.4 MiB |  00m00s
--------------------------------------------------------------------------------
[2/2] Total                             100% | 440.1 MiB/s |  41.4 MiB |  00m00s
Running transaction
Importing OpenPGP key 0x3D3C6BE7:
 UserID     : "tiny <tiny@example.invalid>"
The key was successfully imported.
[1/4] Verify package files              100% |   7.0   B/s |   2.0   B |  00m01s
[2/4] Prepare transaction               100% | 210.0   B/s |   2.0   B |  00m00s
[3/4] Installing farewell-0:2.0-3.noarc 100% |  19.5 KiB/s | 100.0   B |  00m00s
[4/4] Installing tiny-system-0:1-1.x86_ 100% | 166.0   B/s | 100.0   B |  00m01s
Complete!
"""


@pytest.mark.parametrize("text", [FOUR, FIVE], ids=["dnf 4", "dnf 5"])
def test_progress_counts_packages_and_says_when_the_second_part_begins(text):
    told: list[tuple[float, str]] = []
    phases: list[str] = []
    progress = dnf.DnfProgress(lambda fraction, note: told.append((fraction, note)), phases.append)
    for line in text.splitlines():
        progress.line(line)
    assert phases == ["packages"]
    notes = [note for _, note in told]
    assert list(dict.fromkeys(notes)) == [
        f"{n} of 2 packages {done}" for done in ("fetched", "installed") for n in (1, 2)
    ]
    assert told[-1][0] == 0.99


def failure(*said: str) -> Problem:
    return rpms.explain(CommandFailed(["dnf"], 1, said[-1]), said, Path("/var/lib/machines/.new"))


@pytest.mark.parametrize(
    ("said", "code", "name"),
    [
        (["No match for argument: hullo", "Error: Unable to find a match: hullo"], "package-unknown", "hullo"),
        (["Failed to resolve the transaction:", "No match for argument: lib-x.y+z"], "package-unknown", "lib-x.y+z"),
        (["Module or Group 'wurds' is not available.", "Error: Nothing to do."], "package-unknown", "wurds"),
        (["'hullo' not found in package names. Trying capabilities.", "No provider of 'hullo' found."], "package-unknown", "hullo"),
        (["Package 'hullo' not found."], "package-unknown", "hullo"),
        (["  - nothing provides nowhere needed by broken-2.0-3.noarch"], "package-unknown", "nowhere"),
        (["Problem: nothing provides 'nowhere' needed by the to be installed broken-2.0-3.noarch"], "package-unknown", "nowhere"),
        (["Package hello-2.0-3.noarch.rpm is not signed", "Error: GPG check FAILED"], "key-unknown", ""),
        (['OpenPGP check for package "hello-2.0-3.noarch" (/x.rpm) from repo "tiny" has failed: The package is not signed.'],
         "key-unknown", "hello"),
        (["Transaction failed: Signature verification failed.",
          'OpenPGP check for package "hello-2.0-3.noarch" (/x.rpm) from repo "tiny" has failed: Import of the key didn\'t help, wrong key?'],
         "key-unknown", "hello"),
        (["Errors during downloading metadata for repository 'tiny':",
          "  - Curl error (7): Couldn't connect to server for http://a.example/repodata/repomd.xml",
          "Error: Failed to download metadata for repo 'tiny': Cannot download repomd.xml"], "mirror-unreachable", "tiny"),
        (["  - Status code: 404 for http://a.example/x/repodata/repomd.xml (IP: 127.0.0.1)",
          "Error: Failed to download metadata for repo 'tiny': Cannot download repomd.xml"], "release-unknown", "tiny"),
        ([">>> Curl error (7): Could not connect to server for http://a.example/x [Failed to connect to a.example:80] - http://a.example/x",
          ">>> Usable URL not found",
          'Failed to download metadata (baseurl: "http://a.example/x") for repository "tiny": Usable URL not found'],
         "mirror-unreachable", "tiny"),
        ([">>> Status code: 404 for http://a.example/x (IP: 127.0.0.1) - http://a.example/x", ">>> Usable URL not found",
          'Failed to download metadata (baseurl: "http://a.example/x") for repository "tiny": Usable URL not found'],
         "release-unknown", "tiny"),
        ([">>> Curl error (37): Could not read a file:// file for file:///x [Could not open file /x] - file:///x",
          'Failed to download metadata (baseurl: "file:///x") for repository "tiny": Usable URL not found'], "release-unknown", "tiny"),
        (["Problem retrieving files from 'tiny'.", "Error code: Connection failed",
          "Error message: Failed to connect to 127.0.0.1 port 9 after 404 ms: Couldn't connect to server"], "mirror-unreachable", "tiny"),
        (["Repository 'tiny' is invalid.", "[tiny|http://a.example/x] Valid metadata not found at specified URL"], "release-unknown", "tiny"),
        (["Problem retrieving files from 'tiny'.", "File '/repodata/repomd.xml' not found on medium 'http://a.example/x'"],
         "release-unknown", "tiny"),
        (["Error: Transaction test error:", "Disk Requirements:", "   At least 41MB more space needed on the / filesystem."], "no-space", ""),
    ],
)  # fmt: skip
def test_a_failure_is_told_for_what_it_is_with_the_tools_own_line(said, code, name):
    problem = failure(*said)
    assert problem.code == code
    assert name in problem.message
    assert said[-1] in problem.details


def test_a_group_is_called_one_though_dnf_5_leaves_its_sign_out():
    failed = CommandFailed(["dnf5", "install", "hello", "@wurds"], 1, "")
    problem = rpms.explain(failed, ["No match for argument: wurds"], Path("/var/lib/machines/.new"))
    assert problem.message == "There is no group wurds in these repositories."


def test_a_full_disk_is_a_full_disk():
    assert isinstance(
        failure("error: unpacking of archive failed: cpio: write failed - No space left on device"), NoSpace
    )


def test_a_tool_that_crashes_is_not_the_recipes_fault():
    problem = rpms.explain(CommandFailed(["dnf"], -11, ""), ["Metadata cache created."], Path("/var/lib/machines/.new"))
    assert "crashed" in problem.message
    assert "groups" in problem.hint


def test_the_summary_of_a_transaction_is_no_unknown_package():
    assert (
        failure("Install  2 Packages", "Downloading Packages:", "Error: Transaction failed").code == "bootstrap-failed"
    )


def test_what_the_first_boot_needs_is_installed_too():
    recipe = DnfRecipe(release="43", packages=("vim-minimal", "systemd"))
    answers = FirstBoot(locale="de_DE.UTF-8", timezone="Europe/Berlin", user="ada")
    wanted = dnf.packages_for(recipe, answers)
    assert {"glibc-langpack-de", "tzdata", "sudo", "vim-minimal", "systemd-networkd"} <= set(wanted)
    assert len(wanted) == len(set(wanted))
    assert "NetworkManager" in dnf.packages_for(DnfRecipe(distribution="rocky", release="9"), FirstBoot())


@pytest.mark.parametrize(
    ("distribution", "release", "place"),
    [
        ("fedora", "43", rpms.NEW_PLACE),
        ("fedora", "rawhide", rpms.NEW_PLACE),
        ("centos", "10-stream", rpms.NEW_PLACE),
        ("almalinux", "9.6", rpms.OLD_PLACE),
        ("centos", "9-stream", rpms.OLD_PLACE),
    ],
)
def test_the_database_lies_where_the_release_looks_for_it(distribution, release, place):
    assert dnf.database(DnfRecipe(distribution=distribution, release=release)).path == place


def test_a_release_whose_database_nobody_writes_is_refused():
    with pytest.raises(Problem) as caught:
        dnf.database(DnfRecipe(distribution="rocky", release="8"))
    assert caught.value.code == "release-unknown"
