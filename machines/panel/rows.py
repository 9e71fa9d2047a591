"""A machine as a row of ready strings: Django templates over model objects cost seven times as much."""

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from hashlib import blake2b
from typing import Any
from urllib.parse import quote
from uuid import UUID

from django.urls import reverse
from django.utils.safestring import SafeString

from machines.contract.states import LATE_SECONDS, HostState, JobState, MachineState
from machines.models.host import host_state
from machines.templatetags import panel_tags

BUILDING = "building"  # not a state a host reports: a build holds the name
Job = dict[str, Any]  # a row of frame.unfinished_jobs()
Busy = dict[tuple[UUID, str], Job]

COLUMNS = (
    "id", "rank", "name", "state", "host_id", "host__name", "host__last_seen",
    "os", "addresses", "memory_bytes", "disk_bytes", "since", "enabled", "restart_needed",
)  # fmt: skip


def row(given: dict[str, Any], busy: Busy, now: datetime) -> dict[str, Any]:
    """What the table shows of one machine, as strings. `given` has the COLUMNS."""
    heard = host_state(given["host__last_seen"], now)
    silent = heard in {HostState.OFFLINE, HostState.JOINING}
    state = MachineState.UNKNOWN if silent and given["state"] != MachineState.MISSING else MachineState(given["state"])
    job = busy.get((given["host_id"], given["name"]))
    addresses: list[str] = given["addresses"]
    up = state.is_up and given["since"]
    late = given["host__last_seen"] if _is_old(given["host__last_seen"], now) else None
    return {
        "id": str(given["id"]),
        "name": given["name"],
        "os": given["os"],
        "url": machine_url(given["host__name"], given["name"]),
        "state": state.value,
        "badge": badge(state.value),
        "doing": doing(job, waits=silent),
        "host": given["host__name"],
        "host_url": host_url(given["host__name"]),
        "heard": late,
        "silent": silent,
        "address": addresses[0] if addresses and not silent else "",
        "more": f"+{len(addresses) - 1}" if len(addresses) > 1 and not silent else "",
        "addresses": ", ".join(addresses),
        "memory": panel_tags.size(given["memory_bytes"]) if up and given["memory_bytes"] else "",
        "disk": panel_tags.size(given["disk_bytes"]) if given["disk_bytes"] else "",
        "since": up.isoformat(timespec="seconds") if up else "",
        "up": panel_tags.duration(now - up) if up else "",
        "enabled": given["enabled"],
        "restart_needed": given["restart_needed"],
        "can_start": not job and state in {MachineState.STOPPED, MachineState.FAILED},
        "can_stop": not job and state.is_up,
    }


def _is_old(seen: datetime | None, now: datetime) -> bool:
    return seen is not None and (now - seen).total_seconds() > LATE_SECONDS


@cache
def badge(state: str) -> SafeString:
    return panel_tags.state_badge(state)


# op → what the state cell says while the job is under way
DOING = {
    "start": "starting",
    "poweroff": "powering off",
    "reboot": "rebooting",
    "terminate": "terminating",
    "enable": "enabling",
    "disable": "disabling",
    "apply": "applying",
    "build": BUILDING,
    "remove": "removing",
}


def doing(job: Job | None, *, waits: bool = False) -> dict[str, Any] | None:
    """The job that holds a machine, in the words of a row: its verb, and for a build its phase and percent."""
    if job is None:
        return None
    phases = job["phases"] or []
    return {
        "id": job["id"],
        "url": reverse("job-detail", args=[job["id"]]),
        "verb": DOING.get(job["op"], job["op"]),
        "builds": job["op"] == "build",
        "phase": str(phases[-1].get("name", "")) if phases else str(job["state"]),
        "percent": round(100 * job["progress"]) if job["progress"] is not None else None,
        "who": job["actor_name"],
        "waits": waits,
    }


def by_machine(jobs: Iterable[Job]) -> Busy:
    """The unfinished jobs by the machine they hold. A lost one holds nothing: its host decides."""
    held: Busy = {}
    for job in jobs:
        if job["machine_name"] and job["state"] != JobState.LOST:
            held.setdefault((job["host_id"], job["machine_name"]), job)
    return held


@cache
def _pattern(name: str, parts: int) -> str:
    marks = [f"part{number}" for number in range(parts)]
    return reverse(name, args=marks)


def host_url(host: str) -> str:
    return _pattern("host-detail", 1).replace("part0", quote(host, safe=""))


def machine_url(host: str, name: str) -> str:
    """The address of a machine's page. All addresses of a machine begin with it. Names come from hosts, which may be
    hostile: what reverse() would refuse is quoted here and leads to a 404."""
    head, tail = _pattern("machine-detail", 2).split("part1")
    return head.replace("part0", quote(host, safe="")) + quote(name, safe="") + tail


def version(*shown: Any) -> str:
    """A short word that changes when anything shown does; ages stay out of it, for the browser keeps them true."""
    return blake2b(repr(shown).encode(), digest_size=8).hexdigest()
