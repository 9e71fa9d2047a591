"""What the panel may ask of a host: one class per operation, with all that both sides know of it.

What an order says are the fields of its class; what is true of every such order are class variables, explained at Order.
The words and icons people see are the panel's (panel/orders/operations.py), the functions that carry orders out the
host's (host/agent/handlers.py).
"""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from machines.contract import permissions
from machines.contract.configuration.findings import FixWord
from machines.contract.names import machine_name, new_machine_name
from machines.contract.permissions import Permission
from machines.contract.problems import BadValue
from machines.contract.recipes import Based, FirstBoot, Mirror, Recipe

KnownName = Annotated[str, AfterValidator(machine_name)]
NewName = Annotated[str, AfterValidator(new_machine_name)]
PanelKeyText = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]


# Seconds: how long an order waits for its host, and what a restart may take beyond an apply, and again the way back.
EXPIRES_AFTER = 24 * 3600
RESTART_LIMIT = 300


class Runs(StrEnum):
    """Where a host carries an order out."""

    WORKER = "worker"  # converging: may be carried out twice without harm
    UNIT = "unit"  # in a transient unit of its own, which outlives the worker: creates, destroys, or takes long
    CONTROL = "control"  # at once, where messages arrive: speaks about jobs and reports, and is no job itself


class Order(BaseModel):
    """What is known of every operation. `permission` and `runs` have no default: each class says them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    op: str

    permission: ClassVar[Permission]
    runs: ClassVar[Runs]
    phases: ClassVar[tuple[str, ...]] = ()  # the steps of its work, in order, so that a page can name those to come
    time_limit: ClassVar[int] = 60  # seconds its work may take; see also work_seconds()
    later: ClassVar[
        Mapping[str, object]
    ] = {}  # fields that came later, with what every host does where they are missing

    reads_only: ClassVar[bool] = False  # a host obeys an older copy of the panel too
    runs_recipe: ClassVar[bool] = False  # such orders wait for one another, as many at once as the host's policy says
    at_once: ClassVar[int] = 4  # of others in units, how many of a kind run beside each other
    overtakes: ClassVar[bool] = False  # does not wait for what its machine is busy with
    runs_alone: ClassVar[bool] = False  # no other job of the whole host beside it
    needs_clock: ClassVar[bool] = True  # waits until the clocks of host and panel agree
    can_be_retried: ClassVar[bool] = True  # a person may order it again as it was
    # What a host does after its worker was restarted:
    stays_fresh: ClassVar[bool] = False  # carried out however late
    undoes_when_cancelled: ClassVar[bool] = False  # what it had begun goes on by itself, so that it must be ended
    goes_on_when_killed: ClassVar[bool] = False  # its unit is begun again where it was

    def permissions(self) -> tuple[Permission, ...]:
        """All that whoever places this very order must hold."""
        return (self.permission,)

    def work_seconds(self) -> int:
        """How long the work of this very order may take."""
        return self.time_limit


class Start(Order):
    """`reset` lets systemd forget earlier failures first, which lifts the start limit."""

    permission = Permission.OPERATE
    runs = Runs.WORKER
    time_limit = 3600  # where the unit itself sets no limit; a longer one of its own holds (host/machine/lifecycle.py)
    later = {"reset": False}
    undoes_when_cancelled = True

    op: Literal["start"] = "start"
    name: KnownName
    reset: bool = False


class Poweroff(Order):
    """Ask the machine's init to power off; succeeds when the machine is gone."""

    permission = Permission.OPERATE
    runs = Runs.WORKER
    time_limit = 120

    op: Literal["poweroff"] = "poweroff"
    name: KnownName


class Reboot(Order):
    permission = Permission.OPERATE
    runs = Runs.WORKER
    time_limit = 120

    op: Literal["reboot"] = "reboot"
    name: KnownName


class Terminate(Order):
    """Kill the machine's processes without asking its init."""

    permission = Permission.OPERATE
    runs = Runs.WORKER
    overtakes = True  # it is what a person orders when a poweroff hangs

    op: Literal["terminate"] = "terminate"
    name: KnownName


class Enable(Order):
    """Start the machine when the host boots."""

    permission = Permission.OPERATE
    runs = Runs.WORKER

    op: Literal["enable"] = "enable"
    name: KnownName


