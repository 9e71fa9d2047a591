"""Limits that people set beside ours, by `systemctl set-property` or in a drop-in of their own: taken into a draft of
ours, and their files taken away."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction

from machines.contract import orders
from machines.contract.configuration import limits, nspawn
from machines.contract.problems import Problem
from machines.models import Job, Machine, ObservedFiles, Revision, User
from machines.models.found import File
from machines.models.revision import bind_rows, port_rows
from machines.panel.configs import drafts, drift
from machines.panel.orders import dispatch


@dataclass(frozen=True)
class Leftover:
    """A drop-in of this machine's alone, not written by us, that holds limits. It can be removed when it holds nothing
    else, `same` says that ours holds all of it already."""

    file: File
    held: dict[str, str]
    only_limits: bool
    same: bool


def read(machine: Machine, found: ObservedFiles) -> list[Leftover]:
    ours = limits.read(found.ours.text) if found.ours else {}
    made = []
    for file in found.dropins:
        if file.is_ours or not file.is_plain or f"systemd-nspawn@{machine.name}.service.d/" not in file.path:
            continue
        held = limits.read(file.text)
        if held:
            made.append(Leftover(file, held, _only_limits(file), all(ours.get(k) == v for k, v in held.items())))
    return made


def _only_limits(file: File) -> bool:
    settings = nspawn.parse(file.text).settings()
    known = all(e.key in limits.PROPERTIES and limits.PROPERTIES[e.key].section == e.section for e in settings)
    return known and file.path.startswith(("/etc/systemd/system", "/run/systemd/system.control/"))


def _seen(machine: Machine, paths: Sequence[str], sums: Sequence[str]) -> list[Leftover]:
    """Those of these files that are still as the person saw them. Raises Changed when one is not."""
    found = ObservedFiles.objects.filter(machine=machine).first()
    there = {each.file.path: each for each in read(machine, found)} if found else {}
    wanted = [there[path] for path in paths if path in there]
    if not wanted or [each.file.sha256 for each in wanted] != list(sums):
        raise drift.Changed(machine)
    return wanted


def import_limits(machine: Machine, *, by: User, paths: Sequence[str], sums: Sequence[str], seen: str) -> Revision:
    """Put what these files hold into the draft, or into a new one; the last file wins, as with systemd.

    Raises Changed, StaleDraft, Busy.
    """
    files = _seen(machine, paths, sums)
    with transaction.atomic():
        draft = drafts.locked(machine, seen)
        fresh = draft is None
        draft = draft or drafts.new(machine)
        for each in files:
            for key, value in each.held.items():
                draft.take(key, value)
        draft.author, draft.author_name = by, by.username
        draft.state, draft.number = Revision.State.DRAFT, None
        draft.save()
        if fresh:
            drafts.keep_rows(draft, bind_rows(draft.base_nspawn), port_rows(draft.base_nspawn))
    return draft


def remove(machine: Machine, *, by: User, path: str, sha256: str, key: UUID | None = None) -> Job:
    """Order one file away. Raises Changed, Busy, NotAllowed, and Problem when it holds more than limits."""
    [file] = _seen(machine, [path], [sha256])
    if not file.only_limits:
        raise Problem(f"{path} contains more than limits, so it cannot be removed here.", hint="Check it on the host.")
    order = orders.RemoveDropins(name=machine.name, files=[orders.OldDropin(path=path, sha256=sha256)])
    return dispatch.place(order, on=machine.host, by=by, key=key)
