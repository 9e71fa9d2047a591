"""The states of hosts, machines and jobs: one vocabulary for database, reports, filters and badges."""

from enum import StrEnum


class HostState(StrEnum):
    JOINING = "joining"  # registered, has never spoken
    ONLINE = "online"
    LATE = "late"  # one heartbeat or two are missing
    OFFLINE = "offline"


# A host sends a heartbeat every 10 s. Grace must exceed retries × period, or a busy host flaps.
HEARTBEAT_SECONDS = 10
LATE_SECONDS = 30
OFFLINE_SECONDS = 60
# A host tells of all its machines every 60 s, which may take it half a minute; what is older is not how they are now.
INVENTORY_STALE_SECONDS = 120


class MachineState(StrEnum):
    RUNNING = "running"
    STARTING = "starting"
    RESTARTING = "restarting"  # its unit waits to be started again by itself (Restart=)
    DEGRADED = "degraded"  # runs, and units have failed inside, as far as its own systemd can be asked
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    MISSING = "missing"  # known to the panel, its image is gone from the host
    UNKNOWN = "unknown"  # the host is silent or cannot tell: neither running nor stopped may be claimed

    @property
    def runs(self) -> bool:
        """Whether it is up and neither coming nor going."""
        return self in {self.RUNNING, self.DEGRADED}

    @property
    def is_up(self) -> bool:
        return self in {self.RUNNING, self.STARTING, self.RESTARTING, self.DEGRADED, self.STOPPING}


class JobState(StrEnum):
    QUEUED = "queued"  # in the panel's database, not yet sent
    SENT = "sent"  # in the host's mailbox, not yet acknowledged
    ACCEPTED = "accepted"  # in the host's ledger
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"  # a person stopped it: not a failure
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"  # the host did not accept it in time
    LOST = "lost"  # the host fell silent; may still become any outcome

    @property
    def is_final(self) -> bool:
        return self in FINAL_JOB_STATES


OUTCOMES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT})
FINAL_JOB_STATES = OUTCOMES | {JobState.EXPIRED}
UNFINISHED_JOB_STATES = frozenset(JobState) - FINAL_JOB_STATES

# From which states a job may move to which. Anything else is a late or repeated report and changes nothing.
MAY_BECOME: dict[JobState, frozenset[JobState]] = {
    JobState.SENT: frozenset({JobState.QUEUED}),
    JobState.ACCEPTED: frozenset({JobState.QUEUED, JobState.SENT, JobState.LOST}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SENT, JobState.ACCEPTED, JobState.LOST}),
    JobState.LOST: frozenset({JobState.SENT, JobState.ACCEPTED, JobState.RUNNING}),
    JobState.EXPIRED: frozenset({JobState.QUEUED, JobState.SENT}),
    **{outcome: UNFINISHED_JOB_STATES | {JobState.EXPIRED} for outcome in OUTCOMES},
}
