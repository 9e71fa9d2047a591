"""The draft as text: both files of a machine, word for word. The form and this page edit the same draft."""

from typing import Any

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from machines.contract.configuration import nspawn
from machines.contract.permissions import Permission
from machines.contract.problems import NotAllowed, Problem
from machines.models import Machine, Revision
from machines.models.revision import without_field
from machines.panel.configs import apply_errors, diffs, drafts
from machines.panel.forms.raw import RawForm
from machines.panel.pages import config_page
from machines.panel.teams.authorize import authorize
from machines.panel.web import access, responses
from machines.panel.web.access import PanelRequest, needs

NEXT = {"review": "config-review", "form": "config-edit", "": "config-raw"}


@require_http_methods(["GET", "POST"])
@needs(Permission.VIEW)
def raw(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Saving needs the permission to configure."""
    machine = access.machine(request, host, name)
    draft = drafts.current(machine)
    if drafts.is_unmanaged(machine):
        return redirect("config-edit", host, name)
    now = drafts.files(draft) if draft else diffs.Files(*_texts_of(drafts.new(machine)))
    if request.method == "POST":
        return _save(request, machine, draft, now)
    return _page(request, machine, draft, RawForm(nspawn=now.nspawn, limits=now.limits))


def _texts_of(fresh: Revision) -> tuple[str, str]:
    """What a new draft would write: without rows in the database, those of the text it was made from."""
    return (fresh.base_nspawn or fresh.render_nspawn([], []), fresh.render_limits())


def _save(request: PanelRequest, machine: Machine, draft: Revision | None, now: diffs.Files) -> HttpResponse:
    given, seen = RawForm(request.POST, nspawn=now.nspawn, limits=now.limits), request.POST.get("seen", "")
    here = reverse("config-raw", args=[machine.host.name, machine.name])
    try:
        authorize(request.user, Permission.CONFIGURE, machine.team_id)
        if not given.is_valid():
            return _page(request, machine, draft, given, status=422, seen=seen)
        texts = diffs.Files(given.cleaned_data["nspawn"], given.cleaned_data["limits"])
        drafts.save_texts(machine, texts, by=request.user, seen=seen)
    except drafts.StaleDraft as problem:
        return _conflict(request, machine, given, problem)
    except Problem as problem:
        return responses.refused(request, problem, back=here, status=403 if isinstance(problem, NotAllowed) else 409)
    then = request.POST.get("then", "")
    if then == "review":
        return redirect("config-review", machine.host.name, machine.name)
    back = reverse(NEXT.get(then, "config-raw"), args=[machine.host.name, machine.name])
    return responses.done(request, "Draft saved. Nothing has been changed on the host yet.", back=back)


def _page(
    request: PanelRequest, machine: Machine, draft: Revision | None, given: RawForm, *, status: int = 200, **more: Any
) -> HttpResponse:
    shown = config_page.context(request, machine, draft, "config") | {
        "form": given,
        "parts": [
            (given["nspawn"], f"/etc/systemd/nspawn/{machine.name}.nspawn", given.remarks["nspawn"]),
            (given["limits"], config_page.dropin_path(machine), given.remarks["limits"]),
        ],
        "unshown": without_field(str(given.initial["nspawn"])),
        "apply_error": apply_errors.latest(draft),
    }
    return render(request, "configs/raw.html", shown | more, status=status)


def _conflict(request: PanelRequest, machine: Machine, given: RawForm, problem: drafts.StaleDraft) -> HttpResponse:
    """Both versions, theirs against what was typed here. Saving again is then a decision."""
    machine = access.machine(request, machine.host.name, machine.name)
    theirs = problem.draft
    before = drafts.files(theirs or machine.applied)
    mine = diffs.Files(*(nspawn.unmark(str(given.cleaned_data[name])) for name in ("nspawn", "limits")))
    changes = diffs.settings(before, mine)
    return _page(request, machine, theirs, given, status=409, conflict=problem, changes=changes)
