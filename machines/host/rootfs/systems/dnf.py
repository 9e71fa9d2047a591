"""Trees of the Fedora and RHEL family by `dnf --installroot`, dnf 4 and dnf 5.

Facts: dnf reads the tree's own settings before the host's, so --config and reposdir are always given, and those are the
host's paths. dnf 5 forgets the host's settings unless told --use-host-config. Base system and packages are installed in
one go, for a second transaction costs as much again; "Running transaction" says that the second part begins. dnf 4 leaves
its logs and a list of expired repositories in the tree, dnf 5 its log and an empty lock. Both write their command line
into the history of the tree, so nothing secret may stand there. dnf 5 counts its checks before a transaction as parts of
it, and into a pipe prints a line only when a part is done.
"""

import configparser
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from machines.contract.problems import Problem
from machines.contract.recipes import DnfRecipe, FirstBoot
from machines.host.rootfs.steps import mounts, network_files
from machines.host.rootfs.steps.building import Building
from machines.host.rootfs.steps.firstboot import needs_locales
from machines.host.rootfs.systems import rpms
from machines.host.rootfs.systems.rpms import NEW_PLACE, OLD_PLACE, Database
from machines.host.system import tools, tree
from machines.host.system.run import environment

HOST_CONFIG = Path("/etc/dnf/dnf.conf")
HOST_REPOSITORIES = (Path("/etc/yum.repos.d"), Path("/etc/distro.repos.d"), Path("/usr/share/dnf5/repos.d"))
# How this host gets through to the world; nothing else of its settings decides how a tree comes out.
CARRIED = ("proxy", "proxy_username", "proxy_password", "proxy_auth_method", "sslcacert", "ip_resolve",
           "max_parallel_downloads", "fastestmirror")  # fmt: skip
# What makes a tree a machine: an init, the bus, a login, the tools to have an address, and dnf to update itself.
BASE = ("systemd", "dbus", "iproute", "util-linux", "/usr/bin/passwd", "dnf", "glibc-minimal-langpack")
# The RHEL family has no networkd of its own.
ALSO = {
    "fedora": ("fedora-release-container", "systemd-networkd", "systemd-resolved"),
    "centos": ("centos-stream-release", "NetworkManager"),
    "almalinux": ("almalinux-release", "NetworkManager"),
    "rocky": ("rocky-release", "NetworkManager"),
}
OLDEST = 9  # of the RHEL family: releases before it keep their packages in a database nobody writes any more
NEW_PLACE_SINCE = {"fedora": 36, "centos": 10, "almalinux": 10, "rocky": 10}


@dataclass
class Preparation:
    """What prepare() found out: the tool, the options of every command, what it needs in its environment."""

    tool: str
    common: list[str]
    extra: dict[str, str]


def extra_packages(_: DnfRecipe, first_boot: FirstBoot) -> tuple[str, ...]:
    """Packages that the answers of the first boot need."""
    wanted = []
    if needs_locales(first_boot.locale):
        wanted.append(f"glibc-langpack-{re.split('[_.@]', first_boot.locale, maxsplit=1)[0]}")
    if not first_boot.timezone.upper().endswith("UTC"):
        wanted.append("tzdata")
    if first_boot.user:
        wanted.append("sudo")
    return tuple(wanted)


def packages_for(recipe: DnfRecipe, first_boot: FirstBoot) -> list[str]:
    """The base, what the first boot needs, then the recipe's own, each once."""
    return list(
        dict.fromkeys([*BASE, *ALSO[recipe.distribution], *extra_packages(recipe, first_boot), *recipe.packages])
    )


def database(recipe: DnfRecipe) -> Database:
    """Where this release looks for what is installed. Raises Problem release-unknown for one that is too old."""
    number = int(match[0]) if (match := re.match(r"\d+", recipe.release)) else 1000
    if recipe.distribution != "fedora" and number < OLDEST:
        raise Problem(
            f"Release {recipe.release} uses a package database format that this host's rpm cannot write.",
            code="release-unknown", hint=f"Release {OLDEST} and later can be built; an older one can be pulled as an image.",
        )  # fmt: skip
    return Database(NEW_PLACE if number >= NEW_PLACE_SINCE[recipe.distribution] else OLD_PLACE)


# --- prepare


def prepare(building: Building) -> None:
    """The tools, the repositories, and whether these answer: their indexes are fetched now."""
    recipe, output = _recipe(building), building.task.output
    tools.need("dnf")
    tool = "dnf5" if tools.which("dnf5") else "dnf"
    output.line(f"Building with {tool}.")
    extra = rpms.home(building, database(recipe))
    building.state = Preparation(tool, [*_common(building, tool), *_repositories(building)], extra)
    probe = building.folder / "probe"
    shutil.rmtree(probe, ignore_errors=True)
    probe.mkdir()
    _dnf(building, ["makecache"], probe)
    shutil.rmtree(probe, ignore_errors=True)


def _recipe(building: Building) -> DnfRecipe:
    assert isinstance(building.recipe, DnfRecipe)
    return building.recipe


