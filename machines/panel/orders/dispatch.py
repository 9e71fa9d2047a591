"""Place an order: the job's row, and a wake-up for the courier once it is committed. No view ever talks to a host."""

import json
import logging
from base64 import b64decode
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

import redis
from django.conf import settings
from django.db import IntegrityError, transaction
from nacl.public import PublicKey

from machines.contract import envelope, orders, routes
from machines.contract.problems import NotAllowed, Problem
from machines.contract.recipes import BuildSecrets, is_unverified, key_of
from machines.models import Host, Job, JobGroup, Machine, RecipeVersion, Revision, User
from machines.models.job import HOLDING
from machines.panel.audit import entries
from machines.panel.hosts import redis_tls
from machines.panel.orders import job_entries
from machines.panel.teams import authorize

log = logging.getLogger(__name__)

Keyed = TypeVar("Keyed", Job, JobGroup)
SECRETS_LAST = timedelta(days=1)  # how long the sealed secrets of an ended job are kept for a retry


class Busy(Problem):
    """Another job holds the machine; `job` is that job."""

    code = "machine-busy"

    def __init__(self, job: Job) -> None:
        super().__init__(f"{job.actor_name} already requested “{job.op}” for {job.machine_name} (job {job.pk}).")
        self.job = job


def place_once(key: UUID | None, make: Callable[[UUID | None], Job]) -> Job:
    """The job that `make` places with this key, in a transaction; of a second press of the same button, the job of the
    first, whatever has become of it by then. Every view that makes a job goes through here. Raises what `make` raises."""
    return once(Job, key, make)


def once(kind: type[Keyed], key: UUID | None, make: Callable[[UUID | None], Keyed]) -> Keyed:
    """The same for records of another kind that have a key."""
    if first := _with_key(kind, key):
        return first
    try:
        with transaction.atomic():
            return make(key)
    except (Problem, IntegrityError):
        if first := _with_key(kind, key):  # the other press was faster
            return first
        raise


def _with_key(kind: type[Keyed], key: UUID | None) -> Keyed | None:
    return kind.objects.filter(key=key).first() if key else None


@transaction.atomic
def place(
    order: orders.Order,
    *,
    on: Host,
    by: User,
    key: UUID | None = None,
    sealed: str = "",
    revision: Revision | None = None,
    retry_of: Job | None = None,
    recipe_version: RecipeVersion | None = None,
    team_id: int | None = None,
) -> Job:
    """Make the job of an order and all that belongs to it, or nothing, and wake the courier after commit.

    It is about what belongs to the machine's team, or to `team_id` where it is about no machine. Without a `key`, the same order that the same person gave before and that has not ended is this one.
    Raises NotAllowed, Busy while another job holds the machine, and IntegrityError for a key that was used (place_once).
    """
    name = str(getattr(order, "name", ""))
    if name:
        team_id = Machine.objects.on(on).filter(name=name).values_list("team", flat=True).first()
    # Groups go on by themselves; not for somebody who was shut out since.
    authorize.place(by, order, team_id, on)
    if recipe_version and team_id not in {None, recipe_version.recipe.team_id}:  # not to be named to those who lack it
        recipe_version = None
    if key is None and (first := _under_way(order, on, by)):
        return first
    try:
        with transaction.atomic():
            job = Job.objects.create(
                host=on,
                machine_name=name,
                op=order.op,
                order=orders.to_wire(order),
                sealed=sealed,
                actor=by,
                actor_name=by.username,
                **carried(by, team_id),
                team_id=team_id,
                key=key,
                revision=revision,
                retry_of=retry_of,
                recipe_version=recipe_version,
                recipe_key=key_of(order.recipe) if isinstance(order, orders.Build | orders.BuildBase) else "",
            )
    except IntegrityError:
        holder = Job.objects.on(on, name).filter(state__in=HOLDING).first()
        if holder is None:
            raise
        if key is None and (first := _under_way(order, on, by)):
            return first
        raise Busy(holder) from None
    _judge_again(job, order, by)
    job_entries.requested(job)
    _note_unverified(order, job)
    transaction.on_commit(wake)
    return job


def carried(by: User, team_id: int | None) -> dict[str, Any]:
    """What a job says of the rights of whoever it is from."""
    grant = by.grant_in(team_id)
    return {
        "actor_role": by.role_in(team_id),
        "actor_extra": [] if by.sees_all or grant is None else grant.extra,
    }


def _judge_again(job: Job, order: orders.Order, by: User) -> None:
    """Since this request began rights may have changed, and whoever changed them did not see this job
    (people/withdrawals.py). Raises NotAllowed."""
    now = User.objects.filter(pk=by.pk, is_active=True).first()
    if now is None:
        raise NotAllowed("This account is disabled.")
    now.scope = by.scope
    for permission in order.permissions():
        authorize.authorize(now, permission, job.team_id)
    then = {"actor_role": job.actor_role, "actor_extra": job.actor_extra}
    if (current := carried(now, job.team_id)) != then:
        Job.objects.filter(pk=job.pk).update(**current)
        job.actor_role, job.actor_extra = current["actor_role"], current["actor_extra"]


def _under_way(order: orders.Order, on: Host, by: User) -> Job | None:
    """The job of a press a moment ago of a button without a key."""
    jobs = Job.objects.on(on, str(getattr(order, "name", ""))).unfinished().filter(actor=by, op=order.op)
    return next((job for job in jobs if job.order == orders.to_wire(order)), None)


def _note_unverified(order: orders.Order, job: Job) -> None:
    """That an image nobody vouches for was asked for is written down, whichever way it was ordered."""
    if not isinstance(order, orders.Build) or not is_unverified(order.recipe):
        return
    again = f", as job {job.retry_of_id} had" if job.retry_of_id else ""
    text = (
        f"{job.actor_name} requested {order.name} from {order.recipe.url} without verification{again} (job {job.pk})."
    )
    entries.record("unverified-pull", text, by=job.actor_name, on=job)


def retry(job: Job, *, by: User, key: UUID | None = None) -> Job:
    """A new job with the same order, which names the old one. Raises NotAllowed, Busy, BadValue."""
    order = orders.from_wire(job.order)
    return place(
        order, on=job.host, by=by, key=key, sealed=job.sealed, revision=job.revision, retry_of=job,
        recipe_version=job.recipe_version, team_id=job.team_id,
    )  # fmt: skip


def seal_secrets(secrets: BuildSecrets, host: Host) -> str:
    """The secrets of a build, readable by that host alone; "" when there are none."""
    data = secrets.model_dump()
    return envelope.seal_secret(json.dumps(data), PublicKey(b64decode(host.box_key))) if any(data.values()) else ""


@cache
def _wake_connection() -> redis.Redis:
    secured = redis_tls.options(settings.POKE_URL)
    return redis.Redis.from_url(settings.POKE_URL, socket_timeout=0.3, socket_connect_timeout=0.3, **secured)


def wake() -> None:
    """Say "there is work". The courier looks every second anyway, so a mailbox that is down costs only that."""
    if not settings.POKE_URL:
        return
    try:
        pipe = _wake_connection().pipeline(transaction=False)
        pipe.lpush(routes.POKE, "1")
        pipe.ltrim(routes.POKE, 0, 9)
        pipe.execute()
    except redis.RedisError as error:
        log.warning("The courier could not be woken (%s); it will look by itself.", error)
