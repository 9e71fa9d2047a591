"""Hosts shared to teams: on a team's page, on a host's, and one by itself."""

from typing import Any

from django.db import IntegrityError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from machines.contract.permissions import Permission
from machines.models import HostShare, Team
from machines.panel.forms.teams import NewShareForm, ShareForm
from machines.panel.pages.teams import share_page
from machines.panel.teams import sharing
from machines.panel.web import access, responses
from machines.panel.web.access import PanelRequest, needs


@require_GET
@needs(Permission.VIEW)
def of_host(request: PanelRequest, host: str) -> HttpResponse:
    found = access.host(request, host)
    return render(request, "hosts/teams.html", share_page.of_host(request.user, found))


@require_GET
@needs(Permission.VIEW)
def detail(request: PanelRequest, team: str, host: str) -> HttpResponse:
    return render(request, "teams/share.html", share_page.of_one(request.user, _share(request, team, host)))


@require_http_methods(["GET", "POST"])
@needs(Permission.ADMINISTER)
def new(request: PanelRequest, team: str) -> HttpResponse:
    found = access.team(request, team)
    share = HostShare(team=found)
    form = NewShareForm(request.POST or None, instance=share, team=found, initial=_asked_host(request))
    if form.is_valid():
        try:
            sharing.create(share, by=request.user)
            return responses.done(request, f"{share.host} is shared to {found.name}.", back=_url(share))
        except IntegrityError:
            form.add_error("host", "It was shared to the team meanwhile.")
    return _form(request, form, team=found)


def _asked_host(request: PanelRequest) -> dict[str, Any]:
    """The host of the page that led here."""
    name = request.GET.get("host", "").replace("\0", "")
    return {"host": access.host(request, name)} if name else {}


@require_http_methods(["GET", "POST"])
@needs(Permission.ADMINISTER)
def edit(request: PanelRequest, team: str, host: str) -> HttpResponse:
    share = _share(request, team, host)
    form = ShareForm(request.POST if request.method == "POST" else None, instance=share)
    if form.is_valid():
        sharing.change(share, by=request.user)
        return responses.done(request, "Quota saved. It takes effect immediately.", back=_url(share))
    return _form(request, form, team=share.team, share=share)


@require_http_methods(["GET", "POST"])
@needs(Permission.ADMINISTER)
def remove(request: PanelRequest, team: str, host: str) -> HttpResponse:
    share = _share(request, team, host)
    if request.method == "GET":
        return render(request, "teams/remove_share.html", share_page.parts(request.user, share))
    said = f"{share.host} is no longer shared to {share.team}."
    sharing.remove(share, by=request.user)
    return responses.done(request, said, back=reverse("team-detail", args=[team]))


def _share(request: PanelRequest, team: str, host: str) -> HostShare:
    """Raises Http404."""
    mine = HostShare.objects.filter(team__in=Team.objects.visible_to(request.user), host__removed_at=None)
    return get_object_or_404(mine.select_related("team", "host"), team__slug=team, host__name=host)


def _url(share: HostShare) -> str:
    return reverse("team-share", args=[share.team.slug, share.host.name])


def _form(request: PanelRequest, form: ShareForm, **context: Any) -> HttpResponse:
    status = 422 if form.is_bound else 200
    return render(request, "teams/share_edit.html", {"form": form, **context}, status=status)
