"""Everything on this host that belongs to a machine's name, besides its image: whoever wrote it, and whether or not there
is an image of that name (yet, or any more).

Facts, tried on 252 and 257: `machinectl remove` takes NAME.nspawn in /etc, /run and beside the image with it, a link but
not what it leads to; it leaves drop-ins, what `systemctl set-property` wrote below system.control, and links that start
the machine at boot. All of those act on the next machine of that name.
"""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from machines.contract.configuration import nspawn
from machines.contract.names import MachineName, is_usable
from machines.host.files import files_on_disk, nspawn_file
from machines.host.files.autostart import PULLS
from machines.host.system import guarded
from machines.host.system.paths import Paths, unit_of

Kind = Literal["settings", "drop-in", "limit", "unit", "autostart", "verity"]

AT_MOST = 200  # files of one name, or names, that are looked at
NAMES = 50  # without a machine, that are told
KEPT = 50  # removals of which copies are kept
_VERITY = ("roothash", "roothash.p7s", "usrhash", "usrhash.p7s", "verity")  # beside a disk image
_UNIT = re.compile(r"systemd-nspawn@(.+)\.service(?:\.d)?")


@dataclass(frozen=True)
class Belonging:
    """One file or link. `target` is where a link leads, as it is written in it; `ours` says that the panel wrote it."""

    path: Path
    kind: Kind
    target: str = ""
    ours: bool = False
    sha256: str = "absent"  # of its text, through a link; "absent" where it has none or cannot be read

    @property
    def said(self) -> str:
        """It in a line of a log."""
        return f"{self.path} → {self.target}" if self.target else str(self.path)


def of(paths: Paths, name: MachineName) -> list[Belonging]:
    """All of them: settings first, then drop-ins, units and links. Nothing is raised for what cannot be read."""
    files = ((path, kind) for path, kind in _paths(paths, name) if not _is_folder(path))
    return [_read(path, kind) for path, kind in islice(files, AT_MOST)]


def _is_folder(path: Path) -> bool:
    """A folder in the place of a file says nothing to systemd, and holds what somebody put there."""
    try:
        return stat.S_ISDIR(guarded.state(path, follow=False).st_mode)
    except OSError:
        return False


def _paths(paths: Paths, name: MachineName) -> Iterator[tuple[Path, Kind]]:
    unit = unit_of(name)
    for path in files_on_disk.nspawn_files(paths, files_on_disk.Places(name, paths.machines)):
        yield path, "settings"
    for ending in _VERITY:
        if guarded.seems_there(path := paths.machines / f"{name}.{ending}"):
            yield path, "verity"
    for folder in paths.own_unit_folders:
        kind: Kind = "limit" if folder in {paths.lasting_control, paths.control} else "drop-in"
        # what lies hidden there is our own, ready to be put into its place, and acts on nothing
        yield from ((path, kind) for path in _entries(folder / f"{unit}.d") if not path.name.startswith("."))
        if guarded.seems_there(folder / unit):
            yield folder / unit, "unit"
        yield from ((path, "autostart") for path in links_to(folder, unit))
        for ending in PULLS:
            yield from ((path, "unit") for path in _entries(folder / f"{unit}{ending}"))


def links_to(folder: Path, unit: str) -> list[Path]:
    """Links in a folder of units by which others pull this one in."""
    pulled = [entry / unit for entry in _entries(folder) if entry.name.endswith(PULLS)]
    return [path for path in pulled if guarded.seems_there(path)]


def _entries(folder: Path) -> list[Path]:
    return [folder / name for name in guarded.seen_names(folder)]


def _read(path: Path, kind: Kind) -> Belonging:
    target = files_on_disk.target_of(path)
    if kind in {"autostart", "verity"}:
        return Belonging(path, kind, target)
    file = files_on_disk.read(path, "unit", follow=kind != "settings")
    ours = file.form == "text" and nspawn.revision_of(file.text) is not None
    return Belonging(path, kind, target, ours, file.sha256)


# --- names


def names(paths: Paths) -> set[str]:
    """Names that something belongs to, of machines that are there and of others."""
    told = {path.name.removesuffix(".nspawn") for path in _settings(paths)}
    for folder in paths.own_unit_folders:
        told |= {match[1] for path in _unit_files(folder) if (match := _UNIT.fullmatch(path.name))}
    return told


