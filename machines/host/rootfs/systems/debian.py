"""Debian and Ubuntu trees: where their packages come from, what makes them machines."""

import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from machines.contract import apt_sources
from machines.contract.apt_sources import WITHOUT_UPDATES, Source
from machines.contract.problems import Problem
from machines.contract.recipes import AptRepository, DebianRecipe, FirstBoot
from machines.host.rootfs.steps import cache
from machines.host.rootfs.steps.building import NETWORK_SERVICES, Building, Explain
from machines.host.rootfs.steps.firstboot import needs_locales
from machines.host.rootfs.systems import apt_lists, bootstrappers
from machines.host.rootfs.systems.bootstrappers import Plan
from machines.host.system import tree
from machines.host.system.faults import CommandFailed
from machines.host.system.run import run

HELPER = "/usr/lib/apt/apt-helper"  # fetches with the host's own apt settings: proxy, certificates
RESOLV_CONF = Path("/etc/resolv.conf")
POLICY_RC = "usr/sbin/policy-rc.d"
# What makes a tree a machine: an init, the bus for machinectl shell and login, the tools to have an address.
BASE = ("systemd", "systemd-sysv", "dbus", "iproute2", "login")
# Their systemd-resolved is in systemd, and their packages do not bring a merged /usr, without which a later systemctl
# on the host finds none of their units.
OLD = frozenset({"stretch", "buster", "bullseye", "bionic", "focal", "jammy"})
# How a host comes by the keys of a distribution
KEYS = {
    "debian": "apt install debian-archive-keyring",
    "ubuntu": "apt install ubuntu-keyring. Debian 12 has no such package: copy /usr/share/keyrings/ubuntu-archive-keyring.gpg"
    " from an Ubuntu system.",
}


@dataclass
class Preparation:
    """What prepare() found out: the tool, the release's own archives, and the recipe's further ones with their keys."""

    tool: str
    keyring: str = ""
    sources: list[Source] = field(default_factory=list)
    extra: list[tuple[AptRepository, Path | None]] = field(default_factory=list)
    options: Path | None = None
    lists: Path | None = None


def extra_packages(_: DebianRecipe, first_boot: FirstBoot) -> tuple[str, ...]:
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
    wanted = [*_base_packages(recipe, sources), *extra_packages(recipe, first_boot), *recipe.packages]
    return list(dict.fromkeys(wanted))


def _base_packages(recipe: DebianRecipe, sources: Sequence[Source]) -> list[str]:
    wanted = list(BASE)
    if recipe.release not in OLD:
        wanted.append("systemd-resolved")
    if any(source.uri.startswith("https:") for source in sources):
        wanted.append("ca-certificates")
    return wanted


def sources_for(recipe: DebianRecipe) -> list[Source]:
    """Where the packages come from: the recipe's mirror, else what this host's own apt reads.

    Raises Problem mirror-unknown when the host has no sources of that distribution.
    """
    if recipe.mirror:
        uri = recipe.mirror.rstrip("/")
        suites = (
            [recipe.release] if recipe.release in WITHOUT_UPDATES else [recipe.release, f"{recipe.release}-updates"]
        )
        return [Source(uri, suite, recipe.components) for suite in suites]
    found = apt_sources.for_release(recipe.release, apt_sources.read(), recipe.distribution, recipe.components)
    if not found:
        raise Problem(
            f"This host's apt sources name no {recipe.distribution.capitalize()} mirror, and the recipe names none.",
            code="mirror-unknown",
            hint="Set a mirror in the recipe, such as the one your other machines use.",
        )
    return found


def prepare(building: Building) -> None:
    """The tool, the keys, the sources, and whether the mirror has the release."""
    recipe, output = _recipe(building), building.task.output
    way = building.state = Preparation(bootstrappers.tool(recipe.tool), bootstrappers.keyring(recipe.distribution))
    output.line(f"Building with {way.tool}.")
    _check_variant(recipe, way.tool)
    sources = sources_for(recipe)
    _check_keyring(recipe, way.keyring)
    for source in sources:
        output.line(f"Packages from {source.uri} {source.suite} {' '.join(source.components)}")
    way.extra = [(r, _key_file(building, number, r)) for number, r in enumerate(recipe.repositories, 1)]
    way.options = _apt_options(building)
    way.lists = _lists(building, sources)
    # Mirrors that gave their lists are there; of the others each is asked by itself, for words of its own.
    way.sources = [
        s for i, s in enumerate(sources) if way.lists is not None or check_mirror(building, s, needed=i == 0)
    ]
    if len(way.sources) < len(sources):
        way.lists = _lists(building, way.sources)
    for repository in recipe.repositories:
        output.line(f"Packages also from {repository.uri} {repository.suite} {' '.join(repository.components)}")


