"""Where things lie on a host. One frozen object, so that a test can move every root into a temporary directory."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from machines.contract.names import MachineName

UNIT = "systemd-nspawn@{}.service"
PROBE = "np-probe-"  # begins the names of files that are only shown to systemd's parser
DROPIN = "50-nspawnpanel.conf"
BINDS_DROPIN = "10-nspawnpanel-binds.conf"
SLICE = "nspawnpanel.slice"


@dataclass(frozen=True)
class Paths:
    """Directories this room reads and writes. Defaults are a real host's."""

    state: Path = Path("/var/lib/nspawnpanel")
    machines: Path = Path("/var/lib/machines")
    nspawn: Path = Path("/etc/systemd/nspawn")
    units: Path = Path("/etc/systemd/system")
    probes: Path = Path("/run/systemd/nspawn")
    scratch: Path = Path("/run/nspawnpanel")
    policy: Path = Path("/etc/nspawnpanel/policy.toml")
    control: Path = Path("/run/systemd/system.control")
    lasting_control: Path = Path("/etc/systemd/system.control")
    runtime_units: Path = Path("/run/systemd/system")
    vendor_units: tuple[Path, ...] = (
        Path("/usr/local/lib/systemd/system"),
        Path("/usr/lib/systemd/system"),
        Path("/lib/systemd/system"),
    )

    # where systemd looks for images before and after `machines` (252 and 257)
    images_before: tuple[Path, ...] = (Path("/etc/machines"), Path("/run/machines"))
    images_after: tuple[Path, ...] = (
        Path("/var/lib/container"),
        Path("/usr/local/lib/machines"),
        Path("/usr/lib/machines"),
    )

    @property
    def image_folders(self) -> tuple[Path, ...]:
        """Where systemd looks for images, the first one first (machined, systemd-nspawn --machine=)."""
        return (*self.images_before, self.machines, *self.images_after)

    @property
    def unit_folders(self) -> tuple[Path, ...]:
        """Where units and drop-ins are looked for, the first one first (systemd.unit(5))."""
        return (*self.own_unit_folders, *self.vendor_units)

    @property
    def own_unit_folders(self) -> tuple[Path, ...]:
        """Those of them that belong to the host's administrators and not to packages."""
        return (self.lasting_control, self.control, self.units, self.runtime_units)

    @property
    def keys(self) -> Path:
        """Where this host's own keys lie, readable by root alone."""
        return self.state / "keys"

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.db"

    @property
    def jobs(self) -> Path:
        return self.state / "jobs"

    def job(self, job: UUID) -> Path:
        """What a job in a unit writes while it runs; its log stays for a while after the end."""
        return self.jobs / str(job)

    def generations(self, name: MachineName) -> Path:
        """Configurations that were replaced, by the revision that replaced them."""
        return self.state / "generations" / name

    def removed(self, name: MachineName, job: UUID) -> Path:
        """Copies of the files that belonged to a machine's name, and that this job has taken away."""
        return self.state / "removed" / f"{name}-{job}"

    def image(self, name: MachineName) -> Path:
        """A machine's tree."""
        return self.machines / name

    def raw_image(self, name: MachineName) -> Path:
        """A machine's disk image, where it has one instead of a tree."""
        return self.machines / f"{name}.raw"

    @property
    def pool_file(self) -> Path:
        """A btrfs pool in a file, under systemd's own name for it."""
        return self.machines.with_name(f"{self.machines.name}.raw")

    @property
    def before_pool(self) -> Path:
        """What lay in its place before."""
        return self.machines.with_name(f"{self.machines.name}.before-pool")

    def new_pool(self, job: UUID) -> Path:
        """The same file while it is being made."""
        return self.machines.with_name(f".nspawnpanel-{job}.pool")

    def unfinished(self, job: UUID) -> Path:
        """A tree being built. The leading dot hides it from machined."""
        return self.machines / f".nspawnpanel-{job}.tmp"

    def aside(self, job: UUID) -> Path:
        """An image being deleted. The leading dot hides it from machined, and no unit starts it."""
        return self.machines / f".nspawnpanel-{job}.removed"

    def in_memory(self, job: UUID) -> Path:
        """The same tree while it grows in memory: where that is mounted, in the job's own mount namespace."""
        return self.machines / f".nspawnpanel-{job}.memory"

    def unfinished_raw(self, job: UUID) -> Path:
        """A disk image being made."""
        return self.machines / f".nspawnpanel-{job}.raw"

    def download(self, job: UUID) -> Path:
        """What a job fetches before anything is made of it; beside the machines, where the room is."""
        return self.machines / f".nspawnpanel-{job}.part"

    def unfinished_base(self, job: UUID) -> Path:
        """A base being made."""
        return self.machines / f".nspawnpanel-{job}.base"

    def base(self, base: str) -> Path:
        """The tree of a base, beside the machines so that a machine may be a snapshot of it."""
        return self.machines / f".nspawnpanel-base-{base}"

    @property
    def bases(self) -> Path:
        """What is known of each base."""
        return self.state / "bases"

    def nspawn_file(self, name: MachineName) -> Path:
        return self.nspawn / f"{name}.nspawn"

    def limits_file(self, name: MachineName) -> Path:
        return self.units / f"{unit_of(name)}.d" / DROPIN

    def binds_file(self, name: MachineName) -> Path:
        """The drop-in by which its binds are judged at each start, see bind_dropin.py."""
        return self.units / f"{unit_of(name)}.d" / BINDS_DROPIN


def unit_of(name: MachineName) -> str:
    """The template unit a machine runs in. machinectl does not escape the name, so neither do we."""
    return UNIT.format(name)


def job_unit(job: UUID) -> str:
    """The unit of a job; its fixed name is the lock that keeps the job from running twice."""
    return f"nspawnpanel-job-{job}.service"


def job_of(unit: str) -> UUID | None:
    """The job a unit is named after."""
    try:
        return UUID(unit.removeprefix("nspawnpanel-job-").removesuffix(".service"))
    except ValueError:
        return None
