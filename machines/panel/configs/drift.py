"""Files that somebody changed on the host by hand: take them over, put ours back, or leave it at that.

Taking over writes nothing on the host. What was found there becomes a revision, byte for byte, and the next apply goes
on from it. The same holds for a machine that was there before its host joined: then it is revision 1.
"""

from collections.abc import Collection
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.orders import ABSENT, UNREADABLE
from machines.contract.problems import Problem
from machines.models import Job, Machine, ObservedFiles, Revision, User
from machines.models.found import ETC, File
from machines.models.revision import FOUND_ON_DISK
from machines.panel.audit import entries
from machines.panel.orders import dispatch


class Changed(Problem):
    """The files are not the ones that were shown when the button was pressed."""

    code = "files-changed"

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            f"The files of {machine.name} on {machine.host.name} have changed since this page was loaded.",
            hint="Review them again, then decide.",
        )


def is_drifted(machine: Machine, nspawn_sha256: str, limits_sha256: str, applying: Collection[str]) -> bool:
    """Whether a host that reports these sums has drifted from what was applied. While an apply is on its way nothing is
    said: its outcome will tell. `applying` are the machines of its host of which that is so."""
    applied, there = machine.applied, f"{nspawn_sha256}.{limits_sha256}"
    if UNREADABLE in {nspawn_sha256, limits_sha256}:  # nothing is known of it now
        return machine.drifted
    if applied is None or there in {f"{applied.nspawn_sha256}.{applied.limits_sha256}", machine.ignored}:
        return False
    return machine.drifted or machine.name not in applying


def has_moved(machine: Machine, found: ObservedFiles) -> bool:
    """Whether a file that was taken over from another place than ours is not as it was any more."""
    applied, file = machine.applied, found.counting
    if applied is None or not applied.found_in:
        return False
    return file is None or file.path != applied.found_in or file.text != applied.nspawn_text


def adopt(machine: Machine, *, by: User, seen: str) -> Revision:
    """Make what is on the host the applied revision. Raises Changed, and Problem when it cannot be kept as it is."""
    with transaction.atomic():
        fresh = _locked(machine, seen)
        found = ObservedFiles.objects.filter(machine=fresh).first()
        file, ours = (found.counting, found.ours) if found else (None, None)
        _check_arrived(fresh, file, ours)
        now = timezone.now()
        revision = Revision(
            machine=fresh, state=Revision.State.APPLIED, author_name=FOUND_ON_DISK, applied_at=now,
            reason=f"imported by {by.username}", found_in=file.path if file and not file.path.startswith(ETC) else "",
        )  # fmt: skip
        revision.number = revision.next_number()
        _fill(revision, file.text if file else "", ours.text if ours else "")
        fresh.mark_applied(revision.pk)
        entries.record(
            "configuration-imported",
            f"{by.username} imported the configuration of {fresh.name} as revision {revision.number}.",
            by=by, on=fresh,
        )  # fmt: skip
    return revision


def _locked(machine: Machine, seen: str) -> Machine:
    fresh = Machine.objects.select_for_update(of=("self",)).select_related("applied", "host").get(pk=machine.pk)
    if fresh.fingerprint != seen:
        raise Changed(fresh)
    return fresh


def _check_arrived(machine: Machine, file: File | None, ours: File | None) -> None:
    """The texts must be those whose sums the host has told, and all of them."""
    for each in (file, ours):
        if each and not each.is_plain:
            raise Problem(
                f"{each.path} is not a text file, or is too long, so it cannot be imported.",
                hint="Fix the file on the host; the panel picks it up within seconds.",
            )
    if not _is_same(machine, file, ours):
        raise Problem("The contents of these files have not arrived from the host yet.", hint="Try again in a moment.")
    if machine.applied is None and file is None and ours is None:
        raise Problem(f"{machine.host.name} has no files for {machine.name}: there is nothing to import.")


def _is_same(machine: Machine, file: File | None, ours: File | None) -> bool:
    in_place = file.sha256 if file and file.path.startswith(ETC) else ABSENT
    return (in_place, ours.sha256 if ours else ABSENT) == (machine.nspawn_sha256, machine.limits_sha256)


def has_arrived(machine: Machine, found: ObservedFiles) -> bool:
    """Whether the texts told are those whose sums the machine's row has: both travel in reports of their own."""
    return _is_same(machine, found.counting, found.ours)


def _fill(revision: Revision, nspawn_text: str, limits_text: str) -> None:
    try:
        revision.take_files(nspawn_text, limits_text)
    except (ValidationError, ValueError, Problem) as error:
        raise Problem("The files contain something the panel cannot represent.") from error
    revision.nspawn_text, revision.limits_text = nspawn_text, limits_text
    revision.save()


def reapply(machine: Machine, *, by: User, seen: str, key: UUID | None = None) -> Job:
    """Order the applied revision onto the host once more, over what is there now. Raises Changed, Busy, NotAllowed."""
    with transaction.atomic():
        fresh = _locked(machine, seen)
        revision = fresh.applied
        if revision is None or revision.number is None:
            raise Problem("Nothing has been applied yet, so there is nothing to apply again.")
        configuration = orders.Configuration(
            revision=revision.number,
            nspawn=_marked(revision.nspawn_text, revision.number),
            limits=_marked(revision.limits_text, revision.number),
            replaces_nspawn=fresh.nspawn_sha256,
            replaces_limits=fresh.limits_sha256,
        )
        order = orders.Apply(name=fresh.name, configuration=configuration)
        return dispatch.place(order, on=fresh.host, by=by, key=key, revision=revision)


def _marked(text: str, number: int) -> str:
    return nspawn.mark(text, number) if text else ""


def ignore(machine: Machine, *, by: User, seen: str) -> None:
    """Leave it at that until a file changes again. Raises Changed."""
    with transaction.atomic():
        fresh = _locked(machine, seen)
        fresh.ignore_drift(seen)
        entries.record(
            "drift-ignored", f"{by.username} ignored the manual changes to the files of {fresh.name}.",
            by=by, on=fresh,
        )  # fmt: skip
