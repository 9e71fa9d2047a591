"""What a host may say: one model per kind, a tagged union. Everything is bounded, for a host may be hostile."""

import math
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from machines.contract.configuration.protected import PLACES_TOLD
from machines.contract.problems import BadValue
from machines.contract.states import MachineState

Short = Annotated[str, Field(max_length=300)]
Text = Annotated[str, Field(max_length=4000)]
Word = Annotated[str, Field(max_length=1000)]  # of a command line
# What fits into the panel's columns and, added to now or taken from it, into a datetime.
LATEST = 3e10
Seconds = Annotated[float, Field(ge=0, le=LATEST)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Bytes = Annotated[int, Field(ge=0, le=2**63 - 1)]
Load = Annotated[float, Field(ge=0, le=1e9)]  # refuses "inf" and "nan" too, which no database takes as JSON
DEEPEST = 30
LINES_AT_ONCE = 500


class Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Accepted(Report):
    """The order stands in the host's ledger; the panel stops sending it."""

    kind: Literal["accepted"] = "accepted"
    job: UUID


class Phase(Report):
    """A job has begun its phase `number` of `of`. `at` is the host's clock, seconds since the epoch."""

    kind: Literal["phase"] = "phase"
    job: UUID
    name: Short
    number: int = Field(ge=1, le=50)
    of: int = Field(ge=1, le=50)
    at: Seconds


class Progress(Report):
    """How far the current phase is, 0..1, with a word on it ("112 of 116 packages")."""

    kind: Literal["progress"] = "progress"
    job: UUID
    fraction: float = Field(ge=0, le=1)
    note: Short = ""


class Command(Report):
    """An exact command the job runs, as one line that can be copied; no secret is ever in one."""

    kind: Literal["command"] = "command"
    job: UUID
    argv: list[Annotated[str, Field(max_length=8000)]] = Field(max_length=1000)


class Line(BaseModel):
    """One line of a job's log. `source` is o (output), e (error output) or p (the panel's own words)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Seconds
    source: Literal["o", "e", "p"] = "o"
    text: Annotated[str, Field(max_length=16_384)]


class Lines(Report):
    """Lines `first`, `first`+1, … of a job's log (counted from 1)."""

    kind: Literal["lines"] = "lines"
    job: UUID
    first: int = Field(ge=1, le=2**31 - 1)
    lines: list[Line] = Field(max_length=LINES_AT_ONCE)


PARTS_AT_ONCE = 100
Part = Phase | Progress | Command | Lines


class JobOutput(Report):
    """What a job has said since it was last heard, in order: several parts, each about this job, cost no more than one."""

    kind: Literal["job_output"] = "job_output"
    job: UUID
    parts: list[Annotated[Part, Field(discriminator="kind")]] = Field(min_length=1, max_length=PARTS_AT_ONCE)

    @model_validator(mode="after")
    def _of_one_job(self) -> Self:
        if any(part.job != self.job for part in self.parts):
            raise ValueError("a part belongs to another job")
        return self


class Address(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["inet", "inet6"]
    address: Annotated[str, Field(max_length=64)]


class Activity(BaseModel):
    """What a machine's unit is doing, beyond the one word of its state. Times in seconds since the epoch, limits in
    seconds. `cannot`: verbs that cannot work on it as it runs, each with the reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sub: Short = ""  # SubState
    part: Short = ""  # of a start or a stop: ExecStartPre, SIGTERM …
    restarts: Count = 0  # starts by systemd itself since somebody last started it
    next_start: Seconds | None = None
    ended: Short = ""  # how the last run ended: “exit status 1”
    policy: Short = ""  # Restart=, where it is not “no”
    says: Short = ""  # what its init says it is doing
    start_limit: Seconds | None = None  # while it starts: how long it may take, None for ever
    refused: bool = False  # systemd starts it no more: the start limit was hit
    init: Short = ""  # the program of its first process
    failed: list[Short] = Field(default=[], max_length=50)  # units that have failed inside
    cannot: dict[Short, Short] = Field(default={}, max_length=10)


class MachineFact(BaseModel):
    """One machine as its host sees it now.

    Sources: org.freedesktop.machine1 (registered machines, images), the unit systemd-nspawn@NAME.service on
    org.freedesktop.systemd1, and the files on disk. Sizes in bytes, times in seconds since the epoch.
    `effective` holds resource properties of the unit as systemd has them now (MemoryMax → "134217728" or "infinity").
    A digest is "absent" for a file that is not there (or is empty) and "unreadable" for one that cannot be read;
    `unreadable` then says which and why. `team` is the slug of the team it belongs to by the host's own ledger, "" for nobody's;
    None from a host that keeps no such thing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(max_length=255)]
    state: MachineState
    since: Seconds | None = None  # start of the running unit
    unit: Short = ""  # the unit the machine runs in; differs from the template when started by hand
    leader: Count | None = None
    addresses: list[Address] = Field(default=[], max_length=64)
    enabled: bool = False
    os: Short = ""
    image_id: Annotated[str, Field(max_length=100)] = ""
    image_type: Annotated[str, Field(max_length=30)] = ""  # directory, subvolume, raw, "" when there is none
    image_path: Annotated[str, Field(max_length=1000)] = ""  # as machined says it
    read_only: bool = False
    read_only_by: Literal["", "mark", "mount", "vendor"] = ""  # what makes it so; machined changes nothing below /usr
    hidden_images: list[Short] = Field(default=[], max_length=20)  # of the same name, which machined never lists
    disk_bytes: Bytes | None = None
    memory_bytes: Bytes | None = None
    cpu_ns: Bytes | None = None
    tasks: Count | None = None
    nspawn_sha256: Annotated[str, Field(max_length=64)] = "absent"
    limits_sha256: Annotated[str, Field(max_length=64)] = "absent"
    effective: dict[Short, Short] = Field(default={}, max_length=60)
    why: Text = ""  # when failed or restarting: the unit's last lines
    unreadable: Short = ""
    activity: Activity = Activity()
    team: Annotated[str, Field(max_length=63)] | None = None


class BaseFact(BaseModel):
    """A recipe built before on this host, from which the next machine is only a copy. `key` is contract.recipes.key_of(),
    `packages` how many are in it, times in seconds since the epoch, `bytes` what it takes on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    key: Annotated[str, Field(max_length=64)]
    title: Short = ""
    built: Seconds = 0.0
    used: Seconds = 0.0
    bytes: Bytes = 0
    packages: Count = 0
    job: UUID | None = None
    primed: bool = False
    trimmed: bool = False


class Leftover(BaseModel):
    """A file or link that belongs to a machine's name (host/files/belongings.py). `target` is where a link leads, `ours` that
    the panel wrote it, `sha256` as in MachineFact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=1000)]
    kind: Literal["settings", "drop-in", "limit", "unit", "autostart", "verity"]
    target: Annotated[str, Field(max_length=1000)] = ""
    ours: bool = False
    sha256: Annotated[str, Field(max_length=64)] = "absent"


