"""Binds that no machine of this host may have, whatever its policy says: of what root or systemd runs or believes.

The places are those of contract/configuration/protected.py and this host's own: the worker's programs, state and settings wherever they
really are, folders of machines, what leads out of these by a link, programs of root's units, swap files, and files that a
protected file system lies in. A bind is judged by everything it reaches (real_paths.py): the folder itself, what is mounted
below it, and through overlays. It is judged when a configuration is applied and again at each start (bind_check.py).

Facts, tried on 252 and 257: of an Overlay= with two parts the second is a folder of the host as well, the one that is written
to, and its name is the place inside, too. Without a user namespace root inside may remount a read-only bind writable.
"""

import os
import re
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import machines
from machines.contract.configuration import file_policy, protected
from machines.contract.configuration.nspawn import FILES, Document
from machines.contract.configuration.protected import Place
from machines.host.policy import real_paths
from machines.host.policy.real_paths import Mounts, Reached, Spot
from machines.host.system import guarded, swaps
from machines.host.system.paths import Paths

SOURCE = Path(machines.__file__).resolve().parents[1]
SETTINGS = Path("/etc/nspawnpanel")
UNITS_READ = 1000
LINKS_READ = 2000
LOCAL_UNITS = Path("/usr/local/lib/systemd/system")
_EXEC = re.compile(r"^Exec(?:Start|StartPre|StartPost|Condition|Reload|Stop|StopPost)\s*=\s*(.+)$", re.MULTILINE)
_USER = re.compile(r"^(?:User\s*=\s*(?!root\s*$|0\s*$)\S+|DynamicUser\s*=\s*(?:yes|true|1|on))", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """What one line of a .nspawn file brings in from the host. `path` is the host's; `writable` as the line says it."""

    key: str
    value: str
    path: str
    writable: bool
    recursive: bool = True
    same_ids: bool = False  # root inside is the host's root there (idmap), whatever the user namespace


@dataclass(frozen=True)
class Broken:
    """A line that breaks the rule, and why as a sentence."""

    source: Source
    why: str


def sources(document: Document) -> Iterator[Source]:
    """Everything that comes in from the host, in the order of the file. What lies in the image (+) or in memory does not.

    A path that is not absolute counts from the top of the host, where the unit of a machine runs.
    """
    for entry in document.settings():
        if entry.section == FILES and entry.value:
            for source in _KINDS.get(entry.key, _nothing)(entry.key, entry.value):
                if source.path and not source.path.startswith("+"):
                    yield source if source.path.startswith("/") else replace(source, path=f"/{source.path}")


def _nothing(_key: str, _value: str) -> Iterator[Source]:
    return iter(())


def _bind(key: str, value: str) -> Iterator[Source]:
    path, _, words = (*file_policy.split(value), "", "")[:3]
    options = words.split(",")
    yield Source(key, value, path, key == "Bind", "norbind" not in options, "idmap" in options)


def _overlay(key: str, value: str) -> Iterator[Source]:
    layers = file_policy.overlay_layers(value)
    for number, layer in enumerate(layers, 1):
        yield Source(key, value, layer, key == "Overlay" and number == len(layers))


def _bind_user(key: str, value: str) -> Iterator[Source]:
    for user in value.split():  # comes with their home, writable
        yield Source(key, value, os.path.expanduser(f"~{user}"), True)


_KINDS = {
    "Bind": _bind, "BindReadOnly": _bind, "Overlay": _overlay, "OverlayReadOnly": _overlay, "BindUser": _bind_user,
}  # fmt: skip


# --- this host's own places


def own_places(paths: Paths) -> list[Place]:
    """What this host adds to the table, each once."""
    found = [
        *(Place(str(path), protected.WORKER) for path in _programs()),
        *(Place(str(path), protected.OWN_KEYS, secret=True) for path in (paths.state, paths.policy, SETTINGS)),
        *(Place(str(path), protected.MACHINES, secret=True) for path in (*paths.image_folders, paths.pool_file, paths.before_pool)),
        *(Place(str(path), protected.MACHINES) for path in (paths.nspawn, paths.probes)),
        *(Place(path, protected.MACHINES, secret=True) for path in _links_of(paths.image_folders)),
        *(Place(path, protected.UNITS) for path in _links_of((paths.nspawn, *_unit_folders(paths)))),
        *_programs_of_units(paths),
        *(Place(path, "a swap file, which contains memory of the host", secret=True) for path in swaps.files()),
    ]  # fmt: skip
    told: list[Place] = []
    for place in sorted(found):
        if place.path not in {os.devnull, "/"} and not any(_covers(each, place) for each in (*protected.TABLE, *told)):
            told.append(place)
    return told[: protected.PLACES_TOLD]


def _covers(place: Place, other: Place) -> bool:
    """Whether the other one says nothing beyond this."""
    return protected.is_in(other.path, place.path) and (place.secret or not other.secret)


def places(paths: Paths) -> list[Place]:
    """The whole table of this host."""
    return [*protected.TABLE, *own_places(paths)]


def _programs() -> set[str]:
    """The worker's own: its source, its interpreter, and every folder that one takes modules from."""
    found = {str(SOURCE), sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), os.path.realpath(sys.executable)}
    modules = sys.path if sys.flags.safe_path else sys.path[1:]  # the first is where python was started, / in a unit
    return found | {path for path in modules if path.startswith("/") and os.path.exists(path)}


