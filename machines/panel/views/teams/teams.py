"""Teams: the list, one with its people, and what its owners and administrators change of it."""

from typing import Any

from django.db import IntegrityError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import Membership, Team
from machines.panel.forms.teams import TAKEN, ConfirmTeamForm, MemberForm, NewMemberForm, NewTeamForm, TeamForm
from machines.panel.pages.teams import team_page
from machines.panel.people import members
from machines.panel.teams import teams
from machines.panel.web import access, responses, shown_team
from machines.panel.web.access import PanelRequest, needs, recently_signed_in


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest) -> HttpResponse:
    return render(request, "teams/index.html", team_page.of_all(request.user))


@require_GET
@needs(Permission.VIEW)
def detail(request: PanelRequest, team: str) -> HttpResponse:
    found = get_object_or_404(teams.with_contents(Team.objects.visible_to(request.user)), slug=team)
    context = team_page.of_one(request.user, found)
    return render(request, "teams/detail.html", context)


def _url(team: Team) -> str:
    return reverse("team-detail", args=[team.slug])


@require_POST
@needs(Permission.VIEW)
def show(request: PanelRequest) -> HttpResponse:
    """Let lists show one team's things, or with no team those of all; from then on in this session."""
    slug, back = request.POST.get("team", "").replace("\0", ""), request.POST.get("next", "")
    if slug:
        get_object_or_404(Team.objects.visible_to(request.user), slug=slug)
    shown_team.choose(request, slug)
    return responses.redirect_to(request, back if access.is_page(back) else reverse("machine-index"))


# --- the team itself


@require_http_methods(["GET", "POST"])
@needs(Permission.ADMINISTER)
def new(request: PanelRequest) -> HttpResponse:
    form = NewTeamForm(request.POST or None)
    if form.is_valid():
        made = Team(**form.cleaned_data)
        try:
            teams.create(made, by=request.user)
            return responses.done(request, f"Team {made.name} created. Nobody is in it yet.", back=_url(made))
        except IntegrityError:
            form.add_error(None, "Another team of this name or short name was created meanwhile.")
    return _form(request, form, "teams/new.html")


@require_http_methods(["GET", "POST"])
@needs(Permission.MANAGE)
def edit(request: PanelRequest, team: str) -> HttpResponse:
    found = access.team(request, team)
    form = TeamForm(request.POST or None, instance=found)
    if form.is_valid():
        try:
            teams.change(found, by=request.user, **form.cleaned_data)
            return responses.done(request, "Team saved.", back=_url(found))
        except IntegrityError:
            form.add_error("name", TAKEN)
    shown = access.team(request, team)  # a form that is wrong has written into its own
    return _form(request, form, "teams/edit.html", team=shown)


@require_http_methods(["GET", "POST"])
@needs(Permission.ADMINISTER)
@recently_signed_in
def delete(request: PanelRequest, team: str) -> HttpResponse:
    found = get_object_or_404(teams.with_contents(Team.objects.all()), slug=team)
    form = ConfirmTeamForm(request.POST if request.method == "POST" else None, team=found)
    if form.is_valid():
        try:
            teams.delete(found, by=request.user)
        except Problem as problem:
            return responses.refused(request, problem, back=_url(found))
        return responses.done(request, f"Team {found.name} deleted.", back="team-index")
    return _form(request, form, "teams/delete.html", team=found, items=team_page.what_goes(found))


def _form(request: PanelRequest, form: Any, template: str, **context: Any) -> HttpResponse:
    return render(request, template, {"form": form, **context}, status=422 if form.is_bound else 200)


# --- its people


@require_http_methods(["GET", "POST"])
@needs(Permission.MANAGE)
@recently_signed_in
def add_member(request: PanelRequest, team: str) -> HttpResponse:
    """Somebody who has an account, by the exact name: no page lists everybody to owners."""
    found = access.team(request, team)
    form = NewMemberForm(request.POST or None)
    if form.is_valid():
        name, role = form.cleaned_data["name"], form.cleaned_data["role"]
        try:
            members.add(found, name, role, by=request.user, **form.rights())
            return responses.done(request, f"{name} is now {role} of {found.name}.", back=_url(found))
        except Problem as problem:
            form.add_error("name", f"{problem.message} {problem.hint}".strip())
    return _form(request, form, "teams/member.html", team=found)


@require_http_methods(["GET", "POST"])
@needs(Permission.MANAGE)
@recently_signed_in
def edit_member(request: PanelRequest, team: str, pk: int) -> HttpResponse:
    found = access.team(request, team)
    member = _member(found, pk)
    form = MemberForm(request.POST or None, instance=member)
    if form.is_valid():
        try:
            members.change(member, form.cleaned_data["role"], by=request.user, **form.rights())
        except Problem as problem:
            return responses.refused(request, problem, back=_url(found))
        said = f"{member.user} is now {member.role} of {found.name}. It takes effect immediately."
        return responses.done(request, said, back=_after(request, found))
    return _form(request, form, "teams/member.html", team=found, member=member)


@require_http_methods(["GET", "POST"])
@needs(Permission.MANAGE)
@recently_signed_in
def remove_member(request: PanelRequest, team: str, pk: int) -> HttpResponse:
    found = access.team(request, team)
    member = _member(found, pk)
    if request.method == "GET":
        return render(request, "teams/remove_member.html", {"team": found, "member": member})
    try:
        members.remove(member, by=request.user)
    except Problem as problem:
        return responses.refused(request, problem, back=_url(found))
    return responses.done(request, f"{member.user} removed from {found.name}.", back=_after(request, found))


@require_http_methods(["GET", "POST"])
@needs(Permission.VIEW)
def leave(request: PanelRequest, team: str) -> HttpResponse:
    found = access.team(request, team)
    if request.method == "GET":
        return render(request, "teams/leave.html", {"team": found})
    try:
        members.leave(found, request.user)
    except Problem as problem:
        return responses.refused(request, problem, back=_url(found))
    request.user.forget_grants()
    return responses.done(request, f"You left {found.name}.", back=_after(request, found))


def _member(team: Team, pk: int) -> Membership:
    return get_object_or_404(Membership.objects.select_related("team", "user"), team=team, pk=pk)


def _after(request: PanelRequest, team: Team) -> str:
    """The page of a team that this person has perhaps left by that very act."""
    request.user.forget_grants()
    if request.user.may_in(Permission.VIEW, team.pk):
        return _url(team)
    return reverse("team-index") if request.user.may(Permission.VIEW) else reverse("profile")
