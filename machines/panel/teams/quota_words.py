"""What a quota allows, in words, and its numbers as people type them."""

from machines.contract.configuration import values
from machines.contract.problems import BadValue
from machines.contract.quantities import size
from machines.models import HostShare

UNITS = (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10))


def limits_of(share: HostShare) -> list[tuple[str, str]]:
    """(what, how much) of everything that is limited."""
    found = [
        ("machines", f"{share.max_machines}" if share.max_machines is not None else ""),
        ("memory", size(share.max_memory) if share.max_memory is not None else ""),
        ("CPU", f"{share.max_cpu}%" if share.max_cpu is not None else ""),
        ("disk", size(share.max_disk) if share.max_disk is not None else ""),
        ("networks", ", ".join(share.networks)),
        ("bind sources", ", ".join(share.bind_sources)),
        ("names", share.name_pattern),
    ]
    return [(what, much) for what, much in found if much]


def in_words(share: HostShare) -> str:
    """ "memory 8 GiB, CPU 200%, machines that match are claimed"."""
    said = [f"{what} {much}" for what, much in limits_of(share)] or ["no limit"]
    return ", ".join([*said, "machines found there are claimed"] if share.claims else said)


def size_as_typed(number: int | None) -> str:
    """8589934592 → 8G."""
    if not number:
        return "" if number is None else "0"
    return next((f"{number // unit}{letter}" for letter, unit in UNITS if number % unit == 0), str(number))


def read_percent(text: str) -> int:
    """ "200%" → 200. Raises BadValue."""
    values.cpu_quota(text)
    number = text.removesuffix("%")
    if "." in number:
        raise BadValue("Give whole percent of one CPU, such as 50% or 200% for two CPUs.")
    return int(number)
