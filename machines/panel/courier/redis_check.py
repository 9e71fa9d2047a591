"""How Redis is set, against what all hosts rely on: the courier looks, keeps what it found, and pages say it."""

import re
from datetime import timedelta

import redis
from django.db.models import JSONField, QuerySet, Subquery
from django.utils import timezone

from machines.models import RedisCheck
from machines.panel.courier.redis_users import Guard

EVERY = 60.0  # seconds between two looks
STALE = timedelta(minutes=5)
MIB = 1024 * 1024
NAMES = ("maxmemory", "maxmemory-policy", "maxmemory-clients", "proto-max-bulk-len", "client-query-buffer-limit")
# As README and nspawnpanel/valkey.py have them
WANTED = {
    "maxmemory": "256mb", "maxmemory-policy": "noeviction", "maxmemory-clients": "64mb", "proto-max-bulk-len": "4mb",
    "client-query-buffer-limit": "8mb",
}  # fmt: skip
NO_GUARD = (
    "The courier has no Redis user to shut out a host that floods Redis: run manage.py prepare --redis-admin-url once "
    "more and restart the panel's services."
)


def faults(guard: Guard | None) -> list[str]:
    """Sentences on what is set otherwise; [] where all is well. Raises redis.RedisError when Redis does not answer."""
    if guard is None:
        return [NO_GUARD]
    try:
        return judge(guard.configuration(NAMES))
    except redis.ResponseError as error:
        return [f"The Redis configuration cannot be read ({error}). It should have: {_lines(WANTED)}."]


def judge(told: dict[str, str]) -> list[str]:
    """The same for what CONFIG GET has told."""
    found = []
    if not _bytes(told, "maxmemory"):
        found.append(_fault("maxmemory", "Redis may use all memory of its machine"))
    if told.get("maxmemory-policy") != "noeviction":
        said = f"Redis evicts other clients' data when it is full ({told.get('maxmemory-policy', 'unknown')})"
        found.append(_fault("maxmemory-policy", said))
    if not _bytes(told, "maxmemory-clients"):
        found.append(_fault("maxmemory-clients", "client connections may use all memory of Redis"))
    for name, most in (("proto-max-bulk-len", 16 * MIB), ("client-query-buffer-limit", 64 * MIB)):
        if not 0 < _bytes(told, name) <= most:
            found.append(_fault(name, "a single command may use more memory than all hosts need"))
    return found


def keep(found: list[str]) -> None:
    RedisCheck.objects.update_or_create(pk=1, defaults={"checked_at": timezone.now(), "faults": found})


def kept() -> list[str]:
    """What the courier found last; nothing when that is long ago, for then it is the courier that is missing."""
    last = _last().first()
    return [str(fault) for fault in last.faults] if last else []


def subquery() -> Subquery:
    """The same as a column of another query, None for nothing."""
    return Subquery(_last().values("faults"), output_field=JSONField())


def _last() -> QuerySet[RedisCheck]:
    return RedisCheck.objects.filter(pk=1, checked_at__gt=timezone.now() - STALE)


def _fault(name: str, said: str) -> str:
    return f"{said[0].upper()}{said[1:]}: set {name} {WANTED[name]} in its configuration."


def _lines(wanted: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in wanted.items())


def _bytes(told: dict[str, str], name: str) -> int:
    """A number, which may be a share of maxmemory ("5%"); 0 where it is unknown."""
    found = re.match(r"\d+", told.get(name, ""))
    return int(found[0]) if found else 0
