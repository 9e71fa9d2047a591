"""Machines: the list, one machine, the verbs, and removal."""

from functools import cache, partial
from typing import Any
from uuid import UUID

from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.template.backends.utils import csrf_input
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRefresh

from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.contract.states import MachineState
from machines.models import Host, Job, Machine
from machines.panel.forms.machines import RemoveMachineForm
from machines.panel.orders import dispatch, operations, removals
from machines.panel.orders.dispatch import Busy
from machines.panel.orders.operations import ACTIONS, Action
from machines.panel.pages import actions, machine_list, machine_page, machine_rows
from machines.panel.web import access, layout, press, responses
from machines.panel.web.access import PanelRequest, needs
from machines.templatetags import panel_tags

HOSTS_OFFERED = 500
ICONS = {"start": ACTIONS["start"].icon, "poweroff": ACTIONS["poweroff"].icon}


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest) -> HttpResponse:
    query = machine_list.parse_query(request.GET)
    jobs = layout.unfinished_jobs(request)
    page = machine_list.page(query, machine_rows.by_machine(jobs), timezone.now(), by=request.user)
    context = index_context(request, query, page)
    version = f"{page.version}{len(jobs)}"
    return responses.page(request, "machines/index.html", context, fragment="machines/_list.html", version=version)


def index_context(
    request: PanelRequest, query: machine_list.MachineListQuery, page: machine_list.MachineListPage
) -> dict[str, Any]:
    """What the list's template needs; asks no query (the existence of hosts only for an empty list)."""
    return _row_context(request) | {
        "page": page,
        "list_query": query,
        "address": query.address,
        "query": query.encode(),
        "sort_query": query.encode(sort=""),
        "clear": query.encode(q=""),
        "first_page": f"?{query.encode()}",
        "states": _state_choices(query),
        "all_states": machine_list.STATES,
        "per_choices": [
            {"per": per, "query": query.encode(per=str(per)), "on": per == query.per} for per in machine_list.PER_PAGE
        ],
        "has_hosts": page.total or query.filter.text or SimpleLazyObject(Host.objects.visible_to(request.user).exists),
        "may_build": request.user.may(Permission.BUILD),
        "fragment": responses.wants_fragment(request),
    }


@cache
def _icons() -> dict[str, str]:
    return {name: panel_tags.icon(drawing) for name, drawing in ICONS.items()}


def _row_context(request: PanelRequest) -> dict[str, Any]:
    return {
        "icons": _icons(),
        "csrf_input": csrf_input(request),
    }


def _state_choices(query: machine_list.MachineListQuery) -> list[dict[str, Any]]:
    return [
        {
            "badge": machine_rows.badge(state),
            "query": query.encode(q=query.filter.with_term("state", state)),
            "on": query.filter.has_term("state", state),
        }
        for state in machine_list.STATES
    ]


@require_GET
@needs(Permission.VIEW)
def hosts(request: PanelRequest) -> HttpResponse:
    """The choices of the list's Host menu, fetched when it is opened."""
    query = machine_list.parse_query(request.GET)
    names = Host.objects.visible_to(request.user).values_list("name", flat=True)[:HOSTS_OFFERED]
    choices = [
        {"name": n, "query": query.encode(q=query.filter.with_term("host", n)), "on": query.filter.has_term("host", n)}
        for n in names
    ]
    return render(request, "machines/_host_choices.html", {"hosts": choices})


@require_GET
@needs(Permission.VIEW)
def detail(request: PanelRequest, host: str, name: str) -> HttpResponse:
    try:
        machine = machine_page.load(request, host, name)
    except Http404:
        return _gone(request, host, name)
    context = machine_page.context(request, machine)
    return responses.page(
        request, "machines/detail.html", context, fragment="machines/_machine.html", version=context["seen"]
    )


