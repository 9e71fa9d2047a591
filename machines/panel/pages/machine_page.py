"""One machine as its page shows it: what is wrong, what it is, what it may use and what it does use."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.db.models import Exists, F, OuterRef
from django.http import Http404
from django.utils import timezone

from machines.contract.configuration import compare_effective, limits, nspawn
from machines.contract.orders import ABSENT
from machines.contract.permissions import Permission
from machines.contract.states import JobState, MachineState
from machines.models import Job, Machine, ObservedFiles, Revision, User
from machines.models.revision import LIMITS, bind_rows, port_rows
from machines.panel.configs import validation
from machines.panel.forms.configs import FILE_MODES
from machines.panel.orders import job_labels, operations
from machines.panel.orders.operations import ACTIONS
from machines.panel.pages import build_page, config_page, effective_settings_page, machine_rows, unit_activity
from machines.panel.pages.actions import CAN_START, FIXED_BECAUSE, is_template, power_off_of, reboot_of, start_of
from machines.panel.web import layout, responses
from machines.panel.web.access import PanelRequest

JOBS_SHOWN = 5
BAD_ENDS = {JobState.FAILED, JobState.TIMED_OUT, JobState.EXPIRED, JobState.LOST}
NOT_ENFORCED = "nothing enforces it here"
STALE_SECONDS = 90  # an inventory comes every 60 s


# Of the build a machine came from: what its page tells, and not the long rest of that job.
ORIGIN = {
    "origin_at": F("built_by__finished_at"),
    "origin_recipe": F("built_by__order__recipe"),
    "origin_base": F("built_by__result__base"),
    "origin_number": F("built_by__recipe_version__number"),
    "origin_saved": F("built_by__recipe_version__recipe_id"),
    "origin_name": F("built_by__recipe_version__recipe__name"),
    "origin_team": F("built_by__team"),
    "origin_recipe_team": F("built_by__recipe_version__recipe__team"),
}


def load(request: PanelRequest, host: str, name: str) -> Machine:
    """The machine with its host, its applied revision and whether a draft waits: one query. Raises Http404."""
    drafts = Revision.objects.filter(machine=OuterRef("pk"), state=Revision.State.DRAFT)
    machines = (
        Machine.objects.listed()
        .visible_to(request.user)
        .select_related("host", "applied", "team")
        .annotate(has_draft=Exists(drafts), told_of_files=F("observed_files__told"), **ORIGIN)
    )
    machine = machines.filter(host__name=host, name=name).first()
    if machine is None:
        raise Http404(f"There is no machine {name} on {host}.")
    return machine


def context(request: PanelRequest, machine: Machine) -> dict[str, Any]:
    now = timezone.now()
    jobs = list(
        Job.objects.visible_to(request.user)
        .on(machine.host, machine.name)
        .defer("order", "commands", "sealed")[:JOBS_SHOWN]
    )
    applied, outside = machine.applied, _outside(machine)
    shown = actions(request, machine) | {
        "activity": unit_activity.told(machine.shown_state, machine.activity, now),
        "host_state": machine.host.state(now).value,
        "host_url": machine_rows.host_url(machine.host.name),
        "jobs": [(job, operations.of(job.op).title) for job in jobs],
        "failed": jobs[0] if jobs and jobs[0].state in BAD_ENDS else None,
        "is_same_failure": bool(jobs) and _is_same_failure(machine, jobs[0]),
        "failed_withdrawal": job_labels.withdrawal(jobs[0], machine.host.name) if jobs else "",
        "failed_what": operations.of(jobs[0].op).title if jobs else "",
        "has_draft": getattr(machine, "has_draft", False),
        "is_silent": machine.host.is_silent,
        "is_up": machine.shown_state.is_up,
        "addresses": machine.addresses if machine.shown_state.is_up else [],
        "is_old": _age(machine.host.inventory_at, now) > STALE_SECONDS,
        "limits": limit_rows(machine, outside),
        "outside_unknown": outside is None,
        "network": (nspawn.NETWORK_MODES | FILE_MODES).get(applied.network_mode) if applied else None,
        "binds": bind_rows(applied.nspawn_text) if applied else [],
        "ports": port_rows(applied.nspawn_text) if applied else [],
        "origin": origin(machine, request.user),
        "unit_words": config_page.unit_words(machine),
        "hand_words": config_page.hand_words(machine),
        "shares_network": _shares_network(machine),
        "bad_bind": _bad_bind(machine),
        "fragment": responses.wants_fragment(request),
    }
    return shown | {"seen": _version(machine, shown, layout.running_jobs(request))}


def _bad_bind(machine: Machine) -> str:
    """A bind of it that no machine may have, as its host says it; "" when it has none."""
    told = machine.host.facts.get("bad_binds")
    return str(told.get(machine.name, "")) if isinstance(told, dict) else ""


def origin(machine: Machine, reader: User) -> dict[str, Any] | None:
    """Which recipe, run and base a loaded machine came from; None when it was not built from here. The run ("job") and the saved
    recipe ("name") are None where they are of a team in which this reader sees nothing."""
    if machine.built_by_id is None:
        return None
    said = {name: getattr(machine, name, None) for name in ORIGIN}
    made = build_page.made({"base": said["origin_base"]})
    sees_job = reader.may_in(Permission.VIEW, said["origin_team"])
    sees_recipe = reader.may_in(Permission.VIEW, said["origin_recipe_team"])
    return {
        "job": machine.built_by_id if sees_job else None,
        "at": said["origin_at"],
        "title": build_page.title(said["origin_recipe"]),
        "recipe": said["origin_saved"],
        "name": said["origin_name"] if sees_recipe else None,
        "version": said["origin_number"],
        "made": made,
    }


def actions(request: PanelRequest, machine: Machine) -> dict[str, Any]:
    """What this person may do with the machine now, and the job that holds it."""
    state = machine.shown_state
    job = machine_rows.by_machine(layout.unfinished_jobs(request)).get((machine.host_id, machine.name))
    cannot = machine.activity.get("cannot", {}) if state.is_up else {}
    return {
        "machine": machine,
        "host": machine.host,
        "state": state.value,
        "url": machine_rows.machine_url(machine.host.name, machine.name),
        "doing": machine_rows.doing(job, waits=machine.host.is_silent),
        "verbs": ACTIONS
        | {"start": start_of(machine), "poweroff": power_off_of(machine), "reboot": reboot_of(machine)},
        "cannot": cannot,
        "may_reboot": "reboot" not in cannot and state not in unit_activity.STARTS,
        "start_text": f"Start when {machine.host.name} is back" if machine.host.is_silent else "",
        "poweroff_text": f"Power off when {machine.host.name} is back" if machine.host.is_silent else "",
        "is_template": is_template(machine),
        "can_start": state in CAN_START and not is_template(machine),
        "can_stop": state.is_up or state == MachineState.UNKNOWN,
        "can_remove": not state.is_up and state != MachineState.MISSING and not machine.image_is_fixed,
        "removed_elsewhere": machine.image_is_elsewhere,
        "fixed": FIXED_BECAUSE.get(machine.read_only_by, ""),
        "kept_for_others": bool(machine.host_team) and machine.host_team != (machine.team.slug if machine.team else ""),
        "may_operate": request.user.may_in(Permission.OPERATE, machine.team_id),
        "may_configure": request.user.may_in(Permission.CONFIGURE, machine.team_id),
        "may_remove": request.user.may_in(Permission.REMOVE, machine.team_id),
        "may_build": request.user.may_in(Permission.BUILD, machine.team_id),
    }


def _age(moment: datetime | None, now: datetime) -> float:
    return (now - moment).total_seconds() if moment else 0


def _version(machine: Machine, shown: dict[str, Any], unfinished: int) -> str:
    facts = [getattr(machine, field.attname) for field in Machine._meta.concrete_fields]
    jobs = [(job.pk, job.state, job.progress, job.phases) for job, _ in shown["jobs"]]
    host = (
        shown["host_state"],
        shown["is_old"],
        machine.host.trouble,
        shown["has_draft"],
        shown["doing"],
        unfinished,
        shown["limits"],
        shown["outside_unknown"],
        shown["bad_bind"],
    )
    return machine_rows.version(facts, jobs, host)


@dataclass(frozen=True)
class LimitRow:
    """One resource property: what the configuration wants and what the running unit really has."""

    title: str
    key: str
    wanted: str
    really: str
    holds: bool | None  # None where nothing can be said: not running, or not reported
    waits: str = ""  # what a drop-in that is not the panel's will set at the next start


def _shares_network(machine: Machine) -> bool:
    """Whether it runs with its host's network, as far as a command line by hand says so on its own."""
    line = machine.command
    return (
        config_page.hand_words(machine) != []
        and line.is_known
        and machine.nspawn_sha256 == ABSENT
        and not any(setting.startswith("Network.") for setting in line.said)
        and not line.strange
    )


