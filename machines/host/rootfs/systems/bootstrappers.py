"""mmdebstrap(1), and debootstrap(8) where that is all there is or was chosen: their commands, and how to read them.

Facts: mmdebstrap --verbose prints everything on its error output; it installs in two rounds (essential packages, then
the rest), each announced by apt's "N newly installed" and followed by one "Get:", one "Unpacking" and one "Setting up"
line per package. An option file given by --aptopt stays in the image and is taken out again.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from machines.contract.apt_sources import KEYRING, UBUNTU_KEYRING, Source
from machines.contract.problems import Problem
from machines.host.system import tools
from machines.host.system.faults import CommandFailed, is_full, no_space

SCRIPTS = Path("/usr/share/debootstrap/scripts")
GENERAL = {"debian": "sid", "ubuntu": "gutsy"}  # the script of every release that debootstrap is too old to know
HOOKS = Path("/usr/share/mmdebstrap/hooks/file-mirror-automount")
MERGE_USR = 'for folder in bin sbin lib lib64; do mkdir -p "$1/usr/$folder" && ln -s "usr/$folder" "$1/$folder"; done'
APT_OPTIONS = "etc/apt/apt.conf.d/99mmdebstrap"  # where mmdebstrap leaves --aptopt in the tree


@dataclass(frozen=True)
class Plan:
    """What is to be installed, and how to reach it. `options` is a file of apt settings (proxy, certificates), `packages`
    a folder of packages fetched before, which may be added to, `lists` one of package lists; `keyring` "" trusts what the host's own apt trusts."""

    release: str
    variant: str
    include: Sequence[str]
    sources: Sequence[Source]
    more: Sequence[str] = ()  # lines of sources.list(5)
    keyring: str = ""
    options: Path | None = None
    packages: Path | None = None
    lists: Path | None = None
    distribution: str = "debian"
    merge_usr: bool = False  # make it so, where the packages do not


def tool(wanted: str = "") -> str:
    """The one that was chosen, else mmdebstrap, else debootstrap. Raises Problem tool-missing naming the package."""
    either = (wanted,) if wanted else ("mmdebstrap", "debootstrap")
    found = next((name for name in either if tools.which(name)), "")
    if not found:
        tools.refuse_without([either])
    return found


def keyring(distribution: str = "debian") -> str:
    """The distribution's own keyring where the host has it, else "": apt then trusts what the host trusts."""
    file = UBUNTU_KEYRING if distribution == "ubuntu" else KEYRING
    return file if Path(file).exists() else ""


def mmdebstrap(plan: Plan, tree: Path) -> list[str]:
    """The command. Packages fetched before are mounted where apt looks for them; the hooks are the tool's own way to do
    that, and hold nothing but a path of ours."""
    lines = [*(source.line(plan.keyring) for source in plan.sources), *plan.more]
    local = any(" file:" in line for line in lines)
    archives = '"$1"/var/cache/apt/archives'
    kept = [
        "--skip=essential/unlink",
        f"--setup-hook=mkdir -p {archives} && mount --bind {plan.packages} {archives}",
        f"--customize-hook=umount {archives}",
    ]  # fmt: skip
    return [
        "mmdebstrap",
        "--verbose",
        "--mode=root",
        "--format=directory",
        f"--variant={plan.variant}",
        f"--include={','.join(plan.include)}",
        *([f"--aptopt={plan.options}"] if plan.options else []),
        *([f"--hook-dir={HOOKS}"] if local and HOOKS.exists() else []),
        *([f"--setup-hook={MERGE_USR}"] if plan.merge_usr else []),
        *(kept if plan.packages else []),
        *([f'--setup-hook=cp --archive {plan.lists}/. "$1"/var/lib/apt/lists/'] if plan.lists else []),
        "--",
        plan.release,
        str(tree),
        *lines,
    ]


def debootstrap(plan: Plan, tree: Path) -> list[str]:
    """It takes one mirror only; the other sources are written into the tree afterwards. It knows no --, but a release
    begins with a letter (contract/recipes.py) and a tree with a slash."""
    return [
        "debootstrap",
        "--force-check-gpg",  # else it goes on without a word where it finds no keyring
        *(["--variant=minbase"] if plan.variant == "minbase" else []),
        f"--include={','.join(plan.include)}",
        f"--components={','.join(plan.sources[0].components)}",
        *([f"--keyring={plan.keyring}"] if plan.keyring else []),
        plan.release,
        str(tree),
        plan.sources[0].uri,
        *([] if (SCRIPTS / plan.release).exists() else [GENERAL[plan.distribution]]),
    ]


# --- reading what they print

_ROUND = re.compile(r"\d+ upgraded, (\d+) newly installed")
_DEBOOTSTRAP = re.compile(r"I: (Retrieving|Validating|Extracting|Unpacking|Configuring) (\S+)")
# What debootstrap says it does → (where in the whole that begins, its share)
_STAGES = {
    "Retrieving": (0.0, 0.3),
    "Validating": (0.0, 0.3),
    "Extracting": (0.3, 0.1),
    "Unpacking": (0.4, 0.2),
    "Configuring": (0.6, 0.39),
}


