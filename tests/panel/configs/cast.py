"""Short makers for configurations."""

from typing import Any

from machines.models import Machine, Revision, User
from machines.models.revision import sha256
from machines.panel.configs import drafts


def applied(machine: Machine, number: int = 1, **fields: Any) -> Revision:
    """A revision that is in force on its host."""
    revision = Revision.objects.create(machine=machine, author_name="ada", **fields)
    written = revision.configuration(number)
    revision.number, revision.state = number, Revision.State.APPLIED
    revision.keep_written(written.nspawn, written.limits)
    revision.save()
    machine.applied = revision
    machine.nspawn_sha256, machine.limits_sha256 = revision.nspawn_sha256, revision.limits_sha256
    machine.save()
    return revision


def draft(machine: Machine, by: User, **fields: Any) -> Revision:
    made = drafts.new(Machine.objects.select_related("applied", "host").get(pk=machine.pk))
    for name, value in {"author": by, "author_name": by.username, **fields}.items():
        setattr(made, name, value)
    made.save()
    return made


def stamp(machine: Machine) -> str:
    fresh = Machine.objects.get(pk=machine.pk)
    return drafts.stamp(fresh, drafts.current(fresh))


def sha(text: str) -> str:
    return sha256(text)
