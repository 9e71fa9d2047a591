"""Events: who brought, took and removed archives, what hosts joined, which messages were refused."""

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from machines.contract.permissions import Permission
from machines.panel.pages import event_list
from machines.panel.web.access import PanelRequest, needs


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest) -> HttpResponse:
    return render(request, "events/index.html", {"page": event_list.page(request.GET)})
