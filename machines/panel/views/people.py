"""Who belongs to the panel: invitations, and what administrators do with people."""

from django.db import IntegrityError
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from machines.panel.forms.people import NewPersonForm
from machines.panel.people import invitations
from machines.panel.web import access, accounts
from machines.panel.web.access import PUBLIC, PanelRequest, needs


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
