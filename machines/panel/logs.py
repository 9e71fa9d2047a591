"""Reading a job's log: lines by their numbers, out of the chunks they arrived in, and how the log ends."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from machines.contract.reports import LINES_AT_ONCE
from machines.contract.states import JobState
from machines.models import Job, LogChunk
from machines.panel import ansi
from machines.panel.log_lines import Row
from machines.templatetags.panel_tags import duration

SHOWN = 2000  # lines a page begins with, and what one event of a stream or one “earlier” brings at most
AT_ONCE = 5000  # lines a download reads in one query
SEARCHED = 100_000  # lines one search looks at

_COMPLAINS = re.compile(r"^\W{0,4}(E:|(\w+: )?(error|fatal|failed|failure|cannot|unable)\b)", re.IGNORECASE)


def between(job_id: int, first: int, last: int) -> list[Row]:
    """Lines `first` to `last`, both included, as far as they are there. One query."""
    chunks = LogChunk.objects.filter(job_id=job_id, first__gt=first - LINES_AT_ONCE, first__lte=last)
    return [
        (number, at, source, text)
        for start, lines in chunks.order_by("first").values_list("first", "lines")
        for number, (at, source, text) in enumerate(lines, start)
        if first <= number <= last
    ]


def after(job_id: int, line: int, limit: int = SHOWN) -> list[Row]:
    return between(job_id, line + 1, line + limit)


def before(job_id: int, line: int, limit: int = SHOWN) -> list[Row]:
    return between(job_id, max(line - limit, 1), line - 1)


@dataclass(frozen=True)
class Matches:
    """What a search found in lines that a page does not hold: how many lines, the last of them (0: none), and the first
    line that was looked at."""

    count: int
    line: int
    since: int


def matches(job_id: int, words: str, before_line: int) -> Matches:
    """Lines before one that contain these words, as they are shown, capitals or not. At most SEARCHED lines are read."""
    wanted, since = words.lower(), max(before_line - SEARCHED, 1)
    count = last = 0
    for start in range(since, before_line, AT_ONCE):
        rows = between(job_id, start, min(start + AT_ONCE, before_line) - 1)
        found = [number for number, _, _, text in rows if wanted in ansi.plain(text).lower()]
        count += len(found)
        last = found[-1] if found else last
    return Matches(count, last, since)


def everything(job: Job) -> Iterator[str]:
    """The whole log as it was written, some thousand lines at a time."""
    for first in range(1, job.line_count + 1, AT_ONCE):
        rows = between(job.pk, first, first + AT_ONCE - 1)
        yield "".join(f"{text}\n" for _, _, _, text in rows)


def began(job: Job) -> float:
    """When the work began by the host's clock, which all times of the log are on."""
    if job.phases:
        return float(job.phases[0]["at"])
    first = (
        LogChunk.objects.filter(job=job, first=1).values_list("lines", flat=True).first() if job.line_count else None
    )
    return float(first[0][0]) if first else (job.started_at or job.created_at).timestamp()


def ended(job: Job, start: float) -> float | None:
    """When it ended by the same clock; None while it goes on."""
    seconds = job.seconds()
    return start + seconds if job.finished_at and seconds is not None else None


def closing(job: Job) -> str:
    """The last words under a log; "" while the job goes on."""
    if not job.is_final:
        return ""
    span = duration(job.seconds())
    phase = f" in phase {ansi.plain(str(job.phases[-1]['name']))}" if job.phases else ""
    return {
        JobState.SUCCEEDED: f"succeeded in {span}",
        JobState.FAILED: f"failed{phase} after {span}",
        JobState.TIMED_OUT: f"ran out of time{phase} after {span}",
        JobState.CANCELLED: f"cancelled by {job.cancelled_by or 'somebody'}",
        JobState.EXPIRED: "expired: the host never took it, nothing was done",
    }[JobState(job.state)]


def error_line(job: Job, rows: Iterable[Row]) -> int | None:
    """The line that most likely says why the job failed: the first complaint of its last phase, else its last error output."""
    if job.state not in {JobState.FAILED, JobState.TIMED_OUT}:
        return None
    start = job.phases[-1]["line"] if job.phases else 1
    late = [row for row in rows if row[0] >= start]
    complaint = next((number for number, _, _, text in late if _COMPLAINS.search(ansi.plain(text[:500]))), None)
    return complaint or next((number for number, _, source, _ in reversed(late) if source == "e"), None)
