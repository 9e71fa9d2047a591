"""The doctor: what is wrong with a host or a machine, why it has no address, and the few things fixed by a button."""

from typing import Any

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST

from machines.contract import orders
from machines.contract.configuration.findings import FIXES
from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import Host
from machines.panel.orders import dispatch
from machines.panel.pages import doctor_page, machine_page, machine_rows
from machines.panel.web import access, press, responses
from machines.panel.web.access import PanelRequest, needs


@require_GET
@needs(Permission.ADMINISTER)
def host(request: PanelRequest, host: str) -> HttpResponse:
    return _page(request, _host_context(request, access.host(request, host)))


@require_GET
@needs(Permission.VIEW)
def machine(request: PanelRequest, host: str, name: str) -> HttpResponse:
    return _page(request, _machine_context(request, host, name))


def _page(request: PanelRequest, context: dict[str, Any]) -> HttpResponse:
    return responses.page(
        request, "doctor/detail.html", context, fragment="doctor/_doctor.html", version=context["seen"]
    )


def _host_context(request: PanelRequest, found: Host) -> dict[str, Any]:
    url = machine_rows.host_url(found.name)
    return doctor_page.context(request, found, "") | {"url": url, "state": found.state().value}


def _machine_context(request: PanelRequest, host_name: str, name: str) -> dict[str, Any]:
    found = machine_page.load(request, host_name, name)
    actions = machine_page.actions(request, found)
    context = actions | doctor_page.context(request, found.host, found.name)
    seen = machine_rows.version(context["seen"], actions["state"], found.addresses, actions["doing"])
    return context | {"seen": seen, "has_draft": getattr(found, "has_draft", False)}


@require_POST
@needs(Permission.ADMINISTER)
def diagnose_host(request: PanelRequest, host: str) -> HttpResponse:
    found = access.host(request, host)
    return _ordered(request, found, orders.Diagnose(), f"Running diagnostics on {found.name}.")


@require_POST
@needs(Permission.OPERATE)
def diagnose_machine(request: PanelRequest, host: str, name: str) -> HttpResponse:
    found = access.machine(request, host, name)
    return _ordered(request, found.host, orders.Diagnose(name=found.name), f"Running diagnostics on {found.name}.")


@require_POST
@needs(Permission.ADMINISTER)
def fix_host(request: PanelRequest, host: str, what: str) -> HttpResponse:
    found = access.host(request, host)
    return _ordered(request, found, _fix("", what), f"Fixing {found.name}, then checking again.")


@require_POST
@needs(Permission.ADMINISTER)
def fix_machine(request: PanelRequest, host: str, name: str, what: str) -> HttpResponse:
    found = access.machine(request, host, name)
    return _ordered(request, found.host, _fix(found.name, what), f"Fixing {found.name}, then checking again.")


def _fix(name: str, what: str) -> orders.Fix:
    """Raises Http404 for a word that is none."""
    word = next((fix for fix in FIXES if fix == what), None)
    if word is None:
        raise Http404("There is no such fix.")
    return orders.Fix(name=name, what=word)


def _ordered(request: PanelRequest, on: Host, order: orders.Diagnose | orders.Fix, said: str) -> HttpResponse:
    back = f"{machine_rows.machine_url(on.name, order.name) if order.name else machine_rows.host_url(on.name)}doctor/"
    try:
        job = dispatch.place_once(
            press.key(request), lambda key: dispatch.place(order, on=on, by=request.user, key=key)
        )
    except Problem as problem:
        return responses.refused(request, problem, back=back)
    fragment = None
    if request.htmx:
        context = _machine_context(request, on.name, order.name) if order.name else _host_context(request, on)
        fragment = render(request, "doctor/_doctor.html", context)
    return responses.placed(request, job, said, back=back, fragment=fragment)