def _recipe(building: Building) -> DebianRecipe:
    assert isinstance(building.recipe, DebianRecipe)
    return building.recipe


def _check_variant(recipe: DebianRecipe, tool: str) -> None:
    if tool == "debootstrap" and recipe.variant not in {"minbase", "important"}:
        raise Problem(
            f"debootstrap has no variant “{recipe.variant}”.", code="variant-unknown",
            hint="Choose minbase or important, or install mmdebstrap on this host.",
        )  # fmt: skip


def _check_keyring(recipe: DebianRecipe, keyring: str) -> None:
    """A distribution other than the host's own is trusted by its own keyring or not at all."""
    if keyring or recipe.distribution == platform.freedesktop_os_release().get("ID"):
        return
    raise Problem(
        f"This host does not have the keys of {recipe.distribution.capitalize()}, so packages cannot be verified.",
        code="key-unknown", hint=f"Install them there: {KEYS[recipe.distribution]}",
    )  # fmt: skip


def _lists(building: Building, sources: Sequence[Source]) -> Path | None:
    """The package lists of every source, where they can be had beforehand."""
    way, host = building.state, building.host
    lines = [*(source.line(way.keyring) for source in sources), *(_source(r, key) for r, key in way.extra)]
    remote = all("http://" in line or "https://" in line for line in lines)
    if way.tool != "mmdebstrap" or not host.policy.max_cache_gib or not remote:
        return None
    return apt_lists.link_cached(host.paths, building.task, lines, way.options, building.folder)


def _key_file(building: Building, number: int, repository: AptRepository) -> Path | None:
    """The repository's own key as a file that apt reads."""
    if not repository.key:
        return None
    file = building.folder / f"repository-{number}.asc"
    file.write_text(repository.key + "\n")
    return file


