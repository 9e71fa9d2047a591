"""What is wanted of a machine against what is seen of it: the same thing said in two languages.

systemd gives properties back in bytes, microseconds and rows of its bus; host/observe/effective_settings.py makes text of them, and this
module says whether such a text means what a file asked for. None is the answer where the two cannot be compared.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from machines.contract.configuration import limits, values
from machines.contract.problems import BadValue

UNLIMITED = frozenset({"infinity", "[not set]", str(2**64 - 1)})  # what systemd shows where there is no limit
ANY_MEMORY = 64 * 1024  # percentages and pages are rounded
_SPANS = {
    "us": 1, "usec": 1, "µs": 1, "ms": 1000, "msec": 1000, "": 10**6, "s": 10**6, "sec": 10**6, "second": 10**6,
    "seconds": 10**6, "m": 60 * 10**6, "min": 60 * 10**6, "minute": 60 * 10**6, "minutes": 60 * 10**6,
    "h": 3600 * 10**6, "hr": 3600 * 10**6, "hour": 3600 * 10**6, "hours": 3600 * 10**6, "d": 86400 * 10**6,
    "day": 86400 * 10**6, "days": 86400 * 10**6, "w": 7 * 86400 * 10**6, "week": 7 * 86400 * 10**6,
    "weeks": 7 * 86400 * 10**6,
}  # fmt: skip
_NETWORKS = {
    "any": ("0.0.0.0/0", "::/0"), "localhost": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/64"), "multicast": ("224.0.0.0/4", "ff00::/8"),
}  # fmt: skip
_BUS_NAMES = {"TimeoutSec": "TimeoutStartUSec"}
Same = Callable[[str, str], bool]


def bus_name(key: str) -> str:
    """The property of the bus that shows a key: spans of time are told in microseconds."""
    prop = limits.PROPERTIES[key]
    if prop.shown_as != key or key in _BUS_NAMES:
        return _BUS_NAMES.get(key, prop.shown_as)
    return f"{key[:-3]}USec" if key.endswith("Sec") else key


def holds(key: str, wanted: str, seen: str, total_memory: int = 0) -> bool | None:
    """Whether what is seen of a property is what was wanted. None when nobody can say."""
    try:
        if key.startswith("Memory") and wanted.endswith("%") and not total_memory:
            return None
        return _comparison(key, total_memory)(wanted, "infinity" if seen in UNLIMITED else seen)
    except (BadValue, ValueError, IndexError, KeyError):
        return None


def _comparison(key: str, total: int) -> Same:
    if key in _SAME:
        return _SAME[key]
    if key.startswith("Memory"):
        return lambda wanted, seen: _near(limits.effective(key, wanted, total), seen, ANY_MEMORY)
    if key.endswith("Weight"):
        return lambda wanted, seen: limits.effective(key, wanted) == seen
    if key.startswith("IO"):
        return lambda wanted, seen: _devices(key, wanted) == _devices("", seen)
    if key.endswith("Sec"):
        return lambda wanted, seen: span(wanted) == span(f"{seen}us" if seen.isdigit() else seen)
    return lambda wanted, seen: _word(wanted) == _word(seen)


def _near(one: str, other: str, slack: int) -> bool:
    return one == other or (one.isdigit() and other.isdigit() and abs(int(one) - int(other)) <= slack)


def _word(text: str) -> str:
    """One spelling for each: systemd's own switches are yes and no, its pressure watch says on and off."""
    word = (
        text.lower()
        if text.lower() in {"true", "t", "y", "1", "on", "false", "f", "n", "0", "off", "yes", "no"}
        else text
    )
    return {"true": "yes", "t": "yes", "y": "yes", "1": "yes", "on": "yes", "false": "no", "f": "no", "n": "no", "0": "no",
            "off": "no"}.get(word, word)  # fmt: skip


def numbers(text: str) -> frozenset[int]:
    """0-3,7 or 0-3 7 → the numbers."""
    found: set[int] = set()
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        if int(last or first) - int(first) > 10_000:
            raise ValueError(part)
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def span(text: str) -> float:
    """5min 20s → µs (systemd.time(7)). Raises ValueError or KeyError."""
    if text.strip() == "infinity":
        return float("inf")
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zµ]*)", text)
    if not parts or re.sub(r"[0-9.a-zµ\s]", "", text):
        raise ValueError(text)
    found = sum(float(number) * _SPANS[unit] for number, unit in parts)
    return float("inf") if found >= 2**64 - 1 or found == 0 else found