class Progress:
    """How far a step of an installation is, out of the lines of apt and dpkg, and when the second step begins: mmdebstrap's
    second round of packages. Feed it every line."""

    def __init__(self, progress: Callable[[float, str], None], enter: Callable[[str], None]) -> None:
        self._progress, self._enter = progress, enter
        self._rounds: list[int] = []
        self._got = self._unpacked = self._set_up = 0
        self._stages: dict[str, int] = {}
        self._reached = 0.0

    def line(self, text: str) -> None:
        """Take one line of output."""
        if match := _ROUND.search(text):
            self._rounds.append(max(1, int(match[1])))
            self._got = self._unpacked = self._set_up = 0
            if len(self._rounds) > 1:
                self._enter("packages")
        elif text.startswith("Get:") and self._rounds:
            self._got += 1
            self._say(f"{self._got} of {self._rounds[-1]} packages fetched")
        elif text.startswith("Unpacking "):
            self._unpacked += 1
            self._say(f"{self._unpacked} of {self._total()} packages unpacked")
        elif text.startswith("Setting up "):
            self._set_up += 1
            self._say(f"{self._set_up} of {self._total()} packages installed")
        elif match := _DEBOOTSTRAP.match(text):
            self._debootstrap(match[1], match[2].rstrip("."))

    def _debootstrap(self, doing: str, package: str) -> None:
        """debootstrap never says how many packages there are: each of its stages comes nearer to its end."""
        self._stages[doing] = self._stages.get(doing, 0) + 1
        first, share = _STAGES[doing]
        self._reached = max(self._reached, first + share * (1 - math.exp(-self._stages[doing] / 60)))
        self._progress(self._reached, f"{doing} {package}")

    def _total(self) -> int:
        return max(self._rounds[-1] if self._rounds else 1, self._set_up)

    def _say(self, note: str) -> None:
        total = self._total()
        within = 0.3 * self._got / total + 0.3 * self._unpacked / total + 0.4 * self._set_up / total
        self._progress(min(0.99, within), note)


_NO_PACKAGE = re.compile(
    r"E: (?:Unable to locate package|Package '|Couldn't find these debs:|Couldn't find any package .*?')\s*([a-z0-9][a-z0-9+.-]+)"
)
_NO_SUITE = re.compile(r"The repository '(\S+) (\S+) Release' does not have a Release file")
_WRONG_SUM = ("Hash Sum mismatch", "File has unexpected size", "Corrupted file", "was corrupt")
_UNREACHABLE = ("Could not resolve", "Could not connect", "Connection refused", "Connection timed out", "Unable to connect",
                "Network is unreachable", "Certificate verification failed", "Temporary failure resolving", "Connection failed")  # fmt: skip
_KEY = ("NO_PUBKEY", "EXPKEYSIG", "BADSIG", "REVKEYSIG", "is not signed.", "Release signed by unknown key", "Invalid Release signature",
        "Missing key ")  # fmt: skip


def explain(failed: CommandFailed, said: Sequence[str], tree: Path) -> Problem:
    """The failure of a bootstrap as what it really is, with apt's own line. `said` are its last lines."""
    text = "\n".join(said)
    own = next((line for line in said if line.startswith("E: ") and "mmdebstrap" not in line), "")
    if is_full(text):
        return no_space(str(tree.parent), text[-4000:])
    if match := _NO_PACKAGE.search(text):
        return Problem(
            f"There is no package {match[1]} in this release ({own.removeprefix('E: ')[:200]}).", code="package-unknown",
            hint="Check the spelling, or remove it from the recipe.", details=text[-4000:],
        )  # fmt: skip
    if found := _explain_archive(said, text):
        return found
    if any(words in text for words in _UNREACHABLE):
        return Problem(
            f"The mirror could not be reached: {own or failed.message}", code="mirror-unreachable", retryable=True,
            hint="Try again; if it persists, check the network, proxy and DNS of this host.", details=text[-4000:],
        )  # fmt: skip
    return Problem(
        f"{failed.argv[0]} failed: {own or failed.message}", code="bootstrap-failed", details=text[-4000:],
        hint="See the last lines of the log.",
    )  # fmt: skip


def _explain_archive(said: Sequence[str], text: str) -> Problem | None:
    """What is wrong with one of the archives, with the tool's own line, which names it; apt says more in its warning."""
    wrong = [line.strip() for line in said if any(words in line for words in _KEY)]
    line = next((line for line in wrong if "GPG error: " in line), wrong[0] if wrong else "")
    if line:
        line = line.removeprefix("E: ").partition("GPG error: ")[2] or line.removeprefix("E: ")
        return Problem(
            f"A repository is not signed by a known key: {line[:300]}", code="key-unknown",
            hint="Check its URL and the key given in the recipe; for the distribution's own repository, update its keyring on this host.",
            details=text[-4000:],
        )  # fmt: skip
    if match := _NO_SUITE.search(text):
        return Problem(
            f"{match[1]} has no suite “{match[2]}”.", code="release-unknown", details=text[-4000:],
            hint="Check the URL and the suite of that repository in the recipe.",
        )  # fmt: skip
    wrong = [line.strip() for line in said if any(words in line for words in _WRONG_SUM)]
    if line := next((line for line in wrong if "Failed to fetch " in line), wrong[0] if wrong else ""):
        line = line.removeprefix("E: ").removeprefix("W: ").removeprefix("Failed to fetch ")
        return Problem(
            f"A file does not match the repository's signed index: {line[:300]}", code="checksum-wrong", retryable=True,
            hint="Nothing of it was used. Try again; if it persists, the mirror or a proxy in between has damaged or outdated files: choose another mirror.",
            details=text[-4000:],
        )  # fmt: skip
    return None
