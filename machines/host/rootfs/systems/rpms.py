"""What dnf and zypper have in common: rpm's own settings, repositories with their keys, which packages a tree has.

Facts: Debian's rpm keeps its database in ~/.rpmdb, and every distribution has its own place for it; a file .rpmmacros in
a HOME of our own tells librpm, whoever loads it, where the machine itself will look. Packages are
verified twice: gpgcheck stands in every repository, and rpm itself (%_pkgverify_level) takes no unsigned one.
"""

import os
import re
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from machines.contract.problems import Problem
from machines.contract.recipes import RpmRepository
from machines.host.rootfs.steps import cache
from machines.host.rootfs.steps.building import Building
from machines.host.system import tree
from machines.host.system.faults import CommandFailed, is_full, no_space
from machines.host.system.run import run

NEW_PLACE, OLD_PLACE = "/usr/lib/sysimage/rpm", "/var/lib/rpm"
KEYS = "etc/pki/rpm-gpg"  # where a machine keeps the keys of its repositories
DETAILS = 4000
LIST_FORMAT = "%{NAME} %|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\\n"


@dataclass(frozen=True)
class Database:
    """Where and how a release keeps what is installed."""

    path: str = NEW_PLACE
    backend: str = "sqlite"


def home(building: Building, database: Database) -> dict[str, str]:
    """The environment in which librpm puts the database where the machine will look for it."""
    folder = building.folder / "home"
    folder.mkdir(exist_ok=True, mode=0o700)
    macros = {
        "_dbpath": database.path,
        "_db_backend": database.backend,
        "_netsharedpath": "/proc:/sys:/dev",  # mounted while packages are unpacked
        "_pkgverify_level": "all",
    }
    (folder / ".rpmmacros").write_text("".join(f"%{name} {value}\n" for name, value in macros.items()))
    return {"HOME": str(folder)}


