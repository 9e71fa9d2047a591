"""The numbered configurations a machine had, compared, and brought back as a draft."""

from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from machines.contract.problems import Problem
from machines.contract.rights import Right
from machines.models import Machine, Revision
from machines.panel import access, diffs, drafts, responses
from machines.panel.access import PanelRequest, needs
from machines.panel.config_page import context, file_diffs

SHOWN = 200


@require_GET
@needs(Right.SEE)
def index(request: PanelRequest, host: str, name: str) -> HttpResponse:
    machine = access.machine(request, host, name)
    revisions = list(_numbered(machine).prefetch_related("jobs")[:SHOWN])
    shown = context(request, machine, drafts.current(machine), "revisions") | {"revisions": revisions}
    return render(request, "revisions/index.html", shown)


def _numbered(machine: Machine):  # type: ignore[no-untyped-def]  # a QuerySet of values the stubs cannot name
    heavy = ("nspawn_text", "limits_text", "base_nspawn", "base_limits")
    return Revision.objects.filter(machine=machine, number__isnull=False).defer(*heavy)


@require_GET
@needs(Right.SEE)
def detail(request: PanelRequest, host: str, name: str, number: int) -> HttpResponse:
    """One revision, and how it differs from the one before it or from `?against=`."""
    machine = access.machine(request, host, name)
    revision = get_object_or_404(Revision, machine=machine, number=number)
    against = _against(machine, revision, request.GET.get("against", ""))
    before, after = drafts.files(against), drafts.files(revision)
    shown = context(request, machine, drafts.current(machine), "revisions") | {
        "revision": revision,
        "against": against,
        "others": _numbered(machine).exclude(pk=revision.pk).values_list("number", flat=True)[:SHOWN],
        "changes": diffs.settings(before, after),
        "diffs": file_diffs(machine, before, after),
        "job": revision.jobs.order_by("-id").first(),
    }
    return render(request, "revisions/detail.html", shown)


def _against(machine: Machine, revision: Revision, wish: str) -> Revision | None:
    """The revision to compare with. Raises Http404 when it does not exist; None before the first one."""
    revisions = Revision.objects.filter(machine=machine)
    if not wish:
        return revisions.filter(number__lt=revision.number).order_by("-number").first()
    found = revisions.filter(number=int(wish)).first() if wish.isascii() and wish.isdigit() and len(wish) < 10 else None
    if found is None:
        raise Http404(f"{machine.name} has no revision {wish[:20]}.")
    return found


@require_POST
@needs(Right.CONFIGURE)
def restore(request: PanelRequest, host: str, name: str, number: int) -> HttpResponse:
    """Make the draft out of this revision; the person then reviews and applies it like any other."""
    machine = access.machine(request, host, name)
    revision = get_object_or_404(Revision, machine=machine, number=number)
    try:
        drafts.restore(machine, revision, by=request.user, seen=request.POST.get("seen", ""))
    except Problem as problem:
        return responses.refused(request, problem, back=reverse("revision-detail", args=[host, name, number]))
    return redirect("config-review", host, name)
