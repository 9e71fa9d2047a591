"""What a machine's unit runs, drop-ins included, and with which words the systemd-nspawn that runs it was started.

Facts, tried on 252 and 257: systemd shows ExecStart= with its specifiers filled in and its variables not; asking for a
unit that is not loaded loads it; the parent of a machine's first process is its systemd-nspawn.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from machines.contract.configuration import command_line
from machines.contract.configuration.command_line import CommandLine
from machines.contract.names import MachineName
from machines.host.system.bus import Bus, BusError
from machines.host.system.paths import unit_of

PROC = Path("/proc")
READ_AT_MOST = 64 * 1024
LONGEST_WORD = 1000


def of_unit(properties: Mapping[str, Any]) -> list[str]:
    """The words of a unit's ExecStart= (properties of its Service); of several lines the last. [] when it has none."""
    lines = properties.get("ExecStart") or []
    return _bounded(lines[-1][1]) if lines else []


def of_process(leader: int) -> list[str]:
    """The words of the systemd-nspawn that runs the machine whose first process this is; [] when they cannot be read."""
    try:
        parent = _parent(leader)
        with (PROC / str(parent) / "cmdline").open("rb") as stream:
            words = stream.read(READ_AT_MOST).decode(errors="replace").split("\0")
    except (OSError, ValueError):
        return []
    return _bounded(words[:-1]) if parent > 1 else []


def _parent(process: int) -> int:
    """Raises OSError, or ValueError when the kernel does not say."""
    with (PROC / str(process) / "status").open("rb") as stream:
        lines = stream.read(READ_AT_MOST).decode(errors="replace").splitlines()
    return int(next((line.split()[1] for line in lines if line.startswith("PPid:")), ""))


def _bounded(words: Iterable[Any]) -> list[str]:
    return [str(word)[:LONGEST_WORD] for word in words][: command_line.LISTED_AT_MOST]


async def about(bus: Bus, name: MachineName) -> dict[str, Any]:
    """What systemd says of a machine's own unit, loaded for it if it is not yet; {} when it does not say."""
    try:
        return await bus.unit(unit_of(name)) | await bus.unit(unit_of(name), "Service")
    except BusError:
        return {}


def read(bus: Bus, name: MachineName) -> CommandLine:
    """What a machine's unit runs; the stock unit's line when systemd does not say. Not from the bus's own loop."""
    words = of_unit(bus.do(about(bus, name)))
    return command_line.parse(words) if words else command_line.stock()