def can_write(building: Building, backend: str) -> bool:
    """Whether this host's rpm knows a database format: it is asked to make an empty one."""
    folder = building.folder / "format"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    argv = ["rpmdb", f"--define=_db_backend {backend}", f"--dbpath={folder}", "--initdb"]
    run(argv, timeout=20, codes=range(256))
    made = any(name.startswith("Packages") for name in os.listdir(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return made


def hand_over(building: Building, database: Database) -> None:
    """The database anew, by the tree's own rpm and in its own format. Raises CommandFailed or OSError."""
    root, exported = building.tree, building.folder / "packages.hdrs"
    if not any(tree.exists(root, f"{folder}/rpmdb") for folder in ("usr/bin", "bin")):
        building.task.output.line(
            "There is no rpm in the image, so its package database is left as this host wrote it."
        )
        return
    argv = [
        "rpmdb",
        f"--define=_db_backend {database.backend}",
        f"--root={root}",
        f"--dbpath={database.path}",
        "--exportdb",
    ]
    with exported.open("wb") as file:
        run(argv, timeout=120, to=file)
    for name in tree.names(root, database.path):
        tree.unlink(root, f"{database.path}/{name}")
    building.task.output.line("The machine's own rpm converts its package database.")
    run(["chroot", str(root), "rpmdb", "--importdb"], timeout=300, stdin=exported.read_bytes())
    exported.unlink()


# --- repositories


def write_repositories(
    building: Building, repositories: Sequence[RpmRepository], more: Mapping[str, str] | None = None
) -> Path:
    """The recipe's repositories and their keys as files of this job; the folder of the .repo files."""
    if len({repository.id for repository in repositories}) < len(repositories):
        raise Problem(
            "Two repositories of the recipe have the same name.", code="bad-value", hint="Rename one of them."
        )
    folder = building.folder / "repositories"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    for repository in repositories:
        key = folder / f"{repository.id}.asc"
        key.write_text(repository.key + "\n")
        (folder / f"{repository.id}.repo").write_text(stanza(repository, f"file://{key}", more))
        building.task.output.line(f"Packages from {repository.url} ({repository.id})")
    return folder


def stanza(repository: RpmRepository, key: str, more: Mapping[str, str] | None = None) -> str:
    """As both dnf and zypper read it. Packages are always checked; the index of a repository is often not signed."""
    values = {
        "name": repository.id,
        "baseurl": repository.url,
        "enabled": "1",
        "gpgcheck": "1",
        "repo_gpgcheck": "0",
        "gpgkey": key,
        **(more or {}),
    }
    return "".join([f"[{repository.id}]\n", *(f"{name}={value}\n" for name, value in values.items())])


def has_repositories(folders: Iterable[Path]) -> bool:
    """Whether any .repo file there names a repository."""
    files = [file for folder in folders for file in folder.glob("*.repo")]
    return any(re.search(r"(?m)^\s*(baseurl|mirrorlist|metalink)\s*=", _text(file)) for file in files)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def no_repositories(what: str) -> Problem:
    return Problem(
        f"This host has no repositories of {what}, and the recipe names none.", code="mirror-unknown",
        hint="Add the release's repository to the recipe: its URL and the key its packages are signed with.",
    )  # fmt: skip


def keep_repositories(
    building: Building, repositories: Sequence[RpmRepository], folder: str, more: Mapping[str, str] | None = None
) -> None:
    """Into the tree, so that the machine can update itself; a file:// of this host is nothing to the machine."""
    for repository in repositories:
        if repository.url.startswith("file:"):
            building.task.output.line(f"{repository.id} is local to this host, so it is not configured in the machine.")
            continue
        key = f"{KEYS}/nspawnpanel-{repository.id}.asc"
        tree.write_text(building.tree, key, repository.key + "\n")
        text = stanza(repository, f"file:///{key}", more)
        tree.write_text(building.tree, f"{folder}/nspawnpanel-{repository.id}.repo", text)


# --- packages kept for the next build


def cache_of(building: Building, tool: str) -> Path:
    """Where a tool keeps indexes and packages; the tools have locks of their own for two builds at once."""
    if not building.host.policy.max_cache_gib:
        return building.folder / "cache"
    return cache.folder(building.host.paths, tool)


def trim_cache(building: Building) -> None:
    """Within the host's bound for all tools together."""
    if gib := building.host.policy.max_cache_gib:
        cache.trim(building.host.paths, gib * cache.GIB)


# --- what is there


def installed(root: Path) -> list[str]:
    """ "name version" of every package, as rpm has it."""
    place = next((place for place in (NEW_PLACE, OLD_PLACE) if tree.names(root, place)), NEW_PLACE)
    query = ["--query", "--all", f"--queryformat={LIST_FORMAT}"]
    lines = run(["rpm", f"--root={root}", f"--dbpath={place}", *query], timeout=60).out.splitlines()
    if not lines and tree.exists(root, "usr/bin/rpm"):
        lines = run(["chroot", str(root), "rpm", *query], timeout=60).out.splitlines()
    return sorted(line for line in lines if line and not line.startswith("gpg-pubkey "))


# --- failures

_NAME = r"'?(?:pattern:)?(@?[A-Za-z0-9_][\w.+-]*)'?"
UNKNOWN = re.compile(
    rf"(?:No match for argument: {_NAME}$|Module or Group {_NAME} (?:is not available|does not exist)"
    rf"|(?:Package|Pattern|Capability) {_NAME} not found|No provider of {_NAME} found)"
)
_NOTHING = re.compile(r"nothing provides (?:'([^']+)'|(.+?)) needed by (?:the to be installed )?(\S+)")
_KEY = ("is not signed", "GPG check FAILED", "Public key for", "not correct for this package", "OpenPGP check for package",
        "Signature verification failed", "wrong key", "does not verify", "GPG key retrieval failed", "Failed to import",
        "signature verification failed", "public key is not available", "Key import failed", "is unsigned", "Problem repository: ")  # fmt: skip
_MISSING = ("Status code: 404", "Error code: HTTP response: 404", "error: 404", "Couldn't open file", "Could not open file",
            "not found on medium", "is not a directory", "Valid metadata not found", "Repository type can't be determined")  # fmt: skip
_NO_WAY = ("Could not resolve", "Couldn't resolve", "Failed to connect", "Couldn't connect", "Connection failed", "timed out",
           "Timeout")  # fmt: skip
_UNREACHABLE = ("Failed to download metadata", "Cannot download repomd.xml", "Could not resolve host", "Curl error",
                "Failed to connect", "Connection timed out", "Librepo error", "Error downloading packages",
                "Failed to download files", "Cannot access installation media", "Timeout exceeded", "Connection failed",
                "Valid metadata not found", "Repository type can't be determined", "Unable to fetch metadata", "Problem retrieving files from", "No more mirrors to try")  # fmt: skip
# Beginnings of the lines that name the package or the repository
_PACKAGE_NAMED, _REPOSITORY_NAMED = ("OpenPGP check for package",), ("Error:", "Failed to download metadata")


def explain(failed: CommandFailed, said: Sequence[str], root: Path) -> Problem:
    """The failure of dnf or zypper as what it really is, with its own line. `said` are its last lines."""
    text = "\n".join(said)
    if is_full(text) or "more space needed on" in text:
        return no_space(str(root.parent), text[-DETAILS:])
    return _no_package(failed, said) or _bad_key(said) or _unreachable(said) or _other(failed, said)


def _no_package(failed: CommandFailed, said: Sequence[str]) -> Problem | None:
    for line in said:
        if match := UNKNOWN.search(line):
            name = next(word for word in match.groups() if word)
            group = name.startswith("@") or f"@{name}" in failed.argv  # dnf 5 leaves the sign out
            return Problem(
                f"There is no {'group' if group else 'package'} {name} in these repositories.",
                code="package-unknown", details="\n".join(said)[-DETAILS:],
                hint=f"Check the spelling, or remove it from the recipe. Tool output: {line.strip()}",
            )  # fmt: skip
        if match := _NOTHING.search(line):
            return Problem(
                f"No repository of this recipe has {match[1] or match[2]}, which {match[3]} needs.",
                code="package-unknown", details="\n".join(said)[-DETAILS:],
                hint="Add the repository that has it, or remove the package from the recipe.",
            )  # fmt: skip
    return None


def _bad_key(said: Sequence[str]) -> Problem | None:
    line = _first(said, _KEY, _PACKAGE_NAMED)
    if not line:
        return None
    return Problem(
        f"A package or an index is not signed with the key of its repository: {line}", code="key-unknown",
        hint="Add the repository's signing key to the recipe; unsigned packages are never installed.",
        details="\n".join(said)[-DETAILS:],
    )  # fmt: skip


def _unreachable(said: Sequence[str]) -> Problem | None:
    line = _first(said, _UNREACHABLE, _REPOSITORY_NAMED)
    if not line:
        return None
    text = "\n".join(said)
    if any(words in text for words in _MISSING) and not any(words in text for words in _NO_WAY):
        return Problem(
            f"There is no repository at the URL in the recipe: {line}", code="release-unknown", details=text[-DETAILS:],
            hint="Check its URL and the release; repodata/repomd.xml must exist below it.",
        )  # fmt: skip
    return Problem(
        f"A repository could not be reached: {line}", code="mirror-unreachable", retryable=True, details=text[-DETAILS:],
        hint="Try again; if it persists, check the network, proxy and DNS of this host.",
    )  # fmt: skip


def _first(said: Sequence[str], words: Sequence[str], telling: tuple[str, ...]) -> str:
    """The line that tells most: one with such a beginning, else the first with any of these words."""
    found = [line.strip() for line in said if any(word in line for word in words)]
    return next((line for line in found if line.startswith(telling)), found[0] if found else "")[:300]


def _other(failed: CommandFailed, said: Sequence[str]) -> Problem:
    if failed.status == -signal.SIGSEGV:
        return Problem(
            f"{failed.argv[0]} itself crashed on this host.", code="bootstrap-failed", details="\n".join(said)[-DETAILS:],
            hint="If the recipe has groups (@…), name their packages instead: dnf of Debian 13 crashes over groups.",
        )  # fmt: skip
    own = next((line.strip() for line in said if re.match(r"(?i)\s*(error|problem|failed)\b", line)), "")
    return Problem(
        f"{failed.argv[0]} failed: {own or failed.message}", code="bootstrap-failed",
        hint="See the last lines of the log.", details="\n".join(said)[-DETAILS:],
    )  # fmt: skip
