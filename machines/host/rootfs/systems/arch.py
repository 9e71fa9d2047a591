"""Arch Linux trees by pacstrap(8).

Facts: Debian's pacman-key does not run without makepkg, so the keyring of a build is made by gpg itself, as pacman-key
would: a key of our own vouches for the distribution's master keys, these for its packagers. That keyring stays here; a
machine makes its own at its first start, so that no two of them share a secret.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from machines.contract.problems import Problem
from machines.contract.recipes import ArchRecipe, FirstBoot
from machines.host.rootfs.steps import cache, mounts, network_files
from machines.host.rootfs.steps.building import Building
from machines.host.system import tools, tree
from machines.host.system.faults import CommandFailed, is_full, no_space
from machines.host.system.run import run

REPOSITORIES = ("core", "extra")
HOST_MIRRORS = Path("/etc/pacman.d/mirrorlist")
KEYRINGS = (Path("/usr/share/pacman/keyrings"), Path("/usr/share/keyrings"))  # Arch's own place, Debian's
BASE = ("base",)
LOCAL = "var/lib/pacman/local"
DETAILS = 4000
SUDO_RULE = "%wheel ALL=(ALL:ALL) ALL\n"
KEYS_UNIT = "nspawnpanel-pacman-keys.service"
KEYS_UNIT_TEXT = """\
# Written by nspawnpanel: the machine's own keyring for checking packages
[Unit]
Description=Make pacman's keyring
ConditionPathExists=!/etc/pacman.d/gnupg/trustdb.gpg
ConditionFileIsExecutable=/usr/bin/pacman-key

[Service]
Type=oneshot
ExecStart=/usr/bin/pacman-key --init
ExecStart=/usr/bin/pacman-key --populate

[Install]
WantedBy=multi-user.target
"""


@dataclass
class Preparation:
    """What prepare() found out."""

    servers: list[str]
    config: Path
    packages: Path | None = None
    extra: dict[str, str] = field(default_factory=dict)


def extra_packages(_: ArchRecipe, first_boot: FirstBoot) -> tuple[str, ...]:
    """Packages that the answers of the first boot need."""
    return ("sudo",) if first_boot.user else ()


def packages_for(recipe: ArchRecipe, first_boot: FirstBoot) -> list[str]:
    """The base, what the first boot needs, then the recipe's own, each once; groups have plain names here."""
    own = [package.removeprefix("@") for package in recipe.packages]
    return list(dict.fromkeys([*BASE, *extra_packages(recipe, first_boot), *own]))


# --- prepare


def prepare(building: Building) -> None:
    """The tools, the mirror, the keys, and whether the mirror answers: its indexes are fetched now."""
    recipe, output = _recipe(building), building.task.output
    tools.need("arch")
    output.line("Building with pacstrap.")
    servers = servers_for(recipe)
    for server in servers[:3]:
        output.line(f"Packages from {server}")
    gib = building.host.policy.max_cache_gib
    lent = cache.link_cached(building.host.paths, "pacman", building.folder / cache.LENT) if gib else None
    building.undo.push(cache.forget, building.folder)
    config = _config(building, servers, make_keyring(building), lent or building.folder / "cache")
    proxy = {"http_proxy": recipe.proxy, "https_proxy": recipe.proxy} if recipe.proxy else {}
    building.state = Preparation(servers, config, lent, proxy)
    probe = building.folder / "probe"
    shutil.rmtree(probe, ignore_errors=True)
    (probe / "var/lib/pacman").mkdir(parents=True)
    argv = ["pacman", f"--config={config}", f"--root={probe}", "--sync", "--refresh"]
    building.install(argv, lambda _: None, _explain(building), extra=proxy)
    shutil.rmtree(probe, ignore_errors=True)


def _recipe(building: Building) -> ArchRecipe:
    assert isinstance(building.recipe, ArchRecipe)
    return building.recipe


def servers_for(recipe: ArchRecipe) -> list[str]:
    """Lines of a mirrorlist, without `Server =`: the recipe's mirror, else the host's. Raises Problem mirror-unknown."""
    if recipe.mirror:
        mirror = recipe.mirror.rstrip("/")
        return [mirror if "$repo" in mirror else f"{mirror}/$repo/os/$arch"]
    text = HOST_MIRRORS.read_text(errors="replace") if HOST_MIRRORS.is_file() else ""
    found = re.findall(r"(?m)^\s*Server\s*=\s*(\S+)\s*$", text)
    if not found:
        raise Problem(
            "This host has no Arch Linux mirrorlist, and the recipe names no mirror.", code="mirror-unknown",
            hint=f"Set a mirror in the recipe, or add one to {HOST_MIRRORS} on the host.",
        )  # fmt: skip
    return found