def _settings(paths: Paths) -> list[Path]:
    every = [path for folder in (paths.nspawn, paths.probes, paths.machines) for path in _entries(folder)]
    return [path for path in every if path.name.endswith(".nspawn") and not path.name.startswith((".", "np-probe-"))]


def _unit_files(folder: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        yield entry
        if entry.name.endswith(PULLS):
            yield from _entries(entry)


def of_nobody(paths: Paths, machines: Collection[str]) -> dict[str, list[Belonging]]:
    """Name → what lies under it, of names that belong to none of these machines."""
    alone = sorted(name for name in names(paths) - set(machines) if is_usable(name))
    return {name: of(paths, MachineName(name)) for name in alone[:NAMES]}


# --- taking them away


def remove(gone: Iterable[Belonging], keep: Path, *, image_too: bool = False) -> int:
    """Remove these, durably, links but not what they lead to; how many have left a copy in the folder `keep`. With
    `image_too` those leave none that are of no use without the image, and may be large. Twice does no harm. Raises
    OSError, before anything is removed when a copy cannot be made."""
    files = list(gone)
    kept = _keep([each for each in files if not (image_too and each.kind == "verity")], keep)
    for each in files:
        each.path.unlink(missing_ok=True)
        forget_empty(each.path.parent)
    for folder in {folder for each in files for folder in each.path.parents[:2]}:
        nspawn_file.sync_folder(folder)
    return kept


def _keep(files: Iterable[Belonging], folder: Path) -> int:
    """Copies under their own paths."""
    copies = [each for each in files if each.target or _is_file(each.path)]
    if copies:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_room(folder)
    is_new = not folder.exists()
    try:
        for each in copies:
            _put(folder / each.path.relative_to("/"), each.path, each.target)
    except OSError:
        if is_new:  # else an earlier try has taken away what lies there
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return len(copies)


def _is_file(path: Path) -> bool:
    """Raises Unreadable."""
    try:
        return stat.S_ISREG(guarded.state(path, follow=False).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _put(file: Path, source: Path, target: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if not target:
        _copy(source, file)
    elif not os.path.lexists(file):
        file.symlink_to(target)
    nspawn_file.sync_folder(file.parent)


def _copy(source: Path, file: Path) -> None:
    """All of a regular file, with its owner and mode. Raises OSError."""
    aside = file.with_name(f".{file.name}.new")
    try:
        made = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(made, "wb") as out, open(os.open(source, guarded.READ_ONLY | os.O_NOFOLLOW), "rb") as text:
            state = os.fstat(text.fileno())
            shutil.copyfileobj(text, out)
            os.fchown(out.fileno(), state.st_uid, state.st_gid)
            os.fchmod(out.fileno(), stat.S_IMODE(state.st_mode))
            out.flush()
            os.fsync(out.fileno())
        aside.rename(file)
    except OSError as error:
        aside.unlink(missing_ok=True)
        error.filename = error.filename or str(file)
        raise


def put_back(keep: Path) -> int:
    """The way back of remove(): how many of the copies are in their places again. What lies there by now stays, and so
    does its copy then. Raises OSError."""
    back = 0
    for copy in _files_below(keep):
        file, target = Path("/") / copy.relative_to(keep), os.readlink(copy) if copy.is_symlink() else ""
        if not os.path.lexists(file):
            _put(file, copy, target)
            back += 1
        elif not target or files_on_disk.target_of(file) != target:
            continue
        copy.unlink()
    if not _files_below(keep):
        shutil.rmtree(keep, ignore_errors=True)
    return back


def _files_below(folder: Path) -> list[Path]:
    return [Path(top, name) for top, folders, names in os.walk(folder) for name in (*folders, *names)
            if os.path.islink(os.path.join(top, name)) or name in names]  # fmt: skip


def _make_room(folder: Path) -> None:
    others = sorted((path for path in _entries(folder.parent) if path != folder), key=_written)
    for old in others[: max(0, len(others) + 1 - KEPT)]:
        shutil.rmtree(old, ignore_errors=True)


def _written(path: Path) -> float:
    """When; 0.0 for what another removal has taken away this moment."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def forget_empty(folder: Path) -> None:
    """Folders of one unit go with their last file."""
    if folder.name.startswith("systemd-nspawn@") and folder.name.endswith((".d", *PULLS)):
        with contextlib.suppress(OSError):  # somebody else's file is in there
            folder.rmdir()
