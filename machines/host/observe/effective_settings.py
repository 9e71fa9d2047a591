"""What holds for machines: their files, what systemd has of their limits, what the kernel enforces and lets be seen.

Told when it differs from what was told last. It is read apart from the inventory, which must stay small and quick.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from machines.contract.configuration import compare_effective, limits
from machines.contract.configuration.command_line import CommandLine, parse
from machines.contract.names import MachineName
from machines.contract.reports import AT_ONCE, ObservedFile, ObservedFiles, ObservedMachine
from machines.host.context.host_context import HostContext
from machines.host.files import files_on_disk
from machines.host.observe import command_line, inventory, proc_settings
from machines.host.observe.inventory import Lists
from machines.host.observe.unit_state import INFINITE
from machines.host.system import cgroup, guarded
from machines.host.system.bus import BusError
from machines.host.system.paths import unit_of

LOG = logging.getLogger(__name__)

ODD = (ValueError, LookupError, TypeError, OSError)  # what comes of files and processes that are not as expected
TOLD_AT_ONCE = 1024 * 1024  # characters of JSON in one report at most
_FAMILIES = {0: "", 2: "ipv4", 10: "ipv6"}
_PROTOCOLS = {0: "", 6: "tcp", 17: "udp"}


async def read(host: HostContext, names: Iterable[str]) -> tuple[list[ObservedMachine], list[str]]:
    """(these machines, those of them that could not be read); one that is gone is left out. Raises BusError when the bus
    does not answer."""
    lists = await inventory.read_what_answers(host)
    wanted = [name for name in names if inventory.is_there(lists, name)]
    told = await asyncio.gather(*(_one(host, lists, MachineName(name)) for name in wanted), return_exceptions=True)
    odd = []
    for name, each in zip(wanted, told, strict=True):
        if isinstance(each, ODD):  # whoever is root in it has a hand in what is read
            LOG.error("What holds for %s cannot be read", name, exc_info=each)
            odd.append(name)
        elif isinstance(each, BaseException) and not isinstance(each, BusError):
            raise each
    return [each for each in told if isinstance(each, ObservedMachine)], odd


async def _one(host: HostContext, lists: Lists, name: MachineName) -> ObservedMachine:
    machine, unit, (about, properties) = await inventory.machine_and_unit(host, lists, name)
    own = properties if unit == unit_of(name) and properties else await command_line.about(host.bus, name)
    image = lists.images.get(name)
    beside = image.path.parent if image else host.paths.machines
    return await asyncio.get_running_loop().run_in_executor(
        None, _told, _Seen(host, name, machine, about or own, properties, command_line.of_unit(own), beside)
    )


@dataclass(frozen=True)
class _Seen:
    """What the bus has said of one machine: machined of the machine, systemd of the unit it runs in, and what its own unit
    would run. `beside` is the folder of its image."""

    host: HostContext
    name: MachineName
    machine: dict[str, Any]
    about: dict[str, Any]
    properties: dict[str, Any]
    unit_command: list[str]
    beside: Path


def _told(seen: _Seen) -> ObservedMachine:
    about, properties = seen.about, seen.properties
    group = str(properties.get("ControlGroup", ""))
    up, leader = inventory.is_up(str(about.get("ActiveState", ""))), seen.machine.get("Leader")
    run_command = command_line.of_process(leader) if leader else []
    line = parse(run_command or seen.unit_command)
    files = files_on_disk.files(
        seen.host.paths, seen.name, about.get("DropInPaths", []), files_on_disk.places(seen.name, line, seen.beside)
    )
    return ObservedMachine(
        name=seen.name,
        files=files,
        needs_reload=bool(about.get("NeedDaemonReload", False)),
        shown=shown(about | properties) if up else {},
        kernel={key: value[:300] for key, value in cgroup.enforced(group).items()} if up else {},
        inside=_inside(leader, seen.machine, _counting(files) + _as_file(line)) if leader else {},
        unit_command=seen.unit_command,
        run_command=run_command,
        lacks=cgroup.missing(group) if up else {},
    )


def _as_file(line: CommandLine) -> str:
    """What a command line says, as a .nspawn file would: its mounts and ports are looked for as well."""
    said = ((*setting.split(".", 1), value) for setting, values in line.said.items() for value in values)
    return "".join(f"\n[{section}]\n{key}={value}\n" for section, key, value in said if "\n" not in value)


def _inside(leader: int, machine: dict[str, Any], text: str) -> dict[str, str]:
    """A process can let whoever reads its variables wait: they lie in its own memory, which may be anybody's file."""
    try:
        return guarded.call(f"/proc/{leader}", lambda: proc_settings.read(leader, machine, text))
    except guarded.Unreadable as error:
        LOG.warning("What the first process of a machine has cannot be read: %s", error)
        return {}


def _counting(files: Iterable[ObservedFile]) -> str:
    """The text of the .nspawn file that counts."""
    return next((file.text for file in files if file.kind == "nspawn" and file.form == "text"), "")


def shown(properties: dict[str, Any]) -> dict[str, str]:
    """systemd's values of the properties of contract/configuration/limits.py, as text; those that were never set are left out."""
    texts = {key: text(properties.get(compare_effective.bus_name(key))) for key in limits.PROPERTIES}
    unset = {key for key in texts if key.endswith("Weight") and texts[key] == "infinity"}
    return {key: value[:4000] for key, value in texts.items() if value and key not in unset}


def text(value: Any) -> str:
    """A property of the bus as text: numbers plain, switches as yes and no, masks as lists, rows one on a line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return "infinity" if value == INFINITE else str(value)
    if isinstance(value, bytes):
        return inventory.cpu_list(value)
    if isinstance(value, list | tuple):
        return _rows(list(value))
    return "" if value is None else str(value)


def _rows(value: list[Any]) -> str:
    if len(value) == 2 and isinstance(value[0], bool) and isinstance(value[1], list):  # a filter: allow or deny
        return ("" if value[0] or not value[1] else "~") + " ".join(map(str, value[1]))
    return "\n".join(_row(list(row)) if isinstance(row, list | tuple) else text(row) for row in value)


def _row(row: list[Any]) -> str:
    if len(row) == 3 and isinstance(row[1], bytes):  # family, address, length of the prefix
        return _network(row[1], int(row[2]))
    if len(row) == 4 and all(isinstance(part, int) for part in row):  # family, protocol, how many ports from which
        ports = str(row[3]) if row[2] <= 1 else f"{row[3]}-{row[3] + row[2] - 1}"
        parts = (_FAMILIES.get(row[0], ""), _PROTOCOLS.get(row[1], ""), ports if row[2] else "any")
        return ":".join(part for part in parts if part)
    return " ".join(text(part) for part in row)


def _network(address: bytes, prefix: int) -> str:
    return str(ip_network((address, prefix), strict=False))


def digest(machine: ObservedMachine) -> str:
    return hashlib.sha256(machine.model_dump_json().encode()).hexdigest()


def reports(machines: Iterable[ObservedMachine]) -> Iterator[ObservedFiles]:
    """As few reports as their bounds allow."""
    batch: list[ObservedMachine] = []
    size = 0
    for machine in machines:
        more = len(json.dumps(machine.model_dump(mode="json")))
        if batch and (len(batch) >= AT_ONCE or size + more > TOLD_AT_ONCE):
            yield ObservedFiles(machines=batch)
            batch, size = [], 0
        batch.append(machine)
        size += more
    if batch:
        yield ObservedFiles(machines=batch)
