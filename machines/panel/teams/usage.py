"""What the machines of a team may take of a host, summed, and what that leaves of its share.

Counted is what was applied, what is on its way to the host, and of machines that were never configured here what systemd has. A
machine that is missing is counted until it is taken off the list, for its image may come back.
"""

from collections.abc import Callable
from dataclasses import dataclass

from machines.contract.configuration import limits
from machines.contract.problems import BadValue
from machines.contract.quantities import NBSP, size
from machines.models import Host, HostShare, Machine, ObservedFiles, Revision

COUNTED = 5000  # machines of one team on one host


@dataclass(frozen=True)
class Uses:
    """Bytes of memory and percent of one CPU that a machine may take at most; None where nothing limits it."""

    memory: int | None
    cpu: float | None

    def or_more(self, other: "Uses") -> "Uses":
        """What may hold of the two, while one takes the place of the other."""
        return Uses(
            None if self.memory is None or other.memory is None else max(self.memory, other.memory),
            None if self.cpu is None or other.cpu is None else max(self.cpu, other.cpu),
        )


NOTHING = Uses(0, 0.0)


@dataclass(frozen=True)
class Used:
    """What a team uses of a host: the sums of what is limited, and the first machine of those that are not."""

    machines: int
    disk: int
    memory: int
    cpu: float
    without_memory: str = ""
    without_cpu: str = ""


@dataclass(frozen=True)
class Spent:
    """One line of a quota as pages show it: a sum and how much of it is used (0 … 1), or with None what is allowed."""

    title: str
    text: str
    share: float | None
    note: str = ""


def used(share: HostShare, *, without: str = "") -> Used:
    """What the team's machines on this host may take, but for the machine of this name."""
    found = each(share, without=without)
    return Used(
        machines=len(found),
        disk=sum(row.disk_bytes or 0 for row, _ in found),
        memory=sum(uses.memory or 0 for _, uses in found),
        cpu=sum(uses.cpu or 0.0 for _, uses in found),
        without_memory=next((row.name for row, uses in found if uses.memory is None), ""),
        without_cpu=next((row.name for row, uses in found if uses.cpu is None), ""),
    )


def each(share: HostShare, *, without: str = "") -> list[tuple[Machine, Uses]]:
    """The same of every machine, by their names."""
    machines = Machine.objects.listed().filter(host=share.host_id, team=share.team_id).exclude(name=without)
    rows = list(machines.select_related("applied").order_by("name")[:COUNTED])
    under_way = _under_way(rows)
    observed = _observed(rows)
    total = memory_total(share.host)
    return [(row, _uses(row, under_way.get(row.pk), observed, total)) for row in rows]


def _under_way(rows: list[Machine]) -> dict[int, str]:
    """machine → the drop-in that is on its way to its host."""
    revisions = Revision.objects.filter(machine__in=rows, state=Revision.State.APPLYING)
    return dict(revisions.values_list("machine_id", "limits_text"))


def _observed(rows: list[Machine]) -> dict[int, Uses]:
    """machine → what systemd has, of those that were never configured here."""
    found = ObservedFiles.objects.filter(machine__in=[row for row in rows if row.applied is None])
    return {files.machine_id: _shown(files.shown) for files in found.only("machine_id", "shown")}


def _shown(properties: dict[str, str]) -> Uses:
    """Out of `systemctl show`: bytes, and µs of CPU time a second."""
    memory, cpu = str(properties.get("MemoryMax", "")), str(properties.get("CPUQuota", ""))
    return Uses(int(memory) if memory.isdecimal() else None, int(cpu) / 10_000 if cpu.isdecimal() else None)


def _uses(machine: Machine, coming: str | None, observed: dict[int, Uses], memory_total: int) -> Uses:
    """What a machine may take by what it has now and by what is on its way to it."""
    if machine.applied is None and coming is not None:
        return of_limits(coming, memory_total)  # it is being built
    now = _now(machine, observed, memory_total)
    return now if coming is None else now.or_more(of_limits(coming, memory_total))


def _now(machine: Machine, observed: dict[int, Uses], memory_total: int) -> Uses:
    if machine.applied is not None:
        return of_limits(machine.applied.limits_text, memory_total)
    return observed.get(machine.pk, Uses(None, None))


def of_limits(text: str, memory_total: int) -> Uses:
    """What a drop-in lets a machine take. A share of a host's memory that is not known limits nothing that could be counted."""
    said = limits.read(text)
    memory, cpu = said.get("MemoryMax", ""), said.get("CPUQuota", "")
    if memory.endswith("%") and not memory_total:
        memory = ""
    return Uses(_whole("MemoryMax", memory, memory_total), _percent(cpu))


def _whole(key: str, value: str, memory_total: int) -> int | None:
    try:
        return int(limits.effective(key, value, memory_total)) if value and value != "infinity" else None
    except (BadValue, ValueError):
        return None  # systemd takes no such value, so nothing is limited


def _percent(value: str) -> float | None:
    try:
        return float(value.removesuffix("%")) if value.endswith("%") else None
    except ValueError:
        return None


def memory_total(host: Host) -> int:
    told = host.facts.get("memory_total")
    return told if isinstance(told, int) else 0


# --- for pages


def spent(share: HostShare) -> list[Spent]:
    """Everything that is limited, with what is used of it."""
    now = used(share)
    lines = [
        _sum("Machines", now.machines, share.max_machines, "{:g}".format),
        _sum("Memory", now.memory, share.max_memory, size, _lacks(now.without_memory, "MemoryMax")),
        _sum("CPU", now.cpu, share.max_cpu, percents, _lacks(now.without_cpu, "CPUQuota")),
        _sum("Disk", now.disk, share.max_disk, size),
        _rule("Names", [share.name_pattern]),
        _rule("Networks", share.networks),
        _rule("Bind sources", share.bind_sources),
    ]
    return [line for line in lines if line]


def _sum(title: str, used: float, most: int | None, written: Callable[[float], str], note: str = "") -> Spent | None:
    if most is None:
        return None
    return Spent(title, f"{written(used)} of {written(most)}", min(1.0, used / most) if most else 1.0, note)


def _lacks(name: str, key: str) -> str:
    return f"{name} has no {key}=" if name else ""


def _rule(title: str, words: list[str]) -> Spent | None:
    return Spent(title, ", ".join(words), None) if any(words) else None


def percents(value: float) -> str:
    return f"{value:g}{NBSP}%"
