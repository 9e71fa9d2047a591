"""openSUSE trees by `zypper --root`.

Facts: zypper 1.14 takes reposd-dir and its caches as paths of the host, but keeps the solver's own files below the tree.
openSUSE's rpm reads only the database format ndb, which Debian's rpm cannot write: there the tree's own rpm takes the
packages over from an export. Exit status 107 means that a package's script failed; the package is installed.
gpgcheck=1 has libzypp check a signed index also where repo_gpgcheck=0 stands, and with --gpg-auto-import-keys it believes
the key that lies beside that index, then packages of that key. So that option is never given: what a tree trusts, rpm
puts into its database before zypper comes.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from machines.contract.problems import Problem
from machines.contract.recipes import FirstBoot, SuseRecipe
from machines.host.rootfs.steps import mounts, network_files
from machines.host.rootfs.steps.building import Building
from machines.host.rootfs.steps.firstboot import needs_locales
from machines.host.rootfs.systems import rpms
from machines.host.rootfs.systems.rpms import NEW_PLACE, Database
from machines.host.system import tools, tree
from machines.host.system.faults import CommandFailed
from machines.host.system.run import run

HOST_REPOSITORIES = Path("/etc/zypp/repos.d")
SCRIPT_FAILED = 107
FORMAT = "ndb"
# What makes a tree a machine: an init, the bus, a login, the tools to have an address, and zypper to update itself.
BASE = ("systemd", "dbus-1", "iproute2", "util-linux", "shadow", "pam", "zypper", "ca-certificates-mozilla")
# In a repository's stanza, besides what dnf reads as well
ZYPPER_ONLY = {"type": "rpm-md", "autorefresh": "1", "pkg_gpgcheck": "1", "keeppackages": "1"}
NETWORKD, MANAGER = "systemd-network", "NetworkManager"
# The user that may use sudo does so with their own password, not with root's.
SUDO_RULE = "Defaults:%wheel !targetpw\n%wheel ALL=(ALL:ALL) ALL\n"


@dataclass
class Preparation:
    """What prepare() found out: the options of every command, its environment, whether rpm can write openSUSE's format;
    `keys` are the files of the only keys that packages may be signed with."""

    common: list[str] = field(default_factory=list)
    keys: list[Path] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    direct: bool = True


def extra_packages(_: SuseRecipe, first_boot: FirstBoot) -> tuple[str, ...]:
    """Packages that the answers of the first boot need."""
    wanted = []
    if needs_locales(first_boot.locale):
        wanted.append("glibc-locale")
    if not first_boot.timezone.upper().endswith("UTC"):
        wanted.append("timezone")
    if first_boot.user:
        wanted.append("sudo")
    return tuple(wanted)


def packages_for(recipe: SuseRecipe, first_boot: FirstBoot) -> list[str]:
    """The base, what the first boot needs, then the recipe's own, each once; a group is a pattern here."""
    leap_16 = recipe.release[:2].isdigit() and int(recipe.release[:2]) >= 16
    brand = "Leap-release" if leap_16 else "openSUSE-release"
    own = [f"pattern:{word[1:]}" if word.startswith("@") else word for word in recipe.packages]
    return list(
        dict.fromkeys([*BASE, brand, MANAGER if leap_16 else NETWORKD, *extra_packages(recipe, first_boot), *own])
    )


# --- prepare


def prepare(building: Building) -> None:
    """The tools, the repositories, and whether these answer: their indexes are fetched now."""
    recipe, output = _recipe(building), building.task.output
    tools.need("suse")
    output.line("Building with zypper.")
    way = building.state = Preparation()
    if recipe.repositories:
        repositories = rpms.write_repositories(building, recipe.repositories, ZYPPER_ONLY)
    else:
        if not rpms.has_repositories([HOST_REPOSITORIES]):
            raise rpms.no_repositories("openSUSE")
        output.line("Packages from this host's own repositories")
        repositories = _of_the_host(building)
    way.direct = rpms.can_write(building, FORMAT)
    way.extra = rpms.home(building, Database(NEW_PLACE, FORMAT if way.direct else "sqlite")) | _settings(building)
    way.common, way.keys = _common(building, repositories), sorted(repositories.glob("*.asc"))
    probe = building.folder / "probe"
    shutil.rmtree(probe, ignore_errors=True)
    probe.mkdir()
    _zypper(building, ["refresh"], probe)
    shutil.rmtree(probe, ignore_errors=True)


def _recipe(building: Building) -> SuseRecipe:
    assert isinstance(building.recipe, SuseRecipe)
    return building.recipe


def _of_the_host(building: Building) -> Path:
    """A copy of the host's repositories in which every package is checked, whatever the host does, with the keys that
    the host itself trusts."""
    folder = building.folder / "repositories"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in HOST_REPOSITORIES.glob("*.repo"):
        (folder / file.name).write_text(checked(file.read_text(errors="replace")))
    if keys := run(["rpm", "--query", "--all", "--queryformat=%{DESCRIPTION}\\n", "gpg-pubkey"]).out:
        (folder / "host.asc").write_text(keys)
    return folder


