"""Recipes: the list, one with its runs and versions, the editor, and what is done with them."""

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from machines.contract import orders
from machines.contract.permissions import Permission
from machines.contract.problems import BadValue, Problem
from machines.contract.recipes import WITH_BASE, AnyRecipe, FirstBoot, key_of, title_of
from machines.models import Host, Job, Recipe, RecipeVersion, User
from machines.panel.configs import diffs
from machines.panel.forms import row_buttons, team_choice
from machines.panel.forms.recipe_names import RecipeNameForm
from machines.panel.forms.recipes import SYSTEMS, SourceForm, filled, form_for, system_of
from machines.panel.hosts import host_facts
from machines.panel.images import base_images, recipe_runs, saved_recipes
from machines.panel.orders import dispatch
from machines.panel.web import access, press, responses
from machines.panel.web.access import PanelRequest, needs

SHOWN = 300
VERSIONS_SHOWN = 200
VERSIONS_KNOWN = 2000
HOSTS_OFFERED = 500


@require_GET
@needs(Permission.VIEW)
def index(request: PanelRequest) -> HttpResponse:
    archived = request.GET.get("archived") == "1"
    mine = Recipe.objects.shown_to(request.user).select_related("team")
    found = mine.exclude(archived_at=None) if archived else mine.offered()
    recipes = list(found.select_related("current")[: SHOWN + 1])
    runs = recipe_runs.last([recipe.pk for recipe in recipes[:SHOWN]], by=request.user)
    known = base_images.of_all(by=request.user) if recipes else []
    context = {
        "rows": [_row(request.user, recipe, runs.get(recipe.pk, []), known) for recipe in recipes[:SHOWN]],
        "is_cut": len(recipes) > SHOWN,
        "archived": archived,
        "starters": _starters({recipe.name for recipe in recipes}),
        "may_build": request.user.may(Permission.BUILD),
    }
    return render(request, "recipes/index.html", context)


def _row(by: User, recipe: Recipe, runs: list[recipe_runs.Run], known: list[base_images.Base]) -> dict[str, Any]:
    """Of bases that somebody else made of the same only administrators are told."""
    content = saved_recipes.content_of(recipe.current)
    key = key_of(content) if content else ""
    mine = {run.uuid for run in runs}
    there = [base for base in known if (by.sees_all and base.key == key) or (base.uuid and base.uuid in mine)]
    return {
        "recipe": recipe,
        "title": title_of(content) if content else "cannot be read by this version of the panel",
        "summary": recipe_runs.summary(runs),
        "bases": there,
        "has_base": bool(content and content.kind in WITH_BASE),
        "may_build": by.may_in(Permission.BUILD, recipe.team_id),
    }


def _starters(names: set[str]) -> list[dict[str, str]]:
    """Those that are not there yet under their own name."""
    return [
        {"word": word, "name": name, "title": title_of(recipe)}
        for word, (name, _, recipe) in saved_recipes.STARTERS.items()
        if name not in names
    ]


@require_POST
@needs(Permission.BUILD)
def add_starter(request: PanelRequest) -> HttpResponse:
    word = request.POST.get("starter", "")
    if word not in saved_recipes.STARTERS:
        return responses.refused(request, Problem("There is no such starter recipe."), back=reverse("recipe-index"))
    name, says, content = saved_recipes.STARTERS[word]
    try:
        saved_recipes.create(
            name,
            says,
            content,
            by=request.user,
            team=team_choice.first(request.user, Permission.BUILD),
            reason="starter recipe",
        )
    except BadValue as problem:
        return responses.refused(request, problem, back=reverse("recipe-index"))
    return responses.done(request, f"{name} added. Edit it as you like.", back=reverse("recipe-index"))


# --- the editor


@require_http_methods(["GET", "POST"])
@needs(Permission.BUILD)
def new(request: PanelRequest) -> HttpResponse:
    if request.method == "GET":
        content = _of_job(request, request.GET.get("job", ""))
        form = (
            filled(content, may_skip=host_facts.any_pulls_unverified())
            if content
            else _blank(request.GET.get("of", ""))
        )
        return _editor(
            request, RecipeNameForm(initial={"name": request.GET.get("name", "")[:80]}, by=request.user), form
        )
    data = row_buttons.shaped(request.POST)
    form = form_for(data.get("system", ""), data, may_skip=host_facts.any_pulls_unverified())
    names = RecipeNameForm(data, by=request.user)
    if "choose" in data or row_buttons.asked(data):
        return _reshaped(request, names, form, None)
    if not all([names.is_valid(), form.is_valid()]):
        return _editor(request, names, form, status=422)
    given = names.cleaned_data
    try:
        recipe = saved_recipes.create(
            given["name"], given["description"], form.to_recipe(), by=request.user, team=given["team"],
            reason=given["reason"],
        )  # fmt: skip
    except BadValue as problem:
        names.add_error("name", problem.message)
        return _editor(request, names, form, status=422)
    return responses.done(request, f"Recipe {recipe.name} saved.", back=reverse("recipe-detail", args=[recipe.pk]))


