"""What every handler needs of the host it runs on, in one place: made once by the worker and by each job's unit."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from machines.contract import orders
from machines.host.context.guest_bus import Guest
from machines.host.context.job_output import JobOutput
from machines.host.context.remnants import Remnants
from machines.host.context.trouble import Trouble
from machines.host.policy.policy import Policy
from machines.host.system.bus import Bus
from machines.host.system.faults import Stopped
from machines.host.system.paths import Paths
from machines.host.system.run import Answer, run


@dataclass(frozen=True)
class Why:
    """What a unit logged in its last run, read at `at` (monotonic): `of` is that run and when the unit changed last."""

    of: tuple[bytes, float]
    at: float
    text: str
    refused: bool


@dataclass
class Slow:
    """What is too slow to read each time, with the time it was read. Shared by all threads; races only cost a reading."""

    os: dict[str, tuple[float, str]] = field(default_factory=dict)
    disk: dict[str, tuple[float, int]] = field(default_factory=dict)
    guests: dict[str, tuple[int, float, Guest]] = field(default_factory=dict)  # by machine: leader, asked at, answer
    why: dict[str, "Why"] = field(default_factory=dict)  # by unit
    units: dict[str, str] = field(
        default_factory=dict
    )  # machine → the unit it ran in, where that is not the template's
    images: dict[str, "Image"] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)  # images that cannot be machines, and why
    paths: dict[tuple[Any, ...], Path] = field(default_factory=dict)  # of images, see images.py


@dataclass(frozen=True)
class Image:
    """An image as machined lists it; `id` is its creation time in µs and the inode of its top, the rest as in
    images.Location."""

    name: str
    type: str
    read_only: bool
    id: str
    path: Path = Path()
    read_only_by: Literal["", "mark", "mount", "vendor"] = ""
    hidden: tuple[Path, ...] = ()


@dataclass(frozen=True)
class HostContext:
    paths: Paths
    bus: Bus
    policy: Policy
    slow: Slow = field(default_factory=Slow)
    trouble: Trouble = field(default_factory=Trouble)
    remnants: Remnants = field(default_factory=Remnants)


@dataclass
class Task:
    """One order being carried out. `deadline` in time.time() seconds; `begun` is when its effects may have begun, and
    `again` says that an earlier worker had begun it before it died; `sealed` are the order's secrets, for this host's key."""

    job: UUID
    order: orders.Order
    output: JobOutput
    begun: float
    deadline: float
    again: bool = False
    sealed: str = ""
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, argv: Sequence[str], *, timeout: float = 60, prepare: Callable[[], None] | None = None) -> Answer:
        """Run a command, say that it runs, and keep what it prints. Raises CommandFailed, TookTooLong, Stopped."""
        self.output.command(argv)
        return run(argv, timeout=timeout, heard=self.output.heard, stop=self.stop, prepare=prepare)

    def check_stop(self) -> None:
        """Raises Stopped when a person has cancelled the job."""
        if self.stop.is_set():
            raise Stopped("The job was cancelled.")
