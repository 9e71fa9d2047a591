"""Prove that a machine's limits hold: a page, and the button that orders it."""

from functools import partial
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST

from machines.contract import orders
from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import Job, Machine
from machines.panel.orders import dispatch
from machines.panel.pages import limit_test_page, machine_page, machine_rows
from machines.panel.web import access, press, responses
from machines.panel.web.access import PanelRequest, needs


@require_GET
@needs(Permission.VIEW)
def detail(request: PanelRequest, host: str, name: str) -> HttpResponse:
    context = limit_test_page.context(request, machine_page.load(request, host, name))
    return responses.page(
        request, "limit_tests/detail.html", context, fragment="limit_tests/_limit_test.html", version=context["seen"]
    )


@require_POST
@needs(Permission.OPERATE)
def run(request: PanelRequest, host: str, name: str) -> HttpResponse:
    machine = access.machine(request, host, name)
    back = f"{machine_rows.machine_url(host, name)}limit-test/"
    try:
        job = dispatch.place_once(press.key(request), partial(_place, request, machine))
    except Problem as problem:
        return responses.refused(request, problem, back=back)
    fragment = None
    if request.htmx:
        context = limit_test_page.context(request, machine_page.load(request, host, name))
        fragment = render(request, "limit_tests/_limit_test.html", context)
    return responses.placed(request, job, f"Testing the limits of {machine.name}.", back=back, fragment=fragment)


def _place(request: PanelRequest, machine: Machine, key: UUID | None) -> Job:
    """A load is for now, not for when a host comes back. Raises Problem."""
    if machine.host.is_silent:
        raise Problem(f"{machine.host.name} is not responding.", hint="Test the limits when it is back.")
    if not machine.shown_state.runs:
        raise Problem(f"{machine.name} is not running.", hint="Start it, then test its limits.")
    return dispatch.place(orders.LimitTest(name=machine.name), on=machine.host, by=request.user, key=key)
