"""Which teams a person can build in, and on which hosts."""

from django.db import models

from machines.contract.permissions import Permission
from machines.models import Team, User


def teams_to_build_in(user: User) -> models.QuerySet[Team]:
    """By their names; for an administrator all of them."""
    teams = user.teams_where(Permission.BUILD)
    return Team.objects.all() if teams is None else Team.objects.filter(pk__in=teams)
