"""What the machines of a team take of this host together, against the ceilings of its section in policy.toml.

Counted is what systemd has for the unit of each machine of the team, whoever wrote it, and what orders that are under way will
write. Orders are judged one after the other, where they are taken in, so that two at once cannot both take the last of it. Disk is
what was counted last (observe/disk_use.py): an image that was not counted yet takes nothing.

Fact, tried on 252 and 257: asked for the properties of a unit that is not loaded, systemd loads it from its files first.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Mapping

from machines.contract import orders
from machines.contract import policy_sections as sections
from machines.contract.configuration import limits
from machines.contract.names import MachineName
from machines.contract.policy_sections import Section, Takes
from machines.contract.problems import BadValue
from machines.host.context.host_context import HostContext
from machines.host.files import nspawn_file
from machines.host.policy import owners, policy
from machines.host.policy.policy import Policy
from machines.host.reports.ledger import Row
from machines.host.system.paths import unit_of

UNLIMITED = 2**64 - 1
MOST = 1000  # machines of one team that are asked after


def check(
    host: HostContext, db: sqlite3.Connection, order: orders.Order, rules: Policy, under_way: Iterable[Row]
) -> None:
    """Pass silently when this order leaves the team within the ceilings of its section. Raises NotAllowed naming the rule, and what
    the bus raises."""
    section = rules.section(rules.team)
    if section is None or not section.has_ceilings:
        return
    if isinstance(order, orders.Build) and order.leftovers == "keep" and order.seen and section.limits_each:
        message = "a machine that keeps files which lie here already: what they let it take is not counted."
        raise policy.refuse(section.limits_each, message, rules)
    machines = owners.machines_of(db, rules.team)
    if isinstance(order, orders.BuildBase):
        _refuse(sections.beyond_disk(section, {name: Takes(disk=_disk(host, name)) for name in machines}), rules)
    if isinstance(order, orders.Apply | orders.Build | orders.RemoveDropins):
        _refuse(_beyond(host, section, order, machines, under_way), rules)


def _beyond(
    host: HostContext,
    section: Section,
    order: orders.Apply | orders.Build | orders.RemoveDropins,
    machines: list[str],
    under_way: Iterable[Row],
) -> tuple[str, str] | None:
    """As sections.beyond(); `machines` are all of the team's. Without drop-ins of other people only ours limits a machine."""
    names = [name for name in machines if name != order.name][:MOST]
    is_there = order.name in machines and not isinstance(order, orders.Build)
    have = _takes(host, [*names, *([order.name] if is_there else [])])
    coming = {row.name: row.wanted for row in under_way if row.name in names}
    others = {name: _with(host, name, have.get(name, Takes()), coming.get(name)) for name in names}
    asked = of_limits(_limits_of(host, order.name, orders.to_wire(order)) or "", _memory_total())
    return sections.beyond(section, others, asked, have.get(order.name, Takes()) if is_there else None)


def _refuse(found: tuple[str, str] | None, rules: Policy) -> None:
    if found is not None:
        rule, message = found
        raise policy.refuse(rule, message, rules)


def _limits_of(host: HostContext, name: str, wanted: Mapping[str, object] | None) -> str | None:
    """The drop-in that limits a machine once this order is carried out; None where it changes none."""
    files = wanted.get("configuration") if wanted else None
    if isinstance(files, dict):
        return str(files.get("limits", ""))
    if wanted and wanted.get("op") == orders.op_of(orders.RemoveDropins):
        with contextlib.suppress(OSError):  # one that cannot be read limits nothing that could be counted
            return nspawn_file.read_one(host.paths.limits_file(MachineName(name)))
        return ""
    return None


def _with(host: HostContext, name: str, now: Takes, wanted: Mapping[str, object] | None) -> Takes:
    """The greater of what holds and of what an order that is under way will make hold."""
    text = _limits_of(host, name, wanted)
    if wanted is None or text is None:
        return now
    coming = of_limits(text, _memory_total())
    if wanted.get("op") == orders.op_of(orders.Build):
        return coming  # there is no unit of it yet
    return Takes(_more(now.memory, coming.memory), _more(now.cpu, coming.cpu), now.disk)


def _more(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def _takes(host: HostContext, names: list[str]) -> dict[str, Takes]:
    """machine → what systemd lets it take, and what its image takes."""
    return {name: _take(host, name) for name in names}


def _take(host: HostContext, name: str) -> Takes:
    unit = host.bus.do(host.bus.unit(unit_of(MachineName(name)), "Service"))
    memory, quota = int(unit.get("MemoryMax", UNLIMITED)), int(unit.get("CPUQuotaPerSecUSec", UNLIMITED))
    return Takes(
        None if memory == UNLIMITED else memory,
        None if quota == UNLIMITED else quota / 10_000,
        _disk(host, name),
    )


def _disk(host: HostContext, name: str) -> int:
    return host.slow.disk.get(name, (0.0, 0))[1]


def of_limits(text: str, memory_total: int) -> Takes:
    """What a drop-in lets a machine take."""
    said = limits.read(text)
    return Takes(_wanted("MemoryMax", said, memory_total), _quota(said.get("CPUQuota", "")))


def _wanted(key: str, said: Mapping[str, str], memory_total: int) -> int | None:
    value = said.get(key, "")
    try:
        return int(limits.effective(key, value, memory_total)) if value and value != "infinity" else None
    except (BadValue, ValueError):
        return None  # systemd takes no such value, so nothing is limited


def _quota(value: str) -> float | None:
    try:
        return float(value[:-1]) if value.endswith("%") else None
    except ValueError:
        return None


def _memory_total() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
