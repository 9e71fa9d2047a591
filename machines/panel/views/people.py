"""Who belongs to the panel: invitations, and what administrators do with people."""

from collections.abc import Callable
from typing import Any

from django.db import IntegrityError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import User
from machines.panel.forms.people import InvitationForm, NewPersonForm
from machines.panel.people import invitations, resets, roster
from machines.panel.web import access, accounts, responses
from machines.panel.web.access import PUBLIC, PanelRequest, needs, recently_signed_in


@sensitive_post_parameters("password", "again")
@require_http_methods(["GET", "POST"])
@needs(PUBLIC)
def accept(request: PanelRequest, token: str) -> HttpResponse:
    """Whoever has the link chooses name and password, and is in."""
    try:
        invitation = invitations.find(token)
        if access.signed_in(request):
            return render(request, "people/signed_in.html", {"invitation": invitation}, status=409)
        form = NewPersonForm(request.POST or None)
        if form.is_valid():
            return accounts.sign_in(request, invitations.accept(token, form.cleaned_data))
    except invitations.NotGood as problem:
        return render(request, "people/not_good.html", {"problem": problem}, status=410)
    except IntegrityError:
        form.add_error("username", "Somebody else took this name this moment. Choose another one.")
    offered = invitations.described(invitations.offer_of(invitation))
    context = {"form": form, "invitation": invitation, "offered": offered}
    return render(request, "people/accept.html", context, status=422 if form.is_bound else 200)


# --- people


@require_GET
@needs(Permission.ADMINISTER)
def index(request: PanelRequest) -> HttpResponse:
    text = request.GET.get("q", "").replace("\0", "").strip()[:100]
    found = list(roster.listed(text)[: roster.MOST + 1])
    more = len(found) > roster.MOST
    return render(request, "people/index.html", {"people": found[: roster.MOST], "more": more, "text": text})


@require_GET
@needs(Permission.ADMINISTER)
def detail(request: PanelRequest, pk: int) -> HttpResponse:
    return render(request, "people/detail.html", _page_of(pk))


def _page_of(pk: int, **more: Any) -> dict[str, Any]:
    return {"person": get_object_or_404(roster.listed(""), pk=pk), **more}


def _change(
    request: PanelRequest, pk: int, change: Callable[[User], object], said: Callable[[User, Any], str]
) -> HttpResponse:
    """Do it and say so, or say why not."""
    person, back = get_object_or_404(User, pk=pk), reverse("person-detail", args=[pk])
    try:
        result = change(person)
    except Problem as problem:
        return responses.refused(request, problem, back=back)
    return responses.done(request, said(person, result), back=back)


@require_POST
@needs(Permission.ADMINISTER)
@recently_signed_in
def make_administrator(request: PanelRequest, pk: int) -> HttpResponse:
    return _change(
        request, pk, lambda person: roster.make_administrator(person, by=request.user),
        lambda person, _: f"{person.username} is an administrator of the installation now.",
    )  # fmt: skip


@require_POST
@needs(Permission.ADMINISTER)
@recently_signed_in
def unmake_administrator(request: PanelRequest, pk: int) -> HttpResponse:
    return _change(
        request, pk, lambda person: roster.unmake_administrator(person, by=request.user),
        lambda person, _: f"{person.username} is no longer an administrator.",
    )  # fmt: skip


@require_POST
@needs(Permission.ADMINISTER)
@recently_signed_in
def disable(request: PanelRequest, pk: int) -> HttpResponse:
    return _change(
        request, pk, lambda person: roster.disable(person, by=request.user),
        lambda person, orders: f"{person.username} is disabled and signed out. Waiting orders cancelled: {orders}.",
    )  # fmt: skip


@require_POST
@needs(Permission.ADMINISTER)
@recently_signed_in
def enable(request: PanelRequest, pk: int) -> HttpResponse:
    return _change(
        request, pk, lambda person: roster.enable(person, by=request.user),
        lambda person, _: f"{person.username} can sign in again.",
    )  # fmt: skip


@require_POST
@needs(Permission.ADMINISTER)
@recently_signed_in
def reset_factor(request: PanelRequest, pk: int) -> HttpResponse:
    return _change(
        request, pk, lambda person: resets.forget_second_factor(person, by=request.user),
        lambda person, _: f"{person.username} signs in with the password alone until they set up a second factor again.",
    )  # fmt: skip


@require_POST
@needs(Permission.ADMINISTER)
@recently_signed_in
def reset_link(request: PanelRequest, pk: int) -> HttpResponse:
    """The link stands on this answer and nowhere else."""
    context = _page_of(pk)
    try:
        roster.may_be_reset(context["person"], by=request.user)
    except Problem as problem:
        return responses.refused(request, problem, back=reverse("person-detail", args=[pk]))
    link = request.build_absolute_uri(resets.link(context["person"], by=request.user))
    return render(request, "people/detail.html", {**context, "link": link})


# --- invitations


@require_http_methods(["GET", "POST"])
@needs(Permission.MANAGE)
@recently_signed_in
def invite(request: PanelRequest) -> HttpResponse:
    """The open ones, and a new one, whose link stands on this answer and nowhere else."""
    form = InvitationForm(request.POST or None, by=request.user)
    link = ""
    if form.is_valid():
        try:
            made = invitations.invite(
                form.to_offer(), by=request.user, days=form.cleaned_data["days"], note=form.cleaned_data["note"]
            )
            link, form = request.build_absolute_uri(made), InvitationForm(by=request.user)
        except Problem as problem:
            form.add_error(None, f"{problem.message} {problem.hint}")
    still_open = invitations.visible_to(request.user)[: invitations.MOST_LISTED]
    context = {"form": form, "link": link, "invitations": still_open}
    return render(request, "people/invitations.html", context, status=422 if form.errors else 200)


@require_POST
@needs(Permission.MANAGE)
def withdraw(request: PanelRequest, pk: int) -> HttpResponse:
    invitation = get_object_or_404(invitations.visible_to(request.user), pk=pk)
    invitations.withdraw(invitation, by=request.user)
    return responses.done(request, "Invitation withdrawn. Its link no longer works.", back="invitation-index")
