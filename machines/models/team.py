"""Teams: who belongs to one, what of it they may do, and which hosts it may use how much of.

What a person may not see does not exist for them: every query set of what a team holds has visible_to().
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import models
from django.db.models.functions import JSONArray
from django.utils import timezone

from machines.contract import permissions
from machines.contract.permissions import TEAM_ROLES, Permission, Role

M = TypeVar("M", bound=models.Model)
NOBODY = None  # the team of what belongs to nobody: only administrators see it


class Person(Protocol):
    """What is asked of a user (models/user.py)."""

    shown_team: str

    def teams_where(self, permission: Permission) -> list[int] | None: ...


class OfTeams(models.QuerySet[M]):
    """Rows with a `team`."""

    def visible_to(self, user: Person) -> Self:
        """Those that exist for this person."""
        return self.where_may(user, Permission.VIEW)

    def shown_to(self, user: Person) -> Self:
        """Of those the ones that this person's lists show now: of one team, where that was chosen."""
        mine = self.visible_to(user)
        return mine.filter(team__slug=user.shown_team) if user.shown_team else mine

    def where_may(self, user: Person, permission: Permission) -> Self:
        """Those with which this person may do that."""
        teams = user.teams_where(permission)
        return self if teams is None else self.filter(team_id__in=teams)


class TeamQuerySet(models.QuerySet["Team"]):
    def visible_to(self, user: Person) -> "TeamQuerySet":
        """Those that exist for this person: its own."""
        teams = user.teams_where(Permission.VIEW)
        return self if teams is None else self.filter(pk__in=teams)


class Team(models.Model):
    # In URLs, under the signatures of orders, and in the hosts' policy.toml: never changed
    slug = models.SlugField(max_length=63, unique=True)
    name = models.CharField(max_length=80, unique=True)
    description = models.CharField(max_length=300, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)

    objects = TeamQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Grant:
    """What one membership gives."""

    team_id: int
    slug: str
    team: str  # its name
    role: Role
    rights: frozenset[Permission]

    @property
    def extra(self) -> list[str]:
        """The rights beside those of the role."""
        return sorted(self.rights - permissions.PERMISSIONS[self.role])


@dataclass(frozen=True)
class Scope:
    """What an API token is for, of what its owner may do; None are all teams and all hosts of that person."""

    token: str  # its name
    rights: frozenset[Permission]
    teams: frozenset[int] | None
    hosts: frozenset[UUID] | None

    def covers(self, team_id: int | None) -> bool:
        """Of what belongs to nobody a token has nothing."""
        return team_id is not None and (self.teams is None or team_id in self.teams)

    def narrow(self, grants: Iterable[Grant]) -> list[Grant]:
        return [replace(each, rights=each.rights & self.rights) for each in grants if self.covers(each.team_id)]


class Membership(models.Model):
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=[(r.value, r.value) for r in TEAM_ROLES], default=Role.VIEWER)
    may_console = models.BooleanField(default=False)
    may_remove = models.BooleanField(default=False)
    since = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["team__name", "user__username"]
        constraints = [models.UniqueConstraint(fields=["team", "user"], name="one_membership_in_a_team")]

    def __str__(self) -> str:
        return f"{self.user} in {self.team}"

    @property
    def extra(self) -> list[Permission]:
        return carried(may_console=self.may_console, may_remove=self.may_remove)

    @property
    def grant(self) -> Grant:
        """Costs a query unless `team` is loaded."""
        rights = permissions.held(self.role, self.extra)
        return Grant(self.team_id, self.team.slug, self.team.name, Role(self.role), rights)


class _Rows(models.Aggregate):
    """The rows of a group as one JSON array."""

    function = "JSON_GROUP_ARRAY"
    output_field = models.JSONField()

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, function="JSONB_AGG", **extra)


def memberships_of_outer() -> models.Subquery:
    """The memberships of the person a query is for, as a part of it; for grants_of()."""
    row = JSONArray("team_id", "team__slug", "team__name", "role", "may_console", "may_remove")
    mine = Membership.objects.filter(user=models.OuterRef("pk")).order_by().values("user")
    return models.Subquery(mine.annotate(rows=_Rows(row)).values("rows"))


def grants_of(rows: Iterable[list[Any]] | None) -> list[Grant]:
    """What memberships_of_outer() found, by the names of the teams."""
    found = [
        Grant(pk, slug, name, Role(role), permissions.held(role, carried(may_console=console, may_remove=remove)))
        for pk, slug, name, role, console, remove in rows or ()
    ]
    return sorted(found, key=lambda grant: grant.team)


def carried(*, may_console: bool, may_remove: bool) -> list[Permission]:
    """The rights that a membership carries beside its role."""
    both = {Permission.CONSOLE: may_console, Permission.REMOVE: may_remove}
    return [right for right, is_carried in both.items() if is_carried]


class HostShare(models.Model):
    """A team may use a host, up to these: None and [] set no limit."""

    host = models.ForeignKey("machines.Host", on_delete=models.CASCADE, related_name="shares")
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="shares")
    max_machines = models.PositiveIntegerField(null=True, blank=True)
    max_memory = models.PositiveBigIntegerField(null=True, blank=True)  # bytes, the sum of MemoryMax=
    max_cpu = models.PositiveIntegerField(null=True, blank=True)  # percent of one CPU, the sum of CPUQuota=
    max_disk = models.PositiveBigIntegerField(null=True, blank=True)  # bytes, the sum of what images take
    networks = models.JSONField(default=list, blank=True)  # modes, "bridge:br0" and "zone:lab*" for single ones
    bind_sources = models.JSONField(default=list, blank=True)  # folders
    name_pattern = models.CharField(max_length=100, blank=True, default="")  # fnmatch; "" is every name
    # Machines that are found on the host, are nobody's, and have a name that fits become the team's (panel/teams/claims.py)
    claims = models.BooleanField(default=False)

    class Meta:
        ordering = ["host__name", "team__name"]
        constraints = [models.UniqueConstraint(fields=["host", "team"], name="a_host_is_shared_once_to_a_team")]

    def __str__(self) -> str:
        return f"{self.host} for {self.team}"


def is_in(teams: Collection[int] | None, team_id: int | None) -> bool:
    """Whether what belongs to this team is among these; None are all (User.teams_where)."""
    return teams is None or team_id in teams


def teams_where(grants: Iterable[Grant], permission: Permission) -> list[int]:
    """The teams in which these hold it."""
    return [grant.team_id for grant in grants if permission in grant.rights]


def team_field(**options: Any) -> Any:
    """Whose it is; NOBODY when its team is gone."""
    return models.ForeignKey(Team, null=True, blank=True, on_delete=models.SET_NULL, **options)