def _common(building: Building, tool: str) -> list[str]:
    recipe = _recipe(building)
    return [
        "--assumeyes",
        f"--config={_config(building)}",
        *(["--use-host-config"] if is_five(tool) else []),
        f"--releasever={recipe.release}",
        f"--setopt=cachedir={rpms.cache_of(building, 'dnf')}",
        "--setopt=keepcache=1",
        "--setopt=install_weak_deps=False",
        "--setopt=tsflags=nodocs",
        "--setopt=gpgcheck=1",
        "--setopt=localpkg_gpgcheck=1",
        "--setopt=*.gpgcheck=1",
    ]


def is_five(tool: str) -> bool:
    """Whether this is dnf 5, also under its old name."""
    return Path(os.path.realpath(shutil.which(tool, path=environment()["PATH"]) or tool)).name == "dnf5"


def _config(building: Building) -> Path:
    """dnf's settings for this job; readable by root alone, as the way out may have a password."""
    own = configparser.RawConfigParser(strict=False)
    try:
        own.read_string(HOST_CONFIG.read_text(errors="replace"))
    except (OSError, configparser.Error):
        own = configparser.RawConfigParser()
    way_out = {key: own["main"][key] for key in CARRIED if own.has_option("main", key)}
    if proxy := _recipe(building).proxy:
        way_out["proxy"] = proxy
    lines = [f"{key}={value}" for key, value in way_out.items()]
    file = building.folder / "dnf.conf"
    file.touch(mode=0o600)
    file.write_text(
        "\n".join(["[main]", "timeout=20", "retries=3", "best=True", "skip_if_unavailable=False", *lines, ""])
    )
    return file


def _repositories(building: Building) -> list[str]:
    """The recipe's, else the host's own. Raises Problem mirror-unknown."""
    recipe = _recipe(building)
    if recipe.repositories:
        return [f"--setopt=reposdir={rpms.write_repositories(building, recipe.repositories)}"]
    if not rpms.has_repositories(HOST_REPOSITORIES):
        raise rpms.no_repositories("rpm packages")
    building.task.output.line("Packages from this host's own repositories")
    return [f"--setopt=reposdir={','.join(str(folder) for folder in HOST_REPOSITORIES if folder.is_dir())}"]


def _dnf(building: Building, words: list[str], root: Path, within: Callable[[], None] | None = None) -> None:
    way = building.state
    argv = [way.tool, *way.common, f"--installroot={root}", *words]
    progress = DnfProgress(building.task.output.progress, building.enter)
    building.install(
        argv, progress.line, lambda failed, said: rpms.explain(failed, said, root), extra=way.extra, within=within
    )


# --- bootstrap, packages


def bootstrap(building: Building) -> None:
    """Everything in one go."""
    mounts.make_points(building.tree)
    wanted = packages_for(_recipe(building), building.first_boot)
    _dnf(building, ["install", *wanted], building.tree, mounts.around(building.tree))
    building.task.output.progress(1.0, "all packages installed")
    rpms.trim_cache(building)


def packages(building: Building) -> None:
    """Done already, see bootstrap()."""


# --- configure


def configure(building: Building) -> None:
    """Its repositories, its way to an address; what dnf left behind goes."""
    root = building.tree
    for name in tree.names(root, "var/log"):
        if re.fullmatch(r"(dnf[\w.]*|hawkey)\.log", name):
            tree.unlink(root, f"var/log/{name}")
    kept = str(rpms.cache_of(building, "dnf"))
    tree.unlink(root, f"{kept}/expired_repos.json")
    tree.remove_empty(root, kept)
    tree.unlink(root, "var/lib/dnf/system-repo.lock")
    rpms.keep_repositories(building, _recipe(building).repositories, "etc/yum.repos.d")
    network_files.enable(building)


def installed(root: Path) -> list[str]:
    return rpms.installed(root)


# --- reading what it prints

_FETCHED = re.compile(r"^\((\d+)/(\d+)\): (\S+)")  # dnf 4
_DONE = re.compile(r"^\s+(?:Installing|Upgrading|Reinstalling)\s*: (\S+)\s+(\d+)/(\d+)")
_FIVE = re.compile(r"^\[\s*(\d+)/\s*(\d+)\] (Installing |Upgrading |Reinstalling )?\S.* 100% ")


class DnfProgress:
    """How far it is, out of the lines of dnf 4 or 5. Feed it every line."""

    def __init__(self, progress: Callable[[float, str], None], enter: Callable[[str], None]) -> None:
        self._progress, self._enter = progress, enter
        self._installing = False
        self._checks = 0

    def line(self, text: str) -> None:
        """Take one line of output."""
        if text.strip() == "Running transaction":
            self._installing = True
            self._enter("packages")
        elif match := _FETCHED.match(text):
            self._say(int(match[1]), int(match[2]), "fetched")
        elif match := _DONE.match(text):
            self._say(int(match[2]), int(match[3]), "installed")
        elif match := _FIVE.match(text):
            self._five(int(match[1]), int(match[2]), is_package=bool(match[3]))

    def _five(self, number: int, total: int, *, is_package: bool) -> None:
        """One part done; in a transaction the first ones are checks, and what follows them are packages."""
        if not self._installing:
            self._say(number, total, "fetched")
        elif is_package:
            self._say(number - self._checks, total - self._checks, "installed")
        else:
            self._checks = number

    def _say(self, number: int, total: int, done: str) -> None:
        self._progress(min(0.99, number / max(1, total)), f"{number} of {total} packages {done}")
