"""What every page's frame shows: the theme and the jobs under way. One query, and only when a template asks."""

from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from machines.models import Job

SHOWN = 200


def unfinished_jobs(request: HttpRequest) -> list[dict[str, Any]]:
    """The jobs that have not ended, newest first, at most SHOWN; asked once per request.

    Rows have id, op, state, host_id, machine_name, actor_name, progress, phases.
    """
    if not hasattr(request, "_unfinished_jobs"):
        rows = Job.objects.unfinished().values(
            "id", "op", "state", "host_id", "machine_name", "actor_name", "progress", "phases"
        )
        request._unfinished_jobs = list(rows[:SHOWN])  # type: ignore[attr-defined]
    return request._unfinished_jobs  # type: ignore[attr-defined,no-any-return]


def frame(request: HttpRequest) -> dict[str, Any]:
    user = getattr(request, "user", None)
    known = user is not None and user.is_authenticated
    theme = user.theme if known else request.COOKIES.get("theme", "system")  # type: ignore[union-attr]
    return {
        "theme": theme if theme in {"light", "dark"} else "system",
        "running_jobs": SimpleLazyObject(lambda: len(unfinished_jobs(request)) if known else 0),
    }
