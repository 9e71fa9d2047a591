"""What a person may do here, and why."""

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from machines.panel.pages.teams import permission_page
from machines.panel.web.access import SIGNED_IN, PanelRequest, needs


@require_GET
@needs(SIGNED_IN)
def index(request: PanelRequest) -> HttpResponse:
    """One's own without `?person=`; who may look at whom is the page's rule."""
    person = permission_page.find(request.user, request.GET.get("person", "").replace("\0", ""))
    return render(request, "teams/permissions.html", permission_page.context(request.user, person))
