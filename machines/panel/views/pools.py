"""A btrfs pool for a host whose images lie on a plain file system: offered with what it means, never forced."""

from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from machines.contract import orders
from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import Job
from machines.panel.forms.pools import PoolForm
from machines.panel.hosts import host_tools, pools
from machines.panel.orders import dispatch
from machines.panel.pages import machine_rows
from machines.panel.web import access, press, responses
from machines.panel.web.access import PanelRequest, needs


@require_http_methods(["GET", "POST"])
@needs(Permission.ADMINISTER)
def new(request: PanelRequest, host: str) -> HttpResponse:
    """Say what it means, ask how large, then order it."""
    found = access.host(request, host)
    if not pools.is_offered(found, request.user):
        raise Http404(f"The images of {host} are not on a plain file system.")
    room = pools.room(found)
    form = PoolForm(request.POST or None, room=room)
    if request.method == "POST" and form.is_valid():
        try:
            job = dispatch.place_once(
                press.key(request), lambda key: dispatch.place(form.to_order(), on=found, by=request.user, key=key)
            )
        except Problem as problem:
            return responses.refused(request, problem, back=machine_rows.host_url(host))
        return redirect("job-detail", job.pk)
    under_way = Job.objects.unfinished().of(orders.Pool).filter(host=found).first()
    context = {
        "host": found,
        "url": machine_rows.host_url(host),
        "form": form,
        "room": room,
        "job": under_way,
    }
    context["lacking"] = host_tools.lacking_for(found, "pool")
    return render(request, "hosts/pool.html", context, status=422 if form.is_bound else 200)
