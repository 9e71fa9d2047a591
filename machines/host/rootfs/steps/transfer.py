"""Fetch an archive from the panel, or bring one there: streamed, resumed after a lost connection, never redirected.

The address comes in the signed order and the token sealed in it. TLS is verified by the host's own certificates, as for
any other program on it.
"""

import contextlib
import hashlib
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any

from machines.contract.configuration import egress_rules
from machines.contract.problems import Problem
from machines.host.system.faults import TookTooLong

PART = 8 * 1024 * 1024  # bytes of one part of what is brought; the panel takes no more
SECONDS = 30.0  # without a byte
WAITS = (1, 2, 4, 8, 15, 15, 15)  # seconds between tries; any progress begins them anew
SUM_WAIT = 0.5
_PIECE = 1024 * 1024
_ANSWER = 64 * 1024
_LOST = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)

Told = Callable[[int], None]  # bytes so far


class Panel:
    """The one address of an order, and the token for it. `deadline` in time.time() seconds."""

    def __init__(self, url: str, token: str, deadline: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise Problem("The panel's URL must begin with https:// or http://.", code="bad-value")
        self._url, self._deadline = url, deadline
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "nspawnpanel-host"}
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Plain(),
            _Secure(context=ssl.create_default_context()),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),  # and no handler that would follow a redirect
        ):
            self._opener.add_handler(handler)

    # --- from the panel

    def fetch(self, file: Path, size: int, sha256: str, told: Told) -> None:
        """The whole archive into a new file. Raises Problem panel-unreachable, panel-refused or checksum-wrong, OSError."""
        digest, tries = hashlib.sha256(), iter(WAITS)
        with file.open("xb") as out:
            while (at := out.tell()) < size:
                try:
                    self._fetch_from(at, size, out, digest, told)
                except _LOST as error:
                    tries = iter(WAITS) if out.tell() > at else tries
                    self._wait(tries, error)
        if digest.hexdigest() != sha256:
            raise Problem(
                f"The downloaded file is not the archive: its SHA-256 is {digest.hexdigest()}, not {sha256}.",
                code="checksum-wrong", retryable=True,
                hint="Try again; if it persists, the file on the panel is damaged: upload or export it again.",
            )  # fmt: skip

    def _fetch_from(self, at: int, size: int, out: IO[bytes], digest: Any, told: Told) -> None:
        """What comes until the connection ends. Raises what _LOST names when that was too early."""
        with self._open(self._url, self._headers | {"Range": f"bytes={at}-"}) as answer:
            if (
                answer.status != http.client.PARTIAL_CONTENT
                or answer.headers["Content-Range"] != f"bytes {at}-{size - 1}/{size}"
            ):
                raise Problem("The archive on the panel is not the requested one.", code="archive-changed")
            while out.tell() < size:
                self._check_time()
                piece = answer.read(min(_PIECE, size - out.tell()))
                if not piece:
                    raise ConnectionError("the connection was closed early")
                out.write(piece)
                digest.update(piece)
                told(out.tell())

    # --- to the panel

    def bring(self, file: Path, told: Told) -> str:
        """Send a file in parts; its SHA-256, which the panel has made too and which is the same. Raises Problem, OSError."""
        size, digest, tries = file.stat().st_size, hashlib.sha256(), iter(WAITS)
        with file.open("rb") as source:
            at = 0
            while at < size:
                source.seek(at)
                try:
                    fresh = int(self._send(at, size, source.read(PART))["received"])
                except _LOST as error:
                    self._wait(tries, error)
                    continue
                tries = iter(WAITS) if fresh > at else tries
                at = fresh
                told(at)
            source.seek(0)
            while piece := source.read(_PIECE):
                digest.update(piece)
        self._compare(size, digest.hexdigest())
        return digest.hexdigest()

    def _compare(self, size: int, sha256: str) -> None:
        """Wait until the panel has made the sum of what arrived."""
        tries = iter(WAITS)
        while True:
            try:
                theirs = self._send(size, size, b"").get("sha256", "")
            except _LOST as error:
                self._wait(tries, error)
                continue
            if theirs:
                break
            self._check_time()
            time.sleep(SUM_WAIT)
        if theirs != sha256:
            raise Problem(
                f"The file on the panel differs from what was sent: its SHA-256 is {theirs}, not {sha256}.",
                code="checksum-wrong", retryable=True, hint="Try again.",
            )  # fmt: skip

    def _send(self, at: int, size: int, part: bytes) -> dict[str, Any]:
        """One part; what the panel has then. A part that does not follow is answered with where to go on."""
        url = f"{self._url}?offset={at}&size={size}"
        headers = self._headers | {"Content-Type": "application/octet-stream"}
        try:
            with self._open(url, headers, part) as answer:
                return _said(answer)
        except _OutOfStep as out:
            return out.said

    # --- both

    @contextlib.contextmanager
    def _open(self, url: str, headers: dict[str, str], data: bytes | None = None) -> Iterator[HTTPResponse]:
        self._check_time()
        request = urllib.request.Request(url, data, headers)  # noqa: S310 - its scheme was looked at in __init__()
        try:
            answer = self._opener.open(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from None
        assert isinstance(answer, HTTPResponse)
        with answer:
            yield answer

    def _wait(self, tries: Iterator[int], error: Exception) -> None:
        """Before the next try; Problem when there were enough."""
        reason = getattr(error, "reason", None) or error
        seconds = None if isinstance(reason, ssl.SSLCertVerificationError) else next(tries, None)
        if seconds is None:
            raise Problem(
                f"The panel could not be reached at {self._url.split('/transfer/')[0]}: {reason}", code="panel-unreachable",
                retryable=True, hint="Check the network, DNS and certificates of this host, and NSPAWNPANEL_URL on the panel.",
            ) from error  # fmt: skip
        self._check_time()
        time.sleep(seconds)

    def _check_time(self) -> None:
        if time.time() > self._deadline:
            raise TookTooLong("The transfer timed out.")


class _PlainConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _check_peer(self)


class _SecureConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _check_peer(self)


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_PlainConnection, req)


