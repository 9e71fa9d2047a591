"""Resource-control properties of a machine's unit as one table, and the drop-in that holds them.

Limits never stand in a .nspawn file; they belong to systemd-nspawn@NAME.service. Source: systemd.resource-control(5).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from machines.contract import nspawn, values
from machines.contract.problems import BadValue

SECTION = "Service"


@dataclass(frozen=True)
class Property:
    """One property: takes effect at once when `live`. `shows` is the name under which systemctl show gives it back."""

    key: str
    check: values.Check
    title: str
    help: str
    since: int = 208
    live: bool = True
    shows: str = ""
    example: str = ""
    default: str = ""  # what holds without a line; "" is no limit

    @property
    def shown_as(self) -> str:
        return self.shows or self.key


def _table() -> Iterator[Property]:
    v = values
    weight = v.whole_number(1, 10000)
    yield Property(
        "MemoryMax",
        v.memory_limit,
        "Memory, at most",
        "Beyond it the kernel kills inside the machine.",
        231,
        example="512M",
    )
    yield Property(
        "MemoryHigh",
        v.memory_limit,
        "Memory, slow down above",
        "Above it the machine is throttled and reclaimed.",
        231,
        example="400M",
    )
    yield Property(
        "CPUQuota",
        v.cpu_quota,
        "CPU time, at most",
        "Percent of one CPU: 200% is two CPUs.",
        213,
        shows="CPUQuotaPerSecUSec",
        example="150%",
    )
    yield Property(
        "CPUWeight",
        v.whole_number(1, 10000, "idle"),
        "CPU weight",
        "Share when CPUs are busy; 200 gets twice as much as 100.",
        232,
        example="200",
        default="100",
    )
    yield Property(
        "TasksMax",
        v.whole_number(1, 10_000_000, "infinity"),
        "Processes, at most",
        "Processes and threads together.",
        227,
        example="4096",
        default="16384",  # the stock unit's
    )
    yield Property(
        "IOWeight",
        weight,
        "Disk weight",
        "Share of disk time when disks are busy.",
        230,
        example="200",
        default="100",
    )
    yield Property("MemorySwapMax", v.memory, "Swap, at most", "How much may be swapped out.", 232, example="0")
    yield Property(
        "MemoryLow", v.memory, "Memory, protected", "Best-effort protection from reclaim.", 240, example="128M"
    )
    yield Property("MemoryMin", v.memory, "Memory, guaranteed", "Hard protection from reclaim.", 240, example="64M")
    yield Property("AllowedCPUs", v.cpu_list, "CPUs", "Only these CPUs.", 244, example="0-3")


PROPERTIES: dict[str, Property] = {prop.key: prop for prop in _table()}


def dropin(wanted: Mapping[str, str], base: str = "") -> str:
    """The drop-in's text, based on an earlier one whose other lines are kept; "" when nothing is left to say."""
    document = nspawn.parse(nspawn.unmark(base))
    for key in PROPERTIES:
        document.put(SECTION, key, [wanted[key]] if wanted.get(key) else [])
    document.drop_empty_sections()
    return document.text() if document.settings() else ""


def read(text: str) -> dict[str, str]:
    """The properties of a drop-in; the last one wins. (systemd expands no % specifiers in these.)"""
    document = nspawn.parse(text)
    found = {key: document.last(SECTION, key) for key in PROPERTIES}
    return {key: value for key, value in found.items() if value}


def check(text: str) -> list[tuple[str, BadValue]]:
    """What systemd would ignore in a drop-in, as (key, problem)."""
    problems: list[tuple[str, BadValue]] = []
    for entry in nspawn.parse(text).settings():
        prop = PROPERTIES.get(entry.key) if entry.section == SECTION else None
        try:
            values.one_line(entry.value)
            if prop is not None and entry.value:
                prop.check(entry.value)
        except BadValue as problem:
            problems.append((entry.key, problem))
    return problems


def effective(key: str, wanted: str, total_memory: int = 0) -> str:
    """What `systemctl show` says once `wanted` holds: bytes, microseconds per second, or the number itself."""
    if wanted in {"infinity", "idle"}:
        return "0" if wanted == "idle" else wanted
    if key.startswith("Memory"):
        if wanted.endswith("%"):
            return str(int(total_memory * float(wanted[:-1]) / 100))
        return str(values.size_in_bytes(wanted))
    if key == "CPUQuota":
        return str(round(float(wanted[:-1]) * 10_000))
    return wanted