def _links_of(folders: Iterable[Path]) -> Iterator[str]:
    """Where links in these folders lead, two levels deep (drop-ins, NAME.wants)."""
    for folder in folders:
        for path in islice(_entries(folder), LINKS_READ):
            if path.is_symlink():
                yield guarded.resolved(path)


def _entries(folder: Path) -> Iterator[Path]:
    for name in guarded.seen_names(folder):
        yield folder / name
        if name.endswith((".d", ".wants", ".requires", ".upholds")):
            yield from (folder / name / each for each in guarded.seen_names(folder / name))


def _unit_folders(paths: Paths) -> tuple[Path, ...]:
    return (*paths.own_unit_folders, LOCAL_UNITS)


def _programs_of_units(paths: Paths) -> Iterator[Place]:
    """What units of this host's administrators run as root, where it lies outside the table."""
    every = (path for folder in _unit_folders(paths) for path in _entries(folder))
    files = (path for path in every if path.name.endswith((".service", ".conf")))
    for file in islice(files, UNITS_READ):
        for program in _run_by(file):
            if not any(protected.is_in(program, place.path) for place in protected.TABLE):
                yield Place(program, f"a program that {file.name} runs as root")


def _run_by(file: Path) -> Iterator[str]:
    """Programs of a unit or drop-in, and scripts that it names in full; none of one that runs as somebody else."""
    try:
        text = guarded.whole(file).decode(errors="replace").replace("\\\n", " ")
    except OSError:
        return
    if not _USER.search(text):
        for line in _EXEC.findall(text):
            yield from (word for word in _words(line) if word.startswith("/") and os.path.isfile(word))


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    return [words[0].lstrip("-@:+!|"), *words[1:]] if words else []


# --- judging


