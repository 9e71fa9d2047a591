"""A host joins: its public keys are registered, it gets a Redis user of its own, and the lines of its host.env."""

import re
import secrets
from base64 import b64decode
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from django.db import transaction
from nacl.public import PublicKey
from nacl.signing import VerifyKey

from machines.contract import routes
from machines.contract.names import host_name
from machines.contract.problems import BadValue
from machines.models import Host
from machines.panel.audit import entries
from machines.panel.courier import mailbox
from machines.panel.hosts import redis_tls

_KEYS = re.compile(r"np-host1:([A-Za-z0-9+/=]{44}):([A-Za-z0-9+/=]{44})")


def register(name: str, keys: str) -> Host:
    """Register a host under a name. With other keys than before it is another host: its generation rises, and all that
    was sealed or signed before is void.

    `keys` is the line that `python -m machines.host.agent.enrol` prints on the host. Raises BadValue.
    """
    match = _KEYS.search(keys)
    if not match:
        raise BadValue("Enter the line np-host1:…:… that the join command printed on the host.", field="keys")
    verify, box = match.groups()
    try:
        VerifyKey(b64decode(verify)), PublicKey(b64decode(box))
    except ValueError as error:
        raise BadValue("The keys cannot be parsed; copy the whole line.", field="keys") from error
    return register_keys(name, verify, box)


def register_keys(name: str, verify: str, box: str) -> Host:
    """The same with the two public keys, in base64, that somebody has looked at."""
    with transaction.atomic():
        host, _ = Host.objects.get_or_create(name=host_name(name), defaults={"verify_key": verify, "box_key": box})
        if (host.verify_key, host.box_key) != (verify, box):
            host.verify_key, host.box_key, host.generation = verify, box, host.generation + 1
            host.report_number, host.stream_position, host.last_seen = 0, "0", None
            host.signed_at, host.ledger_epoch, host.resync_epoch, host.resync_since = 0.0, 0, 0, None
            host.panel_keys = []
            host.inventory_at = host.clock_skew = host.clock_heard = None
            host.trouble, host.unknown_jobs = {}, []
            host.heard_epoch, host.heard_sequence, host.heard_latched = None, 0, False
            host.save()
        text = f"{name} joined with key generation {host.generation}."
        entries.record("host-enrolled", text, on=host)
    return host


def environment(
    host: Host, *, redis_url: str, redis_admin_url: str, panel_keys: Sequence[str], panel_url: str = ""
) -> str:
    """Make the host's Redis user and return the text of its /etc/nspawnpanel/host.env (it holds a password).

    `redis_url` is the address as the host sees it, without user, `panel_url` that of the panel, where it has one.
    """
    pins = redis_tls.pins() if redis_url.startswith("rediss://") else []
    user, password = routes.user(str(host.id)), secrets.token_urlsafe(32)
    mailbox.add_user(redis_admin_url, user, password, routes.host_acl(str(host.id)))
    mailbox.begin_anew(redis_admin_url, host.id)
    begin_anew(host)
    return "".join(
        f"{name}={value}\n"
        for name, value in {
            "NSPAWNPANEL_HOST_ID": host.id,
            "NSPAWNPANEL_GENERATION": host.generation,
            "NSPAWNPANEL_PANEL_KEYS": ",".join(panel_keys),
            "NSPAWNPANEL_REDIS_URL": with_user(redis_url, user, password),
            **({"NSPAWNPANEL_REDIS_PINS": ",".join(pins)} if pins else {}),
            **({"NSPAWNPANEL_PANEL_URL": panel_url} if panel_url else {}),
        }.items()
    )


def begin_anew(host: Host) -> None:
    """Its stream and its Redis user are new, so nothing is held against it."""
    Host.objects.filter(pk=host.pk).update(
        stream_position="0", quarantined_at=None, quarantine_why="", paused_until=None
    )


def refuse_other_database(url: str) -> None:
    """Redis users may not change databases: one that could would fill one that nobody watches. Raises BadValue."""
    if number := routes.other_database(url):
        raise BadValue(
            f"The URL ends in /{number}, but only database 0 of Redis is used.", field="redis-url",
            hint="End it in /0. If the Redis server is also used for something else, run a separate instance for "
            "the panel.",
        )  # fmt: skip


def with_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{address}"))
