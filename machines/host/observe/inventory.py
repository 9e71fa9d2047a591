"""What machines this host has and how each of them is, read from machined, systemd, /proc and the files on disk.

Costs: two list calls tell names and states (2 ms for 100 machines); only machines that are up cost two GetAll more,
pipelined. Addresses come from /proc/LEADER/net without a fork; disk use from a slow background count, never from here.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from machines.contract.configuration import limits
from machines.contract.names import MachineName, is_usable
from machines.contract.orders import ABSENT, UNREADABLE
from machines.contract.reports import MachineFact
from machines.contract.states import MachineState
from machines.host.context import guest_bus
from machines.host.context.guest_bus import Guest
from machines.host.context.host_context import HostContext, Image, Slow, Why
from machines.host.files import autostart
from machines.host.network import addresses
from machines.host.observe import unit_state
from machines.host.observe.unit_state import INFINITE, UnitState
from machines.host.policy import owners
from machines.host.storage import images
from machines.host.system import cgroup, guarded, journal, tree
from machines.host.system.bus import MACHINED_PATH, Bus, BusError, escape
from machines.host.system.paths import unit_of

LOG = logging.getLogger(__name__)

ASKED = 5.0  # seconds for which a machine is not asked again how it is; one that says nothing, for UNHEARD
UNHEARD = 60.0
BOOTS = 3.0  # seconds for which a machine that has just begun is not asked
EXPLAINED = 15.0  # seconds for which the words of a unit that is started again and again are not read anew
SLOW = 600.0  # seconds: how old an image's os-release and disk use may be
MACHINED_UNIT = "systemd-machined.service"
OS_RELEASE = ("etc/os-release", "usr/lib/os-release")


@dataclass(frozen=True)
class Lists:
    """The three lists everything starts from. `partial` is why machined was not asked: then `images` is what it listed
    last and `running` is empty."""

    running: dict[str, str]  # name → object path
    images: dict[str, Image]
    units: dict[str, str]  # unit name → active state
    partial: str = ""


async def read_lists(host: HostContext) -> Lists:
    """Raises BusError when machined or systemd does not answer: an answer we cannot read is no empty list."""
    lists = await read_what_answers(host)
    if lists.partial:
        raise BusError("Partial", lists.partial)
    return lists


async def read_what_answers(host: HostContext) -> Lists:
    """The same without machined when that does not answer. Raises BusError when systemd does not."""
    machines, found, units = await asyncio.gather(
        host.bus.machined("ListMachines"), images.listed(host), _units(host.bus), return_exceptions=True
    )
    if isinstance(units, BaseException):
        raise units
    for each in (machines, found):
        if isinstance(each, BusError):
            return Lists({}, host.slow.images, units, partial=await _why_silent(host.bus, each))
        if isinstance(each, BaseException):
            raise each
    host.slow.images = found
    # a virtual machine counts where it has an image's name: that image is not free
    running = {name: path for name, kind, _, path in machines[0] if kind == "container" or name in found}
    return Lists(running=running, images=found, units=units)


async def _units(bus: Bus) -> dict[str, str]:
    listed = await bus.systemd("ListUnitsByPatterns", "asas", [[], ["systemd-nspawn@*.service"]])
    return {unit[0]: unit[3] for unit in listed[0]}


async def _why_silent(bus: Bus, error: BusError) -> str:
    """Why machined does not answer, as a sentence."""
    about = await bus.unit(MACHINED_UNIT)
    if about.get("LoadState") == "masked":
        return f"machined does not respond: {MACHINED_UNIT} is masked."
    return f"machined does not respond: {MACHINED_UNIT} is {about.get('ActiveState', 'unknown')} ({error.message})."[
        :300
    ]


async def read_image(host: HostContext, name: MachineName) -> Image | None:
    """One image, or None when machined knows none of that name."""
    return (await images.listed(host)).get(name)


async def read_all(host: HostContext) -> tuple[list[MachineFact], str]:
    """(every machine of this host, why not everything could be read). Raises BusError when systemd does not answer."""
    lists = await read_what_answers(host)
    return await _facts(host, lists, names(lists)), lists.partial


def names(lists: Lists) -> list[str]:
    """The machines there are: images, registered machines, and units that are up."""
    up = {_instance(unit) for unit, state in lists.units.items() if state not in {"inactive", "failed"}}
    return sorted({*lists.images, *filter(is_usable, {*lists.running, *up})})


def is_there(lists: Lists, name: str) -> bool:
    unit = lists.units.get(unit_of(MachineName(name)), "")
    return name in lists.images or name in lists.running or is_up(unit)


async def read_one(host: HostContext, name: MachineName) -> MachineFact | None:
    """One machine whose image is known and has not changed: three calls at once, no list. None when it is unknown.

    For the end of an order that moved nothing but the machine's state.
    """
    image = host.slow.images.get(name)
    if image is None:
        facts, _ = await read_some(host, [name])
        return facts[0] if facts else None
    path, unit = f"{MACHINED_PATH}/machine/{escape(name)}", unit_of(name)
    lists = Lists(running={name: path}, images={name: image}, units={unit: ""})
    disk = await guarded.aside(_on_disk, host, {name: image})
    return await _fact(host, lists, name, disk[name])


async def read_some(host: HostContext, names: Collection[str]) -> tuple[list[MachineFact], list[str]]:
    """These machines, and which of the names belong to none any more."""
    lists = await read_lists(host)
    there = [name for name in names if is_there(lists, name)]
    facts = await _facts(host, lists, there)
    return facts, sorted(set(names) - set(there))


def is_up(active: str) -> bool:
    return active in unit_state.UP


def _instance(unit: str) -> str:
    return unit.removeprefix("systemd-nspawn@").removesuffix(".service")


async def _facts(host: HostContext, lists: Lists, names: Collection[str]) -> list[MachineFact]:
    disk = await guarded.aside(_on_disk, host, {name: lists.images.get(name) for name in names})
    wanted = [_fact(host, lists, MachineName(name), disk[name]) for name in names]
    found = await asyncio.gather(*wanted, return_exceptions=True)
    facts = []
    for name, fact in zip(names, found, strict=True):
        if isinstance(fact, BusError):
            why = f"It could not be checked: {fact.message}"
            facts.append(MachineFact(name=name, state=MachineState.UNKNOWN, why=why[:4000]))
        elif isinstance(fact, ValueError | LookupError | TypeError):  # whoever is root in it has a hand in what is read
            LOG.error("%s cannot be read", name, exc_info=fact)
            facts.append(
                MachineFact(name=name, state=MachineState.UNKNOWN, why="The worker cannot read it; see its log.")
            )
        elif isinstance(fact, BaseException):
            raise fact
        else:
            facts.append(fact)
    return facts


@dataclass(frozen=True)
class OnDisk:
    """What the files of a machine say; `unreadable` is why one of them says nothing."""

    os: str
    enabled: bool
    nspawn_sha256: str
    limits_sha256: str
    unreadable: str
    team: str | None


def _on_disk(host: HostContext, images: Mapping[str, Image | None]) -> dict[str, OnDisk]:
    """Of the machines of these names. Not for the bus's loop: any of the files may let us wait."""
    links, whose = autostart.enabled(host.paths), owners.read_all(host.paths.ledger)
    return {
        name: _files_of(
            host, MachineName(name), image, enabled=name in links, team=None if whose is None else whose.get(name, "")
        )
        for name, image in images.items()
    }


