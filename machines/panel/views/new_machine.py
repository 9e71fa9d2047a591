"""A new machine: one form, the files it would write, and the order to build it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.contract.recipes import WITH_BASE, FirstBoot, key_of
from machines.models import Host, Job, Machine, User
from machines.models.revision import LIMITS, SWITCHES, WORDS
from machines.panel.configs import copied_settings, drafts
from machines.panel.configs.diffs import Files
from machines.panel.forms import row_buttons, sources
from machines.panel.forms.configs import Configurator
from machines.panel.forms.copied import Settings
from machines.panel.forms.machines import NewMachineForm, answers
from machines.panel.forms.sources import Source
from machines.panel.forms.validators import errors_of
from machines.panel.hosts import host_tools
from machines.panel.images import base_images, builds, recipe_runs
from machines.panel.orders import dispatch, operations
from machines.panel.orders.dispatch import Busy
from machines.panel.pages import host_rows, quota_page
from machines.panel.teams.quotas import QuotaExceeded
from machines.panel.web import press, responses
from machines.panel.web.access import PanelRequest, needs

HOSTS_OFFERED = 500
AS_CARDS = 6  # so many hosts are shown as cards, more in a select
NEVER_SHOWN = ("root_password", "user_password")
PREFILLED = ("name", "hostname", "user", "ssh_keys", "locale", "timezone")
CONFIG_PREFILLED = ("network_mode", "network_target", *WORDS, *LIMITS)
# The parts of the page that open only when they hold something.
FOLDS = {
    "first": ("hostname", *NEVER_SHOWN, "user", "ssh_keys", "locale", "timezone"),
    "ports": (),
    "limits": tuple(LIMITS),
    "boot": tuple({*SWITCHES, *WORDS, "private_users_range"} - {"boot", "notify_ready"}),
}


class Incomplete(Problem):
    """A form of the page has errors, which it knows itself."""

    code = "incomplete"


@dataclass(frozen=True)
class Parts:
    """The page's forms: the machine, what it is made of, its settings and where those are from."""

    form: NewMachineForm
    source: Source
    configurator: Configurator
    settings: Settings

    def is_valid(self) -> bool:
        were_shown = self.settings.were_shown
        return all([self.form.is_valid(), self.source.is_valid(), were_shown and self.configurator.is_valid()])

    def errors(self) -> list[tuple[str, str, str]]:
        """(id of the control, label, sentence) for everything that is wrong, in the order of the page."""
        return [*errors_of(self.form), *self.source.errors(), *self.settings.errors(), *self.configurator.errors()]

    def keep_time_zone(self) -> None:
        self.configurator.defaults |= builds.zone_settings(self.form.cleaned_data.get("timezone", ""))

    def refuse(self, problem: QuotaExceeded) -> None:
        """Put what the team's quota does not allow on its fields."""
        for finding in problem.findings:
            (self.form if finding.settings[0] in self.form.fields else self.configurator).refuse(finding)

    def place(self, by: User) -> Job:
        """The job that builds what all of them say, with the form's key.

        Raises Incomplete where something is wrong in them, Busy, NotAllowed, and Problem when the order is too large.
        """
        if not self.is_valid():
            raise Incomplete("Something in the form cannot be so.")
        order = self.form.to_order(self.source.form.to_recipe())
        secrets = self.form.secrets(self.source.token())
        self.keep_time_zone()
        begun = builds.begin(self.form.cleaned_data["host"], order.name, by=by, team_id=self.form.team_id)
        revision = self.configurator.save(**begun)
        key: UUID = self.form.cleaned_data["key"]
        return builds.place(order, revision, by=by, key=key, secrets=secrets, version=self.source.version)