def _config(building: Building, servers: Sequence[str], keyring: Path, packages: Path) -> Path:
    """pacman.conf of this job: packages are always checked."""
    packages.mkdir(exist_ok=True, mode=0o755)
    options = {
        "Architecture": "auto",
        "CacheDir": packages,
        "GPGDir": keyring,
        "ParallelDownloads": 5,
        "SigLevel": "Required DatabaseOptional",
    }
    lines = ["[options]", *(f"{name} = {value}" for name, value in options.items())]
    for repository in REPOSITORIES:
        lines += [f"[{repository}]", *(f"Server = {server}" for server in servers)]
    file = building.folder / "pacman.conf"
    file.write_text("\n".join([*lines, ""]))
    return file


def make_keyring(building: Building) -> Path:
    """The keys of Arch Linux, as this host's package of them has them. Raises Problem key-unknown."""
    source = next((folder for folder in KEYRINGS if (folder / "archlinux.gpg").is_file()), None)
    if source is None:
        raise Problem(
            "This host does not have the keys of Arch Linux, so packages cannot be verified.", code="key-unknown",
            hint="Install the package archlinux-keyring there.",
        )  # fmt: skip
    folder = building.folder / "keyring"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    (folder / "pubring.gpg").touch()  # pacman looks for this name, and gpg keeps to it
    gpg = [
        "gpg",
        f"--homedir={folder}",
        "--batch",
        "--yes",
        "--quiet",
        "--no-auto-check-trustdb",
        "--pinentry-mode=loopback",
    ]
    own = [*gpg, "--passphrase=", "--quick-generate-key", "nspawnpanel", "ed25519", "cert", "never"]
    run(own, timeout=120)
    run([*gpg, "--import", str(source / "archlinux.gpg")], timeout=300, codes=(0, 2))  # 2: some key of hundreds is odd
    trusted, revoked = (_fingerprints(source / f"archlinux-{kind}") for kind in ("trusted", "revoked"))
    for key in trusted:
        run([*gpg, "--quick-lsign-key", key], timeout=60, codes=(0, 2))  # 2: not among the keys
    trust = "".join(f"{key}:4:\n" for key in trusted)
    run([*gpg, "--import-ownertrust"], timeout=60, stdin=trust.encode())
    for key in revoked:
        run([*gpg, "--command-fd=0", "--edit-key", key], timeout=60, stdin=b"disable\nquit\n", codes=(0, 2))
    run(["gpg", f"--homedir={folder}", "--batch", "--quiet", "--check-trustdb"], timeout=300)
    run(["gpgconf", f"--homedir={folder}", "--kill", "all"], timeout=30, codes=(0, 1, 2))
    return folder


def _fingerprints(file: Path) -> list[str]:
    text = file.read_text(errors="replace") if file.is_file() else ""
    return re.findall(r"(?m)^([0-9A-F]{40})\b", text)


# --- bootstrap, packages


def bootstrap(building: Building) -> None:
    """Everything in one go; pacstrap mounts what scripts need, in a namespace of its own."""
    way = building.state
    wanted = packages_for(_recipe(building), building.first_boot)
    progress = PacstrapProgress(building.task.output.progress, building.enter)
    argv = ["pacstrap", "-C", str(way.config), "-c", "-G", "-M", str(building.tree), *wanted]
    building.install(argv, progress.line, _explain(building), extra=way.extra, within=mounts.alone)
    building.task.output.progress(1.0, "all packages installed")
    if way.packages:
        cache.collect(building.host.paths, "pacman", way.packages, building.host.policy.max_cache_gib)


def packages(building: Building) -> None:
    """Done already, see bootstrap()."""


# --- configure


