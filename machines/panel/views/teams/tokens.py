"""API tokens of the person who is signed in, and whoami, by which a program learns what its token may do."""

from django.db import IntegrityError
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from machines.models import ApiToken
from machines.panel.forms.tokens import NewTokenForm
from machines.panel.pages.teams import token_page
from machines.panel.teams import tokens
from machines.panel.web import responses
from machines.panel.web.access import SIGNED_IN, PanelRequest, needs, recently_signed_in
from machines.panel.web.bearer import accepts_tokens


@require_GET
@needs(SIGNED_IN)
def index(request: PanelRequest) -> HttpResponse:
    return render(request, "settings/tokens.html", token_page.of_person(request.user))


@require_http_methods(["GET", "POST"])
@needs(SIGNED_IN)
@recently_signed_in
def new(request: PanelRequest) -> HttpResponse:
    form = NewTokenForm(request.POST or None, by=request.user)
    if form.is_valid():
        token = form.to_token()
        try:
            value = tokens.create(token, list(form.cleaned_data["teams"]), list(form.cleaned_data["hosts"]))
            return render(request, "settings/token_made.html", {"token": token, "value": value})
        except IntegrityError:
            form.add_error("name", "You have a token of this name already.")
    status = 422 if form.is_bound else 200
    return render(request, "settings/token_new.html", {"form": form}, status=status)


@require_POST
@needs(SIGNED_IN)
def revoke(request: PanelRequest, pk: int) -> HttpResponse:
    token = get_object_or_404(ApiToken.objects.select_related("user"), pk=pk, user_id=request.user.pk)
    tokens.revoke(token, by=request.user)
    return responses.done(request, f"Token {token.name} revoked. It is refused from now on.", back="token-index")


@accepts_tokens
@require_GET
@needs(SIGNED_IN)
def whoami(request: PanelRequest) -> HttpResponse:
    return JsonResponse(token_page.whoami(request.user, getattr(request, "token", None)))
