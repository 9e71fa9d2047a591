"""Jobs: the list, one job with its live log, cancel and retry."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_GET, require_POST

from machines.contract import orders
from machines.contract.permissions import Permission
from machines.contract.problems import NotAllowed, Problem
from machines.contract.states import JobState
from machines.models import Job
from machines.panel.courier import completion
from machines.panel.images import archives, builds
from machines.panel.logs import log_lines, log_reader, log_stream
from machines.panel.orders import dispatch, job_labels, operations, removals
from machines.panel.pages import build_page, job_list, job_page
from machines.panel.web import access, layout, press, responses
from machines.panel.web.access import PanelRequest, needs

WORDS_AT_MOST = 500  # characters of a search
# What is more than placing the same order again
AGAIN = {
    orders.Build: builds.again,
    orders.Export: archives.export_again,
    orders.Remove: removals.again,
}


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest) -> HttpResponse:
    query = job_list.parse_query(request.GET)
    page = job_list.page(query, timezone.now(), by=request.user)
    unfinished = layout.running_jobs(request)
    context = {
        "page": page,
        "list_query": query,
        "clear": query.encode(q=""),
        "all_states": job_list.STATES,
        "facets": lambda: _facets(request, query),  # asked for only when something is drawn
        "fragment": responses.wants_fragment(request),
    }
    version = f"{page.version}{unfinished}"
    return responses.page(request, "jobs/index.html", context, fragment="jobs/_list.html", version=version)


def _facets(request: PanelRequest, query: job_list.JobListQuery) -> list[dict[str, Any]]:
    """The menus that write into the filter field."""
    values = {"state": job_list.STATES, "op": job_list.OPS} | job_list.choices(by=request.user)
    titles = {"state": "State", "op": "Operation", "host": "Host", "who": "Person"}
    return [
        {
            "key": key,
            "title": title,
            "chosen": ", ".join(query.terms.get(key, ())),
            "choices": [
                {"word": word, "query": query.encode(q=query.with_term(key, word)), "on": query.has_term(key, word)}
                for word in values[key]
            ],
        }
        for key, title in titles.items()
    ]


@require_GET
@needs(Permission.VIEW)
def running(request: PanelRequest) -> HttpResponse:
    """The top bar's number of unfinished jobs, which asks for itself on every page; 204 while it is right."""
    if not responses.wants_fragment(request):
        return redirect("job-index")
    version = str(layout.running_jobs(request))
    return responses.page(request, "_running_jobs.html", {}, fragment="_running_jobs.html", version=version)


@require_GET
@needs(Permission.VIEW)
def detail(request: PanelRequest, pk: int) -> HttpResponse:
    job = job_page.load(request, pk)
    tab = request.GET.get("tab", "log")
    tab = tab if tab in job_page.TABS else "log"
    context = job_page.context(request, job) | {"tab": tab, "tabs": job_page.TABS}
    context |= _tab(request, job, tab)
    return render(request, "jobs/detail.html", context)


def _tab(request: PanelRequest, job: Job, tab: str) -> dict[str, Any]:
    if tab == "commands":
        return {"commands": job_page.commands(job)}
    if tab == "order":
        return {"order": job_page.order(job)}
    if tab == "log":
        return job_page.log(job)
    if not orders.kind_of(job.op).runs_recipe:
        return {"result": job_page.result(job.result)}
    told = build_page.result(job, by=request.user)
    return told | {"result": job_page.result(told["rest"])}


@require_GET
@needs(Permission.VIEW)
def status(request: PanelRequest, pk: int) -> HttpResponse:
    """The head of the page for itself; 204 when it is as the page has it."""
    job = job_page.load(request, pk)
    if not responses.wants_fragment(request):
        return redirect("job-detail", pk)
    context = job_page.context(request, job) | {"fragment": True}
    return responses.page(request, "jobs/_status.html", context, fragment="jobs/_status.html", version=context["seen"])


@require_GET
@needs(Permission.VIEW)
def follow_log(request: PanelRequest, pk: int) -> HttpResponseBase:
    """New lines as they come, as server-sent events (machines/panel/logs/log_stream.py)."""
    job = access.job(request, pk)
    lease = log_stream.Lease.take(request.user.pk)
    if lease is None:
        said = f"You already have {log_stream.PER_USER} logs open; close one, or try again in a minute."
        return HttpResponse(said, status=429, content_type="text/plain; charset=utf-8", headers={"Retry-After": "60"})
    line = _line(request.headers.get("Last-Event-ID") or request.GET.get("after", ""))
    events = log_stream.follow(job.pk, line, session_key=request.session.session_key, lease=lease)
    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
    return StreamingHttpResponse(events, content_type="text/event-stream", headers=headers)