def configure(building: Building) -> None:
    """Its mirror, its keyring, its way to an address."""
    root, way = building.tree, building.state
    servers = [server for server in way.servers if not server.startswith("file:")]
    if servers:
        text = "".join(f"Server = {server}\n" for server in servers)
        tree.write_text(root, "etc/pacman.d/mirrorlist", text)
    tree.write_text(root, f"etc/systemd/system/{KEYS_UNIT}", KEYS_UNIT_TEXT)
    building.task.run(["systemctl", f"--root={root}", "enable", "--", KEYS_UNIT])
    if building.first_boot.user:
        tree.make_directory(root, "etc/sudoers.d", 0o750)
        tree.write_text(root, "etc/sudoers.d/50-wheel", SUDO_RULE, 0o440)
    network_files.enable(building)


_DESC = re.compile(r"(?m)^%NAME%\n(\S+)\n(?:.*\n)*?%VERSION%\n(\S+)$")


def installed(root: Path) -> list[str]:
    """Out of pacman's own database."""
    texts = [tree.read_text(root, f"{LOCAL}/{name}/desc") for name in tree.names(root, LOCAL)]
    return sorted(f"{match[1]} {match[2]}" for text in texts if (match := _DESC.search(text)))


# --- reading what it prints

_TOTAL = re.compile(r"^Packages \((\d+)\)")
_FETCHED = re.compile(r"^\s*\S+ downloading\.\.\.$")
_DONE = re.compile(r"^(?:\(\s*\d+/\d+\) )?installing (\S+?)\.{3}")


class PacstrapProgress:
    """How far it is, out of pacman's lines. Feed it every line."""

    def __init__(self, progress: Callable[[float, str], None], enter: Callable[[str], None]) -> None:
        self._progress, self._enter = progress, enter
        self._total = 1
        self._fetched = self._done = 0

    def line(self, text: str) -> None:
        """Take one line of output."""
        if match := _TOTAL.match(text):
            self._total = int(match[1])
        elif _FETCHED.match(text):
            self._fetched += 1
            self._say(self._fetched, "fetched")
        elif _DONE.match(text):
            self._enter("packages")
            self._done += 1
            self._say(self._done, "installed")

    def _say(self, number: int, done: str) -> None:
        self._progress(min(0.99, number / max(1, self._total)), f"{number} of {self._total} packages {done}")


_NO_PACKAGE = re.compile(r"error: target not found: (\S+)|unable to satisfy dependency '([^']+)'")
_KEY = ("PGP signature", "is unknown trust", "is marginal trust", "missing required signature", "required key missing",
        "could not be looked up remotely", "is invalid", "is disabled", ".sig' from")  # fmt: skip
_UNREACHABLE = ("failed retrieving file", "failed to synchronize all databases", "failed to retrieve some files")


def _explain(building: Building) -> Callable[[CommandFailed, Sequence[str]], Problem]:
    return lambda failed, said: explain(failed, said, building.tree)


def explain(failed: CommandFailed, said: Sequence[str], root: Path) -> Problem:
    """The failure of pacman as what it really is, with its own line. `said` are its last lines."""
    text = "\n".join(said)
    if is_full(text) or "too full" in text or "not enough free disk space" in text:
        return no_space(str(root.parent), text[-DETAILS:])
    if match := _NO_PACKAGE.search(text):
        return Problem(
            f"There is no package {match[1] or match[2]} in these repositories.", code="package-unknown",
            hint=f"Check the spelling, or remove it from the recipe. Tool output: {match[0]}", details=text[-DETAILS:],
        )  # fmt: skip
    if line := _first(said, _KEY):
        return Problem(
            f"A package is not signed with an Arch Linux key: {line}", code="key-unknown", details=text[-DETAILS:],
            hint="Update the package archlinux-keyring on the host; unsigned packages are never installed.",
        )  # fmt: skip
    if line := _first(said, _UNREACHABLE):
        missing = "error: 404" in text or "Could not open file" in text or "Couldn't open file" in text
        return Problem(
            f"The mirror {'has no such repository' if missing else 'could not be reached'}: {line}",
            code="release-unknown" if missing else "mirror-unreachable", retryable=not missing, details=text[-DETAILS:],
            hint="Check the mirror URL, and the network, proxy and DNS of this host.",
        )  # fmt: skip
    own = _first(said, ("error:", "ERROR:"))
    return Problem(
        f"{failed.argv[0]} failed: {own or failed.message}", code="bootstrap-failed", details=text[-DETAILS:],
        hint="See the last lines of the log.",
    )  # fmt: skip


def _first(said: Sequence[str], words: Sequence[str]) -> str:
    return next((line.strip() for line in said if any(word in line for word in words)), "")[:300]