def _blank(system: str) -> SourceForm[Any]:
    return form_for(system, may_skip=host_facts.any_pulls_unverified())


def _of_job(request: PanelRequest, number: str) -> AnyRecipe | None:
    """What a build was made of, to save it as a recipe: ?job=812. None for what is not saved."""
    if not number.isascii() or not number.isdigit() or len(number) > 15:
        return None
    job = Job.objects.visible_to(request.user).filter(op__in=orders.RECIPE_OPS, pk=int(number)).first()
    content: AnyRecipe | None = getattr(orders.from_wire(job.order), "recipe", None) if job else None
    return content if content and system_of(content) else None


@require_http_methods(["GET", "POST"])
@needs(Permission.BUILD)
def edit(request: PanelRequest, pk: int) -> HttpResponse:
    recipe = _recipe(request, pk)
    current = recipe.current
    content = saved_recipes.content_of(current)
    if request.method == "GET":
        names = RecipeNameForm(initial={"name": recipe.name, "description": recipe.description})
        form = filled(content, may_skip=host_facts.any_pulls_unverified()) if content else _blank("")
        return _editor(request, names, form, recipe)
    data = row_buttons.shaped(request.POST)
    names, form = (
        RecipeNameForm(data),
        form_for(data.get("system", ""), data, may_skip=host_facts.any_pulls_unverified()),
    )
    if "choose" in data or row_buttons.asked(data):
        return _reshaped(request, names, form, recipe)
    if not all([names.is_valid(), form.is_valid()]):
        return _editor(request, names, form, recipe, status=422)
    return _save(request, recipe, names, form, data)


def _save(
    request: PanelRequest, recipe: Recipe, names: RecipeNameForm, form: SourceForm[Any], data: Mapping[str, Any]
) -> HttpResponse:
    given, seen = names.cleaned_data, str(data.get("seen", ""))
    try:
        with transaction.atomic():
            saved_recipes.rename(recipe, given["name"], given["description"])
            number = int(seen) if seen.isdecimal() and len(seen) < 9 else 0
            is_new = saved_recipes.change(
                recipe, form.to_recipe(), by=request.user, seen=number, reason=given["reason"]
            )
    except BadValue as problem:
        names.add_error("name", problem.message)
        return _editor(request, names, form, recipe, status=422)
    except Problem as problem:
        recipe.refresh_from_db()
        return _editor(request, names, form, recipe, status=409, problem=problem)
    said = f"Version {recipe.current.number} of {given['name']} saved." if is_new and recipe.current else "Saved."
    return responses.done(request, said, back=reverse("recipe-detail", args=[recipe.pk]))


def _reshaped(
    request: PanelRequest, names: RecipeNameForm, form: SourceForm[Any], recipe: Recipe | None
) -> HttpResponse:
    """The same page in another shape; nothing is judged yet."""
    names.errors.clear()
    form.clear_errors()
    if responses.wants_fragment(request):
        return render(request, "recipes/_system.html", _systems(form))
    return _editor(request, names, form, recipe)


def _systems(form: SourceForm[Any]) -> dict[str, Any]:
    return {"source": form, "systems": {word: system.title for word, system in SYSTEMS.items()}}


def _editor(
    request: PanelRequest,
    names: RecipeNameForm,
    form: SourceForm[Any],
    recipe: Recipe | None = None,
    *,
    status: int = 200,
    **more: Any,
) -> HttpResponse:
    wrong = [*names.trouble(), *form.trouble()] if status == 422 else []
    context = _systems(form) | {"names": names, "recipe": recipe, "errors": wrong, **more}
    return render(request, "recipes/edit.html", context, status=status)


# --- one recipe


@require_GET
@needs(Permission.VIEW)
def detail(request: PanelRequest, pk: int) -> HttpResponse:
    """One recipe with its runs, versions and bases. Three queries: its versions bring the recipe, the hosts their bases."""
    recipe, versions = _with_versions(request, pk)
    content = saved_recipes.content_of(recipe.current)
    hosts = list(Host.objects.visible_to(request.user).values_list("name", "facts__bases"))
    there = base_images.of_hosts(hosts)
    runs, jobs = recipe_runs.last_and(
        pk, {base.uuid for base in there if base.uuid}, base_images.JOB_COLUMNS, by=request.user
    )
    context = {
        "recipe": recipe,
        "title": title_of(content) if content else "",
        "lines": saved_recipes.lines(content),
        "summary": recipe_runs.summary(runs),
        "versions": versions[:VERSIONS_SHOWN],
        "bases": _bases_of(recipe, content, base_images.known(there, jobs), request.user),
        "has_base": bool(content and content.kind in WITH_BASE),
        "hosts": [name for name, _ in hosts[:HOSTS_OFFERED]],
        "may_build": request.user.may_in(Permission.BUILD, recipe.team_id),
    }
    return render(request, "recipes/detail.html", context)


def _bases_of(
    recipe: Recipe, content: AnyRecipe | None, known: list[base_images.Base], by: User
) -> list[base_images.Base]:
    """Of bases with their jobs, as far as this person sees those."""
    key = key_of(content) if content else ""
    return [
        base
        for base in known
        if (base.job or by.sees_all) and (base.recipe == recipe.pk or key in {base.recipe_key, base.key})
    ]


