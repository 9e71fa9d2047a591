"""Bases of a host: built anew, or thrown away."""

from collections.abc import Callable
from uuid import UUID

from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from machines.contract import orders
from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.contract.recipes import WITH_BASE, FirstBoot
from machines.models import Host, Job, User
from machines.panel.images import base_images
from machines.panel.orders import dispatch
from machines.panel.web import access, press, responses
from machines.panel.web.access import PanelRequest, needs


@require_POST
@needs(Permission.BUILD)
def rebuild(request: PanelRequest, host: str, base: str) -> HttpResponse:
    """What made this base once more; the host then removes the old one."""
    found = access.host(request, host)
    return _placed(request, lambda: _maker(request, found, base), back=reverse("host-detail", args=[host]))


@require_POST
@needs(Permission.BUILD)
def of_job(request: PanelRequest, pk: int) -> HttpResponse:
    """The base of what a job built, anew on the same host."""
    return _placed(request, lambda: access.job(request, pk), back=reverse("job-detail", args=[pk]))


def _maker(request: PanelRequest, host: Host, base: str) -> Job:
    """The job that made a base. Raises Http404 for a base that is not there, Problem for one of an unknown job."""
    uuid = _base(request, host, base).uuid
    jobs = Job.objects.where_may(request.user, Permission.BUILD)
    job = jobs.filter(uuid=uuid, op__in=orders.RECIPE_OPS).first() if uuid else None
    if job is None:
        raise Problem(
            f"The panel does not know what base image {base} was built from.",
            hint="Build a machine of the same recipe again instead.",
        )
    return job


def _placed(request: PanelRequest, maker: Callable[[], Job], *, back: str) -> HttpResponse:
    try:
        made = dispatch.place_once(press.key(request), lambda key: _place(maker(), request.user, key))
    except Problem as problem:
        return responses.refused(request, problem, back=back)
    return redirect("job-detail", made.pk)


def _place(job: Job, by: User, key: UUID | None) -> Job:
    """Build the base of what this job built, with the same needs of the first boot. Raises NotAllowed, Problem."""
    order = orders.from_wire(job.order)
    if not isinstance(order, orders.Build | orders.BuildBase) or not is_based(order):
        raise Problem("That job built nothing that has a base image.")
    boot = order.first_boot
    kept = FirstBoot(locale=boot.locale, timezone=boot.timezone, user=boot.user)
    anew = orders.BuildBase(recipe=order.recipe, first_boot=kept)
    return dispatch.place(anew, on=job.host, by=by, key=key, recipe_version=job.recipe_version, team_id=job.team_id)


def is_based(order: orders.Build | orders.BuildBase) -> bool:
    return order.recipe.kind in WITH_BASE


@require_http_methods(["GET", "POST"])
@needs(Permission.BUILD)
def remove(request: PanelRequest, host: str, base: str) -> HttpResponse:
    """Say what is lost, then order the removal of a base."""
    found = access.host(request, host)
    back = reverse("host-detail", args=[host])
    if request.method == "GET":
        context = {"host": found, "base": _base(request, found, base), "back": back}
        return responses.page(request, "recipes/remove_base.html", context, fragment="recipes/_remove_base_dialog.html")
    try:
        job = dispatch.place_once(press.key(request), lambda key: _place_removal(request, found, base, key))
    except Problem as problem:
        return responses.refused(request, problem, back=back)
    return responses.placed(request, job, f"Removing base {base} of {host}.", back=back)


def _place_removal(request: PanelRequest, host: Host, base: str, key: UUID | None) -> Job:
    """Raises NotAllowed where it was built for another team, or for nobody that is known."""
    found = _base(request, host, base)
    maker = Job.objects.filter(uuid=found.uuid).first() if found.uuid else None
    order, team_id = orders.RemoveBase(base=found.id), maker.team_id if maker else None
    return dispatch.place(order, on=host, by=request.user, key=key, team_id=team_id)


def _base(request: PanelRequest, host: Host, name: str) -> base_images.Base:
    """Raises Http404 when the host has told of no such base, or it is another team's."""
    for base in base_images.visible_to(request.user, base_images.of_host(host.name, host.facts.get("bases"))):
        if base.id == name:
            return base
    raise Http404(f"{host.name} has no base image {name[:20]}.")
