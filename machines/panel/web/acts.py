"""What the history learns from the web: where each request comes from, what it did that is no job, and what was refused.

Jobs and what has words of its own write their entries where they are done. The rest stands in ACTS: the view and its entry
are one transaction.
"""

from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse

from machines.models import Machine, Preset, Recipe
from machines.panel.audit import entries, origin, refusals
from machines.panel.web import attempts
from machines.panel.web.access import PanelRequest, signed_in

# name of a URL that takes a POST → (kind, what was done): “ada (what) web.”
ACTS = {
    "machine-forget": ("machine-forgotten", "removed the missing machine {} from the list"),
    "config-edit": ("draft-saved", "saved a draft of the configuration of {}"),
    "config-raw": ("draft-saved", "saved a draft of the configuration of {}"),
    "config-clean": ("draft-saved", "cleaned up the draft of the configuration of {}"),
    "config-rebase": ("draft-saved", "rebased the draft of the configuration of {}"),
    "config-discard": ("draft-discarded", "discarded the draft of the configuration of {}"),
    "config-import-limits": ("draft-saved", "imported limits that were set outside the panel into the draft of {}"),
    "revision-restore": ("draft-saved", "made a draft of an earlier revision of the configuration of {}"),
    "recipe-new": ("recipe-saved", "saved the new recipe {}"),
    "recipe-starter": ("recipe-saved", "added a starter recipe"),
    "recipe-edit": ("recipe-saved", "saved the recipe {}"),
    "recipe-restore": ("recipe-saved", "restored an earlier version of the recipe {}"),
    "recipe-archive": ("recipe-archived", "archived the recipe {}"),
    "recipe-unarchive": ("recipe-unarchived", "restored the recipe {} from the archived ones"),
    "preset-new": ("preset-saved", "saved the new preset {}"),
    "preset-starter": ("preset-saved", "added a starter preset"),
    "preset-edit": ("preset-saved", "saved the preset {}"),
    "preset-remove": ("preset-removed", "removed the preset {}"),
    "preset-roll-out": ("preset-rolled-out", "rolled out the preset {}"),
}
REFUSED = {403: "access-refused", 429: "too-many-attempts"}
NAME_LIMIT = 100  # characters of what was typed


class RecordRefusals:
    """Around all that refuses. What is done inside is known to come from the request's address."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = getattr(getattr(request, "token", None), "name", "")
        with origin.of(origin.Origin(request.META.get("REMOTE_ADDR", "")[:45], token)):
            response = self.get_response(request)
            if response.status_code in REFUSED:
                _refused(request, response.status_code)
            return response


class RecordActs:
    """Behind RequireDeclaredPermission, for it calls the view itself."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: PanelRequest, view: Callable[..., HttpResponse], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        match = request.resolver_match
        act = ACTS.get(match.url_name or "") if match and request.method == "POST" else None
        if act is None or not signed_in(request):
            return None
        with transaction.atomic():
            on = _target(match.url_name or "", kwargs) if match else None
            response = view(request, *args, **kwargs)
            if _is_done(response):
                kind, what = act
                name = on.name if on else f"“{request.POST.get('name', '')[:NAME_LIMIT]}”"
                entries.record(kind, f"{request.user.username} {what.format(name)}.", by=request.user, on=on)
        return response


def _is_done(response: HttpResponse) -> bool:
    """A form that is shown again with what is wrong in it, or a problem, is no redirect."""
    return response.status_code in {301, 302, 303} or bool({"HX-Redirect", "HX-Refresh"} & set(response.headers))


def _target(url_name: str, kwargs: dict[str, Any]) -> Machine | Recipe | Preset | None:
    if {"host", "name"} <= set(kwargs):
        machines = Machine.objects.select_related("host")
        return machines.filter(host__name=kwargs["host"], name=kwargs["name"]).first()
    if "pk" not in kwargs:
        return None
    return (Recipe if url_name.startswith("recipe-") else Preset).objects.filter(pk=kwargs["pk"]).first()


def _refused(request: HttpRequest, status: int) -> None:
    """The path alone: what else an address holds may be a secret."""
    user = getattr(request, "user", None)
    name = user.username if user is not None and user.is_authenticated else ""
    who = name or "Somebody who is not signed in"
    match = request.resolver_match
    path = f"/{match.route}" if match and match.url_name else "a page"
    asked = f"{request.method} {path.replace('<word:', '<').replace('<int:', '<').replace('<uuid:', '<')}"
    how = "was refused" if status == 403 else "tried too often"
    refusals.record(REFUSED[status], f"{who} {how}: {asked}.", source=source_of(request), by=name)


def source_of(request: HttpRequest) -> str:
    """An IPv4 address, or the IPv6 /64 that one customer has."""
    return attempts.network(request.META.get("REMOTE_ADDR", ""))[0]
