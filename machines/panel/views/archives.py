"""Archives: the list, uploads in parts, downloads, removal, exports; and the door by which hosts fetch and bring them."""

import re
from typing import Any
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.http import content_disposition_header
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from machines.contract.permissions import Permission
from machines.contract.problems import BadValue, Problem
from machines.models import Archive, Host
from machines.panel.forms.archives import BeginForm
from machines.panel.images import archive_audit, archive_files, archives
from machines.panel.images.archive_files import PART, OutOfStep
from machines.panel.orders import dispatch
from machines.panel.pages import archive_list, machine_rows
from machines.panel.web import access, layout, press, responses
from machines.panel.web.access import PUBLIC, PanelRequest, needs
from machines.panel.web.bearer import accepts_tokens

RANGE_REFUSED = 416
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})?")


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest) -> HttpResponse:
    shown = archive_list.rows(by=request.user)
    context = {
        "archives": shown,
        "may_build": request.user.may(Permission.BUILD),
        "part": PART,
        "team": BeginForm(by=request.user, auto_id="upload-%s")["team"],
        "limit": archive_list.most(by=request.user),
        "address_unset": not archives.has_address(),
        "fragment": responses.wants_fragment(request),
    }
    version = archive_list.version(shown, layout.running_jobs(request))
    return responses.page(request, "archives/index.html", context, fragment="archives/_list.html", version=version)


@accepts_tokens
@require_POST
@needs(Permission.BUILD)
def begin(request: PanelRequest) -> HttpResponse:
    """Announce a file; the answer says where its parts go, and where to go on if some of it came before."""
    form = BeginForm(request.POST, by=request.user)
    if not form.is_valid():
        return _refused(BadValue(str(next(iter(form.errors.values()))[0])))
    given = form.cleaned_data
    try:
        archive = archive_files.begin(
            given["title"], given["format"], given["size"], by=request.user, team=given["team"]
        )
    except Problem as problem:
        return _refused(problem)
    address = {
        "part_url": reverse("archive-part", args=[archive.pk]),
        "url": reverse("archive-state", args=[archive.pk]),
    }
    return JsonResponse(_said(archive) | address)


@accepts_tokens
@require_POST
@needs(Permission.BUILD)
def part(request: PanelRequest, archive: UUID) -> HttpResponse:
    """The bytes that follow, from the person who began the upload."""
    return _take(request, access.of_team(request, Archive.objects.all(), pk=archive, author=request.user, job=None))


def _take(request: PanelRequest, archive: Archive) -> HttpResponse:
    if request.content_type != "application/octet-stream":
        return HttpResponse("Send a part as application/octet-stream.", status=415)
    offset = request.GET.get("offset", "")
    if not re.fullmatch("[0-9]{1,15}", offset):
        return _refused(BadValue("Give the offset of the part with ?offset=."))
    data = request.read(PART + 1)
    if len(data) > PART:
        return HttpResponse(f"A part has at most {PART} bytes.", status=413)
    return _add(archive, int(offset), data)


def _add(archive: Archive, offset: int, data: bytes) -> HttpResponse:
    try:
        return JsonResponse(_said(archive_files.add(archive, offset, data)))
    except OutOfStep as out:
        return JsonResponse({"received": out.received}, status=409)
    except Problem as problem:
        return _refused(problem)
    except OSError as error:
        return _refused(Problem(f"The panel cannot store it: {error.strerror}.", code="no-space"))


def _said(archive: Archive) -> dict[str, Any]:
    return {
        "id": str(archive.pk),
        "state": archive.state,
        "received": archive.received,
        "size": archive.size,
        "sha256": archive.sha256,
    }


def _refused(problem: Problem) -> JsonResponse:
    status = {"no-space": 507, "archive-busy": 503, "archive-gone": 410}.get(problem.code, 422)
    return JsonResponse({"error": f"{problem.message} {problem.hint}".strip()}, status=status)


@accepts_tokens
@require_GET
@needs(Permission.BUILD)
def state(request: PanelRequest, archive: UUID) -> HttpResponse:
    """How much has arrived; asked until the sum of a large file is made."""
    return JsonResponse(_said(archive_files.finish(access.of_team(request, Archive.objects.all(), pk=archive))))


