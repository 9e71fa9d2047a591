"""What every page's frame shows: the theme and how many jobs are under way. It comes with the user, at no query of its own."""

from typing import Any, cast

from django.conf import settings
from django.db.models import Case, Count, OuterRef, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce
from django.http import HttpRequest

from machines.contract.permissions import Permission
from machines.models import Epoch, Job, Membership, User
from machines.panel.hosts import epochs

SHOWN = 200


def unfinished_jobs(request: HttpRequest) -> list[dict[str, Any]]:
    """The jobs that have not ended, newest first, at most SHOWN; asked once per request.

    Rows have id, op, state, host_id, machine_name, actor_name, progress, phases.
    """
    if not hasattr(request, "_unfinished_jobs"):
        user = cast("User", request.user)  # every page that asks is for the signed in
        rows = (
            Job.objects.unfinished()
            .visible_to(user)
            .values("id", "op", "state", "host_id", "machine_name", "actor_name", "progress", "phases")
        )
        request._unfinished_jobs = list(rows[:SHOWN])  # type: ignore[attr-defined]
    return request._unfinished_jobs  # type: ignore[attr-defined,no-any-return]


def count_of_unfinished() -> Case:
    """Their number, of those that a person may see, as a part of the query for that person."""
    mine = Membership.objects.filter(user=OuterRef(OuterRef("pk"))).values("team")
    every = Job.objects.unfinished()
    return Case(When(is_administrator=True, then=_count(every)), default=_count(every.filter(team__in=mine)))


def _count(jobs: QuerySet[Job]) -> Coalesce:
    counted = jobs.order_by().annotate(all=Value(1)).values("all").annotate(count=Count("pk"))
    return Coalesce(Subquery(counted.values("count")), 0)


def running_jobs(request: HttpRequest) -> int:
    """Their number when the request came in (accounts.SignedIn); 0 for whoever is not signed in."""
    return getattr(getattr(request, "user", None), "running_jobs", 0)


def restored_copy() -> dict[str, Subquery]:
    """Since when the panel is taken for an older copy, and of when that is, as parts of another query."""
    copy = Epoch.objects.filter(pk=Epoch.ONLY, restored_at__isnull=False)
    return {f"panel_{name}": Subquery(copy.values(name)) for name in ("restored_at", "copied_at")}


def restored_words(request: HttpRequest) -> str:
    """ "" while the panel goes on from where it was."""
    user = getattr(request, "user", None)
    is_copy = getattr(user, "panel_restored_at", None) is not None
    return epochs.restored_words(getattr(user, "panel_copied_at", None)) if is_copy else ""


def frame(request: HttpRequest) -> dict[str, Any]:
    user = getattr(request, "user", None)
    known = user is not None and user.is_authenticated
    theme = user.theme if known else request.COOKIES.get("theme", "system")  # type: ignore[union-attr]
    return {
        "theme": theme if theme in {"light", "dark"} else "system",
        "running_jobs": running_jobs(request),
        "has_mail": settings.HAS_MAIL,
        "single_sign_on": settings.OIDC_NAME if settings.OIDC_SERVER_URL else "",
        "names_teams": known and (user.sees_all or len(user.grants) > 1),  # type: ignore[union-attr]
        "may_manage": known and user.may(Permission.MANAGE),  # type: ignore[union-attr]
        "restored_words": restored_words(request),
    }
