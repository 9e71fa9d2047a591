"""An entry of the history, written in the transaction of what it tells of: both are there, or neither."""

from datetime import timedelta
from typing import Any

from django.utils import timezone

from machines.models import Archive, Event, Host, Job, Machine, Preset, Recipe, Team, User
from machines.panel.audit import origin

Target = Machine | Host | Job | Archive | Recipe | Preset | Team | User


def record(
    kind: str, text: str, *, by: User | str = "", on: Target | None = None, result: str = Event.Result.DONE, **more: Any
) -> Event:
    """`text` is a sentence that says who did what, `on` what it was done to, and by that whose it is: what is nobody's only
    administrators read. `more` are columns of Event that `on` does not tell.
    Address and token are those of the request at hand. No secret belongs in any of it."""
    here = origin.present()
    told = {"address": here.address, "token": here.token, **(_target(on) if on else {}), **more}
    name = by if isinstance(by, str) else by.username
    return Event.objects.create(kind=kind, text=text, actor_name=name, result=result, **told)


PER_HOUR = 20  # entries of one kind about one host, of what it says by itself


def record_at_most(host: Host, kind: str, text: str, **more: Any) -> None:
    """What a host gives cause for, but not a flood of it."""
    hour_ago = timezone.now() - timedelta(hours=1)
    if Event.objects.filter(host=host, kind=kind, at__gt=hour_ago).count() < PER_HOUR:
        record(kind, text, **{"on": host, **more})


def _target(on: Target) -> dict[str, Any]:
    """The columns that say what it was done to."""
    if isinstance(on, Job):
        return {"job": on, "host": on.host, "team_id": on.team_id} | _named("machine", on.machine_name, on.host)
    if isinstance(on, Machine):
        return {"host": on.host, "team_id": on.team_id} | _named("machine", on.name)
    if isinstance(on, Host):
        return {"host": on} | _named("host", on.name)
    if isinstance(on, Team):
        return {"team_id": on.pk} | _named("team", on.slug)
    if isinstance(on, User):
        return _named("person", on.username)
    name = on.title if isinstance(on, Archive) else on.name
    return {"team_id": on.team_id} | _named(type(on).__name__.lower(), name)


def _named(kind: str, name: str, host: Host | None = None) -> dict[str, str]:
    """A job that is about no machine is about its host."""
    if not name and host:
        kind, name = "host", host.name
    return {"object_kind": kind, "object_name": name}