class _Secure(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_SecureConnection, req, context=self._context)  # type: ignore[attr-defined]


def _check_peer(connection: http.client.HTTPConnection) -> None:
    """Whatever its name led to: nothing is said to a cloud's metadata service. Raises Problem, and the connection ends."""
    address = ip_address(connection.sock.getpeername()[0].partition("%")[0])
    if egress_rules.is_metadata(address):
        connection.close()
        raise Problem(
            f"The panel's hostname resolves to {address}, a link-local address or a cloud's metadata service.",
            code="panel-refused", hint="Check NSPAWNPANEL_URL on the panel, and the DNS of this host.",
        )  # fmt: skip


class _OutOfStep(Exception):
    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__()
        self.said = said


def _said(answer: IO[bytes]) -> dict[str, Any]:
    """The panel's few words as JSON. Raises Problem for what is none."""
    try:
        said = json.loads(answer.read(_ANSWER))
        return {"received": int(said["received"]), "sha256": str(said.get("sha256", ""))}
    except (ValueError, KeyError, TypeError) as error:
        raise Problem(
            "The server at the panel's URL is not the panel.",
            code="panel-refused",
            hint="Check NSPAWNPANEL_URL.",
        ) from error


def _refusal(error: urllib.error.HTTPError) -> Exception:
    """What the panel means by its status."""
    if error.code == http.client.CONFLICT:
        return _OutOfStep(_said(error))
    if error.code in {http.client.BAD_GATEWAY, http.client.SERVICE_UNAVAILABLE, http.client.GATEWAY_TIMEOUT}:
        return ConnectionError(f"the panel answered {error.code}")
    words = {
        http.client.FORBIDDEN: "The panel no longer accepts this request's token for the archive.",
        http.client.NOT_FOUND: "The archive is no longer on the panel.",
        http.client.GONE: "The archive has been removed from the panel in the meantime.",
    }
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
        said = json.loads(error.read(_ANSWER))
        words.setdefault(error.code, str(said["error"])[:500])
    where = f" It redirects to {error.headers['Location']}." if error.headers.get("Location") else ""
    text = words.get(error.code, f"The panel answered {error.code} {error.reason}.{where}")
    return Problem(text, code="panel-refused", hint="Request it again; a new request has a new token.")