@require_GET
@needs(Permission.VIEW)
def version(request: PanelRequest, pk: int, number: int) -> HttpResponse:
    """One version, and how it differs from the one before it or from `?against=`."""
    recipe, versions = _with_versions(request, pk)
    by_number = {version.number: version for version in versions}
    if number not in by_number:
        raise Http404(f"{recipe.name} has no version {number}.")
    shown = by_number.pop(number)
    against = _against(shown, by_number, request.GET.get("against", ""))
    content = saved_recipes.content_of(shown)
    before = saved_recipes.text(saved_recipes.content_of(against))
    context = {
        "recipe": recipe,
        "version": shown,
        "against": against,
        "lines": saved_recipes.lines(content),
        "others": list(by_number)[:VERSIONS_SHOWN],
        "diff": diffs.unified(before, saved_recipes.text(content)) if against else [],
        "may_build": request.user.may_in(Permission.BUILD, recipe.team_id),
    }
    return render(request, "recipes/version.html", context)


def _against(shown: RecipeVersion, others: Mapping[int, RecipeVersion], wanted: str) -> RecipeVersion | None:
    """The version to compare with. Raises Http404 when it does not exist; None before the first one."""
    if not wanted:
        return next((version for number, version in others.items() if number < shown.number), None)
    known = wanted.isascii() and wanted.isdigit() and len(wanted) < 10
    found = shown if known and int(wanted) == shown.number else others.get(int(wanted)) if known else None
    if found is None:
        raise Http404(f"{shown.recipe.name} has no version {wanted[:20]}.")
    return found


@require_POST
@needs(Permission.BUILD)
def restore(request: PanelRequest, pk: int, number: int) -> HttpResponse:
    """What an old version says becomes the newest one."""
    recipe = _recipe(request, pk)
    old = get_object_or_404(RecipeVersion, recipe=recipe, number=number)
    content, back = saved_recipes.content_of(old), reverse("recipe-detail", args=[pk])
    if content is None:
        return responses.refused(
            request, Problem(f"Version {number} can no longer be read by this version of the panel."), back=back
        )
    seen = recipe.current.number if recipe.current else 0
    try:
        is_new = saved_recipes.change(recipe, content, by=request.user, seen=seen, reason=f"version {number} restored")
    except Problem as problem:
        return responses.refused(request, problem, back=back)
    said = f"Version {seen + 1} is the same as version {number}." if is_new else f"Version {seen} is already the same."
    return responses.done(request, said, back=back)


@require_POST
@needs(Permission.BUILD)
def archive(request: PanelRequest, pk: int) -> HttpResponse:
    recipe = _recipe(request, pk)
    saved_recipes.set_archived(recipe, archived=True)
    return responses.done(
        request, f"{recipe.name} archived; its builds and versions are kept.", back=reverse("recipe-index")
    )


@require_POST
@needs(Permission.BUILD)
def unarchive(request: PanelRequest, pk: int) -> HttpResponse:
    recipe = _recipe(request, pk)
    saved_recipes.set_archived(recipe, archived=False)
    return responses.done(request, f"{recipe.name} restored.", back=reverse("recipe-detail", args=[pk]))


@require_POST
@needs(Permission.BUILD)
def build_base(request: PanelRequest, pk: int) -> HttpResponse:
    """Build the recipe's base on a host, without a machine."""
    recipe = _recipe(request, pk)
    back = reverse("recipe-detail", args=[pk])
    host = Host.objects.visible_to(request.user).filter(name=request.POST.get("host", "").replace("\0", "")).first()
    content = saved_recipes.content_of(recipe.current)
    if host is None or content is None or content.kind not in WITH_BASE:
        said = "Choose a host." if host is None else "A recipe of this type has no base image."
        return responses.refused(request, Problem(said), back=back)
    order = orders.BuildBase(recipe=content, first_boot=FirstBoot())
    try:
        job = dispatch.place_once(
            press.key(request),
            lambda key: dispatch.place(
                order, on=host, by=request.user, key=key, recipe_version=recipe.current, team_id=recipe.team_id
            ),
        )
    except Problem as problem:
        return responses.refused(request, problem, back=back)
    return redirect("job-detail", job.pk)


def _recipe(request: PanelRequest, pk: int) -> Recipe:
    return access.of_team(request, Recipe.objects.select_related("current"), pk=pk)


def _with_versions(request: PanelRequest, pk: int) -> tuple[Recipe, list[RecipeVersion]]:
    """The same with its versions, newest first: a recipe has one at least. One query."""
    versions = list(
        RecipeVersion.objects.filter(recipe=pk, recipe__in=Recipe.objects.visible_to(request.user)).select_related(
            "recipe"
        )[:VERSIONS_KNOWN]
    )
    if not versions:
        raise Http404("There is no such recipe.")
    recipe = versions[0].recipe
    recipe.current = next((version for version in versions if version.pk == recipe.current_id), None)
    return recipe, versions