def _networks(text: str) -> set[IPv4Network | IPv6Network]:
    found = [ip_network(each, strict=False) for word in text.split() for each in _NETWORKS.get(word, (word,))]
    four = collapse_addresses(net for net in found if isinstance(net, IPv4Network))
    six = collapse_addresses(net for net in found if isinstance(net, IPv6Network))
    return {*four, *six}


def _devices(key: str, text: str) -> dict[str, float]:
    """DEVICE NUMBER on each line; sizes and rates count by 1000 here."""
    found = {}
    for line in text.splitlines():
        device, _, number = line.rpartition(" ")
        found[device.strip()] = _amount(key, number)
    return found


def _amount(key: str, number: str) -> float:
    if key.endswith("Sec"):
        return span(number)
    match = re.fullmatch(r"([0-9.]+)([KMGT]?)", number)
    if not match:
        raise ValueError(number)
    return float(match[1]) * float(1000 ** " KMGT".index(match[2] or " "))


def _access(text: str) -> set[tuple[str, str]]:
    found = set()
    for line in text.splitlines():
        device, _, access = line.strip().partition(" ")
        found |= {(device, letter) for letter in access.strip() or "rwm"}
    return found


def _filter(text: str) -> tuple[bool, frozenset[str]]:
    words = text.replace("\n", " ").split()
    return text.startswith("~"), frozenset(word.lstrip("~") for word in words)


def _pressure(wanted: str, seen: str) -> bool:
    """systemd keeps a share as a part of 2^32 - 1."""
    return abs(float(wanted.rstrip("%")) / 100 * (2**32 - 1) - int(seen)) < 2**32 / 1e4


def _among(wanted: str, seen: str) -> bool:
    """systemd has some of its own besides."""
    return set(wanted.split()) <= set(seen.split())


def _as_many(wanted: str, seen: str) -> bool:
    return set(wanted.split()) == set(seen.split())


def _nft_set(text: str) -> str:
    """SOURCE:FAMILY:TABLE:SET in the numbers of the bus (NFPROTO_INET is 1 …)."""
    source, family, table, name = text.split(":")
    sources = ("address", "prefix", "ifindex", "cgroup", "user", "group")
    families = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
    return f"{sources.index(source)} {families[family]} {table} {name}"


_SAME: dict[str, Same] = {
    "CPUQuota": lambda wanted, seen: _near(limits.effective("CPUQuota", wanted), seen, 1000),
    "AllowedCPUs": lambda wanted, seen: numbers(wanted) == numbers(seen),
    "AllowedMemoryNodes": lambda wanted, seen: numbers(wanted) == numbers(seen),
    "ManagedOOMMemoryPressureLimit": _pressure,
    "IPAddressAllow": lambda wanted, seen: _networks(wanted) == _networks(seen),
    "IPAddressDeny": lambda wanted, seen: _networks(wanted) == _networks(seen),
    "DeviceAllow": lambda wanted, seen: _access(wanted) <= _access(seen),
    "RestrictNetworkInterfaces": lambda wanted, seen: _filter(wanted) == _filter(seen),
    "IODeviceWeight": lambda wanted, seen: _devices("", wanted) == _devices("", seen),
    "Documentation": _among,
    "NFTSet": lambda wanted, seen: {_nft_set(word) for word in wanted.split()} <= set(seen.splitlines()),
    "OOMRules": lambda wanted, seen: wanted.split() == seen.split(),
    **dict.fromkeys(("After", "Before", "Requisite", "PartOf"), _among),
    **dict.fromkeys(("SocketBindAllow", "SocketBindDeny"), _as_many),
    **dict.fromkeys(
        ("MemoryAccounting", "MemoryPressureWatch", "IOAccounting"), lambda wanted, seen: _word(wanted) == _word(seen)
    ),
}


# --- settings of the .nspawn file, against what the kernel says of the first process (host/observe/proc_settings.py)


def inside(setting: str, wanted: list[str], seen: str) -> bool | None:
    """Whether the machine really has what its file says. None for what cannot be seen from outside."""
    compare = _INSIDE.get(setting)
    if compare is None and re.fullmatch(r"Exec\.Limit[A-Z]+", setting):
        compare = _limit
    if compare is None or not wanted:
        return None
    try:
        return compare(wanted, seen)
    except (BadValue, ValueError, IndexError):
        return None


