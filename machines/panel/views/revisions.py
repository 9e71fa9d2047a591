"""The numbered configurations a machine had, compared, and brought back as a draft."""

from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import Machine, Revision
from machines.panel.configs import diffs, drafts
from machines.panel.pages.config_page import context, file_diffs
from machines.panel.web import access, responses
from machines.panel.web.access import PanelRequest, needs

SHOWN = 200


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest, host: str, name: str) -> HttpResponse:
    machine = access.machine(request, host, name)
    revisions = list(_numbered(machine).prefetch_related("jobs")[:SHOWN])
    shown = context(request, machine, drafts.current(machine), "revisions") | {"revisions": revisions}
    return render(request, "revisions/index.html", shown)


def _numbered(machine: Machine):  # type: ignore[no-untyped-def]  # a QuerySet of values the stubs cannot name
    heavy = ("nspawn_text", "limits_text", "base_nspawn", "base_limits")
    return Revision.objects.filter(machine=machine, number__isnull=False).defer(*heavy)


@require_GET
@needs(Permission.VIEW)
def detail(request: PanelRequest, host: str, name: str, number: int) -> HttpResponse:
    """One revision, and how it differs from the one before it or from `?against=`."""
    machine = access.machine(request, host, name)
    revision = get_object_or_404(Revision, machine=machine, number=number)
    against = _against(machine, revision, request.GET.get("against", ""))
    before, after = drafts.files(against), drafts.files(revision)
    shown = context(request, machine, drafts.current(machine), "revisions") | {
        "revision": revision,
        "against": against,
        "title": f"Revision {against.number} → revision {number}" if against else f"Revision {number}",
        "others": _numbered(machine).exclude(pk=revision.pk).values_list("number", flat=True)[:SHOWN],
        "changes": diffs.settings(before, after),
        "diffs": file_diffs(machine, before, after),
        "job": revision.jobs.order_by("-id").first(),
    }
    return render(request, "revisions/detail.html", shown)


@require_GET
@needs(Permission.VIEW)
def compare(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Any two revisions side by side, ?a= and ?b=; the older one stands on the left whichever was ticked first."""
    machine = access.machine(request, host, name)
    ticked = request.GET.getlist("tick")
    wanted_numbers = ticked or [request.GET.get("a", ""), request.GET.get("b", "")]
    if len(wanted_numbers) != 2 or not all(wanted_numbers):
        messages.info(request, "Tick two revisions to compare them.")
        return redirect("revision-index", host, name)
    if ticked:
        low, high = sorted(wanted_numbers, key=lambda wanted: (len(wanted), wanted))
        return redirect(f"{reverse('revision-compare', args=[host, name])}?{urlencode({'a': low, 'b': high})}")
    a, b = (_numbered_so(machine, wanted) for wanted in wanted_numbers)
    before, after = drafts.files(a), drafts.files(b)
    first, last = sorted((a.number or 0, b.number or 0))
    shown = context(request, machine, drafts.current(machine), "revisions") | {
        "a": a,
        "b": b,
        "title": "Settings",
        "numbers": _numbered(machine).values_list("number", flat=True)[:SHOWN],
        "changes": diffs.settings(before, after),
        "diffs": file_diffs(machine, before, after),
        "between": _numbered(machine).filter(number__gt=first, number__lte=last)[:SHOWN],
    }
    return render(request, "revisions/compare.html", shown)


def _against(machine: Machine, revision: Revision, wanted: str) -> Revision | None:
    """The revision to compare with. Raises Http404 when it does not exist; None before the first one."""
    revisions = Revision.objects.filter(machine=machine)
    if not wanted:
        return revisions.filter(number__lt=revision.number).order_by("-number").first()
    return _numbered_so(machine, wanted)


def _numbered_so(machine: Machine, wanted: str) -> Revision:
    """The revision of a number somebody typed or ticked. Raises Http404."""
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 10 else None
    found = Revision.objects.filter(machine=machine, number=number).first() if number is not None else None
    if found is None:
        raise Http404(f"{machine.name} has no revision {wanted[:20]}.")
    return found


@require_POST
@needs(Permission.CONFIGURE)
def restore(request: PanelRequest, host: str, name: str, number: int) -> HttpResponse:
    """Make the draft out of this revision; the person then reviews and applies it like any other."""
    machine = access.machine(request, host, name)
    revision = get_object_or_404(Revision, machine=machine, number=number)
    try:
        drafts.restore(machine, revision, by=request.user, seen=request.POST.get("seen", ""))
    except Problem as problem:
        return responses.refused(request, problem, back=reverse("revision-detail", args=[host, name, number]))
    return redirect("config-review", host, name)
