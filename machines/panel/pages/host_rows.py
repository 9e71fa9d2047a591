"""A host as a row of ready values: what it has, and how much of it is used."""

from datetime import datetime
from typing import Any

from machines.contract.states import HostState
from machines.models.host import host_state
from machines.panel.pages import machine_rows

# What needs somebody stands first in lists
QUARANTINED = -1
BY_NEED = {HostState.OFFLINE: 0, HostState.LATE: 1, HostState.JOINING: 2, HostState.ONLINE: 3}


def row(given: dict[str, Any], now: datetime) -> dict[str, Any]:
    """What a list shows of a host. `given` has name, last_seen, facts, and whatever else the list wants to keep."""
    state = host_state(given["last_seen"], now)
    kept = {name: value for name, value in given.items() if name not in {"last_seen", "facts"}}
    return kept | {
        "url": machine_rows.host_url(given["name"]),
        "state": state.value,
        "need": QUARANTINED if given.get("quarantined_at") else BY_NEED[state],
        "heard": given["last_seen"] if state != HostState.ONLINE else None,
        "silent": state in {HostState.OFFLINE, HostState.JOINING},
        **resources(given["facts"]),
    }


def resources(facts: dict[str, Any]) -> dict[str, Any]:
    """What a host has and uses; what it has not reported is 0, None or ""."""
    memory, disk = _whole(facts, "memory_total"), _whole(facts, "disk_total")
    free, room = _whole(facts, "memory_available"), _whole(facts, "disk_free")
    return {
        "os": facts.get("os", ""),
        "systemd": facts.get("systemd") or "",
        "cpus": facts.get("cpus") or 0,
        "load": facts.get("load"),
        "memory": memory,
        "memory_free": free,
        "memory_used": memory - free if memory else None,
        "disk": disk,
        "disk_free": room,
        "disk_used": disk - room if disk else None,
        "mirror": facts.get("mirror", ""),
        "worker": facts.get("worker", ""),
        "missing": sorted((facts.get("missing") or {}).items()),
    }


def _whole(facts: dict[str, Any], name: str) -> int:
    value = facts.get(name)
    return value if isinstance(value, int) else 0
