"""Which machines start with the host, read from the links that systemctl enable makes."""

from pathlib import Path

from machines.host import guarded
from machines.host.paths import Paths

_TEMPLATE = "systemd-nspawn@"


def enabled(paths: Paths) -> frozenset[str]:
    """Machines that start with the host: systemctl enable makes links below *.wants. They only count when
    machines.target itself is wanted, which machinectl does by itself from systemd 253 on."""
    links = _links(paths)
    if "machines.target" not in links:
        return frozenset()
    return linked(paths)


def linked(paths: Paths) -> frozenset[str]:
    """Machines that have an autostart link, whether or not anything follows it."""
    return frozenset(
        link.removeprefix(_TEMPLATE).removesuffix(".service") for link in _links(paths) if link.startswith(_TEMPLATE)
    )


def has_target(paths: Paths) -> bool:
    """Whether machines.target is enabled, without which no link to a machine has an effect."""
    return "machines.target" in _links(paths)


def _links(paths: Paths) -> set[str]:
    found: set[str] = set()
    for folder in _names(paths.units):
        if folder.endswith((".wants", ".requires")):
            found.update(_names(paths.units / folder))
    return found


def _names(folder: Path) -> list[str]:
    """What lies in a folder; [] when it cannot be read."""
    try:
        return guarded.names(folder)
    except OSError:
        return []
