"""Hosts: all of them, and one with everything it says about itself. They join by views/enrolments.py."""

from datetime import datetime
from typing import Any

from django.contrib import messages
from django.db.models import Q
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from machines.contract.configuration import protected
from machines.contract.configuration.protected import Place
from machines.contract.enrolment import fingerprint
from machines.contract.permissions import Permission
from machines.contract.states import LATE_SECONDS
from machines.models import Event, Host
from machines.panel.courier import redis_check
from machines.panel.hosts import budgets, clocks, enrolments, name_files, pools, quarantine
from machines.panel.images import base_images
from machines.panel.orders import dispatch, operations
from machines.panel.pages import host_list, host_rows, machine_rows
from machines.panel.teams import host_sections
from machines.panel.web import access, layout, responses
from machines.panel.web.access import PanelRequest, needs

LEAVE = "systemctl disable --now nspawnpanel-host; rm -rf /etc/nspawnpanel/host.env /var/lib/nspawnpanel/keys"
EVENTS_SHOWN = 20
UNREAD = "It has not reported the state of all its machines for some time. Run on it: systemctl status nspawnpanel-host"
RISKS = (("unverified_pulls", "allowed"),)  # rules of a host's policy that are shown in red


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest) -> HttpResponse:
    now = timezone.now()
    query = host_list.parse_query(request.GET)
    page = host_list.page(query, now, by=request.user)
    jobs = layout.unfinished_jobs(request)
    context = {
        "page": page,
        "word": query.word,
        "may_administer": request.user.may(Permission.ADMINISTER),
        "fragment": responses.wants_fragment(request),
    }
    context["redis_faults"] = page.redis_faults if context["may_administer"] else []
    joining = enrolments.unfinished() if context["may_administer"] else []
    context["joining"] = joining
    waiting = [(each.pk, each.state) for each in joining]
    shown = (page.rows, page.total, page.previous, page.next, waiting)
    version = machine_rows.version(*shown, query.address, len(jobs), context["redis_faults"])
    return responses.page(request, "hosts/index.html", context, fragment="hosts/_list.html", version=version)


@require_GET
@needs(Permission.VIEW)
def detail(request: PanelRequest, host: str) -> HttpResponse:
    now = timezone.now()
    may_administer = request.user.may(Permission.ADMINISTER)
    asked = Host.objects.visible_to(request.user).annotate(
        **host_list.counts(request.user), redis_faults=redis_check.subquery()
    )
    found = asked.filter(name=host).first()
    if found is None:
        return _not_here(request, host)
    faults = vars(found)["redis_faults"] or []
    counts = {name: getattr(found, name) for name in host_list.COUNTS}
    events = list(Event.objects.visible_to(request.user).filter(host=found)[:EVENTS_SHOWN])
    jobs = layout.unfinished_jobs(request)
    here = [_queued(job) for job in jobs if job["host_id"] == found.pk]
    context = counts | {
        "host": found,
        "url": machine_rows.host_url(found.name),
        "state": found.state(now).value,
        "is_silent": found.is_silent,
        "is_old": found.inventory_at is not None and (now - found.inventory_at).total_seconds() > 3 * LATE_SECONDS,
        "trouble": [UNREAD] if _trouble(found, now) else [],
        "clock": clocks.in_words(found.clock_skew or 0) if _is_off(found) else "",
        "clock_problem": clocks.problem(found.name, found.clock_skew) if clocks.is_wrong(found.clock_skew) else None,
        "facts": found.facts,
        "booted": _moment(found.facts.get("booted")),
        "resources": host_rows.resources(found.facts),
        "used": budgets.used(found),
        "policy": [
            (rule, _said(value), (rule, value) in RISKS)
            for rule, value in sorted((found.facts.get("policy") or {}).items())
            if rule != "teams"  # not everybody's to read
        ],
        "policy_sections": host_sections.shown_to(request.user, found),
        "events": events,
        "jobs": here,
        "may_build": request.user.may(Permission.BUILD),
        "offers_pool": pools.is_offered(found, request.user),
        "bases": base_images.visible_to(request.user, base_images.of_host(found.name, found.facts.get("bases"))),
        **(_of_anybody(found, now) if may_administer else {}),
        "may_administer": may_administer,
        "fingerprint": fingerprint(found.verify_key, found.box_key) if may_administer else "",
        "redis_faults": faults if may_administer else [],
        "is_user_off": redis_check.NO_GUARD not in faults,
        "fragment": responses.wants_fragment(request),
    }
    version = machine_rows.version(
        counts,
        found.quarantined_at,
        context["redis_faults"],
        context["state"],
        context["is_old"],
        context["trouble"],
        context["clock"],
        found.resync_since,
        context.get("left_out"),
        len(jobs),
        found.facts,
        [event.pk for event in events],
        here,
    )
    return responses.page(request, "hosts/detail.html", context, fragment="hosts/_host.html", version=version)


