"""The page of a panel that was restored from an older copy: what differs, and the confirmation."""

from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from machines.contract.permissions import Permission
from machines.contract.problems import NotAllowed, Problem
from machines.panel.pages import restored
from machines.panel.web import responses
from machines.panel.web.access import PanelRequest, needs


@require_GET
@needs(Permission.ADMINISTER)
def index(request: PanelRequest) -> HttpResponse:
    """For administrators: it names waiting requests and machines of everybody."""
    copy = restored.row()
    context = restored.context(copy) | {"seen": restored.stamp(copy)} if copy else {}
    return render(request, "restored/index.html", context)


@require_POST
@needs(Permission.ADMINISTER)
def confirm(request: PanelRequest) -> HttpResponse:
    back = reverse("restored")
    try:
        withdrawn = restored.confirm(
            by=request.user, seen=request.POST.get("seen", ""), keep=_numbers(request, "keep"),
            shown=_numbers(request, "shown"),
        )  # fmt: skip
    except NotAllowed as problem:
        return responses.refused(request, problem, back=back, status=403)
    except Problem as problem:
        return responses.refused(request, problem, back=back)
    orders = (
        f"{withdrawn} waiting request{'' if withdrawn == 1 else 's'} withdrawn" if withdrawn else "no request withdrawn"
    )
    return responses.done(request, f"Confirmed, {orders}. Requests are sent again.", back=reverse("job-index"))


def _numbers(request: PanelRequest, name: str) -> set[int]:
    """What of the ticked boxes is a number of a job."""
    return {int(text) for text in request.POST.getlist(name) if text.isascii() and text.isdigit() and len(text) < 15}
