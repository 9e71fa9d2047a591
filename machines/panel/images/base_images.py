"""The bases that hosts say they have: whose recipe each is, how old, and which fits a recipe and its first boot.

A host names a base by the recipe and by what the first boot needs of it, which only the host works out. So a base is
known here by the job that made it; one made by a job nobody knows any more still counts where nothing was added.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from machines.contract import orders, reports
from machines.contract.problems import Problem
from machines.contract.recipes import AnyRecipe, FirstBoot, key_of, title_of
from machines.models import Host, Job, User

SHOWN = 500  # of a fleet, the last used ones


@dataclass(frozen=True)
class Base:
    """One base of a host. `recipe_key` and `needs` are of the job that made it, "" and None where it is not known."""

    host: str
    id: str
    key: str
    title: str
    built: datetime
    used: datetime | None
    bytes: int
    packages: int
    primed: bool
    trimmed: bool
    uuid: UUID | None
    job: int | None = None
    recipe_key: str = ""
    needs: tuple[str, str, bool] | None = None
    recipe: int | None = None
    version: int | None = None


def of_host(host: str, facts: list[Any] | None) -> list[Base]:
    """What a host reported, last used first; what cannot be read is left out. No query."""
    found = []
    for given in facts or []:
        try:
            fact = reports.BaseFact.model_validate(given)
        except ValidationError:
            continue
        found.append(
            Base(
                host=host, id=fact.id, key=fact.key, title=fact.title, built=_moment(fact.built), bytes=fact.bytes,
                used=_moment(fact.used) if fact.used else None, packages=fact.packages, primed=fact.primed,
                trimmed=fact.trimmed, uuid=fact.job,
            )
        )  # fmt: skip
    return sorted(found, key=lambda base: base.used or base.built, reverse=True)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def of_all(*, by: User) -> list[Base]:
    """Those on every host that this person sees, whoever made them, last used first. One query."""
    return of_hosts(Host.objects.visible_to(by).values_list("name", "facts__bases"))


def visible_to(user: User, bases: list[Base]) -> list[Base]:
    """Those made by a job that this person sees; what nobody knows the job of is the administrators'. One query."""
    if user.sees_all or not bases:
        return bases
    jobs = Job.objects.visible_to(user).filter(uuid__in=[base.uuid for base in bases if base.uuid])
    seen = set(jobs.values_list("uuid", flat=True))
    return [base for base in bases if base.uuid in seen]


def of_hosts(told: Iterable[tuple[str, Any]]) -> list[Base]:
    """The same of hosts that were asked for already: (name, what it reported). No query."""
    found = [base for name, facts in told for base in of_host(name, facts if isinstance(facts, list) else [])]
    return sorted(found, key=lambda base: base.used or base.built, reverse=True)[:SHOWN]


JOB_COLUMNS = (
    "id", "uuid", "recipe_key", "order__first_boot", "recipe_version__number", "recipe_version__recipe_id",
)  # fmt: skip


def with_jobs(bases: list[Base]) -> list[Base]:
    """The same with what their jobs say of them. One query."""
    wanted = [base.uuid for base in bases if base.uuid]
    return known(bases, Job.objects.filter(uuid__in=wanted).values(*JOB_COLUMNS) if wanted else ())


def known(bases: list[Base], jobs: Iterable[dict[str, Any]]) -> list[Base]:
    """The same with jobs that were asked for already; these have the JOB_COLUMNS. No query."""
    by_uuid = {job["uuid"]: job for job in jobs}
    return [_known(base, by_uuid[base.uuid]) if base.uuid in by_uuid else base for base in bases]


def _known(base: Base, job: dict[str, Any]) -> Base:
    more = {
        "job": job["id"],
        "recipe_key": job["recipe_key"],
        "needs": needs(job["order__first_boot"]),
        "recipe": job["recipe_version__recipe_id"],
        "version": job["recipe_version__number"],
    }
    return Base(**(base.__dict__ | more))


def needs(first_boot: Any) -> tuple[str, str, bool]:
    """What of a first boot decides which packages a base must have: its language, its time zone, whether it has a user."""
    given = first_boot if isinstance(first_boot, dict) else {}
    locale, zone = str(given.get("locale", "")), str(given.get("timezone", ""))
    plain = locale == "C" or locale.upper().startswith(("C.", "POSIX"))
    return ("" if plain else locale, "" if zone.upper().endswith("UTC") else zone, bool(given.get("user")))


def fitting(bases: Iterable[Base], recipe: AnyRecipe, first_boot: FirstBoot) -> Base | None:
    """The base a build would be copied from: the newest that is of this recipe and has what the first boot needs."""
    key, wanted = key_of(recipe), needs(first_boot.model_dump())
    fit = [
        base
        for base in bases
        if (base.recipe_key == key and base.needs == wanted) or (base.key == key and wanted == ("", "", False))
    ]
    return max(fit, key=lambda base: base.built, default=None)


def learn(host: Host, job: Job, report: reports.Outcome) -> None:
    """What a job's end says of its host's bases, ahead of the next inventory. The caller saves the host."""
    if report.state != "succeeded":
        return
    bases = host.facts.get("bases")
    kept = [base for base in bases if isinstance(base, dict)] if isinstance(bases, list) else []
    if job.op == orders.op_of(orders.RemoveBase):
        gone = str(job.order.get("base", ""))
        host.facts = {**host.facts, "bases": [base for base in kept if base.get("id") != gone]}
    elif made := _made(job, report):
        replaced = {base.get("id") for base in kept if base.get("job") == made["job"]} | {made["id"]}
        host.facts = {**host.facts, "bases": [made, *(base for base in kept if base.get("id") not in replaced)][:200]}


def _made(job: Job, report: reports.Outcome) -> dict[str, Any] | None:
    """The base this very job has built, as far as its result tells. None also where it was to build none, whatever the
    host says."""
    told = report.result.get("base")
    if job.op not in orders.RECIPE_OPS or not isinstance(told, dict) or told.get("fresh") is not True:
        return None
    packages = report.result.get("packages")
    try:
        order = orders.from_wire(job.order)
        assert isinstance(order, orders.Build | orders.BuildBase)  # as its op says
        recipe = order.recipe
        fact = reports.BaseFact(
            id=str(told.get("id")), key="", title=_title(recipe), built=float(told.get("built") or 0),
            used=report.at, bytes=int(report.result.get("bytes") or 0), job=job.uuid,
            packages=len(packages) if isinstance(packages, list) else 0,
            primed=getattr(recipe, "prime", False), trimmed=getattr(recipe, "trim", False),
        )  # fmt: skip
    except (Problem, ValidationError, TypeError, ValueError):
        return None
    return fact.model_dump(mode="json")


def _title(recipe: AnyRecipe) -> str:
    """As hosts call their bases."""
    return " · ".join(part for part in (title_of(recipe), " ".join(getattr(recipe, "packages", ()))) if part)[:300]
