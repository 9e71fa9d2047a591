"""Bases of a host: built anew, or thrown away."""

from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from machines.contract import orders
from machines.contract.permissions import Right
from machines.contract.problems import NotAllowed, Problem
from machines.contract.recipes import WITH_BASE, FirstBoot
from machines.models import Host, Job
from machines.panel.images import base_images
from machines.panel.orders import dispatch
from machines.panel.pages.job_page import read_key
from machines.panel.web import access, responses
from machines.panel.web.access import PanelRequest, needs


@require_POST
@needs(Right.BUILD)
def rebuild(request: PanelRequest, host: str, base: str) -> HttpResponse:
    """What made this base once more; the host then removes the old one."""
    found = access.host(request, host)
    uuid = _base(found, base).uuid
    job = Job.objects.filter(uuid=uuid, op__in=orders.RECIPE_OPS).first() if uuid else None
    if job is None:
        said = Problem(
            f"The panel does not know what base {base} was made of.",
            hint="Build a machine of the same recipe anew instead.",
        )
        return responses.refused(request, said, back=reverse("host-detail", args=[host]))
    return place(request, job, back=reverse("host-detail", args=[host]))


@require_POST
@needs(Right.BUILD)
def of_job(request: PanelRequest, pk: int) -> HttpResponse:
    """The base of what a job built, anew on the same host."""
    return place(request, access.job(request, pk), back=reverse("job-detail", args=[pk]))


def place(request: PanelRequest, job: Job, *, back: str) -> HttpResponse:
    """Build the base of what this job built, with the same needs of the first boot."""
    try:
        order = orders.from_wire(job.order)
        if not isinstance(order, orders.Build | orders.BuildBase) or not is_based(order):
            raise Problem("That job made nothing that has a base.")
        boot = order.first_boot
        kept = FirstBoot(locale=boot.locale, timezone=boot.timezone, user=boot.user)
        anew = orders.BuildBase(recipe=order.recipe, first_boot=kept)
        made = dispatch.place(
            anew,
            on=job.host,
            by=request.user,
            key=read_key(request.POST.get("key", "")),
            recipe_version=job.recipe_version,
        )
    except (NotAllowed, Problem) as problem:
        return responses.refused(request, problem, back=back)
    return redirect("job-detail", made.pk)


def is_based(order: orders.Build | orders.BuildBase) -> bool:
    return order.recipe.kind in WITH_BASE


@require_http_methods(["GET", "POST"])
@needs(Right.BUILD)
def remove(request: PanelRequest, host: str, base: str) -> HttpResponse:
    """Say what is lost, then order the removal of a base."""
    found = access.host(request, host)
    there = _base(found, base)
    back = reverse("host-detail", args=[host])
    if request.method == "GET":
        context = {"host": found, "base": there, "back": back}
        return responses.page(request, "recipes/discard.html", context, fragment="recipes/_discard_dialog.html")
    try:
        job = dispatch.place(orders.RemoveBase(base=there.id), on=found, by=request.user)
    except (NotAllowed, Problem) as problem:
        return responses.refused(request, problem, back=back)
    return responses.placed(request, job, f"Removing base {there.id} of {host}.", back=back)


def _base(host: Host, name: str) -> base_images.Base:
    """Raises Http404 when the host has told of no such base."""
    for base in base_images.of_host(host.name, host.facts.get("bases")):
        if base.id == name:
            return base
    raise Http404(f"{host.name} has no base {name[:20]}.")
