"""Hosts shared to teams: which, and how much of each."""

from django.db import transaction

from machines.models import HostShare, User
from machines.panel.audit.entries import record
from machines.panel.teams.quota_words import in_words

# What an administrator sets of a share
QUOTA = ("max_machines", "max_memory", "max_cpu", "max_disk", "networks", "bind_sources", "name_pattern", "claims")


def create(share: HostShare, by: User) -> None:
    """Raises IntegrityError when the host is shared to the team already."""
    with transaction.atomic():
        share.save(force_insert=True)
        said = f"{by.username} shared {share.host} to {share.team}: {in_words(share)}."
        record("host-shared", said, by=by, on=share.host, team_id=share.team_id)


def change(share: HostShare, by: User) -> None:
    """Write its quota. Whoever places an order meanwhile has judged by the old one, or waits."""
    with transaction.atomic():
        before = HostShare.objects.select_for_update().get(pk=share.pk)
        if all(getattr(before, name) == getattr(share, name) for name in QUOTA):
            return
        share.save(update_fields=QUOTA)
        said = f"{by.username} changed what {share.team} may use of {share.host} to {in_words(share)}; before: {in_words(before)}."
        record("share-changed", said, by=by, on=share.host, team_id=share.team_id)


def remove(share: HostShare, by: User) -> None:
    """The team's machines there stay the team's."""
    with transaction.atomic():
        share.delete()
        said = f"{by.username} stopped sharing {share.host} to {share.team}."
        record("share-removed", said, by=by, on=share.host, team_id=share.team_id)
