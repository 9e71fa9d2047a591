"""Which tools a host needs for what, and which package brings each: one table for the host's own report, the doctor, the
operations before they begin, and the pages that offer them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from machines.contract.recipes import AnyRecipe, ArchiveRecipe, DebianRecipe, PullRecipe

# tool → the Debian package that brings it, and where another package manager has another name for it
PACKAGES: dict[str, tuple[str, dict[str, str]]] = {
    "systemd-nspawn": ("systemd-container", {"pacman": "systemd"}),
    "machinectl": ("systemd-container", {"pacman": "systemd"}),
    "systemd-dissect": ("systemd-container", {"pacman": "systemd"}),
    "systemd-pull": ("systemd-container", {"pacman": "systemd"}),
    "systemd-run": ("systemd", {}),
    "systemd-analyze": ("systemd", {}),
    "systemd-sysusers": ("systemd", {}),
    "journalctl": ("systemd", {}),
    "mmdebstrap": ("mmdebstrap", {}),
    "debootstrap": ("debootstrap", {}),
    "dnf": ("dnf", {}),
    "dnf5": ("dnf5", {}),
    "pacstrap": ("arch-install-scripts", {}),
    "zypper": ("zypper", {}),
    "rpm": ("rpm", {}),
    "pacman": ("pacman-package-manager", {"pacman": "pacman"}),
    "tar": ("tar", {}),
    "zstd": ("zstd", {}),
    "xz": ("xz-utils", {"dnf": "xz", "zypper": "xz", "pacman": "xz"}),
    "gzip": ("gzip", {}),
    "bzip2": ("bzip2", {}),
    "gpg": ("gpg", {"dnf": "gnupg2", "zypper": "gpg2", "pacman": "gnupg"}),
    "btrfs": ("btrfs-progs", {"zypper": "btrfsprogs"}),
    "mkfs.btrfs": ("btrfs-progs", {"zypper": "btrfsprogs"}),
    "nft": ("nftables", {}),
}


@dataclass(frozen=True)
class Work:
    """Something a host does. `needs` are groups of tools, of each of which any one will do, the first one best; `expected`
    says that every host should be able to."""

    title: str
    needs: tuple[tuple[str, ...], ...]
    expected: bool = False


WORKS: dict[str, Work] = {
    "machines": Work(
        "running machines",
        (("systemd-nspawn",), ("machinectl",), ("systemd-run",), ("systemd-analyze",), ("systemd-sysusers",), ("journalctl",)),
        expected=True,
    ),
    "debian": Work("building Debian and Ubuntu", (("mmdebstrap", "debootstrap"),), expected=True),
    "dnf": Work("building Fedora and RHEL-like systems", (("dnf", "dnf5"), ("rpm",))),
    "arch": Work("building Arch Linux", (("pacstrap",), ("pacman",), ("gpg",))),
    "suse": Work("building openSUSE", (("zypper",), ("rpm",))),
    "pull": Work("fetching images", (("systemd-pull",),), expected=True),
    "signatures": Work("checking signatures of images", (("gpg",),), expected=True),
    "disk-images": Work("disk images", (("systemd-dissect",),), expected=True),
    "export": Work("exporting machines", (("tar",), ("zstd",)), expected=True),
    "unpack-zst": Work("importing zstd archives", (("zstd",),), expected=True),
    "unpack-gz": Work("importing gzip archives", (("gzip",),)),
    "unpack-xz": Work("importing xz archives", (("xz",),)),
    "unpack-bz2": Work("importing bzip2 archives", (("bzip2",),)),
    "pool": Work("creating a btrfs pool", (("mkfs.btrfs",), ("btrfs",))),
    "firewall": Work("reading firewall rules", (("nft",),), expected=True),
}  # fmt: skip
EXPECTED = tuple(name for name, work in WORKS.items() if work.expected)
_ENDINGS = {"zst": "zst", "gz": "gz", "tgz": "gz", "xz": "xz", "txz": "xz", "bz2": "bz2"}


def package(tool: str, manager: str = "apt") -> str:
    """What brings a tool, by the names of this package manager."""
    usual, others = PACKAGES.get(tool, (tool, {}))
    return others.get(manager, usual)


def lacking(works: Collection[str], there: Collection[str]) -> list[tuple[str, ...]]:
    """The groups of tools of which a host with these tools has none."""
    groups = dict.fromkeys(group for work in works for group in WORKS[work].needs)
    return [group for group in groups if not any(tool in there for tool in group)]


def titles(group: tuple[str, ...], works: Collection[str] = tuple(WORKS)) -> list[str]:
    """What a group of tools is for."""
    return [WORKS[work].title for work in works if group in WORKS[work].needs]


def of_recipe(recipe: AnyRecipe) -> Iterator[str]:
    """What a host does to build this."""
    if isinstance(recipe, PullRecipe):
        yield "pull"
        if recipe.verify == "signature":
            yield "signatures"
    elif isinstance(recipe, ArchiveRecipe):
        if ending := _ENDINGS.get(recipe.title.rpartition(".")[2].lower()):
            yield f"unpack-{ending}"
    elif recipe.kind in WORKS:
        yield recipe.kind
    if getattr(recipe, "format", "") == "raw":
        yield "disk-images"


def groups_of(recipe: AnyRecipe, there: Collection[str]) -> list[tuple[str, ...]]:
    """The tools a host lacks for a recipe; a recipe that names its tool takes no other."""
    if isinstance(recipe, DebianRecipe) and recipe.tool:
        return [] if recipe.tool in there else [(recipe.tool,)]
    return lacking(list(of_recipe(recipe)), there)


def sentence(groups: Collection[tuple[str, ...]], host: str, manager: str = "apt") -> str:
    """What is missing and how it comes, in a sentence; "" for nothing."""
    if not groups:
        return ""
    what = " and ".join(" or ".join(group) for group in groups)
    packages = " ".join(dict.fromkeys(package(group[0], manager) for group in groups))
    return f"This needs {what}, which {host} does not have. Install it there: {INSTALL.get(manager, INSTALL['apt'])} {packages}."


INSTALL = {"apt": "apt install", "dnf": "dnf install", "zypper": "zypper install", "pacman": "pacman -S"}