@require_GET
@needs(Permission.BUILD)
def content(request: PanelRequest, archive: UUID) -> HttpResponseBase:
    """The file itself. Whoever has it has every secret of the image: this is not for those who may only look."""
    found = access.of_team(request, Archive.objects.all(), pk=archive, state=Archive.State.READY)
    answer = _content(request, found)
    if answer.status_code != RANGE_REFUSED:
        archive_audit.downloaded(found, request.user, first=_wanted(request, found)[0])
    answer.headers["Content-Disposition"] = content_disposition_header(True, found.title) or "attachment"
    return answer


def _wanted(request: PanelRequest, archive: Archive) -> tuple[int, int, bool]:
    """First and last byte that are asked for, and whether it is a part at all."""
    asked = _RANGE.fullmatch(request.headers.get("Range", ""))
    first = int(asked[1]) if asked else 0
    last = min(int(asked[2]) if asked and asked[2] else archive.size - 1, archive.size - 1)
    return first, last, asked is not None


def _content(request: PanelRequest, archive: Archive) -> HttpResponseBase:
    """Whole, or from the byte that was asked for."""
    first, last, asked = _wanted(request, archive)
    if first > last:
        return HttpResponse(status=RANGE_REFUSED, headers={"Content-Range": f"bytes */{archive.size}"})
    if not archive_files.path_of(archive.pk).is_file():
        raise Http404("The file of this archive is gone from the panel's disk.")
    headers = {
        "Content-Length": str(last - first + 1),
        "Accept-Ranges": "bytes",
        "ETag": f'"{archive.sha256}"',
        "Cache-Control": "private, no-store",
        "X-Accel-Buffering": "no",
    }
    if asked:
        headers["Content-Range"] = f"bytes {first}-{last}/{archive.size}"
    pieces = archive_files.pieces(archive.pk, first, last)
    return StreamingHttpResponse(
        pieces, status=206 if asked else 200, content_type="application/octet-stream", headers=headers
    )


@require_http_methods(["GET", "POST"])
@needs(Permission.BUILD)
def remove(request: PanelRequest, archive: UUID) -> HttpResponse:
    """Ask, then remove the file. Machines made from it stay as they are."""
    found = access.of_team(request, Archive.objects.all(), pk=archive)
    if request.method == "POST":
        with transaction.atomic():
            archive_audit.removed(found, request.user)
            archive_files.remove(found)
        return responses.done(request, f"{found.title} removed.", back="archive-index")
    context = {"archive": found, "back": reverse("archive-index")}
    return responses.page(request, "archives/remove.html", context, fragment="archives/_remove_dialog.html")


@require_http_methods(["GET", "POST"])
@needs(Permission.BUILD)
def export(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Say what an export takes, then order it: a dialog, or a page of its own without JavaScript."""
    machine = access.machine(request, host, name)
    back = machine_rows.machine_url(host, name)
    if request.method == "POST":
        try:
            job = dispatch.place_once(
                press.key(request), lambda key: archives.export(machine, by=request.user, key=key)
            )
        except Problem as problem:
            return responses.refused(request, problem, back=back)
        return redirect("job-detail", job.pk)
    context = {"machine": machine, "url": back} | archive_list.export_words(machine)
    return responses.page(request, "machines/export.html", context, fragment="machines/_export_dialog.html")


@csrf_exempt  # no browser comes here: the token is not sent by itself, as a cookie is
@require_http_methods(["GET", "POST"])
@needs(PUBLIC)
def transfer(request: PanelRequest, archive: UUID) -> HttpResponseBase:
    """Hosts fetch an archive (GET) and bring one (POST), each with the token that was sealed in its order."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    known = archives.bearer(token, archive) if scheme == "Bearer" else None
    wanted = "get" if request.method == "GET" else "put"
    if known is None or known[1] != wanted:
        raise PermissionDenied("This needs the token of a current request for this archive.")
    if wanted == "get":
        return _fetched(request, get_object_or_404(Archive, pk=archive, state=Archive.State.READY), known[0])
    found = get_object_or_404(Archive, pk=archive, state=Archive.State.ARRIVING, job__host=known[0])
    size = request.GET.get("size", "")
    try:
        archive_files.announce(found, int(size) if re.fullmatch("[0-9]{1,15}", size) else 0)
    except Problem as problem:
        return _refused(problem)
    found.refresh_from_db()
    return _take(request, found)


def _fetched(request: PanelRequest, archive: Archive, host: Host) -> HttpResponseBase:
    answer = _content(request, archive)
    if answer.status_code != RANGE_REFUSED:
        archive_audit.fetched(archive, host, first=_wanted(request, archive)[0])
    return answer
