"""Place the order for a new machine: its row, its first revision and the job, in one transaction."""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from pydantic import ValidationError

from machines.contract import orders
from machines.contract.orders import ABSENT
from machines.contract.problems import Problem
from machines.contract.recipes import WITH_BASE
from machines.contract.states import MachineState
from machines.models import Host, Job, Machine, Revision, User
from machines.models.machine import NO_IMAGE
from machines.panel.configs import drafts
from machines.panel.forms.configs import Configurator
from machines.panel.forms.machines import LOCALE, ZONE, NewMachineForm
from machines.panel.forms.sources import Source
from machines.panel.orders import dispatch

BUILDING_RANK = 0  # on top of the list until its host tells of it, or it is forgotten again


def place(form: NewMachineForm, source: Source, configurator: Configurator, *, by: User) -> Job:
    """The job that builds what all three say; a second call with the form's key returns the first job.

    Raises Busy, NotAllowed, and Problem when the order is too large.
    """
    key: UUID = form.cleaned_data["key"]
    earlier = Job.objects.filter(key=key).first()
    if earlier:
        return earlier
    host: Host = form.cleaned_data["host"]
    recipe = source.form.to_recipe()
    sealed = dispatch.seal_secrets(form.secrets(source.token()), host)
    with transaction.atomic():
        machine = _row(host, form.cleaned_data["name"])
        keep_time_zone(form, configurator)
        revision = _revision(machine, configurator, by)
        highest = machine.revisions.aggregate(highest=Max("number"))["highest"] or 0
        try:
            kept = revision.number_and_keep(highest + 1)
            order = form.to_order(kept, recipe, is_copy=recipe.kind not in WITH_BASE)
        except ValidationError as error:  # each field was checked; only the whole can be too large
            raise Problem("The configuration is larger than a host takes.") from error
        return dispatch.place(
            order, on=host, by=by, key=key, sealed=sealed, revision=revision, recipe_version=source.version
        )


def keep_time_zone(form: NewMachineForm, configurator: Configurator) -> None:
    """A machine that is given a zone of its own must be told to keep it, or it starts with its host's."""
    if form.cleaned_data.get("timezone", "UTC") != "UTC":
        configurator.unless_said["Exec.Timezone"] = "off"


def again(job: Job, *, by: User, key: UUID | None = None) -> Job:
    """Build once more what a failed job was to build, with the configuration and the sealed secrets it had; a second call
    with the key returns the job of the first.

    Raises Busy, NotAllowed, and Problem when either is gone.
    """
    if key and (earlier := Job.objects.filter(key=key).first()):
        return earlier
    revision = job.revision
    if revision is None or revision.state != Revision.State.DRAFT:
        raise Problem("The configuration of this build was replaced or dropped since.", hint="Build the machine anew.")
    if job.finished_at and timezone.now() - job.finished_at > dispatch.SECRETS_LAST:
        raise Problem("The secrets of this build were thrown away after a day.", hint="Build the machine anew.")
    with transaction.atomic():
        machine = _row(job.host, job.machine_name)
        highest = machine.revisions.aggregate(highest=Max("number"))["highest"] or 0
        order = orders.from_wire(job.order).model_copy(update={"configuration": revision.number_and_keep(highest + 1)})
        return dispatch.place(
            order, on=job.host, by=by, key=key, sealed=job.sealed, revision=revision, retry_of=job,
            recipe_version=job.recipe_version,
        )  # fmt: skip


def answers(job: Job) -> dict[str, Any]:
    """What the form for a new machine was told for this build; its passwords are not among it."""
    order = orders.from_wire(job.order)
    assert isinstance(order, orders.Build)
    boot = order.first_boot
    return {
        "host": job.host,
        "name": order.name,
        "fresh": order.fresh,
        "new_identity": boot.new_identity,
        "user": boot.user,
        "hostname": "" if boot.hostname == order.name else boot.hostname,
        "ssh_keys": "\n".join(boot.ssh_keys),
        "locale": boot.locale or LOCALE,
        "timezone": boot.timezone or ZONE,
        "start": order.start,
        "enable": order.enable,
    }


def _row(host: Host, name: str) -> Machine:
    """The machine's row, missing until it is built. One that was removed, or whose image is gone, is used again."""
    machine, _ = Machine.objects.select_for_update().get_or_create(
        host=host, name=name, defaults={"state": MachineState.MISSING}
    )
    Machine.objects.filter(pk=machine.pk).update(rank=BUILDING_RANK)
    if machine.removed_at:
        Machine.objects.filter(pk=machine.pk).update(
            removed_at=None, state=MachineState.MISSING, applied=None, built_by=None, os="",
            nspawn_sha256=ABSENT, limits_sha256=ABSENT, **NO_IMAGE,
        )  # fmt: skip
        machine.refresh_from_db()
    return machine


def _revision(machine: Machine, configurator: Configurator, by: User) -> Revision:
    """The configuration to build with, in place of any draft that was left over."""
    machine.revisions.filter(state__in=drafts.OPEN).delete()
    return configurator.save(
        machine=machine,
        author=by,
        author_name=by.username,
        reason="built",
        # of an earlier machine of the name nothing but our own, unchanged, is replaced without a word
        replaces_nspawn=machine.applied.nspawn_sha256 if machine.applied else ABSENT,
        replaces_limits=machine.applied.limits_sha256 if machine.applied else ABSENT,
    )