def check_mirror(building: Building, source: Source, *, needed: bool) -> bool:
    """Ask the mirror for the release, with the host's own apt settings. False for an optional suite it does not have.

    Raises Problem release-unknown or mirror-unreachable.
    """
    if not Path(HELPER).exists():
        return True
    url = f"{source.uri}/dists/{source.suite}/Release"
    proxy = _recipe(building).proxy
    argv = [HELPER, *(["-o", f"Acquire::http::Proxy={proxy}", "-o", f"Acquire::https::Proxy={proxy}"] if proxy else []),
            "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15",
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
            building.task.output.line(f"{source.uri} has no {source.suite}; continuing without it.")
            return False
        if missing:
            raise Problem(
                f"{source.uri} has no release “{source.suite}”.", code="release-unknown", details=failed.tail,
                hint="Check its code name (bookworm, trixie …), or choose another mirror.",
            ) from failed  # fmt: skip
        raise Problem(
            f"The mirror {source.uri} does not answer.", code="mirror-unreachable", details=failed.tail, retryable=True,
            hint="Check the network, proxy and DNS of this host, or choose another mirror.",
        ) from failed  # fmt: skip
    return True


def bootstrap(building: Building) -> None:
    """mmdebstrap installs everything in one go, and its words say when the second part begins; debootstrap only makes
    the smallest system."""
    recipe, way, output = _recipe(building), building.state, building.task.output
    progress = bootstrappers.Progress(output.progress, building.enter)
    plan = Plan(recipe.release, recipe.variant, _base_packages(recipe, way.sources), way.sources,
                keyring=way.keyring, options=way.options, distribution=recipe.distribution,
                merge_usr=recipe.release in OLD)  # fmt: skip
    if way.tool == "debootstrap":
        argv = bootstrappers.debootstrap(plan, building.tree)
        building.install(argv, progress.line, _explain(building), extra=_proxy(recipe))
        return
    gib = building.host.policy.max_cache_gib
    names = apt_lists.names(way.lists) if way.lists else {}
    lent = cache.link_cached(building.host.paths, "apt", building.folder / cache.LENT, names) if gib else None
    building.undo.push(cache.forget, building.folder)
    include = packages_for(recipe, building.first_boot, way.sources)
    plan = replace(
        plan, include=include, more=[_source(r, key) for r, key in way.extra], packages=lent, lists=way.lists
    )
    scratch = building.folder / "tmp"  # what it leaves there when it is killed goes with the job
    scratch.mkdir(exist_ok=True, mode=0o700)
    argv, extra = bootstrappers.mmdebstrap(plan, building.tree), {"TMPDIR": str(scratch)}
    building.install(argv, progress.line, _explain(building), extra=extra, talks_on_errors=True)
    if lent:
        cache.collect(building.host.paths, "apt", lent, gib, names)
        cache.forget(building.folder)
    output.progress(1.0, "all packages installed")


def _source(repository: AptRepository, key: Path | None) -> str:
    signed = f"[signed-by={key}] " if key else ""
    return f"deb {signed}{repository.uri} {repository.suite} {' '.join(repository.components)}".strip()


def _explain(building: Building) -> Explain:
    return lambda failed, said: bootstrappers.explain(failed, said, building.tree)


def _proxy(recipe: DebianRecipe) -> dict[str, str]:
    return {"http_proxy": recipe.proxy, "https_proxy": recipe.proxy} if recipe.proxy else {}


def packages(building: Building) -> None:
    """After debootstrap: the recipe's packages, by the tree's own apt; mmdebstrap has installed them already.

    The tree is still nothing but the mirror's packages, whose scripts run as root anyway; so chroot(8) is enough.
    """
    recipe, way = _recipe(building), building.state
    there = _base_packages(recipe, way.sources)
    wanted = [p for p in packages_for(recipe, building.first_boot, way.sources) if p not in there]
    if way.tool != "debootstrap" or not wanted:
        return
    root = building.tree
    _write_sources(building)
    if way.options:
        tree.write_text(root, bootstrappers.APT_OPTIONS, way.options.read_text(), 0o600)
    # systemd-resolved has made it a link to a service that does not run here.
    tree.write_text(root, "etc/resolv.conf", RESOLV_CONF.read_text())
    tree.write_text(root, POLICY_RC, "#!/bin/sh\nexit 101\n", 0o755)  # no service starts during a build
    progress = bootstrappers.Progress(building.task.output.progress, building.enter)
    apt = ["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes"]
    try:
        building.install([*apt, "update"], progress.line, _explain(building))
        argv = [*apt, "--no-install-recommends", "install", "--", *wanted]
        building.install(argv, progress.line, _explain(building))
        building.install([*apt, "clean"], progress.line, _explain(building))
    finally:
        tree.unlink(root, POLICY_RC)


def _apt_options(building: Building) -> Path | None:
    """The host's way to the mirror (proxy, certificates) as a file of apt settings; a proxy's password stays out of
    argv. A proxy of the recipe's stands before the host's."""
    recipe = _recipe(building)
    dump = run(["apt-config", "dump"], timeout=20).out if shutil.which("apt-config") else ""
    text = apt_sources.carried(dump)
    if recipe.proxy:
        text += f'Acquire::http::Proxy "{recipe.proxy}";\nAcquire::https::Proxy "{recipe.proxy}";\n'
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
    _write_sources(building)
    building.task.run(["systemctl", f"--root={root}", "enable", "--", *NETWORK_SERVICES])
    tree.symlink(root, "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")


def _write_sources(building: Building) -> None:
    """sources.list of the tree, with the keys of further repositories where machines look for them."""
    way, lines = building.state, []
    for number, (repository, key) in enumerate(way.extra, 1):
        inside = f"/etc/apt/keyrings/repository-{number}.asc"
        if key:
            tree.write_text(building.tree, inside, key.read_text())
        lines.append(_source(repository, Path(inside) if key else None))
    inside = way.keyring if tree.exists(building.tree, way.keyring) else ""
    own = [source.line(inside) for source in way.sources]
    tree.write_text(building.tree, "etc/apt/sources.list", "".join(f"{line}\n" for line in [*own, *lines]))


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
