"""Debian and Ubuntu trees: where their packages come from, what makes them machines."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from machines.contract import apt_sources
from machines.contract.apt_sources import Source
from machines.contract.problems import Problem
from machines.contract.recipes import DebianRecipe, FirstBoot
from machines.host.faults import CommandFailed
from machines.host.rootfs import bootstrappers, tree
from machines.host.rootfs.building import NETWORK_SERVICES, Building
from machines.host.rootfs.firstboot import needs_locales
from machines.host.run import run

HELPER = "/usr/lib/apt/apt-helper"  # fetches with the host's own apt settings: proxy, certificates
# What makes a tree a machine: an init, the bus for machinectl shell and login, the tools to have an address.
BASE = ("systemd", "systemd-sysv", "dbus", "iproute2", "login")
RESOLVED_IN_SYSTEMD = frozenset({"stretch", "buster", "bullseye", "jammy"})  # later releases have a package of its own


@dataclass
class Way:
    """What prepare() found out: the tool and the archives, the release's own first."""

    tool: str
    sources: list[Source] = field(default_factory=list)


def also(_: DebianRecipe, first_boot: FirstBoot) -> tuple[str, ...]:
    """Packages that the answers of the first boot need."""
    wanted = []
    if needs_locales(first_boot.locale):
        wanted.append("locales")
    if not first_boot.timezone.upper().endswith("UTC"):
        wanted.append("tzdata")
    if first_boot.user:
        wanted.append("sudo")
    return tuple(wanted)


def packages_for(recipe: DebianRecipe, first_boot: FirstBoot, sources: Sequence[Source]) -> list[str]:
    """The base, what the mirror and the first boot need, then the recipe's own, each once."""
    wanted = list(BASE)
    if recipe.release not in RESOLVED_IN_SYSTEMD:
        wanted.append("systemd-resolved")
    if any(source.uri.startswith("https:") for source in sources):
        wanted.append("ca-certificates")
    return list(dict.fromkeys([*wanted, *also(recipe, first_boot), *recipe.packages]))


def sources_for(recipe: DebianRecipe) -> list[Source]:
    """Where the packages come from: the recipe's mirror, else what this host's own apt reads.

    Raises Problem mirror-unknown when the host has no Debian sources.
    """
    if recipe.mirror:
        return [Source(recipe.mirror.rstrip("/"), recipe.release, ("main",))]
    found = apt_sources.for_release(recipe.release, apt_sources.read())
    if not found:
        raise Problem(
            "This host's own apt sources name no Debian mirror, and the recipe names none either.",
            code="mirror-unknown",
            hint="Give the recipe a mirror, such as the address your other Debian machines use.",
        )
    return found


def prepare(building: Building) -> None:
    """The tool, the sources, and whether the mirror has the release."""
    recipe, voice = _recipe(building), building.task.voice
    way = building.state = Way(bootstrappers.tool())
    voice.line(f"Building with {way.tool}.")
    sources = sources_for(recipe)
    for source in sources:
        voice.line(f"Packages from {source.uri} {source.suite}")
    way.sources = [s for i, s in enumerate(sources) if check_mirror(building, s, needed=i == 0)]


def _recipe(building: Building) -> DebianRecipe:
    assert isinstance(building.recipe, DebianRecipe)
    return building.recipe


def check_mirror(building: Building, source: Source, *, needed: bool) -> bool:
    """Ask the mirror for the release, with the host's own apt settings. False for an optional suite it does not have.

    Raises Problem release-unknown or mirror-unreachable.
    """
    if not Path(HELPER).exists():
        return True
    url = f"{source.uri}/dists/{source.suite}/Release"
    argv = [HELPER, "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15",
            "download-file", url, str(building.folder / "Release")]  # fmt: skip
    try:
        building.task.run(argv, timeout=60)
    except CommandFailed as failed:
        missing = (
            "404" in failed.tail
            or "403" in failed.tail
            or "not found" in failed.tail.lower()
            or ("No such file" in failed.tail)
        )
        if missing and not needed:
            building.task.voice.line(f"{source.uri} has no {source.suite}; going on without it.")
            return False
        if missing:
            raise Problem(
                f"{source.uri} has no release “{source.suite}”.", code="release-unknown", details=failed.tail,
                hint="Check its code name (bookworm, trixie …), or choose another mirror.",
            ) from failed  # fmt: skip
        raise Problem(
            f"The mirror {source.uri} does not answer.", code="mirror-unreachable", details=failed.tail, passing=True,
            hint="Look at the network, proxy and DNS of this host, or choose another mirror.",
        ) from failed  # fmt: skip
    return True


def bootstrap(building: Building) -> None:
    """Both tools install the base and the recipe's packages in one go; their words say when the second part begins."""
    recipe, way, voice = _recipe(building), building.state, building.task.voice
    include = packages_for(recipe, building.first_boot, way.sources)
    if way.tool == "mmdebstrap":
        argv = bootstrappers.mmdebstrap(recipe.release, building.tree, include, way.sources, _apt_options(building))
    else:
        argv = bootstrappers.debootstrap(recipe.release, building.tree, include, way.sources)
    progress = bootstrappers.Progress(voice.progress)
    building.install(argv, progress.line, lambda failed, said: bootstrappers.explain(failed, said, building.tree))
    voice.progress(1.0, "all packages installed")


def packages(building: Building) -> None:
    """Done already, see bootstrap()."""


def _apt_options(building: Building) -> Path | None:
    """The host's way to the mirror (proxy, certificates) as a file of apt settings; a proxy's password stays out of
    argv."""
    dump = run(["apt-config", "dump"], timeout=20).out if shutil.which("apt-config") else ""
    text = apt_sources.carried(dump)
    if not text:
        return None
    file = building.folder / "apt.conf"
    file.touch(mode=0o600)
    file.write_text(text)
    return file


def configure(building: Building) -> None:
    """Its sources, and its way to an address."""
    root = building.tree
    tree.unlink(root, bootstrappers.APT_OPTIONS)
    tree.write_text(root, "etc/apt/sources.list", bootstrappers.sources_list(building.state.sources))
    building.task.run(["systemctl", f"--root={root}", "enable", "--", *NETWORK_SERVICES])
    tree.symlink(root, "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")


_STANZA = re.compile(r"(?ms)^Package: (?P<name>\S+)$.*?^Status: (?P<status>[^\n]+)$.*?^Version: (?P<version>\S+)$")
STATUS_LIMIT = 32 * 1024 * 1024


def installed(root: Path) -> list[str]:
    """Out of dpkg's own status file."""
    found = []
    for stanza in tree.read_text(root, "var/lib/dpkg/status", STATUS_LIMIT).split("\n\n"):
        match = _STANZA.search(stanza)
        if match and match["status"] == "install ok installed":
            found.append(f"{match['name']} {match['version']}")
    return sorted(found)
