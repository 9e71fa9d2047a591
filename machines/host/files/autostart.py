"""Which machines start with the host, read from the links by which units pull each other in.

Facts, tried on 252 and 257: systemd follows such a link whichever unit it is below and whoever made it; one in
multi-user.target.wants starts a machine although machines.target is off. `systemctl enable` puts it below
machines.target, which below systemd 253 nothing enables by itself. `machinectl disable` removes every one of them. A unit
that is masked is not started. Links below /run are gone at the next boot.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from machines.host.files import nspawn_file
from machines.host.system import guarded
from machines.host.system.paths import Paths

TARGET = "machines.target"
PULLS = (".wants", ".requires", ".upholds")
_TEMPLATE = "systemd-nspawn@"
_DEFAULT = "default.target"
_AT_MOST = 1000  # units that are looked at
_PULLED = re.compile(rb"^(?:Wants|Requires|BindsTo|Upholds)=(.*)$", re.MULTILINE)


def enabled(paths: Paths) -> frozenset[str]:
    """Machines that start with the host."""
    pullers = _machines(paths)
    if not pullers:
        return frozenset()
    started = _started(paths)
    return frozenset(
        name for name, units in pullers.items()
        if units & started and not _is_masked(paths, f"{_TEMPLATE}{name}.service")
    )  # fmt: skip


def linked(paths: Paths) -> frozenset[str]:
    """Machines that have an autostart link, whether or not anything follows it."""
    return frozenset(_machines(paths))


def has_target(paths: Paths) -> bool:
    """Whether machines.target starts with the host, without which no link below it has an effect."""
    return TARGET in _started(paths)


def sync(paths: Paths) -> None:
    """What `systemctl enable` and `disable` have changed survives a power cut after this: they sync nothing themselves.
    Raises OSError."""
    for folder in (paths.units, *(pulled for _, pulled in _pulls(paths.units))):
        nspawn_file.sync_folder(folder)


def _machines(paths: Paths) -> dict[str, set[str]]:
    """Machine → the units that pull it in."""
    found: dict[str, set[str]] = {}
    for puller, folder in _pulls(paths.units):
        for link in guarded.seen_names(folder):
            if link.startswith(_TEMPLATE):
                found.setdefault(link.removeprefix(_TEMPLATE).removesuffix(".service"), set()).add(puller)
    return found


def _started(paths: Paths) -> set[str]:
    """Every unit that the default target pulls in, as far as links say, and the lines of targets."""
    folders = (paths.units, *paths.vendor_units)
    links: dict[str, list[Path]] = {}
    for folder in dict.fromkeys(folders):
        for puller, pulled in _pulls(folder):
            links.setdefault(puller, []).append(pulled)
    found: set[str] = set()
    todo = [_DEFAULT, *_leads_to(paths, _DEFAULT)]
    while todo and len(found) < _AT_MOST:
        unit = todo.pop()
        if unit in found or _is_masked(paths, unit):
            continue
        found.add(unit)
        todo += [name for folder in links.get(unit, ()) for name in guarded.seen_names(folder)]
        todo += _lines(paths, unit) if unit.endswith(".target") else []
    return found


def _pulls(folder: Path) -> Iterator[tuple[str, Path]]:
    """(unit, its folder of units that it pulls in)."""
    for name in guarded.seen_names(folder):
        if name.endswith(PULLS):
            yield name.rpartition(".")[0], folder / name


def _file(paths: Paths, unit: str) -> Path | None:
    return next((file for folder in (paths.units, *paths.vendor_units) if os.path.lexists(file := folder / unit)), None)


def _leads_to(paths: Paths, unit: str) -> list[str]:
    file = _file(paths, unit)
    return [Path(guarded.resolved(file)).name] if file else []


def _is_masked(paths: Paths, unit: str) -> bool:
    file = _file(paths, unit)
    with contextlib.suppress(OSError):  # no link, or gone this moment
        return file is not None and os.readlink(file) == os.devnull
    return False


def _lines(paths: Paths, unit: str) -> list[str]:
    """What a target's own file pulls in."""
    file = _file(paths, unit)
    with contextlib.suppress(OSError):
        text = guarded.contents(file).data if file else b""
        return [word.decode(errors="replace") for line in _PULLED.findall(text) for word in line.split()]
    return []