def _is_same_failure(machine: Machine, job: Job) -> bool:
    """Whether the unit failed in the job that failed: one trouble, told once."""
    return job.state in BAD_ENDS and operations.of(job.op).starts_machine and machine.shown_state == MachineState.FAILED


def _outside(machine: Machine) -> dict[str, str] | None:
    """The limits that others' drop-ins set for a machine that is down, where nothing shows them in force; None while its
    host has not sent its files."""
    if machine.shown_state.is_up:
        return {}
    told = getattr(machine, "told_of_files", None)
    if told is None:
        return None
    held: dict[str, str] = {}
    for file in ObservedFiles(machine=machine, told=told).dropins:  # the last one wins, ours too
        said = limits.read(file.text) if file.is_plain else {}
        held = {key: value for key, value in held.items() if key not in said} | ({} if file.is_ours else said)
    return held


def _is_default(key: str, raw: str) -> bool:
    """Whether this is what systemd shows where nobody has set the limit."""
    default = limits.PROPERTIES[key].default
    return raw in {"", *compare_effective.UNLIMITED, default, limits.effective(key, default) if default else ""}


def limit_rows(machine: Machine, outside: Mapping[str, str] | None = None) -> list[LimitRow]:
    """The limits that are wanted, in force, or will be at the next start because of files that are not the panel's."""
    rows = []
    for column, key in LIMITS.items():
        wanted = getattr(machine.applied, column) if machine.applied else ""
        waits = (outside or {}).get(key, "")
        raw = str(machine.effective.get(limits.PROPERTIES[key].shown_as, machine.effective.get(key, "")))
        if wanted or waits or not _is_default(key, raw):
            rows.append(_limit_row(machine, key, wanted, raw, waits))
    return rows


def _limit_row(machine: Machine, key: str, wanted: str, raw: str, waits: str) -> LimitRow:
    row = partial(
        LimitRow, title=limits.PROPERTIES[key].title, key=key, wanted=effective_settings_page.readable(key, wanted)
    )
    known = bool(raw) and machine.shown_state.is_up
    if known and key in validation.lacking(machine.host) and (wanted or raw) not in compare_effective.UNLIMITED:
        return row(really=NOT_ENFORCED, holds=False)
    total = int(machine.host.facts.get("memory_total") or 0)
    return row(
        really=effective_settings_page.in_words(key, raw) if known else "",
        holds=compare_effective.holds(key, wanted, raw, total) if known and wanted else None,
        waits=effective_settings_page.readable(key, waits),
    )
