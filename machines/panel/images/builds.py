"""Place the order for a new machine: its row, its first revision and the job, in one transaction."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from pydantic import ValidationError

from machines.contract import orders, recipes
from machines.contract.orders import ABSENT
from machines.contract.problems import Problem
from machines.contract.recipes import BuildSecrets
from machines.contract.states import MachineState
from machines.models import Host, Job, Machine, RecipeVersion, Revision, User
from machines.models.machine import MachineQuerySet
from machines.panel.configs import drafts
from machines.panel.hosts import host_facts, host_tools
from machines.panel.orders import dispatch

UNNUMBERED = orders.Configuration(revision=1, nspawn="", limits="")  # in an order, until its revision has a number


@dataclass(frozen=True)
class Obstacle:
    """Why a host would not build a recipe: something about the host itself, or the recipe's `verify` or `url`."""

    about: Literal["host", "verify", "url"]
    text: str


def obstacles(host: Host, recipe: recipes.AnyRecipe) -> Iterator[Obstacle]:
    """By what the host has told; it judges again by what is really there."""
    if lacking := host_tools.lacking_for_recipe(host, recipe):
        yield Obstacle("host", lacking)
    if not isinstance(recipe, recipes.PullRecipe):
        return
    if recipe.verify == "none" and not host_facts.pulls_unverified(host):
        why = f"The policy of {host} does not allow unverified images; give its checksum, or choose another host."
        yield Obstacle("verify", why)
    if unreachable := host_facts.unreachable(host, recipe):
        yield Obstacle("url", unreachable)


def taken(host: Host, name: str, team_id: int | None) -> str:
    """Why a team (None: nobody) cannot have this name on a host; "" when it can. A name may be taken again once its machine was
    removed, and by the same team when its image is gone. Of another team's machine nothing else is told."""
    there = Machine.objects.listed().on(host).filter(name=name).first()
    if there is None or (there.team_id == team_id and there.state == MachineState.MISSING):
        return ""
    if there.team_id == team_id:
        return f"{host} already has a machine {name}; choose another name, or remove that machine."
    if there.team_id is None:
        return f"{host} already has a machine {name}, which belongs to no team; choose another name."
    return f"On {host} the name {name} is taken by another team; choose another name."


def originals(host: Host) -> MachineQuerySet:
    """The machines of a host that can be copied: those that are there."""
    return Machine.objects.listed().on(host).exclude(state=MachineState.MISSING)


def begin(host: Host, name: str, *, by: User, team_id: int | None) -> dict[str, Any]:
    """Take a name on a host for a new machine of a team (None: of nobody), and throw away a draft that was left over there. Returns
    the columns of the revision to build with, beside its settings. In the caller's transaction. Raises Problem when another
    team's machine has the name."""
    machine = _take_name(host, name, team_id)
    machine.revisions.filter(state__in=drafts.OPEN).delete()
    return {
        "machine": machine,
        "author": by,
        "author_name": by.username,
        "reason": "built",
        # of an earlier machine of the name nothing but our own, unchanged, is replaced without a word
        "replaces_nspawn": machine.applied.nspawn_sha256 if machine.applied else ABSENT,
        "replaces_limits": machine.applied.limits_sha256 if machine.applied else ABSENT,
    }


def place(
    order: orders.Build,
    revision: Revision,
    *,
    by: User,
    key: UUID,
    secrets: BuildSecrets,
    version: RecipeVersion | None = None,
) -> Job:
    """The job that builds a machine whose row and first revision stand already (see begin); the order's
    configuration is made of the revision here.

    Raises Busy, NotAllowed, and Problem when the order is too large.
    """
    host = revision.machine.host
    return dispatch.place(
        _numbered(order, revision), on=host, by=by, key=key, sealed=dispatch.seal_secrets(secrets, host),
        revision=revision, recipe_version=version,
    )  # fmt: skip


def _numbered(order: orders.Build, revision: Revision) -> orders.Build:
    """With the next revision of its machine."""
    try:
        configuration = revision.begin_apply()
    except ValidationError as error:  # each field was checked; only the whole can be too large
        raise Problem("The configuration is larger than a host accepts.") from error
    return order.model_copy(update={"configuration": configuration})


def zone_settings(zone: str) -> dict[str, str]:
    """A machine that is given a time zone of its own must be told to keep it, or it starts with its host's."""
    return {} if zone in {"", "UTC"} else {"Exec.Timezone": "off"}


def again(job: Job, *, by: User, key: UUID | None = None) -> Job:
    """Build once more what a failed job was to build, with the configuration and the sealed secrets it had.

    Raises Busy, NotAllowed, and Problem when either is gone.
    """
    revision = job.revision
    replaced = Problem(
        "The configuration of this build has been replaced or discarded since.", hint="Build the machine again."
    )
    if revision is None or revision.state != Revision.State.DRAFT:
        raise replaced
    if job.finished_at and timezone.now() - job.finished_at > dispatch.SECRETS_LAST:
        raise Problem("The secrets of this build were discarded after a day.", hint="Build the machine again.")
    order = orders.from_wire(job.order)
    assert isinstance(order, orders.Build)
    with transaction.atomic():
        revision.machine = _take_name(job.host, job.machine_name, job.team_id)
        if not Revision.objects.filter(pk=revision.pk).exists():  # it was a former machine's, of another team
            raise replaced
        return dispatch.place(
            _numbered(order, revision), on=job.host, by=by, key=key, sealed=job.sealed, revision=revision, retry_of=job,
            recipe_version=job.recipe_version,
        )  # fmt: skip


def _take_name(host: Host, name: str, team_id: int | None) -> Machine:
    """The machine's row, missing until it is built. One that was removed, or whose image is gone, is used again; what was written
    down of an earlier one of another team is not this team's to see."""
    machine, _ = Machine.objects.select_for_update().get_or_create(
        host=host, name=name, defaults={"state": MachineState.MISSING, "team_id": team_id}
    )
    if machine.removed_at is None and machine.team_id != team_id:
        raise Problem(taken(host, name, team_id), code="name-taken")
    machine.begin_build(team_id)
    return machine
