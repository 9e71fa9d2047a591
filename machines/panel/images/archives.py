"""Archives as other parts of the panel need them: as a recipe, and the token by which one host reaches one of them.

A token travels sealed to the host (BuildSecrets.token). It names the archive, the host with its generation, and whether
the host may get the file or put it there; it is good for as long as its order may wait, run, and be tried once more.
"""

from datetime import timedelta
from typing import Literal
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from machines.contract import orders
from machines.contract.orders import EXPIRES_AFTER, KINDS
from machines.contract.problems import Problem
from machines.contract.recipes import ArchiveRecipe, BuildSecrets
from machines.models import Archive, Host, Job, Machine, User
from machines.panel.images import archive_files
from machines.panel.orders import dispatch
from machines.panel.orders.dispatch import SECRETS_LAST

Purpose = Literal["get", "put"]

_SALT = "nspawnpanel.archive"
TOKEN_LASTS = timedelta(seconds=2 * EXPIRES_AFTER + max(kind.time_limit for kind in KINDS.values())) + SECRETS_LAST


def has_address() -> bool:
    """Whether hosts can reach this panel at all."""
    return bool(settings.PANEL_URL)


def address_of(archive: Archive) -> str:
    """Where hosts reach the archive. Raises Problem when the panel does not know its own address."""
    if not settings.PANEL_URL:
        raise Problem(
            "Hosts cannot fetch archives yet: the panel does not know the URL they reach it at.",
            hint="Set NSPAWNPANEL_URL in the panel's settings, such as https://panel.example.org, and restart it.",
            code="panel-url-unset",
        )
    return f"{settings.PANEL_URL}{reverse('archive-transfer', args=[archive.pk])}"


def recipe_for(archive: Archive) -> ArchiveRecipe:
    """How a host makes a machine of it; give its order a token besides.

    Raises Problem when the archive is not complete, or hosts cannot reach the panel.
    """
    if archive.state != Archive.State.READY:
        raise Problem(f"{archive.title} is not fully uploaded yet.", hint="Wait until it is, or upload it again.")
    return ArchiveRecipe(
        title=archive.title,
        url=address_of(archive),
        format="raw" if archive.format == Archive.Format.RAW else "tar",
        sha256=archive.sha256,
        size=archive.size,
    )


def token_for(archive: Archive, host: Host, purpose: Purpose) -> str:
    """What lets this host get the archive, or put it there."""
    return signing.dumps([archive.pk.hex, host.pk.hex, host.generation, purpose], salt=_SALT)


def bearer(token: str, archive: UUID) -> tuple[Host, Purpose] | None:
    """Whose token this is and what it allows with this archive; None when it is not good for it."""
    try:
        which, host_id, generation, purpose = signing.loads(token, salt=_SALT, max_age=TOKEN_LASTS)
    except (signing.BadSignature, ValueError, TypeError):
        return None
    if which != archive.hex or purpose not in {"get", "put"}:
        return None
    host = Host.objects.filter(pk=UUID(host_id), generation=generation).first()
    return (host, purpose) if host else None


# --- exports


def export(machine: Machine, *, by: User, key: UUID | None = None, retry_of: Job | None = None) -> Job:
    """Order a machine's image to be packed and brought here; its archive is listed at once as arriving.

    Raises Busy, NotAllowed, and Problem when there is no room, or the host could not reach the panel.
    """
    form: Literal["tar", "raw"] = "raw" if machine.image_type == "raw" else "tar"
    limit = min(settings.ARCHIVE_LIMIT, archive_files.room())
    if limit < 1:
        raise Problem(
            "There is not enough disk space on the panel for another archive.",
            hint="Remove archives that are no longer needed.",
            code="no-space",
        )
    with transaction.atomic():
        title = f"{machine.name}-{timezone.localtime():%Y-%m-%d-%H%M}.{form}.zst"
        archive = Archive.objects.create(
            title=title, format=form, team=machine.team, author=by, author_name=by.username
        )
        order = orders.Export(name=machine.name, format=form, url=address_of(archive), limit=limit)
        sealed = dispatch.seal_secrets(BuildSecrets(token=token_for(archive, machine.host, "put")), machine.host)
        job = dispatch.place(order, on=machine.host, by=by, key=key, sealed=sealed, retry_of=retry_of)
        Archive.objects.filter(pk=archive.pk).update(job=job)
    return job


def export_again(job: Job, *, by: User, key: UUID | None = None) -> Job:
    """The same machine once more; what the failed job had brought is gone. Raises as export(), Problem for no machine."""
    machine = Machine.objects.listed().select_related("host").filter(host=job.host, name=job.machine_name).first()
    if machine is None:
        raise Problem(f"{job.host.name} no longer has a machine {job.machine_name}.", code="machine-missing")
    return export(machine, by=by, key=key, retry_of=job)
