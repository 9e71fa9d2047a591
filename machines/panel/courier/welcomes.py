"""Hosts that an administrator has accepted get their answer: a Redis user of their own, and settings that they alone can
read, signed by the panel's key (contract/enrolment.py)."""

import logging
import secrets

import redis
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from machines.contract import enrolment as contract
from machines.contract import routes
from machines.contract.problems import BadValue
from machines.models import Enrolment, Event, Host
from machines.panel.audit import entries
from machines.panel.courier import enrol
from machines.panel.courier.key_ring import KeyRing
from machines.panel.courier.mailbox import Mailbox
from machines.panel.courier.redis_users import Guard
from machines.panel.hosts import enrolments, redis_tls

log = logging.getLogger(__name__)
AT_ONCE = 5  # in one round, beside which others are watched


class Welcomes:
    """One for the courier, used by the thread that watches."""

    def __init__(self, ring: KeyRing, mailbox: Mailbox, guard: Guard | None) -> None:
        self._ring, self._mailbox, self._guard = ring, mailbox, guard

    def answer(self) -> None:
        """Answer those that wait for it, and forget answers that nobody needs any more. Raises redis.RedisError where Redis is
        away; then they wait."""
        waiting = Enrolment.objects.open(timezone.now()).filter(state=Enrolment.State.ACCEPTED)
        for enrolment in waiting.order_by("decided_at")[:AT_ONCE]:
            self._answer(enrolment)
        enrolments.forget_answers()

    def _answer(self, enrolment: Enrolment) -> None:
        if why := self._obstacle(enrolment):
            _fail(enrolment, why)
            return
        host = _register(enrolment)
        if host is None:
            return
        try:
            password = self._admit(host)
        except (redis.ResponseError, redis.AuthenticationError) as error:
            log.warning("No Redis user can be made for %s: %s", host.name, error)
            _fail(enrolment, f"Its Redis user cannot be created: {error}. Run manage.py prepare again on the panel.")
            return
        _keep(enrolment, self._welcome(enrolment, host, password))

    def _obstacle(self, enrolment: Enrolment) -> str:
        if self._guard is None:
            return "The courier has no guard-url, so it cannot create Redis users. Run manage.py prepare on the panel."
        try:
            redis_tls.pins()
        except BadValue as problem:
            return problem.message
        if missing := enrolments.missing_settings():
            return f"{', '.join(missing)} must be set for the courier."
        if self._ring.named(enrolment.panel_key) is None:
            return "The panel's signing key has changed since the token was made."
        return ""

    def _admit(self, host: Host) -> str:
        """Its Redis user with a new password, and an empty mailbox and stream. Raises redis.RedisError."""
        assert self._guard is not None
        password = secrets.token_urlsafe(32)
        self._guard.admit(host.pk, password)
        self._mailbox.empty(host.pk)
        self._mailbox.begin_anew(host.pk)
        enrol.begin_anew(host)
        return password

    def _welcome(self, enrolment: Enrolment, host: Host, password: str) -> str:
        claim = contract.Claim(token=enrolment.pk, verify=enrolment.verify_key, box=enrolment.box_key)
        secret = contract.Secret(
            redis_url=enrol.with_user(settings.HOSTS_REDIS_URL, routes.user(str(host.pk)), password),
            panel_keys=self._ring.publics(),
            panel_url=settings.PANEL_URL,
            redis_pins=redis_tls.pins() if settings.HOSTS_REDIS_URL.startswith("rediss://") else [],
        )
        key = self._ring.named(enrolment.panel_key)
        assert key is not None
        return contract.seal_welcome(
            secret, key, claim=claim, host=host.pk, name=host.name, generation=host.generation,
            at=timezone.now().timestamp(),
        )  # fmt: skip


def _register(enrolment: Enrolment) -> Host | None:
    """The host with the keys that were accepted; None, and said so, where its name was taken meanwhile."""
    with transaction.atomic():
        known = enrolment.host or Host.objects.filter(name=enrolment.host_name).first()
        if enrolment.host is None and known is not None:
            _fail(enrolment, f"Another host was added as {enrolment.host_name} meanwhile.")
            return None
        host = enrol.register_keys(
            known.name if known else enrolment.host_name, enrolment.verify_key, enrolment.box_key
        )
        Enrolment.objects.filter(pk=enrolment.pk).update(host=host)
    enrolment.host = host
    return host


def _keep(enrolment: Enrolment, answer: str) -> None:
    accepted = Enrolment.objects.filter(pk=enrolment.pk, state=Enrolment.State.ACCEPTED)
    accepted.update(state=Enrolment.State.ANSWERED, answer=answer, expires_at=timezone.now() + enrolments.LIFE)


def _fail(enrolment: Enrolment, why: str) -> None:
    """Nothing was done; a new token begins anew."""
    if Enrolment.objects.filter(pk=enrolment.pk, state=Enrolment.State.ACCEPTED).update(
        state=Enrolment.State.FAILED, problem=why
    ):
        text = f"{enrolment.host_name} could not be added. {why}"
        entries.record(
            "host-not-added", text, host=enrolment.host, object_kind="host", object_name=enrolment.host_name,
            result=Event.Result.FAILED,
        )  # fmt: skip
