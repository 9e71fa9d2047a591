"""The settings that come with what a new machine is made of: a clone takes over the original's, an archive carries those
of its machine, a build that is done again has what it had.

They fill the form and are shown there whole; only what was shown is ordered (`key`). What an uploaded archive says of
itself is anybody's word, so it is used only when a person says so.
"""

import hashlib
from dataclasses import dataclass, field

from django.core.exceptions import ValidationError

from machines.contract.configuration import carried, limits, nspawn
from machines.contract.configuration.carried import Remark
from machines.contract.orders import Build
from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import Archive, BindMount, Job, Machine, ObservedFiles, PortForward, Revision, User
from machines.models.revision import as_settings, bind_rows, port_rows
from machines.panel.configs.diffs import Files

SHOWN = 100  # lines


@dataclass(frozen=True)
class Copied:
    """`origin` names where they are from, `title` does so for people. `offered` says that they are used unless a person
    does not want them, `notes` what could not be taken over."""

    origin: str
    title: str
    files: Files
    remarks: list[Remark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    offered: bool = True

    @property
    def key(self) -> str:
        """Names these very texts: when the original changes, what was shown is not what would be taken."""
        return f"{self.origin}:{hashlib.sha256(repr(self.files).encode()).hexdigest()[:16]}"

    @property
    def left_out(self) -> list[Remark]:
        return [remark for remark in self.remarks if remark.left_out]

    @property
    def to_look_at(self) -> list[Remark]:
        return [remark for remark in self.remarks if not remark.left_out]

    @property
    def lines(self) -> list[str]:
        """Every setting as it stands in a file, the first SHOWN of them."""
        said = as_settings(self.files.nspawn, self.files.limits)
        found = [f"{name.rpartition('.')[2]}={value}" for name, text in said.items() for value in text.split("\n")]
        return [*found[:SHOWN], *([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])]

    @property
    def revision(self) -> Revision:
        """An unsaved revision that holds them, but for its rows."""
        made = Revision()
        made.take_files(self.files.nspawn, self.files.limits)
        return made

    @property
    def binds(self) -> list[BindMount]:
        return bind_rows(self.files.nspawn)

    @property
    def ports(self) -> list[PortForward]:
        return port_rows(self.files.nspawn)


def of_original(original: Machine | Archive | None) -> Copied | None:
    """What comes with what a machine is copied from; None when that has no settings, or nothing is copied."""
    if isinstance(original, Machine):
        return _usable(of_machine(original))
    return _usable(of_archive(original)) if original else None


def of_build(number: str, *, by: User) -> Copied | None:
    """What an earlier build was to have, of those that this person may do again."""
    job = (
        Job.objects.where_may(by, Permission.BUILD).of(Build).filter(pk=int(number)).select_related("revision").first()
        if _is_number(number)
        else None
    )
    revision = job.revision if job else None
    if revision is None:
        return None
    texts = Files(nspawn.unmark(revision.nspawn_text), nspawn.unmark(revision.limits_text))
    if not any((revision.nspawn_text, revision.limits_text)):
        texts = Files(revision.render_nspawn(), revision.render_limits())
    return _usable(Copied(f"again:{number}", f"job {number}", texts))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15


def _usable(copied: Copied) -> Copied | None:
    """None for nothing at all; what no revision can hold is said instead."""
    if copied.files == Files() and not copied.notes and not copied.remarks:
        return None
    try:
        _ = copied.revision
    except (ValidationError, ValueError, Problem):
        note = "The files contain something the panel cannot represent, so nothing is used."
        return Copied(copied.origin, copied.title, Files(), notes=[*copied.notes, note])
    return copied


# --- a machine


def of_machine(machine: Machine) -> Copied:
    """What holds of a machine on its host, as a clone on that host may have it."""
    notes: list[str] = []
    ignored: list[Remark]
    found = ObservedFiles.objects.filter(machine=machine).first()
    if not machine.next_command.reads_files:
        notes.append(f"The unit of {machine.name} reads no .nspawn file, so only limits are used.")
        files, ignored = _on_disk(machine, found, notes)
        files = Files("", files.limits)
    elif _is_as_applied(machine):
        assert machine.applied is not None
        files = Files(nspawn.unmark(machine.applied.nspawn_text), nspawn.unmark(machine.applied.limits_text))
        ignored = []
    else:
        files, ignored = _on_disk(machine, found, notes)
    files = Files(files.nspawn, _all_limits(machine, files.limits, found, notes))
    text, remarks = carried.for_clone(files.nspawn, machine.name)
    return Copied(f"clone:{machine.name}", machine.name, Files(text, files.limits), [*ignored, *remarks], notes)


def _is_as_applied(machine: Machine) -> bool:
    """Whether the sums that the host tells are those of what was applied last."""
    return machine.applied is not None and not machine.applied.found_in and not machine.differs


def _on_disk(machine: Machine, found: ObservedFiles | None, notes: list[str]) -> tuple[Files, list[Remark]]:
    if found is None:
        if machine.fingerprint != "absent.absent":
            notes.append(f"{machine.host} has files for {machine.name} whose contents the panel does not have yet.")
        return Files(), []
    file, ours, ignored, text = found.counting, found.ours, list[Remark](), ""
    if file and file.is_plain:
        text = nspawn.unmark(file.text)
        if not file.is_trusted:
            text, ignored = carried.trusted_part(text)
    elif file:
        notes.append(f"{file.path} is not used: {file.error or 'it is too long, or not a text file'}.")
    return Files(text, nspawn.unmark(ours.text) if ours and ours.is_plain else ""), ignored


def _all_limits(machine: Machine, ours: str, found: ObservedFiles | None, notes: list[str]) -> str:
    """The limits of all drop-ins of this machine, as systemd adds them up."""
    held: dict[str, str] = {}
    for file in found.dropins if found else []:
        if f"systemd-nspawn@{machine.name}.service.d/" not in file.path and not file.is_ours:
            continue
        said = nspawn.parse(file.text).settings() if file.is_plain else []
        read = limits.read(ours if file.is_ours else file.text)
        held |= read if file.is_ours else {key: limits.short(key, value) for key, value in read.items()}
        if not file.is_ours and (not file.is_plain or any(entry.key not in limits.PROPERTIES for entry in said)):
            notes.append(f"{file.path} contains more than limits; that part is not used.")
    return limits.dropin(limits.read(ours) | held, ours)


# --- an archive


def of_archive(archive: Archive) -> Copied:
    """What an archive carries; used by itself only when a host of ours has told it."""
    text, remarks = carried.for_elsewhere(archive.nspawn_text)
    files = Files(text, nspawn.unmark(archive.limits_text))
    return Copied(f"archive:{archive.pk}", archive.title, files, remarks, offered=archive.job_id is not None)
