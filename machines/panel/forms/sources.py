"""Where the tree of a new machine comes from: a saved recipe, a distribution, an address, an archive, or a machine.

Every source is a form that ends in a recipe (`to_recipe`). Which there are, and which form is for each, stands in SOURCES.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from django import forms

from machines.contract import recipes
from machines.contract.permissions import Permission
from machines.contract.problems import Problem
from machines.models import Archive, Host, Machine, Recipe, RecipeVersion, User
from machines.panel.forms.recipes import DISTRIBUTIONS, SourceForm, filled, form_for, system_of
from machines.panel.forms.validators import errors_of
from machines.panel.hosts import host_facts
from machines.panel.images import archives, builds, saved_recipes

OFFERED = 500


class _Choice(forms.Form):
    """A source that is chosen from a list."""

    template = "machines/_source_choice.html"
    chosen_by = ""
    system = ""
    nothing = ""

    def trouble(self) -> list[tuple[str, str, str]]:
        return errors_of(self)

    def clear_errors(self) -> None:
        self.errors.clear()

    @property
    def choice(self) -> Any:
        return self[self.chosen_by]

    @property
    def is_empty(self) -> bool:
        field = self.fields[self.chosen_by]
        if isinstance(field, forms.ModelChoiceField):
            return not field.queryset.exists()  # type: ignore[union-attr]
        return not field.choices  # type: ignore[attr-defined]


class RecipeChoice(_Choice):
    chosen_by = "recipe"
    nothing = "There are no recipes yet."

    recipe = forms.ModelChoiceField(
        Recipe.objects.none(),
        empty_label=None,
        error_messages={"required": "Choose a recipe.", "invalid_choice": "There is no such recipe."},
    )

    def __init__(self, *args: Any, by: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        offered = Recipe.objects.offered().where_may(by, Permission.BUILD).select_related("current")
        self.fields["recipe"].queryset = offered  # type: ignore[attr-defined]

    def clean_recipe(self) -> Recipe:
        recipe: Recipe = self.cleaned_data["recipe"]
        if saved_recipes.content_of(recipe.current) is None:
            raise forms.ValidationError("This version of the panel can no longer read that recipe; edit it first.")
        return recipe

    @cached_property
    def shown(self) -> Recipe | None:
        """The recipe that stands in the field."""
        value = self["recipe"].value()
        initial = None if self.is_bound else self.initial.get("recipe")
        found = initial if isinstance(initial, Recipe) else None
        if found is None and str(value or "").isdecimal() and len(str(value)) < 16:
            found = self.fields["recipe"].queryset.filter(pk=int(value)).first()  # type: ignore[attr-defined]
        return found or (None if value else self.fields["recipe"].queryset.first())  # type: ignore[attr-defined]

    @property
    def version(self) -> RecipeVersion | None:
        return self.shown.current if self.shown else None

    def to_recipe(self) -> recipes.AnyRecipe:
        content = saved_recipes.content_of(self.cleaned_data["recipe"].current)
        assert content is not None  # clean_recipe() has looked
        return content


class ArchiveChoice(_Choice):
    chosen_by = "archive"
    nothing = "There are no archives on the panel yet: upload one, or export a machine."

    archive = forms.ModelChoiceField(
        Archive.objects.none(),
        empty_label=None,
        error_messages={"required": "Choose an archive.", "invalid_choice": "There is no such archive."},
    )

    def __init__(self, *args: Any, by: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ready = Archive.objects.where_may(by, Permission.BUILD).filter(state=Archive.State.READY)
        self.fields["archive"].queryset = ready  # type: ignore[attr-defined]

    @cached_property
    def original(self) -> Archive | None:
        """The archive that stands in the field."""
        value, queryset = self["archive"].value(), self.fields["archive"].queryset  # type: ignore[attr-defined]
        if isinstance(value, Archive):
            return value
        with contextlib.suppress(ValueError, TypeError):
            return queryset.filter(pk=UUID(str(value))).first() if value else queryset.first()  # type: ignore[no-any-return]
        return None

    def clean_archive(self) -> Archive:
        archive: Archive = self.cleaned_data["archive"]
        try:
            archives.recipe_for(archive)
        except Problem as problem:
            raise forms.ValidationError(f"{problem.message} {problem.hint}".strip()) from None
        return archive

    def to_recipe(self) -> recipes.ArchiveRecipe:
        return archives.recipe_for(self.cleaned_data["archive"])


def _shown(machine: Machine) -> str:
    is_template = machine.read_only and not machine.image_is_fixed
    return " · ".join(filter(None, (machine.name, "template" if is_template else "", machine.os)))


class CloneChoice(_Choice):
    """A machine or template of the chosen host."""

    chosen_by = "clone"
    nothing = "There is no machine on this host to clone."

    clone = forms.ChoiceField(label="Clone of", error_messages={"required": "Choose a machine to clone."})

    def __init__(self, *args: Any, host: Host | None, by: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        there = builds.originals(host).where_may(by, Permission.BUILD) if host else Machine.objects.none()
        found = there.order_by("-read_only", "name").only("name", "read_only", "read_only_by", "os")[:OFFERED]
        choices = [(each.name, _shown(each)) for each in found]
        field = self.fields["clone"]
        self._host = host
        field.choices = choices  # type: ignore[attr-defined]
        field.error_messages["invalid_choice"] = f"{host or 'The host'} has no machine of that name."

    @cached_property
    def original(self) -> Machine | None:
        """The machine that stands in the field."""
        offered = [name for name, _ in self.fields["clone"].choices]  # type: ignore[attr-defined]
        name = self["clone"].value() or next(iter(offered), "")
        if self._host is None or name not in offered:
            return None
        named = Machine.objects.listed().on(self._host).filter(name=name)  # one of those offered
        return named.select_related("host", "applied").first()

    def to_recipe(self) -> recipes.CloneRecipe:
        return recipes.CloneRecipe(source=self.cleaned_data["clone"])


@dataclass(frozen=True)
class Kind:
    """One source as its card says it."""

    title: str
    says: str


SOURCES = {
    "recipe": Kind("Saved recipe", "Shared with the team; the second machine is a clone of the base image."),
    "distribution": Kind("Distribution", "Packages selected here, for this build only."),
    "pull": Kind("Image from a URL", "Fetched and verified by the host."),
    "archive": Kind("Archive", "An uploaded or exported file."),
    "clone": Kind("Clone of a machine", "Of a machine or template on the host."),
}
AnySource = SourceForm[Any] | RecipeChoice | ArchiveChoice | CloneChoice


PLACES = {"host": ("id_host_field", "Host"), "verify": ("id_verify_field", "Verified"), "url": ("id_url", "Address")}


class Source:
    """The source of a new machine on its way in: `word` of SOURCES and the form of that one."""

    def __init__(self, word: str, form: AnySource, host: Host | None) -> None:
        self.word, self.form, self.host = word, form, host
        self._wrong: list[tuple[str, str, str]] = []

    @property
    def kinds(self) -> list[tuple[str, Kind]]:
        return list(SOURCES.items())

    @property
    def distributions(self) -> dict[str, str]:
        return DISTRIBUTIONS

    @property
    def is_copy(self) -> bool:
        """Whether the tree comes with an identity of its own."""
        if isinstance(self.form, RecipeChoice):
            return bool(self.content and self.content.kind not in recipes.WITH_BASE)
        return self.word in {"pull", "archive", "clone"}

    @property
    def version(self) -> RecipeVersion | None:
        return self.form.version if isinstance(self.form, RecipeChoice) else None

    @property
    def chosen(self) -> Machine | Archive | None:
        """The machine or archive that the page shows as chosen: what was sent, else the first that is offered."""
        return self.form.original if isinstance(self.form, CloneChoice | ArchiveChoice) else None

    @property
    def content(self) -> recipes.AnyRecipe | None:
        """What would be built, where it is known already. Asks nothing of a form that is not complete."""
        if isinstance(self.form, RecipeChoice):
            return saved_recipes.content_of(self.version)
        return self.form.to_recipe() if self.form.is_bound and self.form.is_valid() else None

    def is_valid(self) -> bool:
        """Whether it can be built, and on this host. What is wrong stands in errors()."""
        self._wrong = []
        if not self.form.is_valid():
            return False
        for obstacle in builds.obstacles(self.host, self.form.to_recipe()) if self.host else ():
            self._wrong.append((*PLACES[obstacle.about], obstacle.text))
        return not self._wrong

    def errors(self) -> list[tuple[str, str, str]]:
        return [*self.form.trouble(), *self._wrong]

    def clear_errors(self) -> None:
        self.form.clear_errors()

    def fit(self) -> None:
        """What was typed for another source shall not stand in the way of this one."""
        if isinstance(self.form, SourceForm):
            self.form.reset_incompatible()

    def token(self) -> str:
        """What the host needs to fetch an archive; "" for every other source."""
        if isinstance(self.form, ArchiveChoice) and self.host:
            return archives.token_for(self.form.cleaned_data["archive"], self.host, "get")
        return ""


# --- made from a request


def bound(data: Any, host: Host | None, *, by: User) -> Source:
    """What was sent. Without a source it is a distribution, without that Debian."""
    word = data.get("source", "")
    word = word if word in SOURCES else "distribution"
    return Source(word, _form(word, data, host, by), host)


def _form(word: str, data: Any, host: Host | None, by: User) -> AnySource:
    if word == "recipe":
        return RecipeChoice(data, by=by)
    if word == "archive":
        return ArchiveChoice(data, by=by)
    if word == "clone":
        return CloneChoice(data, host=host, by=by)
    system = "pull" if word == "pull" else data.get("distribution", "debian")
    return form_for(
        "debian" if word == "distribution" and system == "pull" else system,
        data,
        may_skip=host_facts.pulls_unverified(host),
    )


def blank(query: Mapping[str, str], host: Host | None, *, by: User) -> Source:
    """As a new page has it, or as its address says: ?recipe=7, ?archive=…, ?clone=web, ?source=pull&url=…"""
    for word in ("recipe", "archive", "clone"):
        if word in query:
            return Source(word, _chosen(word, query[word], host, by), host)
    asked = query.get("source", "")
    word = asked if asked in SOURCES else "recipe"
    if word != asked and {"distribution", "release", "packages", "mirror"} & set(query):
        word = "distribution"
    recipe = saved_recipes.likely(host, by=by) if word == "recipe" else None
    if word == "recipe" != asked and recipe is None:
        word = "distribution"
    if word in {"distribution", "pull"}:
        system = "pull" if word == "pull" else query.get("distribution", "debian")
        given = {name: query[name] for name in ("release", "packages", "mirror", "url", "sha256") if name in query}
        return Source(word, form_for(system, initial=given, may_skip=host_facts.pulls_unverified(host)), host)
    return Source(word, _chosen(word, recipe or "", host, by), host)


def _chosen(word: str, value: str | Recipe, host: Host | None, by: User) -> AnySource:
    initial = {word: value} if value else {}
    if word == "recipe":
        return RecipeChoice(initial=initial, by=by)
    if word == "clone":
        return CloneChoice(initial=initial, host=host, by=by)
    return ArchiveChoice(initial=initial, by=by)


def of_recipe(recipe: recipes.AnyRecipe, version: RecipeVersion | None, host: Host | None, *, by: User) -> Source:
    """What an earlier build was made of. A saved recipe is chosen again as it is now."""
    if (
        version is not None
        and version.recipe.archived_at is None
        and by.may_in(Permission.BUILD, version.recipe.team_id)
    ):
        return Source("recipe", RecipeChoice(initial={"recipe": version.recipe}, by=by), host)
    if isinstance(recipe, recipes.CloneRecipe):
        return Source("clone", CloneChoice(initial={"clone": recipe.source}, host=host, by=by), host)
    if isinstance(recipe, recipes.ArchiveRecipe):
        mine = Archive.objects.where_may(by, Permission.BUILD)
        archive = mine.filter(sha256=recipe.sha256, state=Archive.State.READY).first()
        return Source("archive", ArchiveChoice(initial={"archive": archive}, by=by), host)
    word = "pull" if system_of(recipe) == "pull" else "distribution"
    return Source(word, filled(recipe, may_skip=host_facts.pulls_unverified(host)), host)