class NameWithFiles(BaseModel):
    """A name that belongs to no machine of the host, and what lies there under it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(max_length=255)]
    files: list[Leftover] = Field(default=[], max_length=50)


class ProtectedPlace(BaseModel):
    """A path of the host that no machine may write to (contract/configuration/protected.py), or even see when it is `secret`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Text = ""
    why: Short = ""
    secret: bool = False


class Remnant(BaseModel):
    """Something that should be gone from a host and cannot be removed: what and why, since when. It is tried again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=1000)]
    why: Short = ""
    since: Seconds = 0.0


class HostFact(BaseModel):
    """The host itself. Bytes and seconds; `missing` names tools that are not installed, with what brings them. `lacks`
    are limits that nothing on this host enforces: key of contract/configuration/limits.py → the file or service that is not there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hostname: Short = ""
    os: Short = ""
    kernel: Short = ""
    architecture: Short = ""
    systemd: Count = 0
    worker: Short = ""
    boot_id: Short = ""
    booted: Seconds | None = None
    cpus: Count = 0
    load: Load = 0.0
    memory_total: Bytes = 0
    memory_available: Bytes = 0
    disk_total: Bytes = 0
    disk_free: Bytes = 0
    pool_type: Short = ""
    cgroup: Literal["", "v1", "v2", "hybrid"] = ""
    networkd: bool = False
    lacks: dict[Short, Short] = Field(default={}, max_length=100)
    bridges: list[Short] = Field(default=[], max_length=200)
    interfaces: list[Short] = Field(default=[], max_length=500)
    mirror: Text = ""  # what the host's own apt sources name
    tools: dict[Short, Short] = Field(default={}, max_length=50)
    missing: dict[Short, Short] = Field(default={}, max_length=50)
    package_manager: Literal["", "apt", "dnf", "zypper", "pacman"] = ""
    policy: dict[Short, Any] = Field(default={}, max_length=50)
    protected: list[ProtectedPlace] = Field(default=[], max_length=PLACES_TOLD)  # beside contract/protected.TABLE
    bases: list[BaseFact] = Field(default=[], max_length=200)
    leftovers: list[NameWithFiles] = Field(default=[], max_length=100)
    remnants: list[Remnant] = Field(default=[], max_length=100)
    # images that machined lists and systemd-nspawn cannot start: name → why, and what would help
    unusable_images: dict[Short, Text] = Field(default={}, max_length=100)
    # machines, whoever made them, with a bind that no machine may have (contract/configuration/protected.py): name → which, and why
    bad_binds: dict[Short, Text] = Field(default={}, max_length=100)


