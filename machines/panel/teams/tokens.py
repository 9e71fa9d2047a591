"""API tokens: made, revoked, and recognized when a program brings one. It acts by the same authorize() as its owner, and is
never more than that person at the time of use.

The value is 256 random bits, so its plain hash is all that is kept, and guessing needs no limit of its own.
"""

import hashlib
import secrets
from datetime import timedelta

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from machines.contract.permissions import Permission
from machines.models import ApiToken, Host, Team, User
from machines.panel.audit.entries import record

PREFIX = "np_"
HINT = 8  # letters of a value that are kept to tell it from others
MOST = 50  # tokens of one person
NOTED_EVERY = timedelta(minutes=1)  # that it was used
# What a token can carry beside the right to view, which each has. Administering is done by people.
RIGHTS = tuple(right for right in Permission if right not in {Permission.VIEW, Permission.ADMINISTER})


def create(token: ApiToken, teams: list[Team], hosts: list[Host]) -> str:
    """Save it with its scope. Returns the value, which nobody can see again. Raises IntegrityError for a name used twice."""
    value = PREFIX + secrets.token_urlsafe(32)
    token.hash, token.hint = _hash(value), value[:HINT]
    with transaction.atomic():
        token.save(force_insert=True)
        token.teams.set(teams)
        token.hosts.set(hosts)
        said = f"{token.user.username} created the API token {token.name} with the rights {', '.join(['view', *token.rights])}."
        record("token-created", said, by=token.user, on=token.user)
    return value


def revoke(token: ApiToken, by: User) -> None:
    with transaction.atomic():
        token.delete()
        said = f"{by.username} revoked the API token {token.name} of {token.user.username}."
        record("token-revoked", said, by=by, on=token.user)


def find(value: str) -> ApiToken | None:
    """The token with this value, with its person; None for one that is unknown, revoked, expired, or of a disabled person."""
    if not value.startswith(PREFIX) or "\0" in value:
        return None
    now = timezone.now()
    tokens = ApiToken.objects.select_related("user").prefetch_related("teams", "hosts")
    return tokens.filter(hash=_hash(value), expires_at__gt=now, user__is_active=True).first()


def bearer(token: ApiToken) -> User:
    """Its person, with no more than the token's scope."""
    user = token.user
    user.scope = token.scope
    user.forget_grants()
    return user


def note_use(token: ApiToken, address: str) -> None:
    now = timezone.now()
    old = Q(last_used_at=None) | Q(last_used_at__lt=now - NOTED_EVERY) | ~Q(last_address=address)
    ApiToken.objects.filter(old, pk=token.pk).update(last_used_at=now, last_address=address)


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
