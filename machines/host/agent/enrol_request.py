"""The panel's door for a host that joins: one address, answers that are bounded and never followed elsewhere.

What comes back is believed only where the panel's key signed it (contract/enrolment.py); its sentences are shown.
"""

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from machines.contract import enrolment
from machines.contract.problems import Problem

SECONDS = 15.0  # without a byte
ANSWER_BYTES = 4 * enrolment.WELCOME_LIMIT
TRIES = 5  # in a row without an answer
PAUSE = 2.0
SENTENCE = 500  # characters of what the panel says that are shown
_LOST = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)


@dataclass(frozen=True)
class Offered:
    """Where the enrolment stands, and the panel's answer once there is one."""

    state: str
    answer: str = ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Door:
    def __init__(self, panel: str, token: UUID, pause: Callable[[float], None] = time.sleep) -> None:
        """Raises Problem."""
        parts = urlsplit(panel)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Problem("The panel's address must begin with https:// or http://.", code="bad-value")
        self._url, self._pause = f"{panel.rstrip('/')}/enrol/{token}/", pause
        self._opener = urllib.request.build_opener(
            _NoRedirect(), urllib.request.HTTPSHandler(context=ssl.create_default_context())
        )

    def ask(self, claim: str) -> Offered:
        """Raises Problem panel-refused, with the panel's sentence, or panel-unreachable after some tries."""
        for left in reversed(range(TRIES)):
            try:
                return self._ask(claim)
            except _LOST as lost:
                why = str(getattr(lost, "reason", lost))
                if not left:
                    break
            self._pause(PAUSE)
        raise Problem(
            f"{self._url} cannot be reached: {why}.", code="panel-unreachable", hint="Nothing has been changed."
        )

    def _ask(self, claim: str) -> Offered:
        request = urllib.request.Request(  # noqa: S310  # the scheme was looked at
            self._url, data=claim.encode(), method="POST",
            headers={"Content-Type": "application/octet-stream", "User-Agent": "nspawnpanel-host"},
        )  # fmt: skip
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                said = _parsed(answer.read(ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            if error.code in {502, 503, 504}:
                raise urllib.error.URLError(f"it answers {error.code}") from error
            raise _refused(error) from error
        return Offered(str(said.get("state", "")), str(said.get("answer", "")))


def _refused(error: urllib.error.HTTPError) -> Problem:
    with error:
        said = _parsed(error.read(ANSWER_BYTES)).get("error")
    sentence = "".join(each if each.isprintable() else "�" for each in str(said or f"The panel answers {error.code}."))
    return Problem(sentence[:SENTENCE], code="panel-refused", hint="Nothing has been changed on this host.")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
