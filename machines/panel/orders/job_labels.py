"""Why a job waits, how it ended, and what cancelling it means, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from machines.contract import orders
from machines.contract.orders import Runs
from machines.contract.states import HostState, JobState
from machines.models import Job
from machines.models.host import host_state
from machines.panel.hosts import clocks, epochs, quarantine, resync
from machines.panel.orders import operations

# kind of recipe → what a phase of the same name does there
PHASES_OF = {
    "archive": {"bootstrap": "fetch", "packages": "unpack"},
    "pull": {"bootstrap": "fetch", "packages": "unpack"},
    "clone": {"bootstrap": "copy"},
}


def phase(order: Mapping[str, Any], name: str) -> str:
    """A phase by what is done in it: packages are installed by some recipes only."""
    recipe = order.get("recipe")
    return PHASES_OF.get(str(recipe.get("kind")), {}).get(name, name) if isinstance(recipe, dict) else name


# how it ended, after “has already”
ENDED = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "been cancelled",
    JobState.TIMED_OUT: "timed out",
    JobState.EXPIRED: "expired",
}


def _kind(op: str) -> str:
    """What such a job waits for."""
    return "builds" if orders.kind_of(op).runs_recipe else "jobs"


def cancelling(op: str, state: str) -> str:
    """What happens to half-done work."""
    if state == JobState.QUEUED:
        return "Nothing has been sent yet. The request is withdrawn."
    if state == JobState.SENT:
        return "The host has not accepted it yet. If it has started by the time this arrives, it stops."
    if orders.kind_of(op).runs is Runs.UNIT and state == JobState.ACCEPTED:
        return f"It is waiting for other {_kind(op)} and has not started. The request is withdrawn."
    return operations.of(op).cancelling


def withdrawal(job: Job, host: str) -> str:
    """What became on its host of an order that has ended here; "" for one that its host has ended."""
    if job.state not in {JobState.CANCELLED, JobState.EXPIRED} or job.accepted_at is not None:
        return ""
    if job.withdrawn_at is not None:
        return f"{host} has withdrawn it, so nothing was done there."
    if job.owes_cancel:
        return (
            f"It may have reached {host}, which is asked to withdraw it as soon as it is reachable. Until it "
            "responds, it is unknown whether anything was done."
        )
    if job.sends:
        return f"It was sent. Whether {host} received it is unknown."
    return "It was never sent, so nothing was done."


# A host works on all its machines at once, and a machine has one job at a time; so a job waits for its host, not in a line.
SILENT = {
    HostState.JOINING: "has never connected",
    HostState.OFFLINE: "has been offline for",
    HostState.LATE: "has not responded for",
}
HELD = {  # by the code of what keeps an order back
    epochs.RESTORED: "this panel was restored from an older copy, which has to be confirmed",
    quarantine.CODE: "host {host} is quarantined",
    resync.CODE: "{host} was restored from an older copy of itself and is being resynchronized",
}
PATIENCE = 5  # seconds an order may be on its way before that is worth a word


@dataclass(frozen=True)
class Reason:
    """Why a job has not begun: a sentence, since when (ticking), and how long until the order expires (if it can)."""

    text: str
    since: datetime | None = None
    left: str = ""


@dataclass(frozen=True)
class Wait:
    """What a job that has not begun waits for."""

    host: str
    last_seen: datetime | None
    sent_at: datetime | None
    accepted_at: datetime | None
    expires_at: datetime
    op: str
    place: str = ""  # its host's word on it: "number 2 in line"
    skew: float | None = None  # seconds the host's clock is ahead
    obstacle: str = ""  # why its host takes no orders, in a sentence of its own
    problem: str = ""  # the code of what keeps it back

    def reason(self, state: str, now: datetime) -> Reason | None:
        """None when the job has begun or ended."""
        if state == JobState.ACCEPTED:
            if (
                orders.kind_of(self.op).runs is Runs.UNIT
                and self.accepted_at
                and (now - self.accepted_at).total_seconds() > PATIENCE
            ):
                said = f"{self.place} on {self.host}" if self.place else f"other {_kind(self.op)} on {self.host} first"
                return Reason(f"waiting: {said}, for", self.accepted_at)
            return Reason("accepted, starting")
        if state not in {JobState.QUEUED, JobState.SENT}:
            return None
        return self._not_taken(now)

    def _not_taken(self, now: datetime) -> Reason:
        if held := HELD.get(self.problem):
            return Reason(f"waiting: {held.format(host=self.host)}", None, self._left(now))
        heard = host_state(self.last_seen, now)
        if heard in SILENT:
            return Reason(f"waiting: host {self.host} {SILENT[heard]}", self.last_seen, self._left(now))
        if clocks.holds_back(self.skew, self.op):
            how = clocks.in_words(self.skew or 0.0)
            return Reason(f"waiting: the clock of {self.host} is {how}", None, self._left(now))
        if self.obstacle:
            return Reason(f"waiting for {self.host}: {self.obstacle.rstrip('.')}", None, self._left(now))
        if self.sent_at and (now - self.sent_at).total_seconds() > PATIENCE:
            return Reason(f"waiting: sent to {self.host}, not accepted for", self.sent_at, self._left(now))
        return Reason(f"sending to {self.host}")

    def _left(self, now: datetime) -> str:
        minutes = max(int((self.expires_at - now).total_seconds() // 60), 0)
        return f"{minutes // 60} h" if minutes >= 60 else f"{minutes} min"
