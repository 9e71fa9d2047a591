"""The people: Django's user with what it is in each team, and a theme, so that a page needs no second query for that."""

import unicodedata
from functools import cached_property
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import models

from machines.contract.permissions import PERMISSIONS, Permission, Role
from machines.models.team import Grant, Scope, Team, teams_where

KEY_LENGTH = 450  # small letters may be three for one: “ΐ” of 150


def key_of(username: str) -> str:
    """What two names have in common that look the same to a sign-in: Unicode's form KC, in small letters."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold())[:KEY_LENGTH]


class User(AbstractUser):
    class Theme(models.TextChoices):
        SYSTEM = "system"
        LIGHT = "light"
        DARK = "dark"

    is_administrator = models.BooleanField(default=False)  # of the installation: sees and does everything
    last_seen = models.DateTimeField(null=True)  # to a few minutes (machines/panel/people/sessions.py)
    theme = models.CharField(max_length=10, choices=Theme, default=Theme.SYSTEM)

    # One name, one person, in whatever case: key_of(username). None are second ones of before this was kept.
    username_key = models.CharField(max_length=KEY_LENGTH, unique=True, null=True, editable=False)  # noqa: DJ001  # none is not ""

    # The slug of the team whose things alone lists show in this session; "" for all (panel/web/shown_team.py)
    shown_team = ""
    scope: Scope | None = None  # of the API token by which it acts (panel/teams/tokens.py)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """A name is given once. Raises IntegrityError when another has it."""
        if self._state.adding and self.username_key is None:
            self.username_key = key_of(self.username)
        super().save(*args, **kwargs)

    @property
    def sees_all(self) -> bool:
        return self.is_active and self.is_administrator and self.scope is None

    @cached_property
    def grants(self) -> list[Grant]:
        """What it is in each of its teams, by their names. Costs a query, once."""
        if not self.is_active:
            return []
        return self._own_grants() if self.scope is None else self.scope.narrow(self._own_grants())

    def _own_grants(self) -> list[Grant]:
        """By a token an administrator is one in every team, for only a list of teams can be narrowed."""
        if self.is_administrator and self.scope is not None:
            rights = PERMISSIONS[Role.ADMINISTRATOR]
            return [Grant(team.pk, team.slug, team.name, Role.ADMINISTRATOR, rights) for team in Team.objects.all()]
        return [membership.grant for membership in self.memberships.select_related("team").order_by("team__name")]

    def forget_grants(self) -> None:
        """Ask anew next time: they may have changed."""
        self.__dict__.pop("grants", None)

    def teams_where(self, permission: Permission) -> list[int] | None:
        """The teams in whose name it may do that; None for all, and for what belongs to nobody."""
        return None if self.sees_all else teams_where(self.grants, permission)

    def may(self, permission: Permission) -> bool:
        """Whether it may do that anywhere."""
        return self.sees_all or any(permission in grant.rights for grant in self.grants)

    def may_in(self, permission: Permission, team_id: int | None) -> bool:
        """Whether it may do that with what belongs to this team, or to nobody."""
        return self.sees_all or any(permission in grant.rights for grant in self.grants if grant.team_id == team_id)

    def grant_in(self, team_id: int | None) -> Grant | None:
        """What it is in this team."""
        return next((grant for grant in self.grants if grant.team_id == team_id), None)

    def role_in(self, team_id: int | None) -> str:
        """Its role there, as orders and sentences name it; "" for none."""
        if self.sees_all:
            return Role.ADMINISTRATOR
        grant = self.grant_in(team_id)
        return grant.role if grant else ""
