"""A new machine: one form, the files it would write, and the order to build it."""

from typing import Any
from uuid import uuid4

from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from machines.contract import nspawn
from machines.contract.problems import Problem
from machines.contract.rights import Right
from machines.models import Host, Job, Machine, Revision
from machines.models.revision import LIMITS, SWITCHES, WORDS
from machines.panel import builds, drafts, host_rows, responses
from machines.panel.access import PanelRequest, needs
from machines.panel.diffs import Files
from machines.panel.dispatch import Busy
from machines.panel.forms import row_buttons
from machines.panel.forms.configs import Configurator
from machines.panel.forms.machines import NewMachineForm

HOSTS_OFFERED = 500
AS_CARDS = 6  # so many hosts are shown as cards, more in a select
NEVER_SHOWN = "root_password"
PREFILLED = ("name", "release", "packages", "mirror", "hostname", "ssh_keys", "locale", "timezone")
CONFIG_PREFILLED = ("network_mode", "network_target", *WORDS, *LIMITS)
# The parts of the page that open only when they hold something.
FOLDS = {
    "first": ("hostname", NEVER_SHOWN, "ssh_keys", "locale", "timezone"),
    "ports": (),
    "limits": tuple(LIMITS),
    "boot": tuple({*SWITCHES, *WORDS, "private_users_range"} - {"boot", "notify_ready"}),
}


@sensitive_post_parameters(NEVER_SHOWN)
@require_http_methods(["GET", "POST"])
@needs(Right.BUILD)
def new(request: PanelRequest) -> HttpResponse:
    hosts = list(Host.objects.all()[:HOSTS_OFFERED])
    if request.method == "GET":
        return _blank(request, hosts)
    data = row_buttons.shaped(request.POST)
    form, configurator = _bound(data, hosts)
    if row_buttons.asked(data):
        return _page(request, form, configurator, hosts)
    valid = [form.is_valid(), configurator.is_valid()]
    if not all(valid):
        return _page(request, form, configurator, hosts, errors=_errors(form, configurator), status=422)
    try:
        return redirect("job-detail", builds.place(form, configurator, by=request.user).pk)
    except Problem as problem:
        holder = problem.job if isinstance(problem, Busy) else None
        return _page(request, form, configurator, hosts, problem=problem, holder=holder, status=409)


def _blank(request: PanelRequest, hosts: list[Host]) -> HttpResponse:
    """The form with the defaults, and with what the address says instead: ?host=alpha&name=web&memory_max=1G."""
    if again := _again(request.GET.get("again", "")):
        form = NewMachineForm(initial={"key": uuid4(), **builds.answers(again)})
        return _page(request, form, Configurator(instance=again.revision, host=again.host), hosts)
    host = _host(hosts, request.GET.get("host", ""))
    given = {name: request.GET[name] for name in PREFILLED if name in request.GET}
    form = NewMachineForm(initial={"key": uuid4(), "host": host, **given})
    columns = {name: request.GET[name] for name in CONFIG_PREFILLED if name in request.GET}
    if columns.get("network_mode", "veth") not in nspawn.NETWORK_MODES:
        del columns["network_mode"]
    configurator = Configurator(instance=Revision(**columns), host=host)
    if request.htmx and responses.wants_fragment(request):
        return render(
            request, "machines/_new_host.html", {"host": host, "configurator": configurator, "fragment": True}
        )
    return _page(request, form, configurator, hosts)


def _again(number: str) -> Job | None:
    """The build whose answers shall stand in the form: ?again=812."""
    if not number.isascii() or not number.isdigit() or len(number) > 15:
        return None
    return Job.objects.select_related("host", "revision").filter(op="build", pk=int(number)).first()


def _host(hosts: list[Host], name: str) -> Host | None:
    """The host of this name, else the first that listens."""
    listening = (host for host in hosts if not host.is_silent)
    return next((host for host in hosts if host.name == name), None) or next(listening, hosts[0] if hosts else None)


def _bound(data: QueryDict, hosts: list[Host]) -> tuple[NewMachineForm, Configurator]:
    return NewMachineForm(data), Configurator(data, instance=Revision(), host=_host(hosts, data.get("host", "")))


def _page(
    request: PanelRequest,
    form: NewMachineForm,
    configurator: Configurator,
    hosts: list[Host],
    *,
    status: int = 200,
    **more: Any,
) -> HttpResponse:
    now = timezone.now()
    chosen = configurator.host
    context = {
        "form": form,
        "configurator": configurator,
        "host": chosen,
        "hosts": [
            host_rows.row({"name": host.name, "last_seen": host.last_seen, "facts": host.facts}, now) for host in hosts
        ],
        "as_cards": len(hosts) <= AS_CARDS,
        "password_again": "type it again" if form.data.get(NEVER_SHOWN) else "",
        "open": {fold: _is_open(fold, names, form, configurator) for fold, names in FOLDS.items()},
        **more,
    }
    return render(request, "machines/new.html", context, status=status)


def _is_open(fold: str, names: tuple[str, ...], form: NewMachineForm, configurator: Configurator) -> bool:
    """A part that holds something other than the defaults, or an error, is open."""
    if fold == "ports":
        return bool(len(configurator.binds.forms) or len(configurator.ports.forms))
    sources = [source for source in (form, configurator.form) for name in names if name in source.fields]
    fields = [source[name] for source, name in zip(sources, names, strict=True)]
    return any(field.errors or (field.value() or "") != (field.field.initial or "") for field in fields)


def _errors(form: NewMachineForm, configurator: Configurator) -> list[tuple[str, str, str]]:
    """(id of the control, label, sentence) for everything that is wrong, in the order of the page."""
    found = [
        (form[name].id_for_label, str(form[name].label), str(text))
        for name, texts in form.errors.items()
        for text in texts
    ]
    return found + configurator.errors()


@sensitive_post_parameters(NEVER_SHOWN)
@require_POST
@needs(Right.BUILD)
def preview(request: PanelRequest) -> HttpResponse:
    """The two files that would be written. Nothing is kept."""
    hosts = list(Host.objects.all()[:HOSTS_OFFERED])
    form, configurator = _bound(request.POST, hosts)
    context: dict[str, Any] = {"name": request.POST.get("name", "")[:64] or "NAME", "shown": True}
    if configurator.is_valid():
        form.is_valid()
        builds.keep_time_zone(form, configurator)
        files = Files(*configurator.preview())
        machine = Machine(host=configurator.host, name=context["name"]) if configurator.host else None
        context |= {"files": files, "warnings": drafts.warnings(machine, files) if machine else []}
    else:
        context |= {"preview_errors": configurator.errors()}
    if request.htmx:
        return render(request, "machines/_preview.html", context)
    return _page(request, form, configurator, hosts, **context)
