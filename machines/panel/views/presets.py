"""Presets: the list, one with its machines, the editor, the preview of a roll-out, and groups of jobs."""

from typing import Any

from django.db import IntegrityError, transaction
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from machines.contract.permissions import Permission
from machines.contract.problems import BadValue, Problem
from machines.models import GroupMember, JobGroup, Machine, Preset, PresetUse
from machines.panel.configs import presets, rollouts
from machines.panel.forms import row_buttons, team_choice
from machines.panel.forms.presets import PresetForm, rows_of, settings_of
from machines.panel.orders import dispatch
from machines.panel.web import access, press, responses
from machines.panel.web.access import PanelRequest, needs

SHOWN = 200


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest) -> HttpResponse:
    found = list(Preset.objects.shown_to(request.user).select_related("team").prefetch_related("uses")[:SHOWN])
    names = {preset.name for preset in found}
    starters = [
        {"word": word, "name": name, "description": description}
        for word, (name, description, _) in presets.STARTERS.items()
        if name not in names
    ]
    rows = [
        {
            "preset": preset,
            "words": _words(preset),
            "machines": len(preset.uses.all()),
            "may_configure": request.user.may_in(Permission.CONFIGURE, preset.team_id),
        }
        for preset in found
    ]
    context = {"rows": rows, "starters": starters, "may_configure": request.user.may(Permission.CONFIGURE)}
    return render(request, "presets/index.html", context)


def _words(preset: Preset) -> list[str]:
    """What it says in a few words."""
    network = f"network {' '.join(filter(None, [preset.network_mode, preset.network_target]))}"
    said = [f"{name.rpartition('.')[2]}={text.splitlines()[0]}" for name, text in preset.settings.items() if text]
    return [*([network] if preset.network_mode else []), *said]


@require_POST
@needs(Permission.CONFIGURE)
def add_starter(request: PanelRequest) -> HttpResponse:
    word = request.POST.get("starter", "")
    if word not in presets.STARTERS:
        return responses.refused(request, Problem("There is no such preset."), back=reverse("preset-index"))
    name, description, settings = presets.STARTERS[word]
    values = {"description": description, "settings": settings, "author_name": request.user.username}
    preset, is_new = Preset.objects.get_or_create(
        name=name, team=team_choice.first(request.user, Permission.CONFIGURE), defaults=values
    )
    said = f"{name} added. Edit it as you like; no machine uses it yet." if is_new else f"{name} already exists."
    return responses.done(request, said, back=reverse("preset-detail", args=[preset.pk]))


# --- the editor


@require_http_methods(["GET", "POST"])
@needs(Permission.CONFIGURE)
def new(request: PanelRequest) -> HttpResponse:
    return _edit(request, Preset())


@require_http_methods(["GET", "POST"])
@needs(Permission.CONFIGURE)
def edit(request: PanelRequest, pk: int) -> HttpResponse:
    return _edit(request, _preset(request, pk))


def _edit(request: PanelRequest, preset: Preset) -> HttpResponse:
    if request.method == "GET":
        return _editor(
            request, preset, PresetForm(instance=preset, by=request.user), rows_of(preset.settings or {"": ""})
        )
    data = row_buttons.shaped(request.POST)
    form, rows = PresetForm(data, instance=preset, by=request.user), rows_of({}, data)
    if row_buttons.asked(data):
        return _editor(request, preset, form, rows)
    if not all([form.is_valid(), rows.is_valid()]):
        return _editor(request, preset, form, rows, status=422)
    try:
        preset.settings = settings_of(rows)
        preset.author_name = request.user.username
        with transaction.atomic():
            form.save()
            presets.update_notes(preset.uses.values_list("machine", flat=True))
    except BadValue as problem:
        return _editor(request, preset, form, rows, problem=problem, status=422)
    except IntegrityError:
        form.add_error("name", "A preset with this name already exists.")
        return _editor(request, preset, form, rows, status=422)
    said = "Preset saved. Machines that use it stay unchanged until it is rolled out."
    return responses.done(request, said, back=reverse("preset-detail", args=[preset.pk]))


def _editor(
    request: PanelRequest, preset: Preset, form: PresetForm, rows: Any, *, status: int = 200, **more: Any
) -> HttpResponse:
    context = {"preset": preset if preset.pk else None, "form": form, "rows": rows, **more}
    return render(request, "presets/edit.html", context, status=status)


@require_GET
@needs(Permission.VIEW)
def detail(request: PanelRequest, pk: int) -> HttpResponse:
    preset = _preset(request, pk)
    seen = Machine.objects.visible_to(request.user)
    uses = PresetUse.objects.filter(preset=preset, machine__in=seen).select_related(
        "preset", "machine__host", "machine__applied"
    )
    context = {
        "preset": preset,
        "settings": [(name, presets.OFFERED.get(name), text.splitlines()) for name, text in preset.settings.items()],
        "uses": [
            (use, presets.differing(use)) for use in uses.order_by("machine__host__name", "machine__name")[:SHOWN]
        ],
        "groups": preset.groups.all()[:10],
        "may_configure": request.user.may_in(Permission.CONFIGURE, preset.team_id),
    }
    return render(request, "presets/detail.html", context)