def _line(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


@require_GET
@needs(Permission.VIEW)
def log_raw(request: PanelRequest, pk: int) -> StreamingHttpResponse:
    """The whole log as the host wrote it, as a download."""
    job = access.job(request, pk)
    name = "-".join(part for part in (f"job-{job.pk}", job.op, job.machine_name) if part)
    headers = {"Content-Disposition": content_disposition_header(True, f"{name}.log") or ""}
    return StreamingHttpResponse(_pieces(job), content_type="text/plain; charset=utf-8", headers=headers)


async def _pieces(job: Job) -> AsyncIterator[str]:
    pieces = log_reader.everything(job)
    while piece := await sync_to_async(lambda: next(pieces, ""))():
        yield piece


@require_GET
@needs(Permission.VIEW)
def log_older(request: PanelRequest, pk: int) -> HttpResponse:
    """The lines before one: bare for log.js, as a page of their own without JavaScript."""
    job = job_page.load(request, pk)
    line = _line(request.GET.get("before", ""))
    if "X-Log" in request.headers:
        rows = log_reader.before(job.pk, min(line, job.line_count + 1))
        return HttpResponse(log_lines.lines(rows, log_reader.began(job)))
    context = job_page.context(request, job) | {"tab": "log", "tabs": job_page.TABS}
    return render(request, "jobs/detail.html", context | job_page.log_before(job, line))


@require_GET
@needs(Permission.VIEW)
def log_search(request: PanelRequest, pk: int) -> JsonResponse:
    """How many of the lines that the log view does not hold contain some words, and the nearest of them."""
    job = access.job(request, pk)
    before = min(_line(request.GET.get("before", "")), job.line_count + 1)
    words = request.GET.get("q", "")[:WORDS_AT_MOST]
    return JsonResponse(asdict(log_reader.matches(job.pk, words, before)))


@require_GET
@needs(Permission.OPERATE)
def cancel_confirm(request: PanelRequest, pk: int) -> HttpResponse:
    """What cancelling will do, before it is done: a dialog, or a page of its own without JavaScript."""
    job = access.job(request, pk)
    context = {
        "job": job,
        "what": operations.of(job.op).of(job.machine_name),
        "means": job_labels.cancelling(job.op, job.state),
    }
    return responses.page(request, "jobs/cancel.html", context, fragment="jobs/_cancel_dialog.html")


@require_POST
@needs(Permission.OPERATE)
def cancel(request: PanelRequest, pk: int) -> HttpResponse:
    job = access.job(request, pk)
    back = reverse("job-detail", args=[pk])
    asked = completion.cancel(job, by=request.user)
    job.refresh_from_db()
    if not asked:
        already = (
            f"has already {job_labels.ENDED[JobState(job.state)]}" if job.is_final else "is being cancelled already"
        )
        return responses.refused(request, Problem(f"Job {pk} {already}."), back=back)
    if job.is_final:
        return responses.done(request, f"Job {pk} withdrawn. {job_labels.withdrawal(job, job.host.name)}", back=back)
    return responses.redirect_to(request, back)  # where it says that it is being cancelled


@require_POST
@needs(Permission.OPERATE)
def retry(request: PanelRequest, pk: int) -> HttpResponse:
    """The same order once more, as a new job. A second press of the button finds the first one's job."""
    job = access.job(request, pk)
    back = reverse("job-detail", args=[pk])
    if not job.can_be_retried:
        hint = operations.of(job.op).instead_of_retry
        return responses.refused(request, Problem(f"Job {pk} cannot be retried.", hint=hint), back=back)
    try:
        place_again = AGAIN.get(orders.kind_of(job.op), dispatch.retry)
        again = dispatch.place_once(press.key(request), lambda key: place_again(job, by=request.user, key=key))
    except NotAllowed as problem:
        return responses.refused(request, problem, back=back, status=403)
    except Problem as problem:
        return responses.refused(request, problem, back=back)
    return redirect("job-detail", again.pk)