def checked(text: str) -> str:
    """The text of a .repo file with every package checked, and nothing else of it changed."""
    lines = [line for line in text.splitlines() if "gpgcheck" not in line.split("=")[0]]
    return re.sub(r"(?m)^(\[[^\]\n]+\])\s*$", r"\1\ngpgcheck=1\npkg_gpgcheck=1", "\n".join(lines)) + "\n"


def _settings(building: Building) -> dict[str, str]:
    """zypp.conf for this job, and the way out."""
    file = building.folder / "zypp.conf"
    file.write_text("[main]\nrpm.install.excludedocs = yes\nsolver.onlyRequires = true\n")
    proxy = _recipe(building).proxy
    return {"ZYPP_CONF": str(file), **({"http_proxy": proxy, "https_proxy": proxy} if proxy else {})}


def _common(building: Building, repositories: Path) -> list[str]:
    recipe, cache = _recipe(building), building.folder / "cache"
    return [
        "--non-interactive",
        f"--reposd-dir={repositories}",
        f"--cache-dir={cache}",
        f"--pkg-cache-dir={rpms.cache_of(building, 'zypper')}",
        *([f"--releasever={recipe.release}"] if recipe.release != "tumbleweed" else []),
    ]


def _zypper(building: Building, words: list[str], root: Path, within: Callable[[], None] | None = None) -> None:
    way = building.state
    for key in way.keys:
        _trust(way, key, root)
    argv = ["zypper", *way.common, f"--root={root}", *words]
    progress = ZypperProgress(building.task.output.progress, building.enter)
    building.install(
        argv, progress.line, lambda failed, said: rpms.explain(failed, said, root),
        extra=way.extra, within=within, codes=(0, SCRIPT_FAILED),
    )  # fmt: skip


def _trust(way: Preparation, key: Path, root: Path) -> None:
    """Into the tree's own database. Raises Problem key-unknown for a key that rpm cannot use."""
    try:
        run(["rpm", f"--root={root}", "--import", "--", str(key)], extra=way.extra)
    except CommandFailed as failed:
        raise Problem(
            f"rpm does not accept the key of {key.stem}: {failed.tail or failed.message}", code="key-unknown",
            hint="Add the key the repository's packages are signed with to the recipe.",
        ) from failed  # fmt: skip


# --- bootstrap, packages


def bootstrap(building: Building) -> None:
    """Everything in one go: packages are fetched first, then installed."""
    mounts.make_points(building.tree)
    wanted = packages_for(_recipe(building), building.first_boot)
    options = ["--no-recommends", "--auto-agree-with-licenses", "--download-in-advance"]
    _zypper(building, ["install", *options, *wanted], building.tree, mounts.around(building.tree))
    building.task.output.progress(1.0, "all packages installed")
    rpms.trim_cache(building)


def packages(building: Building) -> None:
    """Done already, see bootstrap()."""


# --- configure


def configure(building: Building) -> None:
    """Its package database, its repositories, its way to an address; what zypper left behind goes."""
    root, cache = building.tree, building.folder / "cache"
    for folder, names in (("solv/@System", ("cookie", "solv", "solv.idx")), ("pubkeys", None)):
        for name in names or tree.names(root, f"{cache}/{folder}"):
            tree.unlink(root, f"{cache}/{folder}/{name}")
        tree.remove_empty(root, f"{cache}/{folder}")
    tree.unlink(root, "var/log/zypp/history")
    if not building.state.direct:
        rpms.hand_over(building, Database(NEW_PLACE, "sqlite"))
    rpms.keep_repositories(building, _recipe(building).repositories, "etc/zypp/repos.d", ZYPPER_ONLY)
    if building.first_boot.user:
        tree.make_directory(root, "etc/sudoers.d", 0o750)
        tree.write_text(root, "etc/sudoers.d/50-wheel", SUDO_RULE, 0o440)
    network_files.enable(building)


def installed(root: Path) -> list[str]:
    return rpms.installed(root)


# --- reading what it prints

_FETCHED = re.compile(r"^Retrieving(?: package|:) (\S+) .*?\((\d+)/(\d+)\)")
_DONE = re.compile(r"^\(\s*(\d+)/(\d+)\) Installing: (\S+)")


class ZypperProgress:
    """How far it is, out of the lines of zypper. Feed it every line."""

    def __init__(self, progress: Callable[[float, str], None], enter: Callable[[str], None]) -> None:
        self._progress, self._enter = progress, enter

    def line(self, text: str) -> None:
        """Take one line of output."""
        if match := _FETCHED.match(text):
            self._say(int(match[2]), int(match[3]), "fetched")
        elif match := _DONE.match(text):
            self._enter("packages")
            self._say(int(match[1]), int(match[2]), "installed")

    def _say(self, number: int, total: int, done: str) -> None:
        self._progress(min(0.99, number / max(1, total)), f"{number} of {total} packages {done}")
