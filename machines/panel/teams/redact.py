"""What a host says for a team's job, without what is another team's: its worker knows the whole host."""

from typing import Any

from machines.models import Job, Machine

OF_OTHERS = "a machine of another team"


def result(job: Job, told: dict[str, Any]) -> dict[str, Any]:
    """The findings of diagnostics name the machine that has a port, and its address (contract/configuration/findings.py,
    port-taken). What nobody's job found, only administrators read."""
    found = told.get("findings")
    if job.team_id is None or not isinstance(found, list):
        return told
    return told | {"findings": [_finding(job, each) for each in found]}


def _finding(job: Job, found: Any) -> Any:
    facts = found.get("facts") if isinstance(found, dict) else None
    if not isinstance(facts, dict) or not (owner := facts.get("owner")):
        return found
    if Machine.objects.on(job.host).filter(name=str(owner), team=job.team_id).exists():
        return found
    return found | {"facts": facts | {"owner": OF_OTHERS, "leads": "its address"}}
