"""A recipe: a named way to make an image, kept in numbered versions. A job keeps the version it was run with."""

from django.conf import settings
from django.db import models
from django.utils import timezone
from pydantic import TypeAdapter

from machines.contract import recipes
from machines.models.team import OfTeams, team_field

_READ: TypeAdapter[recipes.AnyRecipe] = TypeAdapter(recipes.Recipe)


class RecipeQuerySet(OfTeams["Recipe"]):
    def offered(self) -> "RecipeQuerySet":
        """All but those that were put away."""
        return self.filter(archived_at=None)


class Recipe(models.Model):
    name = models.CharField(max_length=80)
    team = team_field(related_name="recipes")
    description = models.CharField(max_length=300, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)
    author_name = models.CharField(max_length=150, default="")
    current = models.ForeignKey("RecipeVersion", null=True, on_delete=models.SET_NULL, related_name="+")
    archived_at = models.DateTimeField(null=True)

    objects = RecipeQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["team", "name"], name="a_team_has_a_recipe_of_a_name_once"),
            models.UniqueConstraint(fields=["name"], condition=models.Q(team=None), name="one_recipe_of_a_name"),
        ]

    def __str__(self) -> str:
        return self.name


class RecipeVersion(models.Model):
    """One version, never changed: `spec` is a contract.recipes.Recipe."""

    recipe = models.ForeignKey(Recipe, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    spec = models.JSONField()
    reason = models.CharField(max_length=300, blank=True, default="")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    author_name = models.CharField(max_length=150, default="")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["recipe", "number"], name="a_version_number_is_used_once")]

    def __str__(self) -> str:
        return f"{self.recipe} v{self.number}"

    @property
    def content(self) -> recipes.AnyRecipe:
        """The recipe itself. Raises pydantic.ValidationError for one that an older panel wrote otherwise."""
        return _READ.validate_python(self.spec)
