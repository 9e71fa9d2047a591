"""One job as its page shows it: what it is, where it stands, why it waits or failed, and what it was told to do."""

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Subquery
from django.http import Http404
from django.urls import reverse
from django.utils import timezone

from machines.contract.orders import kind_of
from machines.contract.permissions import Permission
from machines.contract.quantities import size
from machines.contract.states import JobState
from machines.models import Archive, Job, Machine
from machines.panel.hosts import budgets, name_files
from machines.panel.logs import ansi, log_lines, log_reader
from machines.panel.orders import job_labels, operations
from machines.panel.orders.dispatch import SECRETS_LAST
from machines.panel.pages import build_page
from machines.panel.pages.machine_rows import host_url, machine_url, version
from machines.panel.web import layout
from machines.panel.web.access import PanelRequest
from machines.templatetags.panel_tags import clock

TABS = {"log": "Log", "commands": "Commands", "order": "Request", "result": "Result"}
RESULTS_SHOWN, RESULT_SHOWN = 100, 4000
SHOWN = 100_000  # characters of all commands, or of all a result says
BEYOND = "… more than a page shows"
LAST_MOMENT = 253_402_300_799  # seconds since the epoch: the end of the year 9999


def load(request: PanelRequest, pk: int) -> Job:
    """The job with its host, what it retries, what retries it and whether its machine is listed: one query. Raises Http404."""
    retries = Job.objects.visible_to(request.user).filter(retry_of=OuterRef("pk")).order_by("-id").values("pk")[:1]
    machines = (
        Machine.objects.listed().visible_to(request.user).filter(host=OuterRef("host"), name=OuterRef("machine_name"))
    )
    jobs = (
        Job.objects.visible_to(request.user)
        .select_related("host", "revision", "team", "recipe_version__recipe")
        .annotate(
            retried_by=Subquery(retries),
            has_machine=Exists(machines),
            needs_restart=Exists(machines.filter(restart_needed=True)),
        )
    )
    job = jobs.filter(pk=pk).first()
    if job is None:
        raise Http404(f"There is no job {pk}.")
    return job


def context(request: PanelRequest, job: Job) -> dict[str, Any]:
    """What the live head of the page shows."""
    now = timezone.now()
    may = request.user.may_in(kind_of(job.op).permission, job.team_id)
    wait = job_labels.Wait(
        job.host.name,
        job.host.last_seen,
        job.sent_at,
        job.accepted_at,
        job.expires_at,
        job.op,
        job.progress_note,
        job.host.clock_skew,
        job.host.trouble.get("spool", ""),
        str((job.problem or {}).get("code", "")),
    )
    operation = operations.of(job.op)
    shown = {
        "job": job,
        "operation": operation,
        "what": operation.of(job.machine_name),
        "machine_url": machine_url(job.host.name, job.machine_name) if getattr(job, "has_machine", False) else "",
        "archive": _archive(job) if request.user.may_in(Permission.BUILD, job.team_id) else None,
        "again_url": _again_url(job) if request.user.may_in(Permission.BUILD, job.team_id) else "",
        "host_url": host_url(job.host.name),
        "why": wait.reason(job.state, now),
        "begun": job.started_at or job.accepted_at,
        "phases": phases(job, now),
        "cancelling": bool(job.cancel_asked_at) and not job.is_final,
        "may_cancel": job.can_be_cancelled and request.user.may_in(Permission.OPERATE, job.team_id),
        "may_operate": request.user.may_in(Permission.OPERATE, job.team_id),
        "may_retry": job.can_be_retried and may,
        "secrets_gone": operation.makes_machine
        and job.finished_at is not None
        and now - job.finished_at > SECRETS_LAST,
        "withdrawal": job_labels.withdrawal(job, job.host.name),
        "is_problem": bool(job.problem) and job.state != JobState.SUCCEEDED,
        "log_cut": budgets.why_cut(job),
        "result_url": _result_url(job),
        "draft_url": _draft_url(job) if request.user.may_in(Permission.CONFIGURE, job.team_id) else "",
        "needs_restart": operation.applies_draft
        and job.state == JobState.SUCCEEDED
        and getattr(job, "needs_restart", False),
        "must_decide": _found_other_files(job),
        "name_files": [(file.path, name_files.words(file)) for file in name_files.of_job(job)],
        "times": times(job),
        "retried_by": getattr(job, "retried_by", None),
    }
    shown |= build_page.context(request, job)
    unfinished = layout.running_jobs(request)
    facts = (job.state, job.phases, job.progress, job.progress_note, job.problem, job.cancel_asked_at, job.log_cut)
    seen = version(facts, shown["withdrawal"], shown["why"], shown["retried_by"], unfinished)
    return shown | {"seen": seen}


def _archive(job: Job) -> Archive | None:
    """What an export has brought, unless it was removed since."""
    if not operations.of(job.op).brings_archive or job.state != JobState.SUCCEEDED:
        return None
    return job.archives.filter(state=Archive.State.READY).first()


def _draft_url(job: Job) -> str:
    """Where the draft that could not be applied is waiting to be mended."""
    if not operations.of(job.op).applies_draft or not job.is_final or job.state == JobState.SUCCEEDED:
        return ""
    page = "config-review" if _found_other_files(job) else "config-edit"
    return reverse(page, args=[job.host.name, job.machine_name])


