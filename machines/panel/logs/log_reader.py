"""Reading a job's log: lines by their numbers, out of the chunks they arrived in, and how the log ends."""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from django.db.models import F, QuerySet

from machines.contract.quantities import duration
from machines.contract.reports import LINES_AT_ONCE
from machines.contract.states import JobState
from machines.models import Job, LogChunk
from machines.panel.logs import ansi
from machines.panel.logs.log_lines import LINE_SHOWN, LogRow

SHOWN = 2000  # lines a page begins with, and what one event of a stream or one “earlier” brings at most
SHOWN_CHARACTERS = 150_000  # of their text; at least one line comes
FEW = 50  # lines that are simply read
SEARCHED = 100_000  # lines one search looks at
SEARCHED_CHARACTERS, SEARCH_SECONDS = 16 * 1024 * 1024, 2.0
AT_ONCE, PIECE = 200, 512 * 1024  # chunks and characters that a download or a search reads at once

_COMPLAINS = re.compile(r"^\W{0,4}(E:|(\w+: )?(error|fatal|failed|failure|cannot|unable)\b)", re.IGNORECASE)


def after(job_id: int, line: int, limit: int = SHOWN) -> list[LogRow]:
    """The lines after one, in order, as many as a page takes. Two queries, one for a few."""
    chunks = _chunks(job_id).filter(first__gt=line - LINES_AT_ONCE, first__lte=line + limit).order_by("first")
    chunks = chunks.annotate(next=F("first") + F("count")).filter(next__gt=line + 1)
    numbered = _read(chunks if limit <= FEW else _chunks(job_id).filter(first__in=_some(chunks, line, limit)))
    return list(_as_shown(row for row in numbered if line < row[0] <= line + limit))


def before(job_id: int, line: int, limit: int = SHOWN) -> list[LogRow]:
    """The last lines before one, in order, as many as a page takes. Two queries."""
    chunks = _chunks(job_id).filter(first__lt=line, first__gt=line - limit - LINES_AT_ONCE).order_by("-first")
    numbered = _read(_chunks(job_id).filter(first__in=_some(chunks, line, limit)))
    return list(_as_shown(row for row in reversed(numbered) if line - limit <= row[0] < line))[::-1]


def _chunks(job_id: int) -> QuerySet[LogChunk]:
    return LogChunk.objects.filter(job_id=job_id)


def _some(chunks: QuerySet[LogChunk], line: int, limit: int) -> list[int]:
    """The first lines of those chunks, as they come, that hold what a page takes; more is not read out of the database."""
    wanted, size = list[int](), 0
    for first, count, characters in chunks.values_list("first", "count", "size")[: limit + 1]:
        wanted.append(first)
        if not first <= line < first + count:  # of the one it begins in perhaps little is shown
            size += min(characters or count * LINE_SHOWN, count * LINE_SHOWN)
        if size >= SHOWN_CHARACTERS:
            break
    return wanted


def _read(chunks: QuerySet[LogChunk]) -> list[LogRow]:
    rows = chunks.order_by("first").values_list("first", "lines")
    return [(number, *line) for first, lines in rows for number, line in enumerate(lines, first)]


def _as_shown(rows: Iterable[LogRow]) -> Iterator[LogRow]:
    """As many of these as a page takes."""
    room = SHOWN_CHARACTERS
    for place, row in enumerate(rows):
        room -= min(len(row[3]), LINE_SHOWN)
        if room < 0 and place:
            return
        yield row


@dataclass(frozen=True)
class Matches:
    """What a search found in lines that a page does not hold: how many lines, the last of them (0: none), and the first
    line that was looked at."""

    count: int
    line: int
    since: int


def matches(job_id: int, words: str, before_line: int) -> Matches:
    """Lines before one that contain these words, as they are shown, capitals or not. From the last one back, as far as
    lines, characters and time go."""
    wanted, since, until = words.lower(), before_line, time.monotonic() + SEARCH_SECONDS
    count = last = characters = 0
    while since > 1 and characters < SEARCHED_CHARACTERS and time.monotonic() < until:
        rows = [
            (number, text)
            for number, _, _, text in _piece(job_id, _chunks(job_id).filter(first__lt=since).order_by("-first"))
        ]
        rows = [row for row in rows if max(before_line - SEARCHED, 1) <= row[0] < since]
        if not rows:
            break
        found = [number for number, text in rows if wanted in ansi.plain(text).lower()]
        count, last = count + len(found), max([last, *found])
        characters += sum(len(text) for _, text in rows)
        since = min(number for number, _ in rows)
    return Matches(count, last, since)


def everything(job: Job) -> Iterator[str]:
    """The whole log as it was written, some chunks at a time."""
    last = 0
    while rows := _piece(job.pk, _chunks(job.pk).filter(first__gt=last).order_by("first")):
        yield "".join(f"{text}\n" for _, _, _, text in rows)
        last = rows[-1][0]


def _piece(job_id: int, chunks: QuerySet[LogChunk]) -> list[LogRow]:
    """The lines of the first of these chunks, as many as are read at once."""
    wanted, characters = list[int](), 0
    for first, length in chunks.values_list("first", "size")[:AT_ONCE]:
        wanted.append(first)
        characters += length or PIECE // 4  # written before sizes were kept
        if characters >= PIECE:
            break
    return _read(_chunks(job_id).filter(first__in=wanted)) if wanted else []


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
        JobState.TIMED_OUT: f"timed out{phase} after {span}",
        JobState.CANCELLED: f"cancelled by {job.cancelled_by or 'somebody'}",
        JobState.EXPIRED: "expired: the host did not accept it in time",
    }[JobState(job.state)]


def error_line(job: Job, rows: Iterable[LogRow]) -> int | None:
    """The line that most likely says why the job failed: the first complaint of its last phase, else its last error output."""
    if job.state not in {JobState.FAILED, JobState.TIMED_OUT}:
        return None
    start = job.phases[-1]["line"] if job.phases else 1
    late = [row for row in rows if row[0] >= start]
    complaint = next((number for number, _, _, text in late if _COMPLAINS.search(ansi.plain(text[:500]))), None)
    return complaint or next((number for number, _, source, _ in reversed(late) if source == "e"), None)
