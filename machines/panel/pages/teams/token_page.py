"""What is said of API tokens: the list of a person's own, and whom one acts for."""

from typing import Any

from machines.models import ApiToken, Host, User
from machines.models.team import Grant

HOSTS_NAMED = 500


def of_person(user: User) -> dict[str, Any]:
    found = ApiToken.objects.filter(user=user).prefetch_related("teams", "hosts")
    return {"tokens": [_row(token) for token in found]}


def _row(token: ApiToken) -> dict[str, Any]:
    return {
        "token": token,
        "teams": ["all my teams"]
        if token.all_teams
        else [team.name for team in token.teams.all()] or ["no team any more"],
        "hosts": ["all hosts"]
        if token.all_hosts
        else [host.name for host in token.hosts.all()] or ["no host any more"],
    }


def whoami(user: User, token: ApiToken | None) -> dict[str, Any]:
    """The person, and what may be done at this moment, by the token or without one."""
    hosts = Host.objects.visible_to(user)
    if user.scope is not None and user.scope.hosts is not None:
        hosts = hosts.filter(pk__in=user.scope.hosts)
    return {
        "person": user.username,
        "administrator": user.sees_all,
        "token": _told(token) if token else None,
        "teams": [_team(grant) for grant in user.grants],
        "hosts": list(hosts.values_list("name", flat=True)[:HOSTS_NAMED]),
    }


def _team(grant: Grant) -> dict[str, Any]:
    return {"slug": grant.slug, "name": grant.team, "role": grant.role.value, "rights": sorted(grant.rights)}


def _told(token: ApiToken) -> dict[str, Any]:
    return {
        "name": token.name,
        "rights": sorted(token.scope.rights),
        "expires": token.expires_at.isoformat(timespec="seconds"),
    }
