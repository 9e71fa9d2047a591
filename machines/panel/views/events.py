"""The audit log: every act, sign-in and refusal; as a page, as files, and whether it is as it was written."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_GET, require_POST

from machines.contract.permissions import Permission
from machines.models import Job, Receipt
from machines.panel.audit import receipts
from machines.panel.audit import verify as chain
from machines.panel.pages import event_list
from machines.panel.web import access
from machines.panel.web.access import PanelRequest, needs

RECEIPTS_SHOWN = 50
VERIFIED = 200_000  # of the newest entries: some seconds; `manage.py verify_audit` reads all


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest) -> HttpResponse:
    return render(request, "events/index.html", _context(request))


def _context(request: PanelRequest) -> dict[str, Any]:
    return {
        "page": event_list.page(request.GET, request.user),
        "standing": event_list.standing() if request.user.sees_all else None,
    }


@require_GET
@needs(Permission.VIEW)
def export(request: PanelRequest, kind: str) -> StreamingHttpResponse:
    """What the filter finds, as a download."""
    _, content_type, _ = event_list.FILES[kind]
    name = content_disposition_header(True, event_list.file_name(kind)) or ""
    pieces = _pieces(event_list.export(event_list.parse_query(request.GET), kind, request.user))
    return StreamingHttpResponse(pieces, content_type=content_type, headers={"Content-Disposition": name})


async def _pieces(pieces: Iterator[str]) -> AsyncIterator[str]:
    while piece := await sync_to_async(lambda: next(pieces, ""))():
        yield piece


@require_POST
@needs(Permission.ADMINISTER)
def verify(request: PanelRequest) -> HttpResponse:
    """Read the chain through, and show what was found."""
    verdict = chain.verify(newest=VERIFIED)
    return render(request, "events/index.html", _context(request) | {"verdict": verdict})


@require_GET
@needs(Permission.ADMINISTER)
def host_receipts(request: PanelRequest, host: str) -> HttpResponse:
    """The newest receipts of a host beside the panel's jobs, and what stands on one side only."""
    found = access.host(request, host)
    newest = list(Receipt.objects.filter(host=found, generation=found.generation)[:RECEIPTS_SHOWN])
    jobs = dict(Job.objects.filter(uuid__in=[row.job_uuid for row in newest]).values_list("uuid", "pk"))
    rows = [{"receipt": row, "at": receipts.moment(row.at), "job": jobs.get(row.job_uuid)} for row in newest]
    return render(request, "hosts/receipts.html", {"host": found, "rows": rows, "both": receipts.compare(found)})
