"""Hosts that come and go: the command with its token, the comparison of fingerprints, the door at which the host asks; other
names; removal; and the panel's keys that they obey."""

from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from machines.contract import enrolment as contract
from machines.contract.permissions import Permission
from machines.contract.problems import BadValue, EnvelopeRefused, Problem
from machines.models import Enrolment, Host
from machines.panel.courier import removed_hosts
from machines.panel.forms.enrolments import EnrolmentForm, RemoveHostForm
from machines.panel.hosts import clocks, enrolments, panel_keys
from machines.panel.orders import dispatch
from machines.panel.pages import machine_rows
from machines.panel.web import attempts, responses
from machines.panel.web.access import PUBLIC, PanelRequest, needs, recently_signed_in

COMMAND = "cd /opt/nspawnpanel/src && ../bin/python -m machines.host.agent.enrol"


@require_http_methods(["GET", "POST"])
@needs(Permission.ADMINISTER)
def new(request: PanelRequest) -> HttpResponse:
    """Ask for the name; then there is a token."""
    form = EnrolmentForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = enrolments.make(form.cleaned_data["name"], by=request.user)
        except BadValue as problem:
            form.add_error("name", problem.message)
        else:
            return redirect("enrolment-detail", made.pk)
    context = {"form": form, "missing": enrolments.missing_settings(), "is_ready": bool(enrolments.panel_key())}
    context["is_plain"] = not settings.HOSTS_REDIS_URL.startswith("rediss://")
    return render(request, "enrolments/new.html", context, status=422 if form.is_bound else 200)


@require_POST
@needs(Permission.ADMINISTER)
def again(request: PanelRequest, host: str) -> HttpResponse:
    """A token for a host that is here already: new keys, a new Redis password, the next key generation."""
    found = get_object_or_404(Host, name=host)
    try:
        made = enrolments.make(found.name, by=request.user, host=found)
    except BadValue as problem:
        return responses.refused(request, problem, back=machine_rows.host_url(host))
    return redirect("enrolment-detail", made.pk)


@require_http_methods(["GET", "POST"])
@needs(Permission.ADMINISTER)
def rename(request: PanelRequest, host: str) -> HttpResponse:
    found = get_object_or_404(Host, name=host)
    form = EnrolmentForm(request.POST or None, initial={"name": found.name})
    if request.method == "POST" and form.is_valid():
        try:
            removed_hosts.rename(found, form.cleaned_data["name"], by=request.user)
        except BadValue as problem:
            form.add_error("name", problem.message)
        else:
            return redirect(machine_rows.host_url(form.cleaned_data["name"]))
    context = {"host": found, "form": form, "url": machine_rows.host_url(host)}
    return render(request, "hosts/rename.html", context, status=422 if form.is_bound else 200)


@require_http_methods(["GET", "POST"])
@needs(Permission.ADMINISTER)
@recently_signed_in
def remove(request: PanelRequest, host: str) -> HttpResponse:
    """Ask for the name, then let the host go."""
    found = get_object_or_404(Host, name=host)
    form = RemoveHostForm(request.POST or None, name=found.name)
    if request.method == "POST" and form.is_valid():
        try:
            removed_hosts.remove(found, by=request.user)
        except Problem as problem:
            return responses.refused(request, problem, back=reverse("host-index"))
        return redirect(machine_rows.host_url(host))
    context = {
        "host": found,
        "form": form,
        "url": machine_rows.host_url(host),
        "items": removed_hosts.what_goes(found),
    }
    return render(request, "hosts/remove.html", context, status=422 if form.is_bound else 200)


@require_GET
@needs(Permission.ADMINISTER)
def detail(request: PanelRequest, enrolment: UUID) -> HttpResponse:
    found = get_object_or_404(Enrolment.objects.select_related("host"), pk=enrolment)
    step = _step(found)
    context: dict[str, Any] = {
        "enrolment": found,
        "step": step,
        "title": f"{'Add' if found.is_new else 'New keys for'} {found.host_name}",
        "url": reverse("enrolment-detail", args=[found.pk]),
        "host_url": machine_rows.host_url(found.host.name) if found.host else "",
        "fingerprint": enrolments.fingerprint(found),
        "fingerprint_groups": enrolments.fingerprint(found).split(),
        "minutes": contract.LIFE // 60,
        "fragment": responses.wants_fragment(request),
        "clock": clocks.in_words(found.clock_skew or 0) if clocks.is_wrong(found.clock_skew) else "",
    }
    if step == Enrolment.State.WAITING:
        context["command"] = f"{COMMAND} --panel {settings.PANEL_URL} {enrolments.token(found)}"
    version = machine_rows.version(step, found.other_address)
    return responses.page(
        request, "enrolments/detail.html", context, fragment="enrolments/_enrolment.html", version=version
    )


