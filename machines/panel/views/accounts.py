"""What people set for themselves."""

from django.http import HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST
from django_htmx.http import HttpResponseClientRefresh

from machines.contract.permissions import Permission
from machines.models import User
from machines.panel.web import access
from machines.panel.web.access import PanelRequest, needs


@require_POST
@needs(Permission.VIEW)
def theme(request: PanelRequest) -> HttpResponse:
    """Light, dark, or what the system says; then back to where the person was."""
    wanted, back = request.POST.get("theme", ""), request.POST.get("next", "")
    if wanted not in User.Theme:
        return HttpResponseBadRequest("Choose system, light or dark.")
    request.user.theme = wanted
    request.user.save(update_fields=["theme"])
    if request.htmx:
        return HttpResponseClientRefresh()
    return HttpResponseRedirect(back if access.is_page(back) else reverse("machine-index"))


def out_of_date(request: PanelRequest, **_: str) -> HttpResponse:
    """A form of a page that was opened before somebody signed in anew, or in a browser that lost its cookies."""
    if not access.signed_in(request):
        return access.to_login(request)
    if request.htmx:
        said = "This page is out of date. Reload it, then try again."
        return HttpResponse(said, status=403, content_type="text/plain; charset=utf-8")
    return render(request, "403_csrf.html", {"back": access.page_of(request)}, status=403)
