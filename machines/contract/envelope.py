"""Sealed orders and signed reports.

A message is `signature.key-id.payload`, each part base64url. The Ed25519 signature covers a domain word and the raw
payload bytes, and is verified before a single byte is parsed. Redis may read, drop, delay, replay and forge; only
private keys decide. Celery's own `auth` serializer signs the arguments alone: a captured message ran as another task
on another host.
"""

import json
import time
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from nacl.encoding import RawEncoder
from nacl.exceptions import CryptoError
from nacl.hash import blake2b
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.signing import SigningKey, VerifyKey
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from machines.contract import orders, reports
from machines.contract.problems import BadValue, EnvelopeRefused, ReportUnreadable

ORDER_LIMIT = 256 * 1024  # bytes
REPORT_LIMIT = 2 * 1024 * 1024
CLOCK_SKEW = 60  # seconds by which two clocks may differ
_PLACE = frozenset({"epoch", "sequence"})
_ORDER_DOMAIN = b"nspawnpanel.order.v1\0"
_REPORT_DOMAIN = b"nspawnpanel.report.v1\0"


class Actor(BaseModel):
    """Who asked: kept in the host's own ledger, so that panel and host can be compared.

    `role` is a permissions.Role, `extra` what the membership carries besides. `team` is the slug of the team for which it
    was asked, "" for none (an administrator, or the panel itself). What is empty is not on the wire: a host that is older
    than teams refuses what it does not know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(max_length=150)
    role: str = Field(max_length=30)
    team: str = Field(default="", max_length=63)
    extra: tuple[str, ...] = Field(default=(), max_length=10)

    @model_serializer(mode="wrap")
    def _without_empty(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if value or key in {"name", "role"}}

    def __str__(self) -> str:
        return f"{self.name} ({self.role}{f' of {self.team}' if self.team else ''})"


class Envelope(BaseModel):
    """An order addressed to one host in one of its generations. Times in seconds since the epoch.

    `epoch` and `sequence` are its place in the panel's line, by which a host knows an order of an older copy of the panel
    (host/reports/order_sequence.py). Both are 0, and not on the wire, for a host that does not know them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: UUID
    generation: int
    job: UUID
    attempt: int = 1
    epoch: int = Field(default=0, ge=0, lt=2**62)
    sequence: int = Field(default=0, ge=0, lt=2**62)
    order: dict[str, Any]
    issued: float
    expires: float
    actor: Actor


UNNUMBERED = 0
SAYS_NOTHING = 0.0


class _Head(BaseModel):
    """What must be known of a report to step over it."""

    host: UUID
    generation: int
    number: int = Field(ge=UNNUMBERED)
    epoch: int = Field(default=0, ge=0, lt=2**62)
    at: Any = 0.0


