"""What a team uses of a host and may use, as pages show it where it is spent."""

from typing import Any

from machines.models import Host, Team
from machines.panel.teams import quotas, usage


def context(host: Host | None, team: Team | None) -> dict[str, Any]:
    """For templates/machines/_quota.html; that the team may not use the host is said before anything is typed."""
    if host is None or team is None:
        return {}
    share = quotas.share_of(host, team.pk)
    if share is None:
        return {"quota_team": team, "not_shared": quotas.not_shared(host, team)}
    return {"quota_team": team, "quota": usage.spent(share)}
