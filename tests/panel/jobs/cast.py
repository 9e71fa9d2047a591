"""Jobs with logs."""

from typing import Any

from django.utils import timezone

from machines.contract import orders
from machines.models import Host, Job, LogChunk, User
from tests import make

AT = 1_760_000_000.0


def job(on: Host, by: User | None = None, order: orders.Order | None = None, **fields: Any) -> Job:
    return make.job(order or orders.Start(name="web"), on=on, by=by, **fields)


def ended(on: Host, state: str = "succeeded", **fields: Any) -> Job:
    now = timezone.now()
    return job(on, state=state, **{"accepted_at": now, "started_at": now, "finished_at": now, **fields})


def wrote(done: Job, *texts: str, source: str = "o", chunk: int = 3) -> None:
    """Append lines to a job's log, in chunks as a host would send them."""
    for start in range(0, len(texts), chunk):
        part = texts[start : start + chunk]
        first = done.line_count + 1
        lines = [[AT + first + place, source, text] for place, text in enumerate(part)]
        LogChunk.objects.create(job=done, first=first, count=len(part), size=sum(map(len, part)), lines=lines)
        done.line_count = first + len(part) - 1
    done.save(update_fields=["line_count"])


def began(done: Job, name: str, of: int = 3) -> None:
    """Report a phase, as intake keeps it."""
    number = len(done.phases) + 1
    done.phases = [
        *done.phases,
        {"name": name, "at": AT + done.line_count, "number": number, "line": done.line_count + 1},
    ]
    done.phases_of = of
    done.save(update_fields=["phases", "phases_of"])
