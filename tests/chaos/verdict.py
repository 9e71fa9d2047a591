"""What became of every job: the panel's word, the host's ledger and what is really there, held against each other."""

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nspawnpanel.sandbox import Sandbox
from tests.chaos.house import House, boots
from tests.chaos.work import OPEN, People
from tests.live import leftovers

DECIDED = 60.0  # seconds of quiet after which nothing may be undecided, beside what is still being worked on
WORKED_ON = 300.0  # seconds at most for that: a build on a busy machine
WORK = ["systemctl", "list-units", "--no-legend", "--state=active,activating", "nspawnpanel-job-*.service"]
NEVER_TAKEN = {"expired", "cancelled"}
UP = {"start": True, "reboot": True, "poweroff": False, "terminate": False}
LEDGER = """
import json, sqlite3
db = sqlite3.connect("file:/var/lib/nspawnpanel/ledger.db?mode=ro", uri=True, timeout=30)
rows = db.execute("select id, op, name, state, taken, begun, ended from jobs").fetchall()
print(json.dumps([dict(zip(("id", "op", "name", "state", "taken", "begun", "ended"), row)) for row in rows]))
"""
STARTED = ["journalctl", "--quiet", "--output=json", "--output-fields=UNIT", "JOB_TYPE=start", "JOB_RESULT=done"]


@dataclass
class Verdict:
    """Sentences, one a fault. `slowest` in seconds."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)  # what a page says of a machine, or what was left behind
    ends: Counter[str] = field(default_factory=Counter)

    @property
    def holds(self) -> bool:
        return not (self.lost or self.doubled or self.undecided or self.untrue)

    @property
    def faults(self) -> list[str]:
        return [
            f"{what}: {said}"
            for what, some in (("lost", self.lost), ("doubled", self.doubled), ("undecided", self.undecided), ("untrue", self.untrue))
            for said in some
        ]  # fmt: skip


def settle(house: House, people: People) -> float:
    """Wait until all is decided, DECIDED seconds at most after the last work on any of it; how long it took."""
    began = busy = time.monotonic()
    while people.open_jobs() and (now := time.monotonic()) - busy < DECIDED and now - began < WORKED_ON:
        if any(host.run(WORK).stdout.strip() for host in house.hosts.values()):
            busy = now
        time.sleep(0.2)
    return time.monotonic() - began


def judge(house: House, people: People) -> Verdict:
    told = Verdict(lost=[f"{said}: answered as placed, and there is no such job" for said in people.vanished])
    jobs = house.books.rows(
        "SELECT j.*, h.name AS host FROM machines_job j JOIN machines_host h ON h.id = j.host_id ORDER BY j.id"
    )
    told.ends.update(job["state"] for job in jobs)
    told.undecided += [_named(job) for job in jobs if job["state"] in OPEN]
    for name, host in house.hosts.items():
        ledger = {uuid.UUID(row["id"]): row for row in json.loads(host.run(["python3", "-c", LEDGER]).stdout)}
        mine = [job for job in jobs if job["host"] == name]
        told.lost += _contradicted(mine, ledger)
        told.doubled += _twice(host, mine, ledger)
        told.untrue += _states(house, name, mine)
        if left := leftovers.of(host):
            told.untrue.append(f"{name}: left behind: {left}")
    return told


def _named(job: dict[str, Any]) -> str:
    return f"job {job['id']} ({job['op']} {job['machine_name']} on {job['host']}) is {job['state']}"


def _contradicted(jobs: list[dict[str, Any]], ledger: dict[uuid.UUID, dict[str, Any]]) -> Iterator[str]:
    """Jobs whose end the panel tells otherwise than their host does."""
    for job in jobs:
        row = ledger.get(_uuid(job))
        if row is None:
            if job["state"] not in NEVER_TAKEN | {"queued", "sent"}:
                yield f"{_named(job)}, and its host never took it"
        elif row["state"] != job["state"] and job["state"] not in OPEN:
            yield f"{_named(job)}, and its host says {row['state']}"


def _uuid(job: dict[str, Any]) -> uuid.UUID:
    return job["uuid"] if isinstance(job["uuid"], uuid.UUID) else uuid.UUID(job["uuid"])


def _twice(host: Sandbox, jobs: list[dict[str, Any]], ledger: dict[uuid.UUID, dict[str, Any]]) -> Iterator[str]:
    """Jobs whose unit started more than once, and jobs under which a machine booted more than once."""
    units = Counter(json.loads(line).get("UNIT", "") for line in host.run(STARTED).stdout.splitlines())
    for job in jobs:
        # A removal that was killed goes on, and does nothing twice
        if (times := units[f"nspawnpanel-job-{_uuid(job)}.service"]) > 1 and job["op"] != "remove":
            yield f"{_named(job)}, and was begun {times} times"
    for name in {job["machine_name"] for job in jobs if job["op"] in UP}:
        yield from _too_many_boots(name, [row for row in ledger.values() if row["name"] == name], boots(host, name))


def _too_many_boots(name: str, rows: list[dict[str, Any]], moments: list[float]) -> Iterator[str]:
    """A boot may come after its order was done, never before it was taken: at no moment there are more than orders for one."""
    rows = sorted((row for row in rows if row["op"] in UP), key=lambda row: row["taken"])
    allowed, runs = 0, False
    for row, after in zip(rows, [*(row["taken"] for row in rows[1:]), float("inf")], strict=True):
        if row["op"] == "reboot" or (row["op"] == "start" and not runs):
            allowed += 1
        if row["state"] == "succeeded":
            runs = UP[row["op"]]
        elif row["op"] != "start":
            runs = False  # it may be down, and a start would bring it up
        if (times := sum(moment < after for moment in moments)) > allowed:
            yield f"{name} had booted {times} times of {allowed} after {row['op']} {row['id']} ({row['state']})"
            return


def _states(house: House, host: str, jobs: list[dict[str, Any]]) -> Iterator[str]:
    """The last thing that was done to a machine holds, on the host and on the page."""
    running = set(house.hosts[host].run(["machinectl", "list", "--no-legend"]).stdout.split())
    there = set(house.hosts[host].run(["ls", "-A", "/var/lib/machines"]).stdout.split())
    rows = house.books.rows(
        "SELECT m.name, m.state, m.removed_at FROM machines_machine m JOIN machines_host h ON h.id = m.host_id WHERE h.name = ?", host
    )  # fmt: skip
    pages = {row["name"]: row["state"] for row in rows if row["removed_at"] is None}
    for name in {job["machine_name"] for job in jobs if job["machine_name"]}:
        mine = [job for job in jobs if job["machine_name"] == name]
        if (mine[-1]["op"], mine[-1]["state"]) == ("remove", "succeeded"):
            made = False
        else:
            made = not any(job["op"] == "build" for job in mine) or any(
                job["op"] == "build" and job["state"] == "succeeded" for job in mine
            )
        if made != (name in there):
            yield f"{host}: {name} {'is gone' if made else 'is there'} after {_named(mine[-1])}"
        last = next((job for job in reversed(mine) if job["op"] in UP), None)
        if last and last["state"] == "succeeded" and UP[last["op"]] != (name in running):
            yield f"{host}: {name} {'runs' if name in running else 'does not run'} after {_named(last)}"
        if made and pages.get(name) not in ({"running", "degraded"} if name in running else {"stopped", "failed"}):
            yield f"{host}: {name} reads {pages.get(name)} and {'runs' if name in running else 'does not run'}"
