"""What a team may use of a host, on the team's page, on the host's, and on one of its own."""

from typing import Any

from machines.contract.permissions import Permission
from machines.models import Host, HostShare, Machine, Team, User
from machines.panel.teams import quota_words, usage

SHOWN = 200


def rows(shares: Any) -> list[dict[str, Any]]:
    """Of a query set of shares."""
    found = shares.filter(host__removed_at=None).select_related("host", "team")[:SHOWN]
    return [{"share": each, "limits": quota_words.limits_of(each)} for each in found]


def of_host(by: User, host: Host) -> dict[str, Any]:
    """The teams it is shared to, as far as they exist for this person; for administrators those it could be shared to as well."""
    teams = Team.objects.visible_to(by)
    may_administer = by.may(Permission.ADMINISTER)
    return {
        "host": host,
        "shares": rows(HostShare.objects.filter(host=host, team__in=teams)),
        "others": list(teams.exclude(shares__host=host)[:SHOWN]) if may_administer else [],
        "may_administer": may_administer,
    }


def of_one(by: User, share: HostShare) -> dict[str, Any]:
    """With what is used of it."""
    return parts(by, share) | {"quota": usage.spent(share)}


def parts(by: User, share: HostShare) -> dict[str, Any]:
    return {
        "share": share,
        "team": share.team,
        "host": share.host,
        "machines": Machine.objects.listed().filter(host=share.host, team=share.team).count(),
        "may_administer": by.may(Permission.ADMINISTER),
    }
