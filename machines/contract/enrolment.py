"""How a host joins: what the panel and it say to each other, and how each knows who is speaking.

A token, `np1.KEY.ID.SEED`, is shown once on the panel and typed on the host. KEY is the panel's public key, so that nothing
is believed that the panel did not sign. SEED is an Ed25519 seed of which the panel's database has the public half alone; it
signs the host's claim and never travels. The host's own key signs the claim too, and an administrator compares the
fingerprint of its keys before the panel answers, sealed to the host.
"""

import json
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Self
from uuid import UUID

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.signing import SigningKey, VerifyKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from machines.contract import envelope
from machines.contract.problems import BadValue, EnvelopeRefused

CLAIM_LIMIT = WELCOME_LIMIT = 16 * 1024  # bytes
LIFE = 15 * 60  # seconds each step may take: until the command runs, until it is accepted, until the answer is fetched
_VERSION = "np1"
_CLAIM_DOMAIN = b"nspawnpanel.enrolment-claim.v1\0"
_OWN_DOMAIN = b"nspawnpanel.enrolment-keys.v1\0"
_WELCOME_DOMAIN = b"nspawnpanel.enrolment-welcome.v1\0"
_GROUPS, _DIGITS = 6, 5  # of a fingerprint: 99 bits, of which a person reads each group at a glance

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]  # 32 bytes in base64

Pin = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Token:
    panel_key: VerifyKey
    id: UUID
    seed: bytes = field(repr=False)  # 32 bytes

    def __str__(self) -> str:
        return ".".join((_VERSION, _short(bytes(self.panel_key)), _short(self.id.bytes), _short(self.seed)))

    @property
    def key(self) -> SigningKey:
        """Signs the claim."""
        return SigningKey(self.seed)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises BadValue."""
        try:
            version, panel_key, number, seed = text.strip().split(".")
            if version != _VERSION:
                raise ValueError(version)
            token = cls(VerifyKey(_long(panel_key)), UUID(bytes=_long(number)), _long(seed))
            SigningKey(token.seed)
        except (ValueError, TypeError, CryptoError) as error:
            raise BadValue("This is not a whole token (np1.…). Copy the command from the panel again.") from error
        return token


class Claim(BaseModel):
    """What a host says of itself. `hostname` and `system` are its own words: shown, never believed. `proof` is the signature
    of its signing key over all keys and the token; who holds the box key shows by opening the answer. `at` is its clock, in
    seconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    token: UUID
    verify: Key
    box: Key
    proof: Annotated[str, Field(max_length=100)] = ""
    hostname: Annotated[str, Field(max_length=255)] = ""
    system: Annotated[str, Field(max_length=200)] = ""
    at: Annotated[float, Field(ge=0, lt=1e11)] = 0.0


class Welcome(BaseModel):
    """The panel's answer to the one host whose key it names. `sealed` is a Secret, for its box key."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    token: UUID
    verify: Key
    host: UUID
    name: Annotated[str, Field(max_length=63)]
    generation: Annotated[int, Field(ge=1)]
    issued: float
    sealed: Annotated[str, Field(max_length=WELCOME_LIMIT)]


class Secret(BaseModel):
    """What goes into the host's settings. `panel_keys` are those whose orders it obeys, in base64; `redis_pins` SHA-256 sums of
    the certificates that Redis may show, in hex, none where the host's own authorities decide."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    redis_url: Annotated[str, Field(max_length=2000)] = Field(repr=False)
    panel_keys: Annotated[list[Key], Field(min_length=1, max_length=4)]
    panel_url: Annotated[str, Field(max_length=2000)] = ""
    redis_pins: Annotated[list[Pin], Field(max_length=4)] = []


def fingerprint(verify: str | VerifyKey, box: str | PublicKey) -> str:
    """Six groups of five digits of a host's two public keys (base64, or the keys themselves): the same on the host and on
    the panel's page."""
    return _digits(sha256(_OWN_DOMAIN + _bytes(verify) + _bytes(box)).digest())


