"""What the panel may ask of a host: one model per operation, a tagged union.

Converging orders may be carried out twice without harm and run in the worker. Creating and destroying orders run as a
transient unit of their own, so that they outlive the worker. Control orders speak about jobs and reports themselves.
"""

from collections.abc import Mapping
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from machines.contract.configuration.findings import MendWord
from machines.contract.names import machine_name, new_machine_name
from machines.contract.problems import BadValue
from machines.contract.recipes import Based, FirstBoot, Mirror, Recipe

KnownName = Annotated[str, AfterValidator(machine_name)]
NewName = Annotated[str, AfterValidator(new_machine_name)]


class Order(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Start(Order):
    """`reset` lets systemd forget earlier failures first, which lifts the start limit."""

    op: Literal["start"] = "start"
    name: KnownName
    reset: bool = False


class Poweroff(Order):
    """Ask the machine's init to power off; succeeds when the machine is gone."""

    op: Literal["poweroff"] = "poweroff"
    name: KnownName


class Reboot(Order):
    op: Literal["reboot"] = "reboot"
    name: KnownName


class Terminate(Order):
    """Kill the machine's processes without asking its init."""

    op: Literal["terminate"] = "terminate"
    name: KnownName


class Enable(Order):
    """Start the machine when the host boots."""

    op: Literal["enable"] = "enable"
    name: KnownName


class Disable(Order):
    op: Literal["disable"] = "disable"
    name: KnownName


ABSENT = "absent"
UNREADABLE = "unreadable"  # in place of a digest: there is something, and it cannot be read
MOST_ROLLBACK_SECONDS = 600


class Configuration(BaseModel):
    """Both files of a machine, whole, and what they replace.

    `nspawn` is the text of /etc/systemd/nspawn/NAME.nspawn, `limits` that of the drop-in
    /etc/systemd/system/systemd-nspawn@NAME.service.d/50-nspawnpanel.conf; "" means the file shall not exist.
    `replaces_*` is the SHA-256 (hex) of the file the draft was based on, or "absent"; on a difference nothing is written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: int = Field(ge=1)
    nspawn: str = Field(max_length=128 * 1024)
    limits: str = Field(max_length=64 * 1024)
    replaces_nspawn: str = ABSENT
    replaces_limits: str = ABSENT


class Apply(Order):
    """Write both files. With `restart` a running machine is then restarted and waited for.

    `rollback_after` is how many seconds after that restart the machine may take to be as `expects` says (running, or
    running with an address); if it is not, the host itself puts back what it replaced. 0 never puts anything back.
    """

    op: Literal["apply"] = "apply"
    name: KnownName
    configuration: Configuration
    restart: bool = False
    rollback_after: int = Field(default=0, ge=0, le=MOST_ROLLBACK_SECONDS)
    expects: Literal["running", "address"] = "running"

    @model_validator(mode="after")
    def _rollback_needs_a_restart(self) -> "Apply":
        if self.rollback_after and not self.restart:
            raise ValueError("Without a restart there is nothing to watch, so nothing can be put back.")
        return self


class OldDropin(BaseModel):
    """A drop-in somebody left, and the sum of what the person saw in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=1000)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Tidy(Order):
    """Remove drop-ins of the machine's unit that people left, while they are as they were seen. Copies stay."""

    op: Literal["tidy"] = "tidy"
    name: KnownName
    files: list[OldDropin] = Field(min_length=1, max_length=50)


class SeenFile(BaseModel):
    """A file or link that lies under a machine's name, as a person saw it: contract.reports.Leftover."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=1000)]
    sha256: Annotated[str, Field(max_length=64)]


class Build(Order):
    """Build an image, write its configuration, and perhaps enable and start it.

    `fresh` passes over a base that is there and builds a new one. `sealed` is a BuildSecrets in JSON, sealed to the
    host's key (base64), or "". `leftovers` says what becomes of files that lie under the name already: "keep" leaves all
    of them as they are and writes ours only where there is none, "replace" takes them away with copies kept. Those a
    person decided about are `seen`; anything else is refused.
    """

    op: Literal["build"] = "build"
    name: NewName
    recipe: Recipe
    first_boot: FirstBoot
    configuration: Configuration
    fresh: bool = False
    start: bool = True
    enable: bool = False
    leftovers: Literal["refuse", "keep", "replace"] = "refuse"
    seen: list[SeenFile] = Field(default=[], max_length=60)
    sealed: str = Field(default="", max_length=8192)


class Bake(Order):
    """Build the base of a recipe anew, without a machine from it. `locale` and `timezone` as in FirstBoot: both decide
    which packages are in it."""

    op: Literal["bake"] = "bake"
    recipe: Based
    first_boot: FirstBoot = FirstBoot()


class Discard(Order):
    """Remove a base; machines made from it stay as they are. `base` is the id its host reported."""

    op: Literal["discard"] = "discard"
    base: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Export(Order):
    """Pack an image into a file and put it on the panel, at `url` with the token that is sealed (a BuildSecrets).

    At most `limit` bytes.
    """

    op: Literal["export"] = "export"
    name: KnownName
    format: Literal["tar", "raw"] = "tar"
    url: Mirror = Field(min_length=8)
    limit: int = Field(ge=1, le=2**53)
    sealed: str = Field(default="", max_length=8192)


class Mark(Order):
    """Make an image read-only, which makes it a template, or writable again."""

    op: Literal["mark"] = "mark"
    name: KnownName
    read_only: bool


class Pool(Order):
    """Give a host whose images lie on a plain file system a btrfs pool of `size` bytes in a file, and copy all images
    into it; what was there stays beside it until somebody removes it."""

    op: Literal["pool"] = "pool"
    size: int = Field(ge=2 * 1024**3, le=2**50)


class Remove(Order):
    """Remove image and configuration. `image_id` is what the host last reported of the image (its creation time in µs
    and inode), so that a late order cannot remove a newer machine of the same name. `replaces_*` are the sums of its files
    as the person saw them, as in Configuration; "" for files nobody looked at."""

    op: Literal["remove"] = "remove"
    name: KnownName
    image_id: str = Field(default="", max_length=100)
    replaces_nspawn: str = Field(default="", max_length=64)
    replaces_limits: str = Field(default="", max_length=64)


def _nobody_or_known(name: str) -> str:
    return machine_name(name) if name else ""


class Examine(Order):
    """Look for what is wrong with a machine, or with the host itself when `name` is "". Changes nothing."""

    op: Literal["examine"] = "examine"
    name: Annotated[str, AfterValidator(_nobody_or_known)] = ""


class Mend(Order):
    """Mend one thing an examination found, by its word of findings.MENDS. `name` as in Examine."""

    op: Literal["mend"] = "mend"
    name: Annotated[str, AfterValidator(_nobody_or_known)] = ""
    what: MendWord


class Prove(Order):
    """Load a running machine's own control group with work up to its limits, for seconds, and measure that they hold."""

    op: Literal["prove"] = "prove"
    name: KnownName


