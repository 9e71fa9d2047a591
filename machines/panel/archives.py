"""Archives as other parts of the panel need them: as a recipe, and the token by which one host reaches one of them.

A token travels sealed to the host (BuildSecrets.token). It names the archive, the host with its generation, and whether
the host may get the file or put it there; it is good for as long as its order may wait, run, and be tried once more.
"""

from datetime import timedelta
from typing import Literal
from uuid import UUID

from django.conf import settings
from django.core import signing

from machines.contract.orders import EXPIRES_AFTER, TIME_LIMIT
from machines.contract.problems import Problem
from machines.contract.recipes import ArchiveRecipe
from machines.models import Archive, Host
from machines.panel.dispatch import SECRETS_LAST

Purpose = Literal["get", "put"]

_SALT = "nspawnpanel.archive"
TOKEN_LASTS = timedelta(seconds=2 * EXPIRES_AFTER + max(TIME_LIMIT.values())) + SECRETS_LAST


def address_of(archive: Archive) -> str:
    """Where hosts reach the archive. Raises Problem when the panel does not know its own address."""
    if not settings.PANEL_URL:
        raise Problem(
            "Hosts cannot fetch archives yet: the panel does not know the address under which they reach it.",
            hint="Set NSPAWNPANEL_URL in the panel's settings, such as https://panel.example.org, and restart it.",
            code="panel-url-unset",
        )
    return f"{settings.PANEL_URL}/transfer/{archive.pk}/"


def recipe_for(archive: Archive) -> ArchiveRecipe:
    """How a host makes a machine of it; give its order a token besides.

    Raises Problem when the archive is not complete, or hosts cannot reach the panel.
    """
    if archive.state != Archive.State.READY:
        raise Problem(f"{archive.title} is not complete yet.", hint="Wait until it is, or upload it again.")
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
