"""A machine's configuration: edit the draft, review it, apply it, or throw it away."""

from typing import Any

from django.db.models import prefetch_related_objects
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from machines.contract import orders
from machines.contract.permissions import Permission
from machines.contract.problems import NotAllowed, Problem
from machines.models import Machine, Revision
from machines.models.revision import without_field
from machines.panel.configs import apply_errors, diffs, drafts, presets, validation
from machines.panel.forms import configs, row_buttons, setting_sections
from machines.panel.forms.apply import ApplyForm, offered
from machines.panel.forms.configs import Configurator
from machines.panel.orders import dispatch
from machines.panel.pages import config_page, quota_page
from machines.panel.pages.machine_rows import machine_url
from machines.panel.teams.authorize import authorize
from machines.panel.web import access, press, responses
from machines.panel.web.access import PanelRequest, needs


@require_http_methods(["GET", "POST"])
@needs(Permission.VIEW)
def edit(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """The draft as a form; saving needs the permission to configure."""
    machine = access.machine(request, host, name)
    draft = drafts.current(machine)
    if request.method == "POST":
        return _save(request, machine, draft)
    if drafts.is_unmanaged(machine):
        return render(request, "configs/foreign.html", config_page.context(request, machine, draft, "config"))
    if draft:
        prefetch_related_objects([draft], "binds", "ports")  # for the form and for what is judged of it
    return _form(request, machine, draft, configs.of_draft(machine, draft))


def _save(request: PanelRequest, machine: Machine, draft: Revision | None) -> HttpResponse:
    back = _address(machine, "config-edit")
    data = row_buttons.shaped(request.POST)
    seen = data.get("seen", "")
    given = configs.of_draft(machine, draft, data)
    try:
        authorize(request.user, Permission.CONFIGURE, machine.team_id)
        if row_buttons.asked(data) or not given.is_valid():
            return _form(request, machine, draft, given, status=200 if row_buttons.asked(data) else 422, seen=seen)
        given.save_draft(machine, by=request.user, seen=seen)
    except drafts.StaleDraft as problem:
        return _conflict(request, machine, given, problem)
    except Problem as problem:
        return responses.refused(request, problem, back=back, status=403 if isinstance(problem, NotAllowed) else 409)
    if data.get("then") == "review":
        return redirect(_address(machine, "config-review"))
    return responses.done(request, "Draft saved. Nothing has been changed on the host yet.", back=back)


def _form(
    request: PanelRequest,
    machine: Machine,
    draft: Revision | None,
    given: Configurator,
    *,
    status: int = 200,
    **more: Any,
) -> HttpResponse:
    shown = config_page.context(request, machine, draft, "config")
    shown["sections"] = setting_sections.sections(given, presets.notes(machine))
    shown |= {"unshown": without_field(given.instance.base_nspawn)}
    apply_error = apply_errors.latest(draft)
    shown |= {"configurator": given, "apply_error": apply_error, **more}
    if draft and not given.form.is_bound:
        shown["marks"] = apply_errors.marks(apply_error, drafts.findings(machine, drafts.files(draft)))
    return render(request, "configs/edit.html", shown, status=status)


def _conflict(request: PanelRequest, machine: Machine, given: Configurator, problem: drafts.StaleDraft) -> HttpResponse:
    """Both versions, theirs against what was typed here. Saving again is then a decision."""
    machine = access.machine(request, machine.host.name, machine.name)
    theirs = problem.draft
    before = drafts.files(theirs or machine.applied)
    mine = diffs.Files(*given.preview())
    more = {
        "conflict": problem,
        "changes": diffs.settings(before, mine),
        "lines": diffs.unified(before.nspawn, mine.nspawn),
    }
    return _form(request, machine, theirs, given, status=409, **more)


def _address(machine: Machine, name: str) -> str:
    return reverse(name, args=[machine.host.name, machine.name])


@require_GET
@needs(Permission.VIEW)
def review(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """What applying the draft would change, setting by setting and line by line."""
    machine = access.machine(request, host, name)
    draft = drafts.current(machine)
    if draft is None:
        return redirect("config-edit", host, name)
    return _review(request, machine, draft)


def _review(
    request: PanelRequest, machine: Machine, draft: Revision, sent: ApplyForm | None = None, status: int = 200
) -> HttpResponse:
    before, after = apply_errors.replaced(machine, draft), drafts.files(draft)
    found, changes = apply_errors.found(machine, draft), diffs.settings(before, after)
    findings = [(finding, apply_errors.place_of(finding.key)) for finding in drafts.findings(machine, after)]
    left_out = validation.left_out(machine, after, before)
    shown = config_page.context(request, machine, draft, "config")
    links, quota = shown["links"], quota_page.context(machine.host, machine.team)
    shown |= {
        **quota,
        "left_out": left_out,
        "changes": changes,
        "diffs": config_page.file_diffs(machine, before, after),
        "apply_error": apply_errors.latest(draft),
        "found": config_page.three_ways(machine, draft, found) if found else None,
        "findings": findings,
        "is_refused": any(finding.refused for finding, _ in findings)
        or "not_shared" in quota
        or not all(each.is_old for each in left_out)
        or not all(link.follows for link in links),
        "form": sent or offered(machine, changes, after),
        "can_restart": machine.shown_state.is_up and any(change.effect == "restart" for change in changes),
        "may_operate": request.user.may(Permission.OPERATE),
        "hours": orders.EXPIRES_AFTER // 3600,
    }
    return render(request, "configs/review.html", shown, status=status)


@require_POST
@needs(Permission.CONFIGURE)
def clean(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Take out of the draft what systemd does not read."""
    machine = access.machine(request, host, name)
    draft, back = drafts.current(machine), _address(machine, "config-review")
    if draft is None:
        return redirect("config-edit", host, name)
    try:
        texts = validation.without_left_out(drafts.files(draft))
        drafts.save_texts(machine, texts, by=request.user, seen=request.POST.get("seen", ""))
    except Problem as problem:
        return responses.refused(request, problem, back=back)
    return responses.done(request, "Removed from the draft. Nothing has been changed on the host yet.", back=back)


@require_POST
@needs(Permission.CONFIGURE)
def apply(request: PanelRequest, host: str, name: str) -> HttpResponse:
    machine = access.machine(request, host, name)
    form = ApplyForm(request.POST)
    draft = drafts.current(machine)
    if draft and not form.is_valid():
        return _review(request, machine, draft, form, status=422)
    reason = form.cleaned_data.get("reason", "") if form.is_valid() else ""
    manner = form.manner(restart=request.POST.get("then") == "restart")
    seen = request.POST.get("seen", "")
    try:
        job = dispatch.place_once(
            press.key(request),
            lambda key: drafts.apply(machine, by=request.user, seen=seen, reason=reason, key=key, manner=manner),
        )
    except Problem as problem:
        return responses.refused(request, problem, back=_address(machine, "config-review"))
    return redirect("job-detail", job.pk)


@require_POST
@needs(Permission.CONFIGURE)
def rebase(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """The host's files were changed by hand: put the draft's changes onto them, the draft over them, or begin from them."""
    machine = access.machine(request, host, name)
    wanted = request.POST.get("take", "")
    mode = apply_errors.RebaseMode(wanted) if wanted in set(apply_errors.RebaseMode) else apply_errors.RebaseMode.OURS
    try:
        apply_errors.rebase(machine, by=request.user, seen=request.POST.get("seen", ""), mode=mode)
    except Problem as problem:
        return responses.refused(request, problem, back=_address(machine, "config-review"))
    back = _address(machine, "config-edit" if mode is apply_errors.RebaseMode.THEIRS else "config-review")
    return responses.done(request, REBASED[mode], back=back)


REBASED = {
    apply_errors.RebaseMode.MERGE: "The draft now has the host's changes and yours.",
    apply_errors.RebaseMode.OURS: "Applying the draft will overwrite the changes on the host.",
    apply_errors.RebaseMode.THEIRS: "The draft is now the same as the files on the host.",
}


@require_POST
@needs(Permission.CONFIGURE)
def discard(request: PanelRequest, host: str, name: str) -> HttpResponse:
    machine = access.machine(request, host, name)
    try:
        drafts.discard(machine, seen=request.POST.get("seen", ""))
    except Problem as problem:
        return responses.refused(request, problem, back=_address(machine, "config-review"))
    return responses.done(request, "Draft discarded.", back=machine_url(host, name))