class SignedReport(_Head):
    """A report with its number. Numbers begin at 1 in each generation and have no holes. `epoch` is that of the host's
    ledger: 1 at first, and raised by the panel when the ledger was put back to an older copy of itself, which would use
    numbers a second time; 0 for a host that does not know it. A host that cannot write its
    ledger can give out none: its heartbeats have the number 0 then, and count while they are fresh. `at` is when it was
    signed, by the host's clock; SAYS_NOTHING for one that only takes the place of a report that is gone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: reports.Seconds
    report: dict[str, Any]


def key_id(key: VerifyKey) -> str:
    """A short name for a public key: the first 8 bytes of its BLAKE2b, in hex."""
    return blake2b(bytes(key), digest_size=8, encoder=RawEncoder).hex()


def sign(domain: bytes, payload: bytes, key: SigningKey) -> str:
    """One message for the wire. `domain` says what kind it is, so that none passes for one of another kind."""
    signature = key.sign(domain + payload).signature
    return ".".join((
        urlsafe_b64encode(signature).decode(), key_id(key.verify_key), urlsafe_b64encode(payload).decode(),
    ))  # fmt: skip


def longest(limit: int) -> int:
    """Characters a message with that many bytes in it may have: base64url, signature and key id with it."""
    return limit * 4 // 3 + 200


def verify(domain: bytes, message: str, keys: Mapping[str, VerifyKey], limit: int) -> bytes:
    """The payload, of `limit` bytes at most, if one of these keys signed it. Raises EnvelopeRefused."""
    if len(message) > longest(limit):
        raise EnvelopeRefused("The message is too large.", code="envelope-oversized")
    try:
        signature, kid, payload = message.split(".")
        raw = urlsafe_b64decode(payload)
        keys[kid].verify(domain + raw, urlsafe_b64decode(signature))
    except (ValueError, KeyError, CryptoError, TypeError) as error:
        raise EnvelopeRefused("The signature is not trusted.", code="envelope-forged") from error
    return raw


def signed_by(message: str) -> str:
    """The id of the key that a message names; it says nothing until the signature was verified."""
    return message.split(".")[1]


def check_signature(message: str, keys: Mapping[str, VerifyKey]) -> None:
    """Raises EnvelopeRefused unless the panel signed it; nothing of it is parsed."""
    verify(_ORDER_DOMAIN, message, keys, ORDER_LIMIT)


def _canonical(data: BaseModel, without: frozenset[str] = frozenset()) -> bytes:
    """Half a surrogate pair, which a name on disk may become, is written as a question mark: nobody could read it."""
    fields = data.model_dump(mode="json", exclude=set(without))
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="replace")


def seal(envelope: Envelope, key: SigningKey) -> str:
    """The envelope as one string for the wire. Raises EnvelopeRefused when it is over 256 KiB."""
    payload = _canonical(envelope, frozenset() if envelope.epoch else _PLACE)
    if len(payload) > ORDER_LIMIT:
        raise EnvelopeRefused("The order is larger than 256 KiB.", code="envelope-oversized")
    return sign(_ORDER_DOMAIN, payload, key)


def unseal(
    message: str, keys: Mapping[str, VerifyKey], *, host: UUID, generation: int, now: float | None = None
) -> tuple[Envelope, orders.Order]:
    """The envelope and its order, if it is genuine, for this host, and in time.

    Raises EnvelopeRefused (codes envelope-forged, -foreign, -expired, -early, -oversized, -unreadable); it names the
    job when the signature held.
    """
    raw = verify(_ORDER_DOMAIN, message, keys, ORDER_LIMIT)
    try:
        envelope = Envelope.model_validate_json(raw)
    except ValidationError as error:
        raise EnvelopeRefused("A signed message that cannot be read.", code="envelope-unreadable") from error
    now = time.time() if now is None else now
    if envelope.host != host or envelope.generation != generation:
        raise EnvelopeRefused("The order is addressed to another host.", code="envelope-foreign", job=envelope.job)
    if now > envelope.expires + CLOCK_SKEW:
        raise EnvelopeRefused("The order has expired.", code="envelope-expired", job=envelope.job)
    if envelope.issued > now + CLOCK_SKEW:
        raise EnvelopeRefused(
            "The order is dated in the future.",
            hint="Compare the clocks of panel and host.",
            code="envelope-early",
            job=envelope.job,
        )
    try:
        return envelope, orders.from_wire(envelope.order)
    except BadValue as problem:
        raise EnvelopeRefused(problem.message, code="envelope-unreadable", job=envelope.job) from problem


def sign_report(report: SignedReport, key: SigningKey) -> str:
    return sign(_REPORT_DOMAIN, _canonical(report), key)


def read_report(message: str, key: VerifyKey, *, host: UUID, generation: int) -> tuple[SignedReport, reports.AnyReport]:
    """The report, if this host signed it in this generation.

    Raises EnvelopeRefused; ReportUnreadable where its number can be told, as of a host newer than this panel.
    """
    raw = verify(_REPORT_DOMAIN, message, {key_id(key): key}, REPORT_LIMIT)
    try:
        signed = SignedReport.model_validate_json(raw)
        report = reports.from_wire(signed.report)
    except (ValidationError, BadValue) as error:
        head = _head(raw)
        _check_sender(head, host, generation)
        raise ReportUnreadable(head.number, _moment(head.at), head.epoch) from error
    _check_sender(signed, host, generation)
    return signed, report


def _head(raw: bytes) -> _Head:
    try:
        return _Head.model_validate(json.loads(raw))
    except (ValueError, RecursionError) as error:
        raise EnvelopeRefused("A signed report that cannot be read.", code="envelope-unreadable") from error


def _moment(told: object) -> float:
    """When a report was signed, as far as one that cannot be read tells it."""
    return float(told) if isinstance(told, int | float) and 0 <= told <= reports.LATEST else 0.0


def _check_sender(head: _Head, host: UUID, generation: int) -> None:
    if head.host != host or head.generation != generation:
        raise EnvelopeRefused("The report names another host than the one that signed it.", code="envelope-foreign")


def seal_secret(text: str, host_key: PublicKey) -> str:
    """Text that only the host can read (X25519 sealed box), as base64."""
    return b64encode(SealedBox(host_key).encrypt(text.encode())).decode()


def unseal_secret(sealed: str, host_key: PrivateKey) -> str:
    """Raises EnvelopeRefused when it was sealed for another host."""
    try:
        return SealedBox(host_key).decrypt(b64decode(sealed)).decode()
    except (CryptoError, ValueError) as error:
        raise EnvelopeRefused("The secret was sealed for another host.", code="envelope-foreign") from error