class Disable(Order):
    permission = Permission.OPERATE
    runs = Runs.WORKER

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

    permission = Permission.CONFIGURE
    runs = Runs.WORKER
    time_limit = 120
    can_be_retried = False  # but pressed again: the draft is still there, and the file may have changed
    stays_fresh = True
    undoes_when_cancelled = True

    op: Literal["apply"] = "apply"
    name: KnownName
    configuration: Configuration
    restart: bool = False
    rollback_after: int = Field(default=0, ge=0, le=MOST_ROLLBACK_SECONDS)
    expects: Literal["running", "address"] = "running"

    @model_validator(mode="after")
    def _rollback_needs_a_restart(self) -> "Apply":
        if self.rollback_after and not self.restart:
            raise ValueError("Without a restart there is nothing to watch, so nothing can be rolled back.")
        return self

    def permissions(self) -> tuple[Permission, ...]:
        """One that restarts the machine besides operates it."""
        return (self.permission, Permission.OPERATE) if self.restart else (self.permission,)

    def work_seconds(self) -> int:
        """One that restarts the machine and watches it takes longer."""
        if not self.restart:
            return self.time_limit
        return self.time_limit + RESTART_LIMIT + (self.rollback_after + RESTART_LIMIT if self.rollback_after else 0)


class OldDropin(BaseModel):
    """A drop-in somebody left, and the sum of what the person saw in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=1000)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class RemoveDropins(Order):
    """Remove drop-ins of the machine's unit that people left, while they are as they were seen. Copies stay."""

    permission = Permission.CONFIGURE
    runs = Runs.WORKER

    op: Literal["remove_dropins"] = "remove_dropins"
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

    permission = Permission.BUILD
    runs = Runs.UNIT
    phases = ("prepare", "bootstrap", "packages", "configure", "finish", "import")
    time_limit = 3600
    later = {"leftovers": "refuse", "seen": []}
    runs_recipe = True

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


class BuildBase(Order):
    """Build the base of a recipe anew, without a machine from it. `locale` and `timezone` as in FirstBoot: both decide
    which packages are in it."""

    permission = Permission.BUILD
    runs = Runs.UNIT
    phases = ("prepare", "bootstrap", "packages", "configure", "finish")
    time_limit = 3600
    runs_recipe = True

    op: Literal["build_base"] = "build_base"
    recipe: Based
    first_boot: FirstBoot = FirstBoot()


class RemoveBase(Order):
    """Remove a base; machines made from it stay as they are. `base` is the id its host reported."""

    permission = Permission.BUILD
    runs = Runs.UNIT
    time_limit = 900

    op: Literal["remove_base"] = "remove_base"
    base: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Export(Order):
    """Pack an image into a file and put it on the panel, at `url` with the token that is sealed (a BuildSecrets).

    At most `limit` bytes.
    """

    permission = Permission.BUILD
    runs = Runs.UNIT
    phases = ("check", "pack", "send")
    time_limit = 7200

    op: Literal["export"] = "export"
    name: KnownName
    format: Literal["tar", "raw"] = "tar"
    url: Mirror = Field(min_length=8)
    limit: int = Field(ge=1, le=2**53)
    sealed: str = Field(default="", max_length=8192)


class SetReadOnly(Order):
    """Make an image read-only, which makes it a template, or writable again."""

    permission = Permission.BUILD
    runs = Runs.WORKER

    op: Literal["set_read_only"] = "set_read_only"
    name: KnownName
    read_only: bool


class Assign(Order):
    """Write down on the host that a machine belongs to a team (its slug, "" for nobody): its orders must be for that team then,
    unless an administrator gives them."""

    permission = Permission.ADMINISTER
    runs = Runs.WORKER

    op: Literal["assign"] = "assign"
    name: KnownName
    team: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9_-]*$")] = ""


class Pool(Order):
    """Give a host whose images lie on a plain file system a btrfs pool of `size` bytes in a file, and copy all images
    into it; what was there stays beside it until somebody removes it."""

    permission = Permission.ADMINISTER
    runs = Runs.UNIT
    phases = ("check", "make", "copy", "switch")
    time_limit = 7200
    runs_alone = True  # it moves all images

    op: Literal["pool"] = "pool"
    size: int = Field(ge=2 * 1024**3, le=2**50)


class Remove(Order):
    """Remove image and configuration. `image_id` is what the host last reported of the image (its creation time in µs
    and inode), so that a late order cannot remove a newer machine of the same name. `replaces_*` are the sums of its files
    as the person saw them, as in Configuration; "" for files nobody looked at."""

    permission = Permission.REMOVE
    runs = Runs.UNIT
    phases = ("check", "configuration", "image")
    time_limit = 900
    later = {"replaces_nspawn": "", "replaces_limits": ""}
    goes_on_when_killed = True

    op: Literal["remove"] = "remove"
    name: KnownName
    image_id: str = Field(default="", max_length=100)
    replaces_nspawn: str = Field(default="", max_length=64)
    replaces_limits: str = Field(default="", max_length=64)


def _nobody_or_known(name: str) -> str:
    return machine_name(name) if name else ""