Hash = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


class Receipt(BaseModel):
    """That a host has carried out an order, in its own chain (contract/receipts.py). `actor` is who asked, as the envelope
    said; `order_sha256` is of the order, "" where it is not known; `taken` when it was written down. `epoch` is that of the
    ledger, whose copies may give a number twice."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1, lt=2**62)
    epoch: int = Field(default=0, ge=0, lt=2**62)
    op: Annotated[str, Field(max_length=30)]
    machine: Annotated[str, Field(max_length=255)] = ""
    actor: Short = ""
    order_sha256: Hash = ""
    taken: Seconds
    previous: Hash = ""
    hash: Hash = ""
    signature: Annotated[str, Field(max_length=100)] = ""


class Outcome(Report):
    """The end of a job. `machine` is the real state read after the work, if the machine is still there. `receipt` is None for
    hosts that write none."""

    kind: Literal["outcome"] = "outcome"
    job: UUID
    state: Literal["succeeded", "failed", "cancelled", "timed_out"]
    at: Seconds
    lines: Count = 0
    problem: dict[Short, Any] | None = None
    result: dict[Short, Any] = {}
    machine: MachineFact | None = None
    receipt: Receipt | None = None


class LinkFact(BaseModel):
    """The host's network links now, as in HostFact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bridges: list[Short] = Field(default=[], max_length=200)
    interfaces: list[Short] = Field(default=[], max_length=500)


class Observed(Report):
    """Some machines changed: how they are now, and which are gone altogether. `links` when the host's own links changed."""

    kind: Literal["observed"] = "observed"
    machines: list[MachineFact] = Field(default=[], max_length=2000)
    gone: list[Short] = Field(default=[], max_length=2000)
    links: LinkFact | None = None


class Inventory(Report):
    """Everything there is: a machine not listed does not exist. Jobs are those with a ledger row that has not ended.

    `partial` is the reason why not everything could be read: then systemd alone was asked, a machine not listed is
    unknown, and of those listed only what their units say counts.
    """

    kind: Literal["inventory"] = "inventory"
    host: HostFact
    machines: list[MachineFact] = Field(max_length=5000)
    jobs: list[UUID] = Field(default=[], max_length=5000)
    partial: Short = ""


FILE_LIMIT = 128 * 1024  # bytes of a file that is told whole
AT_ONCE = 50  # machines in one report of files