def _limit(wanted: list[str], seen: str) -> bool | None:
    soft, _, hard = wanted[-1].partition(":")
    really = seen.partition(":")
    pairs = ((soft, really[0]), (hard or soft, really[2] or really[0]))
    if any(not re.fullmatch(r"[0-9]+|infinity", each) for pair in pairs for each in pair):
        return None
    return all(one == other for one, other in pairs)


def _switch(wanted: list[str], seen: str) -> bool | None:
    return values.is_true(wanted[-1]) == (seen == "yes") if seen else None


def _users(wanted: list[str], seen: str) -> bool | None:
    said = wanted[-1]
    if not seen or said == "identity":
        return seen.startswith("0:") if seen else None
    if said in {"pick", "managed"} or said.lower() in {"yes", "true", "y", "t", "on", "1"}:
        return seen != "no"
    if said[0].isdigit() and said != "0":
        return seen.partition(":")[0] == said.partition(":")[0]
    return seen == "no"


def _kept(wanted: list[str], seen: str) -> bool | None:
    names = {word for value in wanted for word in value.split()} - {"all"}
    return names <= set(seen.split()) if seen else None


def _volatile(wanted: list[str], seen: str) -> bool | None:
    said = wanted[-1] if wanted[-1] in {"state", "overlay"} else "yes" if values.is_true(wanted[-1]) else "no"
    return said == seen if seen else None


def _all_there(wanted: list[str], seen: str) -> bool | None:
    return len(set(seen.splitlines())) >= len(set(wanted))


def _read_only(wanted: list[str], seen: str) -> bool | None:
    return bool(_all_there(wanted, seen)) and all(" read-only " in line for line in seen.splitlines())


def _links(wanted: list[str], seen: str) -> bool | None:
    names = {pair.split(":")[-1] for value in wanted for pair in value.split()}
    return names <= set(seen.split())


NONE = "none"  # what can be seen, and is not there


def _ports(wanted: list[str], seen: str) -> bool | None:
    """[PROTOCOL:]HOST[:MACHINE] each, against PROTOCOL:HOST:MACHINE on lines."""
    return {_port(value) for value in wanted} <= set(seen.splitlines()) if seen else None


def _port(value: str) -> str:
    words = value.split(":")
    protocol = words.pop(0) if words[0] in {"tcp", "udp"} else "tcp"
    return f"{protocol}:{words[0]}:{words[-1]}"


def _extra(wanted: list[str], seen: str) -> bool | None:
    """HOST[:MACHINE] each."""
    return {f"{host}:{inside or host}" for host, _, inside in (value.partition(":") for value in wanted)} <= set(
        seen.splitlines()
    )


_INSIDE: dict[str, Callable[[list[str], str], bool | None]] = {
    "Exec.Ephemeral": _switch,
    "Exec.PrivateUsers": _users,
    "Exec.Capability": _kept,
    "Exec.NoNewPrivileges": _switch,
    "Exec.OOMScoreAdjust": lambda wanted, seen: wanted[-1] == seen if seen else None,
    "Exec.CPUAffinity": lambda wanted, seen: numbers(wanted[-1]) >= numbers(seen) if seen else None,
    "Exec.Personality": lambda wanted, seen: wanted[-1] == seen if seen else None,
    "Exec.Environment": lambda wanted, seen: set(wanted) <= set(seen.splitlines()),
    "Files.ReadOnly": _switch,
    "Files.Volatile": _volatile,
    "Files.Bind": _all_there,
    "Files.BindReadOnly": _read_only,
    "Files.Overlay": _all_there,
    "Files.OverlayReadOnly": _all_there,
    "Files.TemporaryFileSystem": _all_there,
    "Files.Inaccessible": _all_there,
    "Network.Private": _switch,
    "Network.VirtualEthernet": _switch,
    "Network.Zone": lambda wanted, seen: wanted[-1] == seen,
    "Network.Bridge": lambda wanted, seen: wanted[-1] == seen,
    "Network.MACVLAN": lambda wanted, seen: _among(" ".join(wanted), seen),
    "Network.IPVLAN": lambda wanted, seen: _among(" ".join(wanted), seen),
    "Network.Interface": _links,
    "Network.VirtualEthernetExtra": _extra,
    "Network.Port": _ports,
}
