"""The one draft a machine may have: where it comes from, how it is saved, applied and thrown away.

Two people may edit at once, so whoever changes a draft says which one they saw (its stamp); a newer one is not overwritten
unseen. On the host the same is true of the files: an order names the hashes of what it may replace.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal
from uuid import UUID

from django.db import transaction
from pydantic import ValidationError as OrderInvalid

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.configuration.validate import Finding
from machines.contract.orders import ABSENT
from machines.contract.problems import Problem
from machines.models import BindMount, Job, Machine, PortForward, Revision, User
from machines.models.revision import bind_rows, port_rows
from machines.panel.configs import validation
from machines.panel.configs.diffs import Files
from machines.panel.orders import dispatch
from machines.panel.orders.dispatch import Busy
from machines.panel.teams import quotas

OPEN = (Revision.State.DRAFT, Revision.State.APPLYING)


class StaleDraft(Problem):
    """Somebody saved, applied or discarded the draft meanwhile. `draft` is theirs, if there is one."""

    code = "draft-newer"

    def __init__(self, draft: Revision | None) -> None:
        who = (
            f"{draft.author_name or 'Somebody'} saved a newer draft" if draft else "The draft was applied or discarded"
        )
        super().__init__(f"{who} in the meantime.")
        self.draft = draft


class UnmanagedFiles(Problem):
    code = "config-foreign"


def current(machine: Machine) -> Revision | None:
    """The draft, or the revision on its way to the host."""
    draft = Revision.objects.filter(machine=machine, state__in=OPEN).first()
    if draft:
        draft.machine = machine
    return draft


def holder(draft: Revision | None) -> Job | None:
    """The job that carries the draft to its host, while it has not ended. Then nobody may change it."""
    if draft is None or draft.state != Revision.State.APPLYING:
        return None
    return Job.objects.unfinished().filter(revision=draft).first()


def stamp(machine: Machine, draft: Revision | None) -> str:
    """Names what somebody saw: this state of the draft, or that there was none beside this applied revision."""
    return f"{draft.pk}.{draft.changed_at.isoformat()}" if draft and draft.pk else f"none.{machine.applied_id or 0}"


def is_unmanaged(machine: Machine) -> bool:
    """The host has files of somebody else for a machine that we never configured."""
    return machine.applied is None and {machine.nspawn_sha256, machine.limits_sha256} != {ABSENT}


def new(machine: Machine, source: Revision | None = None) -> Revision:
    """An unsaved draft out of `source`, else of what was applied last, else of the defaults. It may replace only what
    should be on the host now.

    Where the machine's unit has a command line of its own, the first draft says nothing that would take its place.
    """
    source = source or machine.applied
    draft = Revision(machine=machine)
    if source:
        draft.take_files(source.nspawn_text, source.limits_text)
    elif machine.next_command.deviates:
        draft.take_files("", "")
    if machine.applied:
        draft.replaces_nspawn = machine.applied.nspawn_sha256
        draft.replaces_limits = machine.applied.limits_sha256
    return draft


def files(revision: Revision | None) -> Files:
    """What a revision wrote; of a draft, what it would write."""
    if revision is None:
        return Files()
    if revision.state == Revision.State.DRAFT:
        return Files(revision.render_nspawn(), revision.render_limits())
    return Files(nspawn.unmark(revision.nspawn_text), nspawn.unmark(revision.limits_text))


def locked(machine: Machine, seen: str) -> Revision | None:
    """The draft, if it is the one that was seen and no job holds it. Call in a transaction.

    Raises StaleDraft, or Busy.
    """
    fresh = Machine.objects.select_for_update(of=("self",)).select_related("applied").get(pk=machine.pk)
    draft = current(fresh)
    job = holder(draft)
    if job:
        raise Busy(job)
    if stamp(fresh, draft) != seen:
        raise StaleDraft(draft)
    return draft


@contextmanager
def saving(machine: Machine, *, seen: str) -> Iterator[Revision | None]:
    """A transaction in which the draft that was seen, or one that is new, may be saved. Raises StaleDraft, Busy, UnmanagedFiles."""
    if is_unmanaged(machine):
        raise UnmanagedFiles(f"{machine.host} has files for {machine.name} that were not written by the panel.")
    with transaction.atomic():
        yield locked(machine, seen)


def authored(by: User) -> dict[str, Any]:
    """The columns of a draft that `by` has saved."""
    return {"author": by, "author_name": by.username, "state": Revision.State.DRAFT, "number": None}


def save_texts(machine: Machine, texts: Files, *, by: User, seen: str) -> Revision:
    """Keep both files as the draft, word for word. Raises StaleDraft, Busy, UnmanagedFiles."""
    with saving(machine, seen=seen) as there:
        draft = there or new(machine)
        draft.take_files(texts.nspawn, texts.limits)
        for column, value in authored(by).items():
            setattr(draft, column, value)
        draft.save()
        draft.binds.all().delete()
        draft.ports.all().delete()
        keep_rows(draft, bind_rows(texts.nspawn), port_rows(texts.nspawn))
        return draft


def restore(machine: Machine, source: Revision, *, by: User, seen: str) -> Revision:
    """Make the draft out of an older revision; the draft that was seen goes. Raises StaleDraft, Busy."""
    with transaction.atomic():
        old = locked(machine, seen)
        if old:
            old.delete()
        draft = new(machine, source)
        draft.author, draft.author_name, draft.reason = by, by.username, f"restore revision {source.number}"
        draft.save()
        keep_rows(draft, bind_rows(draft.base_nspawn), port_rows(draft.base_nspawn))
        return draft


def keep_rows(draft: Revision, binds: list[BindMount], ports: list[PortForward]) -> None:
    for bind in binds:
        bind.revision = draft
    for port in ports:
        port.revision = draft
    BindMount.objects.bulk_create(binds)
    PortForward.objects.bulk_create(ports)


def discard(machine: Machine, *, seen: str) -> None:
    """Raises StaleDraft, Busy."""
    with transaction.atomic():
        draft = locked(machine, seen)
        if draft:
            draft.delete()


@dataclass(frozen=True)
class Manner:
    """How a draft is applied: with a restart or without, and what must hold afterwards for it to stay (orders.Apply)."""

    restart: bool = False
    rollback_after: int = 0
    expects: Literal["running", "address"] = "running"


def apply(
    machine: Machine,
    *,
    by: User,
    seen: str,
    reason: str = "",
    key: UUID | None = None,
    manner: Manner = Manner(),
) -> Job:
    """Number the draft and order it onto the host.

    Raises StaleDraft, Busy, NotAllowed, and Problem when there is nothing to apply or it would not hold.
    """
    with transaction.atomic():
        draft = locked(machine, seen)
        if draft is None:
            raise Problem("There is no draft to apply.")
        draft.state, draft.reason = Revision.State.DRAFT, reason
        refused = next((f for f in _of_files(machine, files(draft)) if f.refused), None)
        if refused:
            raise Problem(f"{refused.key}= is not valid: {refused.message}", hint=refused.hint, code="config-refused")
        try:
            configuration = draft.begin_apply()
        except OrderInvalid as error:  # only its size is left to be wrong
            raise Problem("The configuration is larger than a host accepts.") from error
        draft.save(update_fields=["reason"])
        order = orders.Apply(name=machine.name, configuration=configuration, **asdict(manner))
        return dispatch.place(order, on=machine.host, by=by, key=key, revision=draft)


def findings(machine: Machine, wanted: Files) -> list[Finding]:
    """What would not hold, what goes beyond its team's quota, or what will probably disappoint. What was applied already is not held
    against anybody."""
    beyond = quotas.of_draft(machine, wanted.nspawn, wanted.limits)
    return [*beyond, *_of_files(machine, wanted)]


def _of_files(machine: Machine, wanted: Files) -> list[Finding]:
    return validation.findings(
        machine.host, machine.name, wanted, files(machine.applied), machine.next_command, named=validation.own(machine)
    )


def warnings(machine: Machine, wanted: Files) -> list[str]:
    """The same in sentences."""
    return [f"{finding.message} {finding.hint}".strip() for finding in findings(machine, wanted)]
