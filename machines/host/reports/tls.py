"""TLS to Redis: the very certificate that the panel named when this host joined, whoever has signed it; or, where it named
none, one that this host's authorities have signed for the name in the address.

Facts: kombu 5.7 takes any certificate for a `rediss://` address and says so in a log line only; redis-py 8.1 verifies.
"""

import ssl
from collections.abc import Collection
from hashlib import sha256
from typing import Any

import redis
from redis.exceptions import ConnectionError as Broken


class PinnedConnection(redis.SSLConnection):
    """`pins` are SHA-256 sums of certificates (DER), in hex. The sum is compared before a password is sent; that the server
    holds the certificate's key is shown by the handshake itself."""

    def __init__(self, *, pins: Collection[str] = (), **given: Any) -> None:
        self._pins = frozenset(pins)
        given |= {"ssl_cert_reqs": "none" if pins else "required", "ssl_check_hostname": not pins}
        given["ssl_min_version"] = ssl.TLSVersion.TLSv1_2
        super().__init__(**given)

    def _connect(self) -> Any:
        sock = super()._connect()  # type: ignore[no-untyped-call, unused-ignore]
        if self._pins and sha256(sock.getpeercert(binary_form=True) or b"").hexdigest() not in self._pins:
            sock.close()
            raise Broken("The certificate of Redis is not the one that this host was told of when it joined.")
        return sock


def options(url: str, pins: Collection[str]) -> dict[str, Any]:
    """For redis.Redis.from_url()."""
    return {"connection_class": PinnedConnection, "pins": tuple(pins)} if is_tls(url) else {}


def is_tls(url: str) -> bool:
    return url.startswith("rediss://")
