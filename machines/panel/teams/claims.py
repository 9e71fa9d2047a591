"""Whose a machine is that a host tells of for the first time: nobody's, or a team's to which the host is shared with a claim on
its name.
"""

import fnmatch
from collections.abc import Sequence

from machines.models import Host, HostShare, Machine
from machines.panel.audit.entries import record

NAMED = 20  # machines, in an entry of the history


def claim_found(host: Host, machines: Sequence[Machine]) -> None:
    """Give those of these rows that are nobody's to the one team that claims their name, and say so in the history. The rows
    are not saved. One query, and an entry for each team; neither where there is nothing to give."""
    free = [machine for machine in machines if machine.team_id is None]
    if not free:
        return
    shares = list(HostShare.objects.filter(host=host, claims=True).select_related("team"))
    for share in shares:
        others = [each for each in shares if each is not share]
        taken = [m for m in free if _fits(share, m) and not any(_fits(other, m) for other in others)]
        for machine in taken:
            machine.team_id = share.team_id
        if taken:
            _note(host, share, [machine.name for machine in taken])


def _fits(share: HostShare, machine: Machine) -> bool:
    return fnmatch.fnmatchcase(machine.name, share.name_pattern or "*")


def _note(host: Host, share: HostShare, names: Sequence[str]) -> None:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    said = (
        f"Found on {host} and claimed for {share.team}, which claims {share.name_pattern or 'every name'} there: "
        f"{', '.join(names[:NAMED])}{more}."
    )
    record("machine-claimed", said, on=host, team_id=share.team_id)
