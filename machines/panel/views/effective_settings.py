"""What holds for a machine: every setting wanted, on disk and in force; and what to do about files changed by hand."""

from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import Machine, ObservedFiles
from machines.panel.configs import drafts, drift, effective_settings, external_limits
from machines.panel.orders import dispatch
from machines.panel.pages import config_page, effective_settings_page, machine_rows
from machines.panel.web import access, press, responses
from machines.panel.web.access import PanelRequest, needs


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest, host: str, name: str) -> HttpResponse:
    machine = access.machine(request, host, name)
    found = ObservedFiles.objects.filter(machine=machine).first()
    everything = request.GET.get("all") == "1"
    shown = config_page.context(request, machine, drafts.current(machine), "holds")
    shown |= effective_settings_page.context(machine, found, everything=everything) | {
        "everything": everything,
        "address": reverse("config-effective", args=[host, name]),
        "fragment": responses.wants_fragment(request),
    }
    version = machine_rows.version(
        [getattr(machine, field.attname) for field in Machine._meta.concrete_fields if field.name not in config_page.PASSING],
        found and (found.told, found.shown, found.kernel, found.inside, found.needs_reload, found.lacks),
        (everything, shown["state"], shown["holder"] and shown["holder"].pk, shown["seen"]),
        (machine.host.trouble, [machine.host.facts.get(name) for name in ("policy", *effective_settings.DEPENDS_ON_HOST)]),
    )  # fmt: skip
    return responses.page(request, "configs/effective.html", shown, fragment="configs/_effective.html", version=version)


def _back(host: str, name: str) -> str:
    return reverse("config-effective", args=[host, name])


@require_POST
@needs(Permission.CONFIGURE)
def adopt(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Take over what is on the host as a revision. Nothing is written there."""
    machine = access.machine(request, host, name)
    try:
        revision = drift.adopt(machine, by=request.user, seen=request.POST.get("seen", ""))
    except Problem as problem:
        return responses.refused(request, problem, back=_back(host, name))
    said = f"The files on {host} are now revision {revision.number}. Nothing was changed there."
    return responses.done(request, said, back=_back(host, name))


@require_POST
@needs(Permission.CONFIGURE)
def reapply(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Put the applied revision over what is on the host."""
    machine = access.machine(request, host, name)
    seen = request.POST.get("seen", "")
    try:
        job = dispatch.place_once(
            press.key(request), lambda key: drift.reapply(machine, by=request.user, seen=seen, key=key)
        )
    except Problem as problem:
        return responses.refused(request, problem, back=_back(host, name))
    number = machine.applied.number if machine.applied else ""
    return responses.placed(request, job, f"Applying revision {number} again.", back=_back(host, name))


@require_POST
@needs(Permission.CONFIGURE)
def ignore(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Leave the files as they are until one changes again."""
    machine = access.machine(request, host, name)
    try:
        drift.ignore(machine, by=request.user, seen=request.POST.get("seen", ""))
    except Problem as problem:
        return responses.refused(request, problem, back=_back(host, name))
    said = "Ignored. You will be told again when a file changes."
    return responses.done(request, said, back=_back(host, name))


@require_POST
@needs(Permission.CONFIGURE)
def import_limits(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Put the limits that others set into a draft of ours."""
    machine = access.machine(request, host, name)
    paths, sums = request.POST.getlist("path"), request.POST.getlist("sha256")
    try:
        external_limits.import_limits(
            machine, by=request.user, paths=paths, sums=sums, seen=request.POST.get("seen", "")
        )
    except Problem as problem:
        return responses.refused(request, problem, back=_back(host, name))
    return redirect("config-review", host, name)


@require_POST
@needs(Permission.CONFIGURE)
def remove_dropin(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Order away a file in which somebody set limits."""
    machine = access.machine(request, host, name)
    path, sha256 = request.POST.get("path", ""), request.POST.get("sha256", "")
    try:
        job = dispatch.place_once(
            press.key(request),
            lambda key: external_limits.remove(machine, by=request.user, path=path, sha256=sha256, key=key),
        )
    except Problem as problem:
        return responses.refused(request, problem, back=_back(host, name))
    return responses.placed(request, job, f"Removing {path}.", back=_back(host, name))
