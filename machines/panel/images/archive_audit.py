"""Who brought, took or removed an archive: an event each, with its size and sum, which stays when the archive is gone."""

from datetime import timedelta

from django.utils import timezone

from machines.contract.quantities import size
from machines.models import Archive, Event, Host, Job, User
from machines.panel.audit import entries

GOES_ON = timedelta(days=1)  # within it, a part that is asked for belongs to the download before it


def _named(archive: Archive) -> str:
    sha256 = f", SHA-256 {archive.sha256}" if archive.sha256 else ""
    return f"{archive.title} ({size(archive.size)}{sha256})"


def _note(
    kind: str, archive: Archive, text: str, *, by: User | str = "", host: Host | None = None, job: Job | None = None
) -> None:
    entries.record(kind, text, by=by, on=archive, host=host, job=job)


def uploaded(archive: Archive) -> None:
    text = f"{archive.author_name} uploaded {_named(archive)}."
    _note("archive-uploaded", archive, text, by=archive.author_name)


def exported(archive: Archive, job: Job) -> None:
    text = f"{job.host.name} uploaded {_named(archive)}, exported by {job.actor_name} (job {job.pk})."
    _note("archive-exported", archive, text, by=job.actor_name, host=job.host, job=job)


def downloaded(archive: Archive, by: User, *, first: int) -> None:
    """A download from its byte `first`; one that goes on after a pause is not written down again."""
    text = f"{by.username} downloaded {_named(archive)}."
    if not (first and _is_known("archive-downloaded", text)):
        _note("archive-downloaded", archive, text, by=by)


def fetched(archive: Archive, host: Host, *, first: int) -> None:
    """The same by a host that an order gave the token for it."""
    text = f"{host.name} fetched {_named(archive)} to build a machine from it."
    if not (first and _is_known("archive-fetched", text)):
        _note("archive-fetched", archive, text, host=host)


def removed(archive: Archive, by: User) -> None:
    _note("archive-removed", archive, f"{by.username} removed {_named(archive)}.", by=by)


def _is_known(kind: str, text: str) -> bool:
    return Event.objects.filter(kind=kind, text=text, at__gt=timezone.now() - GOES_ON).exists()