class Cancel(Order):
    """Stop a job: its unit if it has one, or never begin it."""

    op: Literal["cancel"] = "cancel"
    job: UUID


class Resend(Order):
    """Send all reports after number `after` once more: some did not arrive."""

    op: Literal["resend"] = "resend"
    after: int = Field(ge=0)


class Refresh(Order):
    """Send a full inventory now, and then once more what holds of every machine."""

    op: Literal["refresh"] = "refresh"


class Resynchronise(Order):
    """The host was put back to an older copy of itself: begin `epoch` of its ledger, in which reports are numbered from
    `number` + 1 on, forget those that were not sent, and tell everything anew. With `if_behind` only where the ledger is
    behind indeed: in an earlier epoch than the one before, or not as far as `number`."""

    op: Literal["resynchronise"] = "resynchronise"
    epoch: int = Field(ge=2, le=2**62)
    number: int = Field(ge=0, lt=2**62)
    if_behind: bool = False


AnyOrder = Annotated[
    Start
    | Poweroff
    | Reboot
    | Terminate
    | Enable
    | Disable
    | Apply
    | Tidy
    | Build
    | Bake
    | Discard
    | Export
    | Mark
    | Pool
    | Remove
    | Cancel
    | Resend
    | Refresh
    | Resynchronise
    | Examine
    | Mend
    | Prove,
    Field(discriminator="op"),
]
_ORDER: TypeAdapter[AnyOrder] = TypeAdapter(AnyOrder)

IN_A_UNIT = frozenset({"build", "bake", "discard", "export", "pool", "remove", "prove"})
CONTROL = frozenset({"cancel", "resend", "refresh", "resynchronise"})
READS_ONLY = frozenset({"resend", "refresh"})  # of these a host obeys an older copy of the panel too
RECIPE_OPS = frozenset({"build", "bake"})  # what runs a recipe

# op → the steps of its work, in order, so that a page can name those to come.
PHASES: dict[str, tuple[str, ...]] = {
    "build": ("prepare", "bootstrap", "packages", "configure", "finish", "import"),
    "bake": ("prepare", "bootstrap", "packages", "configure", "finish"),
    "export": ("check", "pack", "send"),
    "pool": ("check", "make", "copy", "switch"),
    "remove": ("check", "configuration", "image"),
    "prove": ("check", "processor", "memory"),
}

# Seconds: how long an order waits for its host, and how long its work may take.
EXPIRES_AFTER = 24 * 3600
TIME_LIMIT: dict[str, int] = {
    "build": 3600,
    "bake": 3600,
    "export": 7200,
    "pool": 7200,
    "discard": 900,
    "remove": 900,
    "poweroff": 120,
    "reboot": 120,
    "start": 3600,  # where the unit itself sets no limit; a longer one of its own holds (host/machine/lifecycle.py)
    "apply": 120,
    "prove": 180,
}
DEFAULT_TIME_LIMIT = 60
RESTART_LIMIT = 300  # what a restart may take beyond an apply, and again the way back


def restarts(order: AnyOrder) -> bool:
    """Whether an order restarts a machine besides what it is for."""
    return isinstance(order, Apply) and order.restart


def time_limit(order: AnyOrder) -> int:
    """Seconds this order's work may take; an apply that restarts the machine and watches it takes longer."""
    most = TIME_LIMIT.get(order.op, DEFAULT_TIME_LIMIT)
    if isinstance(order, Apply) and order.restart:
        most += RESTART_LIMIT + order.rollback_after + (RESTART_LIMIT if order.rollback_after else 0)
    return most


def from_wire(data: object) -> AnyOrder:
    """An order out of parsed JSON. Raises BadValue with the first thing that is wrong."""
    try:
        return _ORDER.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadValue(f"The order cannot be read: {where}: {first['msg']}", field=where) from error


def to_wire(order: AnyOrder) -> dict[str, object]:
    return order.model_dump(mode="json")


# op → fields that came later, with what every host does where they are missing
_LATER: dict[str, dict[str, object]] = {
    "start": {"reset": False},
    "build": {"leftovers": "refuse", "seen": []},
    "remove": {"replaces_nspawn": "", "replaces_limits": ""},
}


def to_send(wire: Mapping[str, object]) -> dict[str, object]:
    """The same without later fields that ask for nothing: a host older than the panel refuses what it does not know."""
    later = _LATER.get(str(wire.get("op")), {})
    return {name: value for name, value in wire.items() if name not in later or value != later[name]}
