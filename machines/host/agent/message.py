"""From the bytes in the queue to a sealed order, without parsing anything that nobody signed.

What the panel sends (Mailbox.send: a Celery message of protocol 2) looks like this, the body in base64:

    {"body": "W1si…", …, "headers": {…, "task": "carry_out", "eta": null, …}, "properties": {…}}
    [["signature.key-id.payload"], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]

The envelope is cut out by its alphabet. Only when its signature holds is the rest read, for whoever has caught one may
have put it in a message of his own: another task, a time, a chain. Celery gets none of these bytes (transport.py).
"""

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from nacl.signing import VerifyKey

from machines.contract import envelope, routes
from machines.contract.problems import EnvelopeRefused

LONGEST = envelope.longest(envelope.ORDER_LIMIT) * 4 // 3 + 4096  # bytes: base64 once more, and the headers
_BODY = re.compile(rb'"body": ?"([A-Za-z0-9+/]+={0,2})"')
_SEALED = re.compile(
    rb'\[\["([\w=-]+\.[0-9a-f]+\.[\w=-]+)"\], ?\{\}, ?'
    rb'\{"callbacks": ?null, ?"errbacks": ?null, ?"chain": ?null, ?"chord": ?null\}\]'
)
_NEVER = ("eta", "expires", "retries", "group", "shadow", "replaced_task_nesting", "stamped_headers", "stamps")


def sealed_in(raw: bytes, keys: Mapping[str, VerifyKey]) -> str:
    """The sealed order of one message; its signature holds. Raises EnvelopeRefused."""
    if not 0 < len(raw) <= LONGEST:
        raise EnvelopeRefused("A message that is too large to be from the panel.", code="envelope-oversized")
    sealed = _cut_out(raw)
    envelope.check_signature(sealed, keys)
    if not _is_plain(raw):
        raise EnvelopeRefused("A message with more than an envelope in it.", code="envelope-unreadable")
    return sealed


def _cut_out(raw: bytes) -> str:
    body = _BODY.search(raw)
    try:
        found = _SEALED.fullmatch(b64decode(body[1], validate=True)) if body else None
    except binascii.Error:
        found = None
    if found is None:
        raise EnvelopeRefused("A message that is not from the panel.", code="envelope-unreadable")
    return found[1].decode()


def _is_plain(raw: bytes) -> bool:
    """Whether it asks for nothing but our task, now."""
    try:
        message: dict[str, Any] = json.loads(raw)
        headers = message["headers"]
        return headers["task"] == routes.TASK and not any(headers.get(key) for key in _NEVER)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
