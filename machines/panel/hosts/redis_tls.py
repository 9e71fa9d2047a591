"""TLS to Redis: what hosts are told of its certificate, and how the courier itself verifies it.

Fact: kombu 5.7 takes any certificate for a `rediss://` address unless it is told otherwise.
"""

import re
import ssl
from hashlib import sha256
from pathlib import Path
from typing import Any

from django.conf import settings

from machines.contract.problems import BadValue

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
MOST = 4


def pins() -> list[str]:
    """SHA-256 sums, in hex, of the certificates in REDIS_CERTIFICATE; none where that is not set. Raises BadValue."""
    if not settings.REDIS_CERTIFICATE:
        return []
    file = Path(settings.REDIS_CERTIFICATE)
    try:
        found = [_der(text) for text in _CERTIFICATE.findall(file.read_text())]
    except (OSError, ValueError) as error:
        raise BadValue(f"NSPAWNPANEL_REDIS_CERTIFICATE, {file}, cannot be read: {error}") from error
    if not 0 < len(found) <= MOST:
        raise BadValue(f"NSPAWNPANEL_REDIS_CERTIFICATE, {file}, has {len(found)} certificates; it needs 1 to {MOST}.")
    return [sha256(each).hexdigest() for each in found]


def _der(text: str) -> bytes:
    """Raises ValueError or OSError where it is no certificate; the conversion alone takes any letters."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    return ssl.PEM_cert_to_DER_cert(text)


def options(url: str) -> dict[str, Any]:
    """For redis.Redis.from_url() and, as `ssl`, for kombu. A certificate of ours is an authority of its own; the name in the
    address must be in it."""
    if not url.startswith("rediss://"):
        return {}
    verified = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    return {**verified, **({"ssl_ca_certs": settings.REDIS_CERTIFICATE} if settings.REDIS_CERTIFICATE else {})}
