"""How views answer: a page or its live fragment, a placed job, a refusal. Each has a plain form and one for htmx."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django.utils.html import format_html
from django_htmx.http import HttpResponseClientRedirect, trigger_client_event

from machines.contract.problems import Problem
from machines.models import Job
from machines.panel.orders.dispatch import Busy
from machines.panel.web import access
from machines.panel.web.access import PanelRequest

UNCHANGED = 204


def page(
    request: PanelRequest, template: str, context: Mapping[str, Any], *, fragment: str = "", version: str = ""
) -> HttpResponse:
    """The page, or its fragment for a part that asks for itself; 204 when that part shows this version already."""
    if fragment and wants_fragment(request):
        if version and request.GET.get("v") == version:
            return _varied(HttpResponse(status=UNCHANGED))
        template = fragment
    return _varied(render(request, template, {**context, "version": version}))


def wants_fragment(request: PanelRequest) -> bool:
    """Boosted links and restored history are whole pages to htmx."""
    return bool(request.htmx) and not request.htmx.boosted and not request.htmx.history_restore_request


def _varied(response: HttpResponse) -> HttpResponse:
    patch_vary_headers(response, ["HX-Request"])
    return response


def placed(
    request: PanelRequest, job: Job, said: str, *, back: str, fragment: HttpResponse | None = None
) -> HttpResponse:
    """A job stands in the book: back to a page with a message, or for htmx the fragment with a note."""
    address = reverse("job-detail", args=[job.pk])
    if fragment is None:
        messages.info(request, format_html('{} <a href="{}">View job {}</a>', said, address, job.pk))
        return HttpResponseClientRedirect(back) if request.htmx else redirect(back)
    note = {"text": said, "href": address, "link": f"View job {job.pk}"}
    return trigger_client_event(fragment, "toast", note)


def refused(request: PanelRequest, problem: Problem, *, back: str, status: int = 409) -> HttpResponse:
    """What cannot be done, why, and the job that stands in the way if it is one."""
    job = problem.job if isinstance(problem, Busy) else None
    said = f"{problem.message} {problem.hint}".strip()
    address = reverse("job-detail", args=[job.pk]) if job else ""
    if request.htmx:
        note = {"text": said, "kind": "danger"} | ({"href": address, "link": "View job"} if job else {})
        answer = HttpResponse(said, status=status, content_type="text/plain; charset=utf-8")
        return trigger_client_event(answer, "toast", note)
    context = {"said": said, "job": job, "job_url": address, "back": back}
    return render(request, "machines/refused.html", context, status=status)


def referer_path(request: PanelRequest) -> str:
    """The path of the page that asked by htmx; "" for a plain request, and for an address that is none of ours."""
    path = urlsplit(request.htmx.current_url_abs_path or "").path if request.htmx else ""
    return path if access.is_page(path) else ""


def done(request: PanelRequest, said: str, *, back: str) -> HttpResponse:
    """Something was done at once, without a job."""
    messages.success(request, said)
    return redirect_to(request, back)


def redirect_to(request: PanelRequest, page: str) -> HttpResponse:
    """To another page, whose address or name this is."""
    address = resolve_url(page)
    return HttpResponseClientRedirect(address) if request.htmx else redirect(address)