def _result_url(job: Job) -> str:
    """Where the result is shown in words or as a chart."""
    result = operations.of(job.op).result
    if result is None or job.state != JobState.SUCCEEDED:
        return ""
    below = machine_url(job.host.name, job.machine_name) if job.machine_name else host_url(job.host.name)
    return f"{below}{result.page}/"


def _found_other_files(job: Job) -> bool:
    """Somebody changed the host's files by hand; there is a decision to take, not a draft to mend."""
    return "found_nspawn" in job.result


def _again_url(job: Job) -> str:
    """The form with what a failed build was told, to change what was wrong."""
    if (
        not operations.of(job.op).makes_machine
        or not job.is_final
        or job.state == JobState.SUCCEEDED
        or getattr(job, "has_machine", False)
    ):
        return ""
    return f"{reverse('machine-new')}?again={job.pk}"


@dataclass(frozen=True)
class Phase:
    """One step of the job. `since` is set while it goes on, `seconds` once it is over."""

    name: str
    state: str  # running, later, or how it ended
    seconds: float | None = None
    since: datetime | None = None
    number: int = 0


def phases(job: Job, now: datetime) -> list[Phase]:
    """What was reported, the current one last, and those that are known to follow."""
    if not job.phases:
        return []
    start = job.phases[0]["at"]
    end = log_reader.ended(job, start)
    begun = job.started_at or job.accepted_at or now
    found = []
    for place, mark in enumerate(job.phases):
        after = job.phases[place + 1]["at"] if place + 1 < len(job.phases) else None
        over = after if after is not None else end
        found.append(
            Phase(
                name=ansi.plain(mark["name"]),
                state=JobState.SUCCEEDED if after is not None else job.state,
                seconds=over - mark["at"] if over is not None else None,
                # the host's clock may differ from ours; only spans are carried over
                since=begun + timedelta(seconds=mark["at"] - start) if over is None else None,
                number=mark.get("number", place + 1),
            )
        )
    to_come = range(found[-1].number + 1, job.phases_of + 1) if job.state != JobState.SUCCEEDED else ()
    names = tuple(job_labels.phase(job.order, name) for name in kind_of(job.op).phases)
    named = names if len(names) == job.phases_of else ("",) * job.phases_of  # an older host may go other ways
    return [*found, *(Phase(named[number - 1], "later", number=number) for number in to_come)]


def times(job: Job) -> list[tuple[str, datetime | None, float | None]]:
    """(step, when, seconds since the step before) on the way to the host and back."""
    steps = [
        ("created", job.created_at), ("sent", job.sent_at), ("accepted", job.accepted_at),
        ("started", job.started_at), ("finished", job.finished_at),
    ]  # fmt: skip
    found: list[tuple[str, datetime | None, float | None]] = []
    earlier: datetime | None = None
    for word, moment in steps:
        gap = (moment - earlier).total_seconds() if moment and earlier else None
        found.append((word, moment, gap))
        earlier = moment or earlier
    return found


def log(job: Job) -> dict[str, Any]:
    """What the log view needs. One query, or two while there is no phase."""
    return _log(job, log_reader.before(job.pk, job.line_count + 1))


def log_before(job: Job, line: int) -> dict[str, Any]:
    """The same for the lines before one, for browsers without JavaScript."""
    return _log(job, log_reader.before(job.pk, min(line, job.line_count + 1))) | {"stream_url": "", "closing": ""}


def _log(job: Job, rows: list[log_lines.LogRow]) -> dict[str, Any]:
    began = log_reader.began(job)
    ended = log_reader.ended(job, began)
    return {
        "groups": log_lines.groups(rows, job.phases, state=job.state, began=began, ended=ended),
        "began": repr(began),
        "first_line": rows[0][0] if rows else 0,
        "last_line": rows[-1][0] if rows else 0,
        "stream_url": "" if job.is_final else reverse("job-log-stream", args=[job.pk]),
        "earlier_url": reverse("job-log-older", args=[job.pk]),
        "search_url": reverse("job-log-search", args=[job.pk]),
        "raw_url": reverse("job-log-raw", args=[job.pk]) if job.line_count else "",
        "closing": log_reader.closing(job),
        "error_line": log_reader.error_line(job, rows),
    }


def commands(job: Job) -> list[str]:
    """Each command as a line that can be pasted into a shell."""
    return list(_shown(shlex.join(str(word) for word in argv) for argv in job.commands))


def _shown(texts: Iterable[str]) -> Iterator[str]:
    """As many of these as a page shows, whole: half a command is none."""
    room = SHOWN
    for text in texts:
        room -= len(text)
        if room < 0:
            yield BEYOND
            return
        yield text


def order(job: Job) -> str:
    """The order as JSON, the way it was placed. Texts of files keep their line breaks escaped, so that nothing is hidden."""
    return json.dumps(job.order, indent=2, ensure_ascii=False)


def result(told: dict[str, Any]) -> list[tuple[str, str]]:
    """What the host said of the work, as (word, text). A hostile host may have said a lot."""
    some = list(told.items())[:RESULTS_SHOWN]
    words = [key.replace("_", " ") for key, _ in some]
    return list(zip(words, _shown(_worded(key, value) for key, value in some), strict=False))


def _worded(key: str, value: Any) -> str:
    """Times, sizes and yes or no as people read them; all else as the host said it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and key.endswith("_at") and 0 < value < LAST_MOMENT:
        return clock(datetime.fromtimestamp(value, UTC))
    if isinstance(value, int) and key.endswith("bytes"):
        return size(value)
    return _said(value)


def _said(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))[:RESULT_SHOWN]
