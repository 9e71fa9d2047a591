"""The drop-in by which the binds of a machine are judged at each of its starts, also at boot and by machinectl: one line, the
same for each machine, and above it as comments where each bind led when it was written down first. It comes with the first
bind that the panel writes and goes with the last.

A check that cannot run keeps no machine down: its program is protected, so only an administrator can take it away. The shell
runs a fixed text of ours; paths and the name are its arguments.

Facts, tried on 252 and 257: a unit whose ExecStartPre= fails does not start, and what that wrote to its standard error stands in the
unit's log as its own words.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from machines.contract.configuration import nspawn
from machines.contract.configuration.protected import Place
from machines.contract.names import MachineName, is_usable
from machines.contract.problems import printable
from machines.host.policy import protection
from machines.host.policy.protection import Broken, Protection, Source
from machines.host.system import guarded
from machines.host.system.paths import Paths

LOG = logging.getLogger(__name__)

TOLD = 100  # machines, in a report

CHECK = protection.SOURCE / "machines" / "host" / "files" / "bind_check.py"
LED_LIMIT = 256 * 1024  # characters of what is written down of where binds led
REST = "*"  # no path: stands for the sources there was no room for
_HEAD = """\
# Written by nspawnpanel with the machine's binds, and removed with the last of them: at each start it checks where they
# lead by then (machines/host/files/bind_check.py). Remove this file when nspawnpanel goes from this host.
# Each bind and where it led when it was written down here; one that leads elsewhere by now starts if policy.toml allows that:
"""
_LED = "# ["
_UNSAFE = re.compile(r"[^\w/.+:@-]", re.ASCII)
_RUN = (
    """/bin/sh -c 'if test -x "$$0" && test -f "$$1"; then exec "$$0" -I "$$1" "$$2"; fi; """
    """echo "The binds of $$2 are not judged: $$0 or $$1 is gone." >&2'"""
)


def text(led: Mapping[str, str]) -> str:
    """What it says. Blanks, quotes and percent signs in a path are written as systemd reads them."""
    lines, room = [], LED_LIMIT
    for pair in led.items():
        lines.append(f"# {json.dumps(pair)}\n")
        room -= len(lines[-1])
        if room < 0:
            lines[-1] = f"# {json.dumps([REST, ''])}\n"
            break
    return f"{_HEAD}{''.join(lines)}[Service]\nExecStartPre={_RUN} {_word(sys.executable)} {_word(str(CHECK))} %i\n"


def written_down(text: str) -> dict[str, str]:
    """source → where it led, of such a text; nothing of one that an earlier worker wrote."""
    return dict(pair for line in text.splitlines() if line.startswith(_LED) for pair in _pair(line))


def _pair(line: str) -> Iterator[tuple[str, str]]:
    try:
        source, led = json.loads(line.removeprefix("# "))
    except ValueError:
        return  # somebody's own comment
    if isinstance(source, str) and isinstance(led, str):
        yield source, led


def wanted(settings: str, before: str, *, strict: bool = False) -> str:
    """The text for a machine with these settings; "" where none is due: without binds, and beside a file that the panel did
    not write.

    What the text `before` says of a bind stays: neither a restart of the worker nor a change of something else makes a link
    good that was bent since. With `strict` nothing is written down of what is not there (not mounted yet, perhaps).
    """
    if nspawn.revision_of(settings) is None:
        return ""
    paths = [source.path for source in protection.sources(nspawn.parse(settings))]
    known = written_down(before)
    led = {path: known[path] if path in known else _leads(path, strict=strict) for path in paths}
    return text({path: real for path, real in led.items() if real}) if paths else ""


def _leads(path: str, *, strict: bool) -> str:
    """Where it leads now; "" when that cannot be told."""
    try:
        return guarded.call(path, lambda: os.path.realpath(path, strict=strict))
    except (OSError, ValueError):
        return ""


def remembered(paths: Paths, name: MachineName) -> dict[str, str]:
    """source → where it led, of the drop-in that lies on this host."""
    return written_down(_read(paths.binds_file(name)))


def broken(paths: Paths, places: Sequence[Place] = ()) -> Iterator[tuple[MachineName, str, list[Broken]]]:
    """(name, settings, lines that no machine may have) of every trusted .nspawn file with binds, whoever wrote it. `places`
    is the table of this host, looked up when not given and needed: that reads all units of its administrators."""
    bound = list(_bound(paths))
    if not bound:
        return
    guard = Protection(places or protection.places(paths))
    for name, settings, each in bound:
        yield name, settings, list(guard.judge(each, as_root=False))


def _bound(paths: Paths) -> Iterator[tuple[MachineName, str, list[Source]]]:
    """(name, settings, what comes in) of each such file."""
    for folder in (paths.nspawn, paths.probes):
        for file in guarded.seen_names(folder):
            name = file.removesuffix(".nspawn")
            if not file.endswith(".nspawn") or not is_usable(name):
                continue
            try:
                settings = guarded.whole(folder / file).decode(errors="surrogateescape")
            except OSError:
                continue  # told with the machine's files
            if each := list(protection.sources(nspawn.parse(settings))):
                yield MachineName(name), settings, each


def told(paths: Paths, places: Sequence[Place] = ()) -> dict[str, str]:
    """The same for a report: name → its first such line, and why nobody may have it. Nothing is raised."""
    try:
        found = {
            name: printable(f"{bad[0].source.key}={bad[0].source.value}: {bad[0].why}")[:1000]
            for name, _, bad in broken(paths, places) if bad
        }  # fmt: skip
    except OSError as error:
        LOG.warning("Binds of machines cannot be judged: %s", error)
        return {}
    return dict(islice(found.items(), TOLD))


def missing(paths: Paths) -> list[tuple[Path, str]]:
    """(drop-in, its text) of machines whose file an earlier worker wrote, or one that lay elsewhere, and that may have their binds.

    One whose binds give this host away starts as before: the doctor and its page say so, and nothing is applied to it until they
    are gone. A host must not lose machines at its next boot because its worker was updated.
    """
    found = []
    for name, settings, bad in broken(paths):
        file = paths.binds_file(name)
        before = _read(file)
        text = wanted(settings, before, strict=True)
        if bad and text:
            LOG.warning("%s has a bind that no machine may have: %s", name, bad[0].why)
        if text and (not bad or file.exists()) and before != text:
            found.append((file, text))
    return found


def _read(file: Path) -> str:
    try:
        return guarded.whole(file).decode(errors="surrogateescape")
    except OSError:
        return ""


def _word(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != path or _UNSAFE.search(path) else path