def _gone(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """A machine that is no more, or never was: the last job says why. Raises Http404 when nobody ever ordered anything."""
    jobs = Job.objects.visible_to(request.user).select_related("host")
    job = jobs.filter(host__name=host, machine_name=name).first()
    if job is None:
        raise Http404(f"There is no machine {name} on {host}.")
    if responses.wants_fragment(request):  # the page of a machine that went away meanwhile
        return HttpResponseClientRefresh()
    operation = operations.of(job.op)
    may_build_again = operation.makes_machine and request.user.may_in(Permission.BUILD, job.team_id)
    again = f"{reverse('machine-new')}?again={job.pk}" if may_build_again else ""
    context = {"job": job, "operation": operation, "name": name, "what": operation.of(name), "again_url": again}
    return render(request, "machines/gone.html", context, status=404)


@require_GET
@needs(Permission.OPERATE)
def menu(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """What else may be done, for the menu of a row."""
    machine = access.machine(request, host, name)
    context = machine_page.actions(request, machine) | {"row_target": f"#m-{machine.pk}"}
    return render(request, "machines/_menu.html", context)


@require_POST
@needs(Permission.OPERATE)
def act(request: PanelRequest, host: str, name: str, op: str) -> HttpResponse:
    """One of ACTIONS."""
    machine = access.machine(request, host, name)
    action = ACTIONS[op]
    try:
        job = dispatch.place_once(press.key(request), partial(_place, request, machine, action))
    except Problem as problem:
        return responses.refused(request, problem, back=machine_rows.machine_url(host, name))
    fragment = _part(request, machine) if request.htmx else None
    return responses.placed(
        request, job, actions.said(action, machine), back=machine_rows.machine_url(host, name), fragment=fragment
    )


def _place(request: PanelRequest, machine: Machine, action: Action, key: UUID | None) -> Job:
    """Raises Problem for what this machine cannot do as it is."""
    actions.check(action, machine)
    return dispatch.place(action.to_order(machine.name), on=machine.host, by=request.user, key=key)


def _part(request: PanelRequest, machine: Machine) -> HttpResponse:
    """The part of the page that the action was pressed in: the machine's own page, or its row of the list."""
    if request.htmx.target == "machine":
        return render(request, "machines/_machine.html", machine_page.context(request, machine))
    busy = machine_rows.by_machine(layout.unfinished_jobs(request))
    given = Machine.objects.filter(pk=machine.pk).values(*machine_rows.COLUMNS).get()
    row = machine_rows.row(given, busy, timezone.now(), request.user.teams_where(Permission.OPERATE))
    return render(request, "machines/_row.html", _row_context(request) | {"row": row})


@require_GET
@needs(Permission.OPERATE)
def confirm(request: PanelRequest, host: str, name: str, op: str) -> HttpResponse:
    """What an action will do, before it is done: a dialog, or a page of its own without JavaScript."""
    machine = access.machine(request, host, name)
    action = ACTIONS.get(op)
    if action is None or not action.asks:
        raise Http404(f"“{op}” needs no confirmation.")
    if spoken := actions.SPOKEN.get(op):
        action = spoken(machine)
    context = {
        "machine": machine,
        "verb": action,
        "url": machine_rows.machine_url(host, name),
        "title": action.of(machine.name),
    }
    context |= {"action": f"{context['url']}{op}/", "target": _target_below(request, machine)}
    return responses.page(request, "machines/confirm.html", context, fragment="machines/_confirm_dialog.html")


def _target_below(request: PanelRequest, machine: Machine) -> str:
    """Which part of the page below the dialog shows the machine; "" for a page that shows it nowhere."""
    path = responses.referer_path(request)
    if path == machine_rows.machine_url(machine.host.name, machine.name):
        return "#machine"
    return f"#m-{machine.pk}" if path == reverse("machine-index") else ""


@require_http_methods(["GET", "POST"])
@needs(Permission.REMOVE)
def remove(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Ask for the name, then order the removal of image and configuration."""
    machine = access.machine(request, host, name)
    form = RemoveMachineForm(request.POST or None, machine=machine)
    if request.method == "POST" and form.is_valid():
        try:
            job = dispatch.place_once(press.key(request), partial(removals.place, machine, request.user))
        except Problem as problem:
            return responses.refused(request, problem, back=machine_rows.machine_url(host, name))
        return redirect("job-detail", job.pk)
    context = {
        "machine": machine,
        "form": form,
        "url": machine_rows.machine_url(host, name),
        "items": removals.what_goes(machine),
    }
    response = responses.page(request, "machines/remove.html", context, fragment="machines/_remove_dialog.html")
    response.status_code = 422 if form.is_bound else 200
    return response


@require_POST
@needs(Permission.REMOVE)
def forget(request: PanelRequest, host: str, name: str) -> HttpResponse:
    """Drop a machine from the list whose image is gone from its host. Nothing is ordered."""
    machine = access.machine(request, host, name)
    if machine.state != MachineState.MISSING:
        problem = Problem(f"{name} still exists on {host}.", hint="Remove it instead.")
        return responses.refused(request, problem, back=machine_rows.machine_url(host, name))
    holder = Job.objects.on(machine.host, name).unfinished().first()
    if holder:
        return responses.refused(request, Busy(holder), back=machine_rows.machine_url(host, name))
    machine.hide()
    return responses.done(request, f"{name} forgotten.", back="machine-index")
