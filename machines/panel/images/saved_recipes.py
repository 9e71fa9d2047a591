"""The saved recipes: a change is a new numbered version, and no version is ever changed. Starters for current systems."""

from hashlib import sha256
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone
from pydantic import ValidationError

from machines.contract import recipes
from machines.contract.permissions import Permission
from machines.contract.problems import BadValue, Problem
from machines.models import Host, Recipe, RecipeVersion, Team, User
from machines.panel.hosts import host_tools

LOOKED_AT = 50  # recipes, for one that a host can build
STARTERS: dict[str, tuple[str, str, recipes.AnyRecipe]] = {
    word: (name, says, recipe)
    for word, name, says, recipe in (
        ("debian-13", "Debian 13", "A small Debian trixie", recipes.DebianRecipe(release="trixie")),
        ("debian-12", "Debian 12", "A small Debian bookworm", recipes.DebianRecipe(release="bookworm")),
        (
            "ubuntu-26-04", "Ubuntu 26.04", "A small Ubuntu resolute",
            recipes.DebianRecipe(distribution="ubuntu", release="resolute", components=("main", "universe")),
        ),
        (
            "ubuntu-24-04", "Ubuntu 24.04", "A small Ubuntu noble",
            recipes.DebianRecipe(distribution="ubuntu", release="noble", components=("main", "universe")),
        ),
        ("fedora", "Fedora 44", "A small Fedora", recipes.DnfRecipe(release="44")),
        (
            "centos", "CentOS Stream 10", "A small CentOS Stream",
            recipes.DnfRecipe(distribution="centos", release="10-stream"),
        ),
        ("almalinux", "AlmaLinux 10", "A small AlmaLinux", recipes.DnfRecipe(distribution="almalinux", release="10")),
        ("rocky", "Rocky Linux 10", "A small Rocky Linux", recipes.DnfRecipe(distribution="rocky", release="10")),
        ("arch", "Arch Linux", "A small Arch Linux", recipes.ArchRecipe()),
        ("opensuse", "openSUSE Leap 16", "A small openSUSE Leap", recipes.SuseRecipe(release="16.0")),
    )
}  # fmt: skip


def create(
    name: str, description: str, content: recipes.AnyRecipe, *, by: User, team: Team | None, reason: str = ""
) -> Recipe:
    """A new recipe of this team with its version 1. Raises BadValue when the name is taken there."""
    try:
        with transaction.atomic():
            recipe = Recipe.objects.create(name=name, team=team, description=description, author_name=by.username)
            _add(recipe, 1, content, by, reason or "first version")
    except IntegrityError as error:
        raise BadValue(f"There is a recipe “{name}” already; choose another name.", field="name") from error
    return recipe


def change(recipe: Recipe, content: recipes.AnyRecipe, *, by: User, seen: int, reason: str = "") -> bool:
    """A new version, unless it says what the current one says. Raises Problem when somebody was faster than `seen`."""
    with transaction.atomic():
        Recipe.objects.select_for_update().get(pk=recipe.pk)  # one after another, so that the second sees the first's
        current = RecipeVersion.objects.filter(recipe=recipe).order_by("-number").first()
        number = current.number if current else 0
        if current and current.number != seen:
            raise Problem(
                f"{current.author_name or 'Somebody'} saved version {current.number} of {recipe.name} in the meantime.",
                hint="Save again to put your version on top of it.",
                code="newer-version",
            )
        if current and current.spec == content.model_dump(mode="json"):
            return False
        _add(recipe, number + 1, content, by, reason)
    return True


def _add(recipe: Recipe, number: int, content: recipes.AnyRecipe, by: User, reason: str) -> None:
    version = RecipeVersion.objects.create(
        recipe=recipe,
        number=number,
        spec=content.model_dump(mode="json"),
        reason=reason,
        author=by,
        author_name=by.username,
    )
    Recipe.objects.filter(pk=recipe.pk).update(current=version)
    recipe.current = version


def rename(recipe: Recipe, name: str, description: str) -> None:
    """Raises BadValue when the name is taken."""
    try:
        with transaction.atomic():
            Recipe.objects.filter(pk=recipe.pk).update(name=name, description=description)
    except IntegrityError as error:
        raise BadValue(f"There is a recipe “{name}” already; choose another name.", field="name") from error


def set_archived(recipe: Recipe, *, archived: bool) -> None:
    """Off the list, or back on it. Its runs and versions stay."""
    Recipe.objects.filter(pk=recipe.pk).update(archived_at=timezone.now() if archived else None)


def likely(host: Host | None, *, by: User) -> Recipe | None:
    """The first recipe of theirs that the host has the tools for, else the first of all; None when there is none."""
    offered = list(Recipe.objects.offered().where_may(by, Permission.BUILD).select_related("current")[:LOOKED_AT])
    for recipe in offered:
        content = content_of(recipe.current)
        if content and not host_tools.lacking_for_recipe(host, content):
            return recipe
    return offered[0] if offered else None


def content_of(version: RecipeVersion | None) -> recipes.AnyRecipe | None:
    """The recipe itself; None for a version this panel cannot read any more."""
    try:
        return version.content if version else None
    except (ValidationError, BadValue):
        return None


# --- in words

_WORDS = {
    "distribution": "Distribution", "release": "Release", "variant": "Variant",
    "components": "Components", "repositories": "Repositories", "packages": "Packages", "mirror": "Mirror",
    "tool": "Built by", "proxy": "Proxy", "prime": "Primed", "trim": "Trimmed", "url": "Address", "format": "Format",
    "verify": "Verified", "sha256": "SHA-256",
}  # fmt: skip


def lines(content: recipes.AnyRecipe | None) -> list[tuple[str, str]]:
    """A recipe as (word, value); what is empty is left out. Packages are one a line, so that a diff shows them."""
    if content is None:
        return []
    values = content.model_dump(mode="json", exclude={"kind"})
    ordered = [*(name for name in _WORDS if name in values), *(name for name in values if name not in _WORDS)]
    said = [(_WORDS.get(name, name), _said(name, values[name])) for name in ordered]
    return [(word, text) for word, text in said if text]


def _said(name: str, value: Any) -> str:
    if name == "repositories":
        return "\n".join(_repository(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list):
        return ("\n" if name == "packages" else " ").join(map(str, value))
    return str(value or "")


def _repository(given: dict[str, Any]) -> str:
    parts = [given.get("id"), given.get("uri"), given.get("url"), given.get("suite"), *given.get("components", ())]
    key = f"key {sha256(given['key'].encode()).hexdigest()[:12]}" if given.get("key") else "no key of its own"
    return " ".join([*(str(part) for part in parts if part), f"({key})"])


def text(content: recipes.AnyRecipe | None) -> str:
    """The same as text to compare line by line."""
    return "\n".join(
        "\n".join([f"{word}:", *(f"  {line}" for line in said.splitlines())]) if "\n" in said else f"{word}: {said}"
        for word, said in lines(content)
    )