@sensitive_post_parameters(*NEVER_SHOWN)
@require_http_methods(["GET", "POST"])
@needs(Permission.BUILD)
def new(request: PanelRequest) -> HttpResponse:
    hosts = list(Host.objects.visible_to(request.user)[:HOSTS_OFFERED])
    if request.method == "GET":
        return _blank(request, hosts)
    data = row_buttons.shaped(request.POST)
    parts = _bound(request, data, hosts)
    if "choose" in data or row_buttons.asked(data):
        return _reshaped(request, parts, hosts)
    try:
        job = dispatch.place_once(press.key(request), lambda _: parts.place(request.user))
        return redirect("job-detail", job.pk)
    except Incomplete:
        return _page(request, parts, hosts, errors=parts.errors(), status=422)
    except QuotaExceeded as problem:
        parts.refuse(problem)
        return _page(request, parts, hosts, errors=parts.errors(), status=422)
    except Problem as problem:
        holder = problem.job if isinstance(problem, Busy) else None
        return _page(request, parts, hosts, problem=problem, holder=holder, status=409)


def _blank(request: PanelRequest, hosts: list[Host]) -> HttpResponse:
    """The form with the defaults, and with what the address says instead: ?host=alpha&name=web&memory_max=1G, ?recipe=7,
    ?clone=web. ?again=812 is a build with all it was told, ?like=812 only what it was made of."""
    again = _build(request, request.GET.get("again", ""))
    if again and operations.of(again.op).makes_machine:
        form = NewMachineForm(initial={"key": uuid4(), **answers(again)}, by=request.user)
        source = _source_of(request, again, again.host)
        settings = Settings(
            copied_settings.of_original(source.chosen), copied_settings.of_build(str(again.pk), by=request.user)
        )
        return _page(request, Parts(form, source, settings.fresh(again.host), settings), hosts)
    like = _build(request, request.GET.get("like", ""))
    host = _host(hosts, request.GET.get("host", like.host.name if like else ""))
    given = {name: request.GET[name] for name in PREFILLED if name in request.GET}
    form = NewMachineForm(initial={"key": uuid4(), "host": host, **given}, by=request.user)
    columns = {name: request.GET[name] for name in CONFIG_PREFILLED if name in request.GET}
    if columns.get("network_mode", "veth") not in nspawn.NETWORK_MODES:
        del columns["network_mode"]
    source = _source_of(request, like, host) if like else sources.blank(request.GET, host, by=request.user)
    settings = Settings.offered(source)
    return _page(request, Parts(form, source, settings.fresh(host, **columns), settings), hosts)


def _source_of(request: PanelRequest, job: Job, host: Host | None) -> Source:
    order = orders.from_wire(job.order)
    assert isinstance(order, orders.Build | orders.BuildBase)
    return sources.of_recipe(order.recipe, job.recipe_version, host, by=request.user)


def _reshaped(request: PanelRequest, parts: Parts, hosts: list[Host]) -> HttpResponse:
    """The same page in another shape, or the parts of it that depend on host and source; nothing is judged yet. The
    settings come anew when they are those of another original."""
    parts.source.fit()
    if not responses.wants_fragment(request):
        return _page(request, parts, hosts)
    context = {
        "form": parts.form,
        "host": parts.configurator.host,
        "fragment": True,
        **quota_page.context(parts.configurator.host, parts.form.chosen_team),
    }
    return render(
        request, "machines/_new_source.html", context | _of_settings(request, parts) | _about(parts.form, parts.source)
    )


def _of_settings(request: PanelRequest, parts: Parts) -> dict[str, Any]:
    settings, configurator = parts.settings, parts.configurator
    return {
        "configurator": configurator,
        "settings": settings,
        "settings_warnings": settings.warnings(configurator.host, by=request.user),
        "open": {fold: _is_open(fold, names, parts.form, configurator) for fold, names in FOLDS.items()},
    }


def _about(form: NewMachineForm, source: Source) -> dict[str, Any]:
    """The source, what the host lacks for it, and how long it will take. Of what is not complete nothing is said."""
    host, content = source.host, source.content
    found: dict[str, Any] = {"source": source, "saved": source.version}
    if content is None or host is None:
        source.clear_errors()
        return found
    based = content.kind in WITH_BASE
    base = base_images.fitting(_bases(host), content, _first_boot(form)) if based else None
    return found | {
        "lacking": host_tools.lacking_for_recipe(host, content),
        "based": based,
        "base": base,
        "usual": recipe_runs.usual(key_of(content), host.pk, copied=base is not None),
    }