def _not_here(request: PanelRequest, name: str) -> HttpResponse:
    """Administrators are told that it was removed, and what is left to do there. Raises Http404."""
    gone = Host.with_removed.filter(Q(former_name=name) | Q(name=name)).exclude(removed_at=None)
    found = gone.order_by("-removed_at").first() if request.user.sees_all else None
    if found is None:
        raise Http404(f"There is no host {name}.")
    return render(request, "hosts/removed.html", {"host": found, "name": name, "command": LEAVE}, status=410)


@require_POST
@needs(Permission.ADMINISTER)
def release(request: PanelRequest, host: str) -> HttpResponse:
    """Let a quarantined host in again; pressed twice, it is free all the same."""
    found = access.host(request, host)
    if quarantine.release(found, by=request.user):
        dispatch.wake()
        messages.success(request, f"{found.name} released. Its worker reconnects by itself within seconds.")
    return redirect(machine_rows.host_url(found.name))


def _of_anybody(host: Host, now: datetime) -> dict[str, Any]:
    """What names things of any team, or of none: for administrators."""
    return {
        "trouble": _trouble(host, now),
        "left_out": budgets.left_out(host),
        "name_files": [
            (name, [(file.path, name_files.words(file)) for file in files]) for name, files in name_files.of_host(host)
        ],
        "unusable": _texts(host.facts.get("unusable_images")),
        "remnants": _remnants(host.facts.get("remnants")),
        "bad_binds": _texts(host.facts.get("bad_binds")),
        "protected": _protected(host),
    }


def _is_off(host: Host) -> bool:
    return host.clock_skew is not None and abs(host.clock_skew) > clocks.UNSEEN


def _trouble(host: Host, now: datetime) -> list[str]:
    """What it cannot read, and why."""
    told = [why for _, why in sorted(host.trouble.items())]
    return told or ([UNREAD] if host.is_unread(now) else [])


def _moment(seconds: Any) -> datetime | None:
    return (
        datetime.fromtimestamp(seconds, tz=timezone.get_current_timezone())
        if isinstance(seconds, (int, float))
        else None
    )


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _queued(job: machine_rows.Job) -> dict[str, Any]:
    said = machine_rows.doing(job) or {}
    return said | {"machine": job["machine_name"], "state": job["state"], "what": operations.of(job["op"]).title}


def _protected(host: Host) -> list[tuple[str, list[Place]]]:
    """What no machine of a host may have, by reason; nothing of one whose worker does not know of it."""
    if "protected" not in host.facts:
        return []
    grouped: dict[str, list[Place]] = {}
    for place in (*protected.TABLE, *protected.as_told(host.facts["protected"])):
        grouped.setdefault(place.why, []).append(place)
    return list(grouped.items())


def _texts(told: Any) -> list[tuple[str, str]]:
    """Names with a sentence each, as a host says them."""
    return sorted((str(name), str(text)) for name, text in told.items()) if isinstance(told, dict) else []


def _remnants(told: Any) -> list[dict[str, Any]]:
    """What should be gone from it and is not."""
    each = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    return [
        {"path": str(one.get("path")), "why": str(one.get("why")), "since": _moment(one.get("since"))} for one in each
    ]
