"""An entry of the history, written in the transaction of what it tells of: both are there, or neither."""

from typing import Any

from machines.models import Event, Host, Job, User
from machines.panel.audit import origin


def record(
    kind: str,
    text: str,
    *,
    by: User | str = "",
    host: Host | None = None,
    about: tuple[str, str] = ("", ""),
    job: Job | None = None,
    team_id: int | None = None,
    result: str = Event.Result.DONE,
    **more: Any,
) -> Event:
    """`text` is a sentence that says who did what. `about` is what it was done to, (kind, name): ("machine", "web"). Whose
    that is, a job tells by itself; what is nobody's only administrators read.
    Address and token are those of the request at hand. No secret belongs in any of it."""
    here = origin.present()
    return Event.objects.create(
        kind=kind, text=text, actor_name=by if isinstance(by, str) else by.username, host=host, job=job, result=result,
        team_id=job.team_id if job else team_id, object_kind=about[0], object_name=about[1], address=here.address, token=here.token, **more,
    )  # fmt: skip


def machine(name: str) -> tuple[str, str]:
    return ("machine", name) if name else ("", "")