def _files_of(host: HostContext, name: MachineName, image: Image | None, *, enabled: bool, team: str | None) -> OnDisk:
    settings, limits_ = host.paths.nspawn_file(name), host.paths.limits_file(name)
    digests = [sha256(settings), sha256(limits_)]
    reasons = [why for _, why in digests if why]
    return OnDisk(
        os=_os(host.slow, image), enabled=enabled, nspawn_sha256=digests[0][0],
        limits_sha256=digests[1][0], unreadable=" ".join(reasons)[:300], team=team,
    )  # fmt: skip


async def _fact(host: HostContext, lists: Lists, name: MachineName, disk: OnDisk) -> MachineFact:
    slow, image = host.slow, lists.images.get(name)
    machine, unit, (about, properties) = await machine_and_unit(host, lists, name)
    job = await unit_state.job_type(host.bus, about)
    now = unit_state.of(name, unit, machine, about, properties, job=job)
    explain = now.active == "failed" or (now.sub in unit_state.WAITS and now.result != "success")
    why, refused = await _explain(slow, now) if explain else ("", False)
    guest = await _guest(slow, now)
    up = now.is_up
    unknown = lists.partial and now.is_gone and now.active != "failed"  # machined might name another unit it runs in
    return MachineFact(
        name=name,
        state=MachineState.UNKNOWN if unknown else MachineState.DEGRADED if guest.state == "degraded" else now.state,
        since=(now.since or None) if up else None,
        unit=unit,
        leader=now.leader or None,
        addresses=addresses.of_process(now.leader) if now.leader else [],
        enabled=disk.enabled,
        os=disk.os,
        image_id=image.id if image else "",
        image_type=image.type if image else "",
        image_path=str(image.path)[:1000] if image else "",
        read_only=image.read_only if image else False,
        read_only_by=image.read_only_by if image else "",
        hidden_images=[str(path)[:300] for path in image.hidden] if image else [],
        disk_bytes=slow.disk.get(name, (0.0, None))[1],
        memory_bytes=_number(properties, "MemoryCurrent") if up else None,
        cpu_ns=_number(properties, "CPUUsageNSec") if up else None,
        tasks=_number(properties, "TasksCurrent") if up else None,
        nspawn_sha256=disk.nspawn_sha256,
        limits_sha256=disk.limits_sha256,
        unreadable=disk.unreadable,
        effective=corrected(effective(properties), properties) if up else {},
        why=lists.partial if unknown else why,
        activity=unit_state.activity(now, refused=refused, failed=guest.failed),
        team=disk.team,
    )


