"""mmdebstrap(1), and debootstrap(8) where that is all there is or was chosen: their commands, and how to read them.

Facts: mmdebstrap --verbose prints everything on its error output; it installs in two rounds (essential packages, then
the rest), each announced by apt's "N newly installed" and followed by one "Get:", one "Unpacking" and one "Setting up"
line per package. An option file given by --aptopt stays in the image and is taken out again.
"""

import math
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from machines.contract.apt_sources import KEYRING, Source
from machines.contract.problems import Problem
from machines.host.faults import CommandFailed, is_full, no_space
from machines.host.run import environment

HOOKS = Path("/usr/share/mmdebstrap/hooks/file-mirror-automount")
APT_OPTIONS = "etc/apt/apt.conf.d/99mmdebstrap"  # where mmdebstrap leaves --aptopt in the tree


def tool() -> str:
    """mmdebstrap, else debootstrap. Raises Problem tool-missing naming the package."""
    for name in ("mmdebstrap", "debootstrap"):
        if shutil.which(name, path=environment()["PATH"]):
            return name
    raise Problem(
        "Neither mmdebstrap nor debootstrap is installed on this host.", code="tool-missing",
        hint="Install it there: apt install mmdebstrap",
    )  # fmt: skip


def keyring() -> str:
    """Debian's own keyring where the host has it, else "": apt then trusts what the host trusts."""
    return KEYRING if Path(KEYRING).exists() else ""


def mmdebstrap(
    release: str, tree: Path, include: Sequence[str], sources: Sequence[Source], options: Path | None
) -> list[str]:
    """The command. `options` is a file of apt settings for reaching the mirror."""
    local = any(source.uri.startswith("file:") for source in sources)
    return [
        "mmdebstrap",
        "--verbose",
        "--mode=root",
        "--format=directory",
        "--variant=minbase",
        f"--include={','.join(include)}",
        *([f"--aptopt={options}"] if options else []),
        *([f"--hook-dir={HOOKS}"] if local and HOOKS.exists() else []),
        "--",
        release,
        str(tree),
        *(source.line(keyring()) for source in sources),
    ]


def debootstrap(release: str, tree: Path, include: Sequence[str], sources: Sequence[Source]) -> list[str]:
    """It takes one mirror only; the other sources are written into the tree afterwards. It knows no --, but a release
    begins with a letter (contract/recipes.py) and a tree with a slash."""
    return [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(include)}",
        *([f"--keyring={keyring()}"] if keyring() else []),
        release,
        str(tree),
        sources[0].uri,
    ]


def sources_list(sources: Sequence[Source]) -> str:
    """/etc/apt/sources.list of the tree."""
    return "".join(f"{source.line(keyring())}\n" for source in sources)


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
ESSENTIAL_SHARE = 0.6  # of the whole, by time


class Progress:
    """How far an installation is, out of the lines of apt and dpkg. Feed it every line."""

    def __init__(self, progress: Callable[[float, str], None]) -> None:
        self._progress = progress
        self._rounds: list[int] = []
        self._got = self._unpacked = self._set_up = 0
        self._stages: dict[str, int] = {}
        self._reached = 0.0

    def line(self, text: str) -> None:
        """Take one line of output."""
        if match := _ROUND.search(text):
            self._rounds.append(max(1, int(match[1])))
            self._got = self._unpacked = self._set_up = 0
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
        first, share = (0.0, ESSENTIAL_SHARE) if len(self._rounds) < 2 else (ESSENTIAL_SHARE, 1 - ESSENTIAL_SHARE)
        self._progress(min(0.99, first + share * min(1.0, within)), note)


_NO_PACKAGE = re.compile(
    r"E: (?:Unable to locate package|Package '|Couldn't find these debs:|Couldn't find any package .*?')\s*([a-z0-9][a-z0-9+.-]+)"
)
_UNREACHABLE = ("Could not resolve", "Could not connect", "Connection refused", "Connection timed out", "Unable to connect",
                "Network is unreachable", "Certificate verification failed", "Temporary failure resolving", "Connection failed")  # fmt: skip


def explain(failed: CommandFailed, said: Sequence[str], tree: Path) -> Problem:
    """The failure of a bootstrap as what it really is, with apt's own line. `said` are its last lines."""
    text = "\n".join(said)
    own = next((line for line in said if line.startswith("E: ") and "mmdebstrap" not in line), "")
    if is_full(text):
        return no_space(str(tree.parent), text[-4000:])
    if match := _NO_PACKAGE.search(text):
        return Problem(
            f"There is no package {match[1]} in this release.", code="package-unknown",
            hint="Check the spelling, or take it out of the recipe.", details=text[-4000:],
        )  # fmt: skip
    if any(words in text for words in _UNREACHABLE):
        return Problem(
            f"The mirror could not be reached: {own or failed.message}", code="mirror-unreachable", passing=True,
            hint="Try again; if it stays, look at the network, proxy and DNS of this host.", details=text[-4000:],
        )  # fmt: skip
    return Problem(
        f"{failed.argv[0]} failed: {own or failed.message}", code="bootstrap-failed", details=text[-4000:],
        hint="The last lines of the log are the reason.",
    )  # fmt: skip