def _step(found: Enrolment) -> str:
    """Its state, or what time and the host have made of it."""
    if enrolments.has_joined(found):
        return "joined"
    return "expired" if found.is_expired(timezone.now()) else str(found.state)


@require_POST
@needs(Permission.ADMINISTER)
def accept(request: PanelRequest, enrolment: UUID) -> HttpResponse:
    """The fingerprint that was compared is sent with the form: another one that came meanwhile is not accepted."""
    found = get_object_or_404(Enrolment, pk=enrolment)
    if request.POST.get("fingerprint") != enrolments.fingerprint(found):
        problem = Problem("These are not the keys that the page showed.", code="conflict", hint="Compare them again.")
        return responses.refused(request, problem, back=reverse("enrolment-detail", args=[found.pk]))
    return _decided(request, found, enrolments.accept)


@require_POST
@needs(Permission.ADMINISTER)
def refuse(request: PanelRequest, enrolment: UUID) -> HttpResponse:
    return _decided(request, get_object_or_404(Enrolment, pk=enrolment), enrolments.refuse)


def _decided(request: PanelRequest, found: Enrolment, decide: Any) -> HttpResponse:
    try:
        decide(found, by=request.user)
    except Problem as problem:
        return responses.refused(request, problem, back=reverse("enrolment-detail", args=[found.pk]))
    dispatch.wake()
    return redirect("enrolment-detail", found.pk)


@require_GET
@needs(Permission.ADMINISTER)
def keys(request: PanelRequest) -> HttpResponse:
    """The keys that sign orders, which hosts obey them, and how one follows another."""
    rows = panel_keys.rows()
    by_state = {row.state: row for row in rows}
    asked = next((row.made for row in rows if row.made.asked), None)
    context = {"keys": rows, "asked": asked, "fragment": responses.wants_fragment(request), **by_state}
    version = machine_rows.version([(row.state, row.fingerprint, row.missing, row.made.asked) for row in rows])
    return responses.page(
        request, "settings/panel_keys.html", context, fragment="settings/_panel_keys.html", version=version
    )


@require_POST
@needs(Permission.ADMINISTER)
@recently_signed_in
def ask_keys(request: PanelRequest, what: str) -> HttpResponse:
    try:
        panel_keys.ask(what, by=request.user)
    except Problem as problem:
        return responses.refused(request, problem, back=reverse("panel-keys"))
    dispatch.wake()
    return redirect("panel-keys")


@csrf_exempt  # no browser comes here: what a host sends is signed with its token
@require_http_methods(["GET", "POST"])
@needs(PUBLIC)
def door(request: PanelRequest, enrolment: UUID) -> HttpResponse:
    """A host that has a token asks whether it may join. Whoever has none waits longer each time."""
    message = request.read(contract.CLAIM_LIMIT * 2 + 1) if request.method == "POST" else b""
    try:
        if request.method == "GET" or len(message) > contract.CLAIM_LIMIT * 2:
            raise EnvelopeRefused("Only a host with a token may ask here.")
        reply = enrolments.take(
            enrolment, message.decode("ascii", "replace"), address=request.META.get("REMOTE_ADDR", "")
        )
    except EnvelopeRefused as refused:
        return _turned_away(request, refused)
    return JsonResponse(reply.body, status=reply.status)


def _turned_away(request: PanelRequest, refused: EnvelopeRefused) -> HttpResponse:
    try:
        attempts.book(request, "enrolment")
    except attempts.TooSoon as soon:
        said = f"Too many tries without a valid token. Try again in {attempts.in_words(soon.seconds)}."
        return JsonResponse({"error": said}, status=429, headers={"Retry-After": str(soon.seconds)})
    if request.method == "GET":
        raise PermissionDenied(refused.message)
    return JsonResponse({"error": f"The panel does not accept this token. {refused.message}"}, status=403)