async def machine_and_unit(
    host: HostContext, lists: Lists, name: MachineName
) -> tuple[dict[str, Any], str, tuple[dict[str, Any], dict[str, Any]]]:
    """(what machined says, name of the unit, what systemd says of it); in one go for machines of the template unit.

    One that is not registered and not in that unit either may be in the unit of its own that it ran in last.
    """
    bus, unit, listed = host.bus, unit_of(name), name in lists.running
    last = host.slow.units.get(name, "")
    machine, known = await asyncio.gather(
        unit_state.registration(bus, name) if listed else _nothing(),
        unit_state.properties(bus, unit if unit in lists.units else ""),
    )
    named = str(machine.get("Unit", ""))
    if named not in {"", unit}:  # started by hand
        host.slow.units[name] = named
        return machine, named, await unit_state.properties(bus, named)
    if last and not machine and known[0].get("ActiveState") not in unit_state.UP:
        about, special = await unit_state.properties(bus, last)
        if unit_state.of(name, last, machine, about, special).is_up:
            return machine, last, (about, special)
    host.slow.units.pop(name, None)
    return machine, unit, known


async def _nothing() -> dict[str, Any]:
    return {}


async def _guest(slow: Slow, now: UnitState) -> Guest:
    """What the systemd inside says of itself, seldom asked: a unit may fail there at any time, and nobody signals it."""
    if now.state is not MachineState.RUNNING or now.init != "systemd" or time.time() - now.since < BOOTS:
        return Guest()
    leader, asked, guest = slow.guests.get(now.name, (0, 0.0, Guest()))
    if leader != now.leader or time.monotonic() - asked > (ASKED if guest.state else UNHEARD):
        guest = await guarded.aside(guest_bus.ask, now.leader)
        slow.guests[now.name] = (now.leader, time.monotonic(), guest)
    return guest


