"""Whose machines are: those that are nobody's, and giving some to a team."""

from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render, resolve_url
from django.views.decorators.http import require_GET, require_http_methods

from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import Machine, Team
from machines.panel.configs import ownership
from machines.panel.pages import machine_rows
from machines.panel.pages.teams import claim_page
from machines.panel.web import responses
from machines.panel.web.access import PanelRequest, needs


@require_GET
@needs(Permission.ADMINISTER)
def unclaimed(request: PanelRequest) -> HttpResponse:
    return render(request, "teams/unclaimed.html", claim_page.unclaimed())


@require_http_methods(["GET", "POST"])
@needs(Permission.ADMINISTER)
def assign(request: PanelRequest) -> HttpResponse:
    """First what it means, then it is done. Without a team it asks for one."""
    given = request.POST if request.method == "POST" else request.GET
    machines = _chosen(given.getlist("machine"))
    if not machines:
        return responses.done(request, "Choose at least one machine.", back="machine-unclaimed")
    word = given.get("team", "").replace("\0", "")
    team = get_object_or_404(Team, slug=word) if word and not given.get("release") else None
    if request.method == "POST" and (team or given.get("release")):
        return _assigned(request, machines, team)
    context = {
        "machines": machines,
        "team": team,
        "release": bool(given.get("release")),
        "teams": list(Team.objects.all()[: claim_page.SHOWN]),
        "back": _back(machines),
    }
    return render(request, "teams/assign.html", context | claim_page.effects(machines, team))


def _assigned(request: PanelRequest, machines: list[Machine], team: Team | None) -> HttpResponse:
    try:
        moved = ownership.assign([machine.pk for machine in machines], team, by=request.user)
    except Problem as problem:
        return responses.refused(request, problem, back=_back(machines))
    what = moved[0].name if len(moved) == 1 else f"{len(moved)} machines"
    verb = "belongs" if len(moved) == 1 else "belong"
    return responses.done(request, f"{what} now {verb} to {team.name if team else 'nobody'}.", back=_back(machines))


def _back(machines: list[Machine]) -> str:
    """The page of the one machine, or the list of those that are nobody's."""
    if len(machines) == 1:
        return machine_rows.machine_url(machines[0].host.name, machines[0].name)
    return resolve_url("machine-unclaimed")


def _chosen(numbers: list[str]) -> list[Machine]:
    keys = [int(n) for n in numbers[: ownership.AT_ONCE] if n.isascii() and n.isdigit() and len(n) < 16]
    found = Machine.objects.listed().filter(pk__in=keys).select_related("host", "team")
    return list(found.order_by("host__name", "name"))
