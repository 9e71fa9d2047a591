"""The runs of recipes: builds and bakes, how they ended and how long they usually take."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any
from uuid import UUID

from django.db.models import F, Q, Window
from django.db.models.functions import RowNumber

from machines.contract.orders import RECIPE_OPS
from machines.contract.states import FINAL_JOB_STATES, JobState
from machines.models import Job, User
from machines.panel.orders import operations

SHOWN = 30
COUNTED = 5  # of the last succeeded runs, for what is usual
LOOKED_AT = 40
BAR_HIGH, BAR_WIDE, BAR_GAP = 22, 4, 1
COLUMNS = (
    "id", "uuid", "op", "state", "host_id", "host__name", "machine_name", "actor_name", "created_at", "started_at",
    "finished_at", "recipe_version__recipe_id", "recipe_version__number", "result__base__fresh",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run of a recipe. `fresh` is None where the host did not say, or where there is no base."""

    id: int
    uuid: UUID
    op: str
    state: str
    host: str
    host_id: UUID
    machine: str
    who: str
    at: datetime
    seconds: float | None
    fresh: bool | None
    version: int | None

    @property
    def what(self) -> str:
        return operations.of(self.op).of(self.machine)


def _run(given: dict[str, Any]) -> Run:
    begun, ended = given["started_at"], given["finished_at"]
    fresh = given["result__base__fresh"]
    return Run(
        id=given["id"], uuid=given["uuid"], op=given["op"], state=given["state"], host=given["host__name"],
        host_id=given["host_id"], machine=given["machine_name"], who=given["actor_name"], at=given["created_at"],
        seconds=(ended - begun).total_seconds() if begun and ended else None,
        fresh=fresh if isinstance(fresh, bool) else None, version=given["recipe_version__number"],
    )  # fmt: skip


def last(recipes: Iterable[int], *, by: User) -> dict[int, list[Run]]:
    """The last SHOWN runs of each recipe that this person sees, newest first. One query."""
    place = Window(RowNumber(), partition_by=F("recipe_version__recipe_id"), order_by=F("id").desc())
    runs = Job.objects.visible_to(by).filter(recipe_version__recipe_id__in=list(recipes), op__in=RECIPE_OPS)
    jobs = runs.annotate(place=place)
    found: dict[int, list[Run]] = defaultdict(list)
    for given in jobs.filter(place__lte=SHOWN).order_by("-id").values(*COLUMNS):
        found[given["recipe_version__recipe_id"]].append(_run(given))
    return found


def last_and(
    recipe: int, more: Collection[UUID], columns: Iterable[str], *, by: User
) -> tuple[list[Run], list[dict[str, Any]]]:
    """The last SHOWN runs of one recipe, newest first, and the jobs of these ids with these columns, as far as this person
    sees them. One query."""
    seen = Job.objects.visible_to(by)
    mine = seen.filter(recipe_version__recipe_id=recipe, op__in=RECIPE_OPS).order_by("-id")
    wanted = Q(pk__in=mine.values("pk")[:SHOWN]) | Q(uuid__in=more)
    given = list(seen.filter(wanted).order_by("-id").values(*{*COLUMNS, *columns}))
    runs = [_run(job) for job in given if job["recipe_version__recipe_id"] == recipe and job["op"] in RECIPE_OPS]
    return runs[:SHOWN], given


@dataclass(frozen=True)
class Summary:
    """What a recipe's runs come to. `rate` is the share that succeeded of those that ended by themselves, in percent."""

    runs: list[Run]
    rate: int | None
    anew: float | None  # seconds, the median
    copied: float | None

    @property
    def newest(self) -> Run | None:
        return self.runs[0] if self.runs else None

    @property
    def label(self) -> str:
        good = sum(run.state == JobState.SUCCEEDED for run in self.runs)
        return f"{good} of the last {len(self.runs)} builds succeeded"

    def bars(self) -> list[dict[str, Any]]:
        """Oldest first: a bar each, as high as it took long, in numbers of an SVG."""
        longest = max((run.seconds or 0 for run in self.runs), default=0) or 1
        return [
            {
                "state": run.state, "x": place * (BAR_WIDE + BAR_GAP),
                "high": (high := 3 + round((BAR_HIGH - 3) * (run.seconds or 0) / longest)), "y": BAR_HIGH - high,
            }
            for place, run in enumerate(reversed(self.runs))
        ]  # fmt: skip

    @property
    def width(self) -> int:
        return max(len(self.runs), 1) * (BAR_WIDE + BAR_GAP) - BAR_GAP


def summary(runs: list[Run]) -> Summary:
    ended = [run for run in runs if run.state in FINAL_JOB_STATES and run.state != JobState.CANCELLED]
    good = [run for run in ended if run.state == JobState.SUCCEEDED and run.seconds is not None]
    return Summary(
        runs=runs,
        rate=round(100 * sum(run.state == JobState.SUCCEEDED for run in ended) / len(ended)) if ended else None,
        anew=_middle([run for run in good if run.fresh is not False]),
        copied=_middle([run for run in good if run.fresh is False]),
    )


def _middle(runs: list[Run]) -> float | None:
    return median([run.seconds or 0.0 for run in runs[:COUNTED]]) if runs else None


@dataclass(frozen=True)
class Usual:
    """How long a recipe usually takes: seconds, and whether that is known of this very host."""

    seconds: float
    here: bool


def usual(
    key: str, host: UUID, *, op: str = "build", copied: bool = False, bases: Collection[UUID | None] = ()
) -> Usual | None:
    """The median of the last COUNTED such runs of a recipe on a host, else on others. One query; None without any.

    A build is `copied` where its base is known to be there; or name the jobs that made the host's `bases`, and it is
    looked up among the runs.
    """
    if not key:
        return None
    good = Job.objects.filter(recipe_key=key, state=JobState.SUCCEEDED, started_at__isnull=False, op__in=RECIPE_OPS)
    runs = [_run(given) for given in good.order_by("-id").values(*COLUMNS)[:LOOKED_AT]]
    copied = copied or any(run.uuid in bases for run in runs)
    fitting = [run for run in runs if run.op == op and (run.fresh is False) == copied and run.seconds is not None]
    here = [run for run in fitting if run.host_id == host]
    middle = _middle(here or fitting)
    return Usual(middle, bool(here)) if middle is not None else None