class Diagnose(Order):
    """Look for what is wrong with a machine, or with the host itself when `name` is "". Changes nothing."""

    permission = Permission.OPERATE
    runs = Runs.WORKER
    needs_clock = False

    op: Literal["diagnose"] = "diagnose"
    name: Annotated[str, AfterValidator(_nobody_or_known)] = ""


class Fix(Order):
    """Fix one thing a diagnosis found, by its word of findings.FIXES. `name` as in Diagnose."""

    permission = Permission.ADMINISTER
    runs = Runs.WORKER
    needs_clock = False

    op: Literal["fix"] = "fix"
    name: Annotated[str, AfterValidator(_nobody_or_known)] = ""
    what: FixWord


class LimitTest(Order):
    """Load a running machine's own control group with work up to its limits, for seconds, and measure that they hold."""

    permission = Permission.OPERATE
    runs = Runs.UNIT
    phases = ("check", "processor", "memory")
    time_limit = 180
    at_once = 1  # two would measure each other

    op: Literal["limit_test"] = "limit_test"
    name: KnownName


class Cancel(Order):
    """Stop a job: its unit if it has one, or never begin it."""

    permission = Permission.OPERATE
    runs = Runs.CONTROL

    op: Literal["cancel"] = "cancel"
    job: UUID


class Resend(Order):
    """Send all reports after number `after` once more: some did not arrive."""

    permission = Permission.VIEW
    runs = Runs.CONTROL
    reads_only = True

    op: Literal["resend"] = "resend"
    after: int = Field(ge=0)


class Refresh(Order):
    """Send a full inventory now, and then once more what holds of every machine."""

    permission = Permission.VIEW
    runs = Runs.CONTROL
    reads_only = True

    op: Literal["refresh"] = "refresh"


class Resynchronise(Order):
    """The host was put back to an older copy of itself: begin `epoch` of its ledger, in which reports are numbered from
    `number` + 1 on, forget those that were not sent, and tell everything anew. With `if_behind` only where the ledger is
    behind indeed: in an earlier epoch than the one before, or not as far as `number`."""

    permission = Permission.ADMINISTER
    runs = Runs.CONTROL

    op: Literal["resynchronise"] = "resynchronise"
    epoch: int = Field(ge=2, le=2**62)
    number: int = Field(ge=0, lt=2**62)
    if_behind: bool = False


class TrustKeys(Order):
    """Obey orders that one of these keys of the panel has signed, and no others; Ed25519, base64. The key that signed this
    one is among them."""

    permission = Permission.ADMINISTER
    runs = Runs.CONTROL

    op: Literal["trust_keys"] = "trust_keys"
    keys: list[PanelKeyText] = Field(min_length=1, max_length=4)


def op_of(kind: type[Order]) -> str:
    """The word for an operation on the wire, in the database and in a host's policy."""
    return str(kind.model_fields["op"].default)


# Every class above, by its word.
KINDS: dict[str, type[Order]] = {op_of(kind): kind for kind in Order.__subclasses__()}
RECIPE_OPS = frozenset(op for op, kind in KINDS.items() if kind.runs_recipe)


class _Unknown(Order):
    """An operation of another version: nothing is known of it, so the most cautious is taken."""

    permission = Permission.ADMINISTER
    runs = Runs.WORKER


def kind_of(op: str) -> type[Order]:
    """What is known of an operation by its word, also of one that a database or a ledger has from another version."""
    return KINDS.get(op, _Unknown)


def authorize(role: str, order: Order, extra: Collection[str] = ()) -> None:
    """Pass silently when people of this role, with the rights their membership carries besides, may place this order.

    Called by the panel before a job is made and again by the host before it acts. Raises NotAllowed.
    """
    for right in order.permissions():
        permissions.authorize(role, right, extra)


def from_wire(data: object) -> Order:
    """An order out of parsed JSON. Raises BadValue with the first thing that is wrong."""
    op = data.get("op") if isinstance(data, dict) else None
    if not isinstance(op, str) or op not in KINDS:
        raise BadValue("The order cannot be read: no known operation is named in it.", field="op")
    try:
        return KINDS[op].model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join((op, *(str(part) for part in first["loc"])))
        raise BadValue(f"The order cannot be read: {where}: {first['msg']}", field=where) from error


def to_wire(order: Order) -> dict[str, object]:
    return order.model_dump(mode="json")


def to_send(wire: Mapping[str, object]) -> dict[str, object]:
    """The same without later fields that ask for nothing: a host older than the panel refuses what it does not know."""
    later = kind_of(str(wire.get("op"))).later
    return {name: value for name, value in wire.items() if name not in later or value != later[name]}
