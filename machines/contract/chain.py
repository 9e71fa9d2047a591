"""Records in a chain: each carries the hash of the one before it, so that none can be changed, taken out or put elsewhere
unseen; and heads of such a chain under a signature, so that it cannot be written anew as a whole either.

Used by the panel's history (machines/models/event.py) and by each host's receipts.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

START = ""  # in place of the hash before the first record
_HEAD_DOMAIN = b"nspawnpanel.chain-head.v1\0"


def link(previous: str, record: Mapping[str, Any]) -> str:
    """The hash of a record that follows the one with the hash `previous`: SHA-256, in hex. What is empty ("" or None) is
    not counted, so that a column that is added later changes no hash that is there."""
    told = {name: value for name, value in record.items() if value not in ("", None)}
    return sha256(f"{previous}\n{canonical(told)}".encode()).hexdigest()


def canonical(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sign_head(number: int, digest: str, key: SigningKey) -> str:
    """The signature, base64url, of "the chain has `number` records, and this is the hash of the last one"."""
    return urlsafe_b64encode(key.sign(_head(number, digest)).signature).decode()


def is_signed_head(number: int, digest: str, signature: str, key: VerifyKey) -> bool:
    try:
        key.verify(_head(number, digest), urlsafe_b64decode(signature))
    except (CryptoError, ValueError):
        return False
    return True


def _head(number: int, digest: str) -> bytes:
    return _HEAD_DOMAIN + f"{number} {digest}".encode()
