"""What the page of a build shows besides its phases: how long it usually takes, what came out, which packages changed."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Q, Subquery
from django.urls import reverse
from pydantic import TypeAdapter, ValidationError

from machines.contract.orders import RECIPE_OPS, kind_of
from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.contract.recipes import WITH_BASE, AnyRecipe, Recipe, title_of
from machines.contract.reports import LATEST
from machines.contract.states import JobState
from machines.models import Job, User
from machines.panel.images import base_images, recipe_runs
from machines.panel.orders import operations
from machines.panel.web.access import PanelRequest

PACKAGES_SHOWN = 5000
_READ: TypeAdapter[AnyRecipe] = TypeAdapter(Recipe)
TOLD_APART = {"base", "packages", "bytes", "seconds", "sha256"}  # of a result: shown on the card, not as they are


@dataclass(frozen=True)
class Made:
    """What a build of a machine or of a base has made, as far as its host told; nothing of it can be relied on to be there."""

    bytes: int | None
    packages: list[str]
    sha256: str
    base: str
    fresh: bool | None
    built: datetime | None
    base_job: UUID | None


def made(result: dict[str, Any]) -> Made:
    base = result.get("base") if isinstance(result.get("base"), dict) else {}
    assert isinstance(base, dict)
    size, listed = result.get("bytes"), result.get("packages")
    fresh = base.get("fresh")
    return Made(
        bytes=size if isinstance(size, int) and size >= 0 else None,
        packages=[str(each)[:200] for each in listed[:PACKAGES_SHOWN]] if isinstance(listed, list) else [],
        sha256=str(result.get("sha256") or "")[:64],
        base=str(base.get("id") or "")[:64],
        fresh=fresh if isinstance(fresh, bool) else None,
        built=_moment(base.get("built")),
        base_job=_uuid(base.get("job")),
    )


def _moment(seconds: Any) -> datetime | None:
    known = isinstance(seconds, int | float) and 0 < seconds <= LATEST
    return datetime.fromtimestamp(seconds, UTC) if known else None


def _uuid(text: Any) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None


def context(request: PanelRequest, job: Job) -> dict[str, Any]:
    """For the head of the page. One query while the job goes on, none when it has ended."""
    if not kind_of(job.op).runs_recipe:
        return {}
    version, recipe = job.recipe_version, job.order.get("recipe") or {}
    kind = recipe.get("kind", "debian")
    may_build, good = request.user.may_in(Permission.BUILD, job.team_id), job.state == JobState.SUCCEEDED
    return {
        "unverified": recipe.get("verify") == "none",
        "saved": version,
        "usual": None if job.is_final else usual(job),
        "made": made(job.result) if good else None,
        "like_url": f"{reverse('machine-new')}?{urlencode({'like': job.pk})}" if may_build and good else "",
        "may_bake": may_build and good and kind in WITH_BASE,
        "may_save": may_build and version is None and kind not in {"archive", "clone"},
    }


def usual(job: Job) -> recipe_runs.Usual | None:
    """How long such a run usually takes on its host: a copy, where the host has a base that one of them has made."""
    there = {base.uuid for base in base_images.of_host(job.host.name, job.host.facts.get("bases"))}
    may_copy = operations.of(job.op).makes_machine and not job.order.get("fresh")
    return recipe_runs.usual(job.recipe_key, job.host_id, op=job.op, bases=there if may_copy else set())


def title(recipe: Any) -> str:
    """The recipe of an order in a few words; "" for one that cannot be read."""
    try:
        return title_of(_READ.validate_python(recipe))
    except (ValidationError, Problem):
        return ""


# --- packages


@dataclass(frozen=True)
class Difference:
    """What changed since an earlier fresh run of the recipe. `changed` is (name, before, now)."""

    against: int
    added: list[str]
    removed: list[str]
    changed: list[tuple[str, str, str]]

    @property
    def is_none(self) -> bool:
        return not (self.added or self.removed or self.changed)


def result(job: Job, *, by: User) -> dict[str, Any]:
    """For the tab with the result. One query."""
    what = made(job.result)
    rest = {key: value for key, value in job.result.items() if key not in TOLD_APART}
    return {"made": what, "difference": difference(job, what, by=by), "rest": rest}


def difference(job: Job, what: Made, *, by: User) -> Difference | None:
    """The packages against those of the fresh run before the one that made this base; None when there was none."""
    if not what.packages or what.fresh is None or what.base_job is None:
        return None
    before = Job.objects.visible_to(by).filter(
        _same_recipe(job), op__in=RECIPE_OPS, state=JobState.SUCCEEDED, result__base__fresh=True
    )
    made_by = Job.objects.filter(uuid=what.base_job, host=job.host).values("pk")[:1]
    before = before.filter(pk__lt=job.pk) if what.fresh else before.filter(pk__lt=Subquery(made_by))
    earlier = before.order_by("-id").values("id", "result__packages").first()
    if earlier is None or not isinstance(earlier["result__packages"], list):
        return None
    old, new = versions(earlier["result__packages"]), versions(what.packages)
    return Difference(
        against=earlier["id"],
        added=[f"{name} {new[name]}" for name in sorted(new.keys() - old.keys())],
        removed=[f"{name} {old[name]}" for name in sorted(old.keys() - new.keys())],
        changed=[(name, old[name], new[name]) for name in sorted(old.keys() & new.keys()) if old[name] != new[name]],
    )


def _same_recipe(job: Job) -> Q:
    same = Q(recipe_key=job.recipe_key) if job.recipe_key else Q(pk=job.pk)
    return same | Q(recipe_version__recipe=job.recipe_version.recipe_id) if job.recipe_version else same


def versions(packages: list[Any]) -> dict[str, str]:
    """Name → version, several of one name together."""
    found: dict[str, str] = {}
    for each in packages[:PACKAGES_SHOWN]:
        name, _, version = str(each)[:200].partition(" ")
        found[name] = f"{found[name]}, {version}" if name in found else version
    return found
