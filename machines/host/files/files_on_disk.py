"""What lies on this host for one machine: its .nspawn files, its unit and the drop-ins; read losslessly, never changed.

Facts, tried on 252 and 257: systemd reads drop-ins sorted by their file's name, whichever folder they lie in; of two of
one name the folder that is searched first counts, and one that leads to /dev/null hides the others. `systemctl
set-property` acts at once and leaves 50-KEY.conf in system.control; after the next daemon-reload a file whose name sorts
behind that (50-nspawnpanel.conf does) has the last word again.
"""

import hashlib
import json
import os
import stat
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from machines.contract.configuration import command_line, nspawn
from machines.contract.configuration.command_line import CommandLine
from machines.contract.names import MachineName
from machines.contract.orders import UNREADABLE
from machines.contract.problems import printable
from machines.contract.reports import FILE_LIMIT, ObservedFile
from machines.host.system import guarded
from machines.host.system.paths import Paths, unit_of

DROPINS_AT_MOST = 50
ALL_FILES = 900 * 1024  # characters of JSON that all files of one machine may take
TEMPLATE = "systemd-nspawn@.service"


def files(
    paths: Paths, name: MachineName, loaded: Iterable[str] = (), settings: "Places | None" = None
) -> list[ObservedFile]:
    """Everything that says something about a machine, in the order of contract/reports.FoundMachine.

    `loaded` are drop-ins systemd itself names for the unit; those that our own rule does not find come first. `settings`
    is where its .nspawn file is looked for, where that is not the stock unit's way.
    """
    settings = settings or Places(name, paths.machines)
    ours = dropins(paths, name)
    known = {guarded.resolved(file) for file in ours}
    more = [path for path in map(Path, loaded) if guarded.seems_there(path) and guarded.resolved(path) not in known]
    found = [read(file, "nspawn", follow=file.parent != settings.beside) for file in nspawn_files(paths, settings)]
    found += [read(file, "unit") for file in unit_files(paths, name)]
    found += [read(file, "dropin") for file in [*more, *ours][:DROPINS_AT_MOST]]
    return list(_within(ALL_FILES, found))


def _within(budget: int, files: Iterable[ObservedFile]) -> Iterator[ObservedFile]:
    """Without the texts that would make a report too long."""
    for file in files:
        budget -= len(json.dumps(file.text))
        yield file if budget >= 0 else file.model_copy(update={"form": "long", "text": ""})


@dataclass(frozen=True)
class Places:
    """Under which name a machine's .nspawn file is looked for, and the folder of its image, where the last one may lie."""

    name: str
    beside: Path


def places(name: MachineName, line: CommandLine, beside: Path) -> Places:
    """Where systemd-nspawn looks when it is started with this command line."""
    tree = line.directory or line.image
    called = line.machine if "/" not in line.machine else ""
    return Places(called or name, Path(tree).parent if tree.startswith("/") else beside)


def nspawn_files(paths: Paths, settings: Places) -> Iterator[Path]:
    """Those that are there, in systemd's order: /etc, /run (both trusted), beside the image (not trusted)."""
    for folder in (paths.nspawn, paths.probes, settings.beside):
        file = folder / f"{settings.name}.nspawn"
        if guarded.seems_there(file):
            yield file


def asked_settings(paths: Paths, name: MachineName, beside: Path, line: CommandLine) -> nspawn.Document:
    """What a machine gets by the .nspawn file that counts and by its command line; `beside` is its image's folder.

    Raises OSError when the file cannot be read.
    """
    file = next(nspawn_files(paths, places(name, line, beside)), None)
    text = guarded.whole(file).decode(errors="replace") if file and line.reads_files else ""
    trusted = file is not None and file.parent in {paths.nspawn, paths.probes}
    return command_line.settings_of(line, nspawn.parse(text), trusted=trusted)


def unit_files(paths: Paths, name: MachineName) -> Iterator[Path]:
    """The unit that counts: one of the machine's own, else the template. One that is masked counts too: systemd looks no
    further, and starts nothing."""
    for unit in (unit_of(name), TEMPLATE):
        for folder in paths.unit_folders:
            if guarded.seems_there(folder / unit):
                yield folder / unit
                return


def is_masked(file: Path) -> bool:
    """A link that ends at /dev/null, or an empty file (systemd.unit(5))."""
    try:
        state = guarded.state(file)
    except OSError:
        return False
    return guarded.resolved(file) == os.devnull or (stat.S_ISREG(state.st_mode) and state.st_size == 0)


def dropins(paths: Paths, name: MachineName) -> list[Path]:
    """The drop-ins of a machine's unit, in the order in which systemd reads them."""
    chosen: dict[str, Path] = {}
    for folder in paths.unit_folders:
        for part in (f"{unit_of(name)}.d", f"{TEMPLATE}.d", "service.d"):
            for file in _confs(folder / part):
                chosen.setdefault(file.name, file)
    return [file for _, file in sorted(chosen.items()) if guarded.resolved(file) != os.devnull]


def _confs(folder: Path) -> list[Path]:
    return [folder / name for name in guarded.seen_names(folder) if name.endswith(".conf") and name[0] != "."]


def read(path: Path, kind: Literal["nspawn", "unit", "dropin"], *, follow: bool = True) -> ObservedFile:
    """One file as it stands. What lies beside an image is not followed if it is a link: the image may be anybody's."""
    about: dict[str, Any] = {"path": printable(str(path))[:1000], "kind": kind}
    about["target"] = printable(target_of(path))[:1000]
    if kind == "unit" and is_masked(path):
        return ObservedFile(**about, form="masked")
    try:
        there = guarded.contents(path, follow=follow)
    except OSError as error:
        return ObservedFile(**about, form="unreadable", error=guarded.reason(error), sha256=UNREADABLE)
    data, state = there.data, there.state
    about |= {"size": max(state.st_size, len(data)), "changed": max(0.0, state.st_mtime)}
    if not there.whole:
        too_long = f"It is larger than {guarded.SETTINGS_LIMIT // 1024} KiB."
        return ObservedFile(**about, form="unreadable", error=too_long, sha256=UNREADABLE)
    if len(data) > FILE_LIMIT:
        return ObservedFile(**about, form="long", sha256=hashlib.sha256(data).hexdigest())
    form, text = as_text(data)
    return ObservedFile(**about, form=form, text=text, sha256=hashlib.sha256(data).hexdigest() if data else "absent")


def target_of(path: Path) -> str:
    """Where a link leads, as it is written in it; "" for what is none."""
    try:
        return guarded.call(path, lambda: os.readlink(path))
    except OSError:
        return ""


def as_text(data: bytes) -> tuple[Literal["text", "base64"], str]:
    """Bytes as they can travel in JSON and lie in any database."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "base64", b64encode(data).decode()
    return ("base64", b64encode(data).decode()) if "\0" in text else ("text", text)