async def _explain(slow: Slow, now: UnitState) -> tuple[str, bool]:
    """(the last journal lines of the run in which a unit failed, whether another start was refused since): read once, and
    of a unit that fails again and again not each time."""
    known = slow.why.get(now.unit)
    key = (now.invocation, now.changed)
    fresh = known is not None and (known.of == key or (now.will_start and time.monotonic() - known.at < EXPLAINED))
    if known is None or not fresh:
        read = partial(journal.lines_of, now.invocation, 12, pid=now.last_pid)
        lines = await asyncio.get_running_loop().run_in_executor(None, read)
        text = "\n".join(lines)[-4000:] or "The unit failed without logging anything."
        known = slow.why[now.unit] = Why(key, time.monotonic(), text, unit_state.was_refused(lines))
    return known.text, known.refused


def _number(properties: dict[str, Any], key: str) -> int | None:
    value = properties.get(key)
    return None if value is None or value == INFINITE else int(value)


def effective(properties: dict[str, Any]) -> dict[str, str]:
    """The resource properties systemd holds now, by the keys of contract/configuration/limits.py, in the form of limits.effective().

    A weight that was never set is left out.
    """
    found: dict[str, str] = {}
    for key in limits.PROVEN:
        value = properties.get(limits.PROPERTIES[key].shown_as)
        if value is None or (value == INFINITE and key.endswith("Weight")):
            continue
        if isinstance(value, bytes | list):
            found |= {key: cpu_list(bytes(value))} if value else {}
        else:
            found[key] = "infinity" if value == INFINITE else str(value)
    return found


def corrected(shown: dict[str, str], properties: dict[str, Any]) -> dict[str, str]:
    """What systemd shows, with the kernel's word where the two differ."""
    real = cgroup.enforced(str(properties.get("ControlGroup", "")))
    held = {
        key: value if key not in real or cgroup.same(key, real[key], value) else real[key]
        for key, value in shown.items()
    }
    return {key: value[:300] for key, value in held.items()}


def cpu_list(mask: bytes) -> str:
    """A CPU mask as systemd writes it: 0-3 7."""
    on = [index for index in range(len(mask) * 8) if mask[index // 8] >> (index % 8) & 1]
    parts: list[list[int]] = []
    for index in on:
        if parts and parts[-1][-1] == index - 1:
            parts[-1][1:] = [index]
        else:
            parts.append([index])
    return " ".join("-".join(map(str, part)) for part in parts)


def sha256(file: Path) -> tuple[str, str]:
    """(of a file's bytes in hex, or "absent", or "unreadable"; why it cannot be read). An empty file says nothing."""
    try:
        data = guarded.whole(file)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT, ""
    except OSError as error:
        return UNREADABLE, f"{file} cannot be read: {guarded.reason(error)}"
    return (hashlib.sha256(data).hexdigest() if data else ABSENT), ""


def _in_tree(image: Path, file: str) -> str:
    """A file of an image; "" when it cannot be read in time."""
    try:
        return guarded.call(image / file, lambda: tree.read_text(image, file))
    except OSError:
        return ""


def _os(slow: Slow, image: Image | None) -> str:
    """PRETTY_NAME of the image's os-release, at most ten minutes old. Raw images would have to be mounted: ""."""
    if image is None or image.type == "raw":
        return ""
    read_at, known = slow.os.get(image.id, (0.0, ""))
    if time.monotonic() - read_at < SLOW and known:
        return known
    top = Path(guarded.resolved(image.path))  # which may be a link to a tree elsewhere
    text = next(filter(None, (_in_tree(top, file) for file in OS_RELEASE)), "")
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    pretty = fields.get("PRETTY_NAME", "").strip("\"'")[:300]
    slow.os[image.id] = (time.monotonic(), pretty)
    return pretty