def _bases(host: Host) -> list[base_images.Base]:
    return base_images.with_jobs(base_images.of_host(host.name, host.facts.get("bases")))


def _first_boot(form: NewMachineForm) -> FirstBoot:
    """What of the first boot decides about the base, as far as it can be read."""
    try:
        return FirstBoot(**{name: str(form[name].value() or "") for name in ("locale", "timezone", "user")})
    except Problem:
        return FirstBoot()


def _build(request: PanelRequest, number: str) -> Job | None:
    """The build (of a machine or of a base) of this number, if there is one."""
    if not number.isascii() or not number.isdigit() or len(number) > 15:
        return None
    seen = Job.objects.where_may(request.user, Permission.BUILD)
    jobs = seen.select_related("host", "revision", "recipe_version__recipe__current")
    return jobs.filter(op__in=orders.RECIPE_OPS, pk=int(number)).first()


def _host(hosts: list[Host], name: str) -> Host | None:
    """The host of this name, else the first that listens."""
    listening = (host for host in hosts if not host.is_silent)
    return next((host for host in hosts if host.name == name), None) or next(listening, hosts[0] if hosts else None)


def _bound(request: PanelRequest, data: QueryDict, hosts: list[Host]) -> Parts:
    host = _host(hosts, data.get("host", ""))
    if "choose" in data and "copied" not in data:  # nobody was asked yet
        data = data.copy()
        data["new_identity"] = "on"
    form = NewMachineForm(data, by=request.user)
    if "choose" in data or row_buttons.asked(data):
        form.errors.clear()
    source = sources.bound(data, host, by=request.user)
    settings = Settings.asked(data, source, by=request.user)
    return Parts(
        form,
        source,
        settings.bound(data, host, by=request.user) if settings.were_shown else settings.fresh(host),
        settings,
    )


def _page(request: PanelRequest, parts: Parts, hosts: list[Host], *, status: int = 200, **more: Any) -> HttpResponse:
    now, form, source = timezone.now(), parts.form, parts.source
    context = {
        "form": form,
        "host": parts.configurator.host,
        "hosts": [
            host_rows.row({"name": host.name, "last_seen": host.last_seen, "facts": host.facts}, now) for host in hosts
        ],
        "as_cards": len(hosts) <= AS_CARDS,
        **quota_page.context(parts.configurator.host, parts.form.chosen_team),
        "password_again": {name: "type it again" for name in NEVER_SHOWN if form.data.get(name)},
        **_of_settings(request, parts),
        **(_about(form, source) if status == 200 else {"source": source, "saved": source.version}),
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


@sensitive_post_parameters(*NEVER_SHOWN)
@require_POST
@needs(Permission.BUILD)
def preview(request: PanelRequest) -> HttpResponse:
    """The two files that would be written. Nothing is kept."""
    hosts = list(Host.objects.visible_to(request.user)[:HOSTS_OFFERED])
    parts = _bound(request, request.POST, hosts)
    form, configurator = parts.form, parts.configurator
    form.errors.clear()
    context: dict[str, Any] = {"name": request.POST.get("name", "")[:64] or "NAME", "shown": True}
    if parts.settings.were_shown and configurator.is_valid():
        form.is_valid()
        parts.keep_time_zone()
        files = Files(*configurator.preview())
        machine = Machine(host=configurator.host, name=context["name"]) if configurator.host else None
        context |= {"files": files, "warnings": drafts.warnings(machine, files) if machine else []}
    else:
        context |= {"preview_errors": [*parts.settings.errors(), *configurator.errors()]}
    if request.htmx:
        return render(request, "machines/_preview.html", context)
    return _page(request, parts, hosts, **context)
