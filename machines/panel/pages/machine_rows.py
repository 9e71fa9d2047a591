"""A machine as a row of ready strings: Django templates over model objects cost seven times as much."""

from collections.abc import Collection, Iterable
from datetime import datetime
from functools import cache, lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import quote
from uuid import UUID

from django.urls import reverse
from django.utils.safestring import SafeString

from machines.contract import quantities
from machines.contract.states import HostState, JobState, MachineState
from machines.models.host import host_state
from machines.models.machine import FIXED
from machines.models.team import is_in
from machines.panel.orders import operations
from machines.panel.orders.operations import ACTIONS
from machines.panel.pages import unit_activity
from machines.templatetags import panel_tags

NOBODY_S = "nobody’s"  # in the place of a team's name
BUILDING = "building"  # not a state a host reports: a build holds the name
Job = dict[str, Any]  # a row of frame.unfinished_jobs()
Busy = dict[tuple[UUID, str], Job]

COLUMNS = (
    "id", "team_id", "team__name", "rank", "name", "state", "host_id", "host__name", "host__last_seen",
    "os", "addresses", "memory_bytes", "disk_bytes", "since", "restart_needed", "drifted", "mismatches",
    "read_only", "read_only_by", "image_type", "activity",
)  # fmt: skip
UP = frozenset(state.value for state in MachineState if state.is_up)
DOWN = frozenset({MachineState.STOPPED.value, MachineState.FAILED.value})


def row(given: dict[str, Any], busy: Busy, now: datetime, operable: Collection[int] | None) -> dict[str, Any]:
    """What the table shows of one machine, as strings. `given` has the COLUMNS; `operable` are the teams with whose machines
    the person may act, None for all."""
    host, name, seen = given["host__name"], given["name"], given["host__last_seen"]
    heard = host_state(seen, now)
    silent = heard in {HostState.OFFLINE, HostState.JOINING}
    state = shown_state(given["state"], silent=silent)
    job = busy.get((given["host_id"], name)) if busy else None
    addresses: list[str] = given["addresses"] if state in UP else []
    since = given["since"] if state in UP else None
    template = bool(given["read_only"] and given["image_type"] and given["read_only_by"] not in FIXED)
    start = "reset" if state == MachineState.FAILED and given["activity"].get("refused") else "start"
    return {
        "id": str(given["id"]),
        "name": name,
        "os": given["os"],
        "team": given["team__name"] or NOBODY_S,
        "url": machine_url(host, name),
        "state": state,
        "badge": badge(state),
        "note": unit_activity.note(state, given["activity"]),
        "doing": doing(job, waits=silent),
        "host": host,
        "host_url": host_url(host),
        "heard": seen if heard != HostState.ONLINE else None,
        "silent": silent,
        "address": addresses[0] if addresses else "",
        "more": f"+{len(addresses) - 1}" if len(addresses) > 1 else "",
        "addresses": ", ".join(addresses),
        "memory": quantities.size(given["memory_bytes"]) if since and given["memory_bytes"] else "",
        "disk": quantities.size(given["disk_bytes"]) if given["disk_bytes"] else "",
        "since": since.isoformat(timespec="seconds") if since else "",
        "up": quantities.duration(now - since) if since else "",
        "restart_needed": given["restart_needed"],
        "drifted": given["drifted"],
        "mismatches": "" if state == MachineState.UNKNOWN else given["mismatches"] or "",
        "template": template,
        "may_operate": is_in(operable, given["team_id"]),
        "can_start": not job and state in DOWN and not template,
        "start": start,
        "start_text": ACTIONS[start].title,
        "can_stop": not job and state in UP and "poweroff" not in given["activity"].get("cannot", {}),
        "stop_text": "Stop" if state in unit_activity.STARTS else "Power off",
    }


def shown_state(reported: str, *, silent: bool) -> str:
    """The state a page may claim: of a silent host's machines nothing is known."""
    return MachineState.UNKNOWN.value if silent and reported != MachineState.MISSING else str(reported)


@cache
def badge(state: str) -> SafeString:
    return panel_tags.state_badge(state)


def doing(job: Job | None, *, waits: bool = False) -> dict[str, Any] | None:
    """The job that holds a machine, in the words of a row: its verb, and for a build its phase and percent."""
    if job is None:
        return None
    phases, operation = job["phases"] or [], operations.of(job["op"])
    return {
        "id": job["id"],
        "url": reverse("job-detail", args=[job["id"]]),
        "verb": operation.doing,
        "builds": operation.makes_machine,
        "can_be_stopped": operation.can_be_stopped and not waits,
        "phase": str(phases[-1].get("name", "")) if phases else "waiting",
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


@lru_cache(maxsize=4096)
def host_url(host: str) -> str:
    return _pattern("host-detail", 1).replace("part0", quote(host, safe=""))


def machine_url(host: str, name: str) -> str:
    """The address of a machine's page. All addresses of a machine begin with it. Names come from hosts, which may be
    hostile: what reverse() would refuse is quoted here and leads to a 404."""
    head, tail = _around_name(host)
    return head + quote(name, safe="") + tail


@lru_cache(maxsize=4096)
def _around_name(host: str) -> tuple[str, str]:
    head, tail = _pattern("machine-detail", 2).split("part1")
    return head.replace("part0", quote(host, safe="")), tail


def version(*shown: Any) -> str:
    """A short word that changes when anything shown does; ages stay out of it, for the browser keeps them true."""
    return blake2b(repr(shown).encode(), digest_size=8).hexdigest()