@require_POST
@needs(Permission.CONFIGURE)
def remove(request: PanelRequest, pk: int) -> HttpResponse:
    """Forget a preset; machines keep the settings they have."""
    preset = _preset(request, pk)
    machines = list(preset.uses.values_list("machine", flat=True))
    preset.delete()
    presets.update_notes(machines)
    said = f"Preset {preset.name} removed. Machines keep their settings."
    return responses.done(request, said, back=reverse("preset-index"))


# --- rolling out


@require_http_methods(["GET", "POST"])
@needs(Permission.CONFIGURE)
def roll_out(request: PanelRequest, pk: int) -> HttpResponse:
    """Choose machines and see what would change on each; then order it."""
    preset = _preset(request, pk)
    given = request.POST if request.method == "POST" else request.GET
    chosen = _chosen(preset, given.getlist("machine"))
    if request.method == "GET" and not chosen:
        chosen = presets.with_preset(preset)
    ordered = request.method == "POST" and given.get("then") in {"apply", "restart"}
    # What is ordered is what was shown, never a selection nobody has seen the changes of.
    changed = ordered and {machine.pk for machine in chosen} != {
        machine.pk for machine in _chosen(preset, given.getlist("shown"))
    }
    if ordered and not changed:
        try:
            group = dispatch.once(
                JobGroup,
                press.key(request),
                lambda key: rollouts.roll_out(
                    preset, chosen, by=request.user, stop_at_failure="stop" in given,
                    restart=given.get("then") == "restart", key=key,
                ),
            )  # fmt: skip
        except Problem as problem:
            return responses.refused(request, problem, back=reverse("preset-roll-out", args=[pk]))
        return redirect("job-group", group.pk)
    steps = presets.plan(preset.content, chosen, presets.previous(preset))
    picked = {machine.pk for machine in chosen}
    everything = (
        Machine.objects.listed()
        .filter(team=preset.team_id)
        .exclude(image_type="")
        .select_related("host")
        .order_by("host__name", "name")
    )
    context = {
        "preset": preset,
        "changed": changed,
        "steps": steps,
        "due": sum(step.is_due for step in steps),
        "others": [machine for machine in everything[: rollouts.MOST] if machine.pk not in picked],
        "may_operate": request.user.may_in(Permission.OPERATE, preset.team_id),
    }
    return render(request, "presets/roll_out.html", context, status=409 if changed else 200)


def _preset(request: PanelRequest, pk: int) -> Preset:
    return access.of_team(request, Preset.objects.all(), pk=pk)


def _chosen(preset: Preset, numbers: list[str]) -> list[Machine]:
    """The machines of the preset's team with these keys."""
    keys = [
        int(number) for number in numbers[: rollouts.MOST] if number.isascii() and number.isdigit() and len(number) < 16
    ]
    found = Machine.objects.listed().filter(pk__in=keys, team=preset.team_id).select_related("host", "applied")
    return list(found.order_by("host__name", "name"))


@require_GET
@needs(Permission.VIEW)
def group(request: PanelRequest, pk: int) -> HttpResponse:
    """A group of jobs: a row for each machine."""
    found = access.of_team(request, JobGroup.objects.select_related("preset"), pk=pk)
    members = list(found.members.select_related("job", "machine__host"))
    failed = [member for member in members if member.has_failed]
    context = {
        "group": found,
        "members": members,
        "counts": _counts(members),
        "failed": failed,
        "again": f"{reverse('preset-roll-out', args=[found.preset_id])}?{'&'.join(f'machine={m.machine_id}' for m in failed)}"
        if found.preset_id and failed and found.ended_at
        else "",
        "may_configure": request.user.may_in(Permission.CONFIGURE, found.team_id),
        "fragment": responses.wants_fragment(request),
    }
    version = f"{bool(found.ended_at)}.{'.'.join(f'{m.state}{m.job.state if m.job else str()}' for m in members)}"
    return responses.page(
        request, "presets/group.html", context, fragment="presets/_group.html", version=version[:2000]
    )


def _counts(members: list[GroupMember]) -> list[tuple[int, str]]:
    """(how many, word) of each kind there is."""
    kinds = {
        "done": sum(m.has_succeeded for m in members),
        "failed": sum(m.has_failed and m.state != GroupMember.State.SKIPPED for m in members),
        "not tried": sum(m.state == GroupMember.State.SKIPPED for m in members),
        "in progress": sum(m.state == GroupMember.State.PLACED and not m.has_ended for m in members),
        "waiting": sum(m.state == GroupMember.State.WAITING for m in members),
    }
    return [(number, word) for word, number in kinds.items() if number]