class Protection:
    """What is protected on this host now, as it is reached; made anew for each judgement, for mounts and links change."""

    def __init__(self, places: Sequence[Place], mounts: Mounts | None = None) -> None:
        self.places = places
        self.mounts = mounts or real_paths.read()

    @cached_property
    def spots(self) -> list[tuple[Spot, Place]]:
        """Where each of them really lies, files that their file systems lie in among them."""
        found = [(spot, place) for place in self.places for spot in self._reach(place.path)]
        for device, place in {spot.device: place for spot, place in reversed(found)}.items():
            for file in self.mounts.files_of(device):
                why = f"the file system of {place.path} is in it"
                found += [(spot, Place(file, why, secret=True)) for spot in self._reach(file)]
        return found

    def _reach(self, path: str) -> tuple[Spot, ...]:
        try:
            return self.mounts.reach(path).spots
        except OSError:
            return ()

    def judge(self, each: Iterable[Source], *, as_root: bool) -> Iterator[Broken]:
        """Those that no machine may have. `as_root`: ids inside are ids of the host, so that nothing is read-only, and nobody
        but root may be able to put something else in a path's place before it is mounted."""
        for source in each:
            why = self._why(source, writable=source.writable or as_root)
            if not why and source.writable and (as_root or source.same_ids):
                why = _why_open(source.path)
            if why:
                yield Broken(source, why)

    def inside(self, path: str, folders: Iterable[tuple[Spot, str]]) -> tuple[str, str] | None:
        """(the step, whose folder) of the first step on the way to a path that lies inside one of these folders, by whichever
        name: whoever can write there can put a link in its place. Raises OSError."""
        known = list(folders)
        for step in guarded.steps(path):
            for spot in self._reach(os.path.dirname(step)):
                for folder, whose in known:
                    if folder.holds(spot):
                        return step, whose
        return None

    def spots_of(self, source: Source) -> list[Spot]:
        """Where a source really lies, with what is mounted below it."""
        try:
            end = self.mounts.reach(source.path)
        except OSError:
            return []
        below = self.mounts.below(end.path) if source.recursive else ()
        return [*end.spots, *(spot for _, spots in below for spot in spots)]

    def _why(self, source: Source, *, writable: bool) -> str:
        """Why it may not be, "" when it may."""
        try:
            end = self.mounts.reach(source.path)
        except (FileNotFoundError, NotADirectoryError):
            real = guarded.call(source.path, lambda: os.path.realpath(source.path))
            place = protected.met(real, self.places, writable=writable)
            return protected.sentence(source.path, place, writable=writable, leads=real) if place else ""
        except OSError as error:
            return f"Where {source.path} points to cannot be determined: {guarded.reason(error)}"
        return self._special(source, end, writable=writable) or self._given_away(source, end, writable=writable)

    def _special(self, source: Source, end: Reached, *, writable: bool) -> str:
        """What is no folder: a device, a socket, a file that lies elsewhere, too."""
        mode, state = end.state.st_mode, end.state
        leads = f" (it leads to {end.path})" if end.path != source.path else ""
        if end.is_device and not protected.is_device(protected.normal(end.path)):
            return (
                f"{source.path}{leads} is a device that would expose this host. No machine may have it, whatever "
                "the policy says."
            )
        if stat.S_ISSOCK(mode) and state.st_uid == 0:
            return (
                f"{source.path}{leads} is a socket of root: {protected.SOCKETS}. No machine may have it, whatever "
                "the policy says."
            )
        if stat.S_ISREG(mode) and state.st_nlink > 1 and writable:
            return (
                f"{source.path}{leads} has {state.st_nlink} names (hard links), and the others may be anywhere on "
                "this host."
            )
        return ""

    def _given_away(self, source: Source, end: Reached, *, writable: bool) -> str:
        real = protected.normal(end.path)
        if (writable and protected.is_device(real)) or (not source.writable and real in protected.READABLE):
            return ""
        if place := protected.met(real, self.places, writable=writable):
            return protected.sentence(source.path, place, writable=writable, leads=end.path)
        if place := self._met(end.spots, writable=writable):
            return _elsewhere(source.path, end.path, place, writable=writable)
        for point, spots in self.mounts.below(end.path) if source.recursive else ():
            if place := self._met(spots, writable=writable):
                return _elsewhere(source.path, point, place, writable=writable)
        return ""

    def _met(self, spots: Sequence[Spot], *, writable: bool) -> Place | None:
        return next(
            (
                place
                for theirs, place in self.spots
                for spot in spots
                if (writable or place.secret) and spot.meets(theirs)
            ),
            None,
        )


def open_folder(path: str) -> str:
    """The first folder on the way to a path in which others than root could put something else in its place; "" for none.
    Raises OSError."""
    for step in guarded.steps(path):
        folder = os.path.dirname(step)
        state = guarded.state(Path(folder))
        is_shared = bool(state.st_mode & 0o022)
        if is_shared and state.st_mode & stat.S_ISVTX:  # as /tmp: only the owner of what lies there can replace it
            is_shared = guarded.is_there(Path(step)) and guarded.state(Path(step), follow=False).st_uid != 0
        if state.st_uid != 0 or is_shared:
            return folder
    return ""


def _why_open(path: str) -> str:
    """Why somebody else than root could change where a path leads, at any moment; "" when nobody can."""
    try:
        folder = open_folder(path)
    except FileNotFoundError:
        return ""  # what is missing is said elsewhere
    return folder and (
        f"users other than root can write to {folder} and could change at any time where {path} points; root inside "
        "would be root on this host there."
    )


def _elsewhere(path: str, at: str, place: Place, *, writable: bool) -> str:
    """In the words for what is reached by another name."""
    where = f"{path} reaches {place.path}" if at == path else f"{path} reaches {place.path} by {at}"
    verb = "write to" if writable else "see"
    return f"{where} through a mount: {place.why}. No machine may {verb} that, whatever the policy says."
