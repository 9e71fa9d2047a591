"""The drop-in by which the binds of a machine are judged at each of its starts, also at boot and by machinectl: one line, the
same for each machine. It comes with the first bind that the panel writes and goes with the last.

Facts, tried on 252 and 257: a unit whose ExecStartPre= fails does not start, and what that wrote to its standard error stands in the
unit's log as its own words.
"""

import logging
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from machines.contract import nspawn
from machines.contract.names import MachineName
from machines.contract.problems import printable
from machines.host import guarded, images, protection
from machines.host.paths import Paths
from machines.host.protection import Broken, Protection

LOG = logging.getLogger(__name__)

TOLD = 100  # machines, in a report

CHECK = protection.SOURCE / "machines" / "host" / "bind_check.py"
_HEAD = """\
# Written by nspawnpanel with the machine's binds, and removed with the last of them: at each start it checks where they
# lead by then (machines/host/bind_check.py). Remove this file when nspawnpanel goes from this host.
[Service]
"""


def text() -> str:
    """What it says. Blanks, quotes and percent signs in a path are written as systemd reads them."""
    return f"{_HEAD}ExecStartPre={_word(sys.executable)} -I {_word(str(CHECK))} %i\n"


def wanted(settings: str) -> str:
    """The text for a machine with these settings; "" where none is due: without binds, and beside a file that the panel did
    not write."""
    has_binds = nspawn.revision_of(settings) is not None and any(protection.sources(nspawn.parse(settings)))
    return text() if has_binds else ""


def broken(paths: Paths) -> Iterator[tuple[MachineName, str, list[Broken]]]:
    """(name, settings, lines that no machine may have) of every trusted .nspawn file with binds, whoever wrote it."""
    guard = Protection(protection.places(paths))
    for folder in (paths.nspawn, paths.probes):
        for file in _names(folder):
            name = file.removesuffix(".nspawn")
            if not file.endswith(".nspawn") or not images.is_usable(name):
                continue
            try:
                settings = guarded.whole(folder / file).decode(errors="surrogateescape")
            except OSError:
                continue  # told with the machine's files
            if each := list(protection.sources(nspawn.parse(settings))):
                yield MachineName(name), settings, list(guard.judge(each, as_root=False))


def told(paths: Paths) -> dict[str, str]:
    """The same for a report: name → its first such line, and why nobody may have it. Nothing is raised."""
    try:
        found = {
            name: printable(f"{bad[0].source.key}={bad[0].source.value}: {bad[0].why}")[:1000]
            for name, _, bad in broken(paths) if bad
        }  # fmt: skip
    except OSError as error:
        LOG.warning("Binds of machines cannot be judged: %s", error)
        return {}
    return dict(islice(found.items(), TOLD))


def _names(folder: Path) -> list[str]:
    try:
        return guarded.names(folder)
    except OSError:
        return []


def missing(paths: Paths) -> list[tuple[Path, str]]:
    """(drop-in, its text) of machines whose file an earlier worker wrote, or one that lay elsewhere, and that may have their binds.

    One whose binds give this host away starts as before: the doctor and its page say so, and nothing is applied to it until they
    are gone. A host must not lose machines at its next boot because its worker was updated.
    """
    found = []
    for name, settings, bad in broken(paths):
        file, text = paths.binds_file(name), wanted(settings)
        if bad and text:
            LOG.warning("%s has a bind that no machine may have: %s", name, bad[0].why)
        if text and (not bad or file.exists()) and _read(file) != text:
            found.append((file, text))
    return found


def _read(file: Path) -> str:
    try:
        return guarded.whole(file).decode(errors="replace")
    except OSError:
        return ""


def _word(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != path or " " in path else path
