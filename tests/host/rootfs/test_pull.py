"""The puller's command and words; the words are those of systemd 252 and 257."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from machines.contract.recipes import PullRecipe
from machines.host.policy.policy import Policy
from machines.host.rootfs import pull
from machines.host.rootfs.steps.building import Building
from machines.host.system.faults import CommandFailed, NoSpace

GIB = 1024**3

URL = "http://images.example/a.tar.gz"
RECIPE = PullRecipe(url=URL)
FETCHED = [f"Downloading 5.0M for {URL}.", f"Download of {URL} complete."]
SUM = "d3df4fb785e50e01b416241d2184513b8f401d6a7a408b77e58ba9d097b4f1c5"


@pytest.mark.parametrize(
    ("recipe", "verify"),
    [
        (RECIPE, "--verify=signature"),
        (PullRecipe(url=URL, verify="sha256", sha256=SUM), f"--verify={SUM}"),
        (PullRecipe(url=URL, verify="none"), "--verify=no"),
    ],
)
def test_verification_is_on_unless_it_was_asked_not_to_be(recipe: PullRecipe, verify: str) -> None:
    argv = pull.command(recipe, Path("/pool/.x.part"), 1000)
    assert verify in argv
    assert argv[-3:] == ["--", URL, "/pool/.x.part"]
    assert "--settings=no" in argv
    assert "--size-max=1000" in argv


def test_it_hears_how_far_the_pull_is_and_what_the_sum_was() -> None:
    lines: list[str] = []
    progress: list[tuple[float, str]] = []
    heard = pull.Heard(URL, lambda text, _: lines.append(text), lambda done, note: progress.append((done, note)))
    for text in (
        f"Downloading 5.0M for {URL}.", "> GET /a.tar.gz HTTP/1.1", "Host: images.example", f"Got 30% of {URL}.",
        f"Got 61% of {URL}. 4s left at 1.2M/s.", f"SHA256 of {URL} is {SUM}.", "* Closing connection 0",
    ):  # fmt: skip
        heard.line("e", text)
    assert progress == [(0.3, "30 % of 5.0M fetched"), (0.61, "61 % of 5.0M fetched, 1.2M/s")]
    assert heard.sum == SUM
    assert lines == [f"Downloading 5.0M for {URL}."]


FAILURES = {
    "image-not-found": ([f"HTTP request to {URL} failed with code 404.", "Failed to retrieve image file."], "no such file"),
    "image-unreachable": (["Transfer failed: Couldn't connect to server", "Failed to retrieve image file."], "connect"),
    "signature-missing": (
        [
            "HTTP request to http://images.example/SHA256SUMS.gpg failed with code 404.", *FETCHED,
            "Failed to retrieve signature file, cannot verify. (Try --verify=no?)",
        ],
        "http://images.example/SHA256SUMS.gpg is missing",
    ),
    "sums-missing": (
        [
            *FETCHED, "HTTP request to http://images.example/SHA256SUMS failed with code 404.",
            "Failed to retrieve SHA256 checksum, cannot verify. (Try --verify=no?)",
        ],
        "http://images.example/SHA256SUMS is missing",
    ),
    "key-unknown": (
        [
            *FETCHED, f"SHA256 checksum of {URL} is valid.", "gpg: Signature made Sun Nov 22 21:11:48 2026 UTC",
            "gpg:                using EDDSA key 4FBE8F02989DC384C74C40B267EA3A2B818B05BC",
            "gpg: Can't check signature: No public key", "DOWNLOAD INVALID: Signature verification failed.",
        ],
        "4FBE8F02989DC384C74C40B267EA3A2B818B05BC",
    ),
    "signature-wrong": (
        [*FETCHED, "gpg: BAD signature from “x”", "DOWNLOAD INVALID: Signature verification failed."],
        "signature",
    ),
    "checksum-wrong": (
        [*FETCHED, f"DOWNLOAD INVALID: Checksum of {URL} file did not check out, file has been tampered with."],
        "SHA-256",
    ),
    "archive-too-large": ([FETCHED[0], "File overly large, refusing.", "Failed to retrieve image file."], "50 GiB"),
    "no-space": ([FETCHED[0], "Failed to write file: No space left on device"], "no space"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "case"), FAILURES.items(), ids=FAILURES.keys())
def test_a_failure_is_told_as_what_it_is(code: str, case: tuple[list[str], str]) -> None:
    lines, words = case
    problem = pull.explain(CommandFailed(["systemd-pull"], 1, lines[-1]), lines, RECIPE, 50)
    assert problem.code == code
    assert words in problem.message


def test_an_unknown_key_is_told_with_the_keyring_it_would_belong_into() -> None:
    lines, _ = FAILURES["key-unknown"]
    problem = pull.explain(CommandFailed(["systemd-pull"], 1, ""), lines, RECIPE, 50)
    assert "/etc/systemd/import-pubring.gpg" in problem.hint


def test_a_server_that_is_away_is_told_with_the_door_s_own_words() -> None:
    """The puller hears a 502 from the door, which no server has sent."""
    said = [f"HTTP request to {URL} failed with code 502.", "Failed to retrieve SHA256 checksum, cannot verify."]
    away = ["images.example, port 80: Name or service not known"]
    problem = pull.explain(CommandFailed(["systemd-pull"], 1, ""), said, RECIPE, 50, away)
    assert (problem.code, problem.retryable) == ("image-unreachable", True)
    assert problem.message == f"The image could not be downloaded: {away[0]}."


def test_a_pull_leaves_room_for_the_machines_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    building = cast(Building, SimpleNamespace(
        host=SimpleNamespace(policy=Policy(max_archive_gib=5), paths=SimpleNamespace(machines=tmp_path))
    ))  # fmt: skip
    free = 100 * GIB
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert pull._limit(building) == 5 * GIB
    free = 3 * GIB
    assert pull._limit(building) == 2 * GIB
    free = GIB // 2
    with pytest.raises(NoSpace):
        pull._limit(building)