class ObservedFile(BaseModel):
    """A file of the host that says something about a machine.

    `text` is the file's own text; in base64 where that is no UTF-8 or holds a NUL; "" for a file that is longer than
    FILE_LIMIT or cannot be read (then `error` says why), and for a unit that is masked: a link to /dev/null or empty.
    `target` is where it leads when it is a link, as that is written in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=1000)]
    kind: Literal["nspawn", "unit", "dropin"]
    form: Literal["text", "base64", "long", "unreadable", "masked"] = "text"
    text: Annotated[str, Field(max_length=FILE_LIMIT * 4 // 3 + 8)] = ""
    sha256: Annotated[str, Field(max_length=64)] = "absent"
    size: Bytes = 0
    changed: Seconds = 0.0  # when the file was last written
    error: Short = ""
    target: Annotated[str, Field(max_length=1000)] = ""


class ObservedMachine(BaseModel):
    """What a host's files say about one machine, and what holds.

    `files`: the .nspawn files in systemd's order of search (the first counts), the unit, then its drop-ins in the order
    systemd reads them (the last one wins). `shown` is what systemd has now of the properties of contract/configuration/limits.py,
    `kernel` what the control group has of them, `inside` what the kernel says of the machine's first process, by the
    settings of contract/configuration/nspawn.py. All three are empty for a machine that does not run.
    `unit_command` are the words of the unit's ExecStart= with every drop-in, `run_command` those that the systemd-nspawn
    which runs the machine was started with; [] where nobody says. `lacks` are limits that the control group has no file
    for: key → the file, or what of the host keeps it from having one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(max_length=255)]
    files: list[ObservedFile] = Field(default=[], max_length=60)
    needs_reload: bool = False  # systemd has not read the unit's files since they were changed
    shown: dict[Short, Text] = Field(default={}, max_length=100)
    kernel: dict[Short, Short] = Field(default={}, max_length=100)
    inside: dict[Short, Text] = Field(default={}, max_length=100)
    unit_command: list[Word] = Field(default=[], max_length=200)
    run_command: list[Word] = Field(default=[], max_length=200)
    lacks: dict[Short, Short] = Field(default={}, max_length=100)


class ObservedFiles(Report):
    """Machines whose files, or what holds of them, have changed since this was last told."""

    kind: Literal["observed_files"] = "observed_files"
    machines: list[ObservedMachine] = Field(max_length=AT_ONCE)


class Heard(BaseModel):
    """How far a host has heard the panel: the highest place in its line (epoch first, then sequence) of which an order was
    obeyed. `latched`: the panel went on from an older copy of itself, so nothing of this epoch is obeyed any more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(default=0, ge=0, lt=2**62)
    sequence: int = Field(default=0, ge=0, lt=2**62)
    latched: bool = False


class Heartbeat(Report):
    """The worker lives. `trouble` says what it cannot read or do now, by what it is about: machines, files, loop, spool.
    `heard` is None for hosts that do not know the panel's line, `panel_keys` (the ids of those it obeys, sorted) is empty for
    hosts that cannot be told other ones."""

    kind: Literal["heartbeat"] = "heartbeat"
    load: Load = 0.0
    memory_available: Bytes = 0
    disk_free: Bytes = 0
    boot_id: Short = ""
    trouble: dict[Short, Short] = Field(default={}, max_length=20)
    heard: Heard | None = None
    panel_keys: list[Short] = Field(default=[], max_length=4)


class Refused(Report):
    """A message this host did not obey, and why (forged, foreign, expired …). `job` only when the signature held. `heard`
    when its place in the panel's line was the reason."""

    kind: Literal["refused"] = "refused"
    code: Short
    message: Text
    job: UUID | None = None
    heard: Heard | None = None


AnyReport = Annotated[
    Accepted | Part | JobOutput | Outcome | Observed | Inventory | ObservedFiles | Heartbeat | Refused,
    Field(discriminator="kind"),
]
_REPORT: TypeAdapter[AnyReport] = TypeAdapter(AnyReport)


def _storable(data: Any, depth: int = 0) -> Any:
    """The same without what no database takes as JSON: NUL becomes �, numbers without end are refused."""
    if depth > DEEPEST:
        raise BadValue("The report is nested too deeply.")
    if isinstance(data, str):
        return data.replace("\0", "�")
    if isinstance(data, dict):
        return {_storable(key, depth + 1): _storable(value, depth + 1) for key, value in data.items()}
    if isinstance(data, list):
        return [_storable(value, depth + 1) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        raise BadValue("The report contains a number that is not finite.")
    if isinstance(data, int) and abs(data) >= 2**63:
        raise BadValue("The report contains a number of more than 63 bits.")
    return data


def from_wire(data: object) -> AnyReport:
    """A report out of parsed JSON. Raises BadValue."""
    try:
        return _REPORT.validate_python(_storable(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise BadValue(f"The report cannot be read: {first['loc']}: {first['msg']}") from error


def to_wire(report: AnyReport) -> dict[str, Any]:
    return report.model_dump(mode="json")