def panel_fingerprint(key: str | VerifyKey) -> str:
    """The same for a panel's public key."""
    return _digits(sha256(_WELCOME_DOMAIN + _bytes(key)).digest())


def sign_claim(token: Token, sign: SigningKey, box: PublicKey, *, hostname: str, system: str, at: float) -> str:
    verify = b64encode(bytes(sign.verify_key)).decode()
    claim = Claim(
        token=token.id, verify=verify, box=b64encode(bytes(box)).decode(), hostname=hostname[:255], system=system[:200], at=at
    )  # fmt: skip
    proof = b64encode(sign.sign(_proved(claim)).signature).decode()
    payload = json.dumps(claim.model_dump(mode="json") | {"proof": proof}).encode()
    return envelope.sign(_CLAIM_DOMAIN, payload, token.key)


def read_claim(message: str, token: UUID, key: VerifyKey) -> Claim:
    """The claim that this token signed; nothing is parsed before that holds. Raises EnvelopeRefused."""
    raw = envelope.verify(_CLAIM_DOMAIN, message, {envelope.key_id(key): key}, CLAIM_LIMIT)
    try:
        claim = Claim.model_validate_json(raw)
        PublicKey(b64decode(claim.box))
        VerifyKey(b64decode(claim.verify)).verify(_proved(claim), b64decode(claim.proof))
    except (ValidationError, ValueError, TypeError, CryptoError) as error:
        raise EnvelopeRefused("The host does not hold the keys that it names.", code="envelope-forged") from error
    if claim.token != token:
        raise EnvelopeRefused("The claim is made with another token.", code="envelope-foreign")
    return claim


def seal_welcome(
    secret: Secret, key: SigningKey, *, claim: Claim, host: UUID, name: str, generation: int, at: float
) -> str:
    sealed = SealedBox(PublicKey(b64decode(claim.box))).encrypt(secret.model_dump_json().encode())
    welcome = Welcome(
        token=claim.token, verify=claim.verify, host=host, name=name, generation=generation, issued=at,
        sealed=b64encode(sealed).decode(),
    )  # fmt: skip
    return envelope.sign(_WELCOME_DOMAIN, welcome.model_dump_json().encode(), key)


def read_welcome(message: str, token: Token, verify: VerifyKey, box: PrivateKey) -> tuple[Welcome, Secret]:
    """What the panel of this token answered to these keys. Raises EnvelopeRefused; then none of it may be believed."""
    keys = {envelope.key_id(token.panel_key): token.panel_key}
    raw = envelope.verify(_WELCOME_DOMAIN, message, keys, 2 * WELCOME_LIMIT)
    try:
        welcome = Welcome.model_validate_json(raw)
        if welcome.token != token.id or b64decode(welcome.verify) != bytes(verify):
            raise EnvelopeRefused("The panel's answer is for another host.", code="envelope-foreign")
        return welcome, Secret.model_validate_json(SealedBox(box).decrypt(b64decode(welcome.sealed)))
    except (ValidationError, ValueError, CryptoError) as error:
        raise EnvelopeRefused("The panel's answer cannot be read.", code="envelope-unreadable") from error


def _proved(claim: Claim) -> bytes:
    return _OWN_DOMAIN + claim.token.bytes + b64decode(claim.verify) + b64decode(claim.box)


def _digits(digest: bytes) -> str:
    number = int.from_bytes(digest, "big") % 10 ** (_GROUPS * _DIGITS)
    text = f"{number:0{_GROUPS * _DIGITS}d}"
    return " ".join(text[at : at + _DIGITS] for at in range(0, len(text), _DIGITS))


def _bytes(key: str | VerifyKey | PublicKey) -> bytes:
    return b64decode(key) if isinstance(key, str) else bytes(key)


def _short(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _long(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
