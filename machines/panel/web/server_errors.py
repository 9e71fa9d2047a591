"""What is answered when something broke: a full disk and a busy database by their names, everything else as our own fault.

Who wants to write waits for whoever writes, settings.LOCK_SECONDS at most; a change is one transaction, so what could not
have its turn has done nothing.
"""

import errno
import logging
import os
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views.defaults import server_error
from django_htmx.http import trigger_client_event

log = logging.getLogger(__name__)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# SQLite's words, and the system's that PostgreSQL repeats
WORDS = ("database or disk is full", "No space left on device", "Disk quota exceeded")
SENTENCE = "The panel's disk is full, so nothing was saved."
HINT = "Free some space or inodes on the panel's host (df -h, df -i), then try again."
STATUS = 507  # Insufficient Storage
LOCKED = ("database is locked", "database table is locked")  # SQLite's words
LOCKED_STATES = {"55P03", "40P01"}  # PostgreSQL's: a lock that could not be had in time, two that wait for each other
BUSY = "The panel is busy: the database was locked by other changes for too long, so nothing was done."
AGAIN = "Try again; what you typed is still there, except for passwords."
CROWDED = "The panel is busy: too many requests at once, so nothing was done."
BUSY_STATUS = 503


def answer(request: HttpRequest) -> HttpResponse:
    """The page of an error that nobody has foreseen; Django calls it while the error is being handled."""
    error = sys.exc_info()[1]
    if is_for_want_of_space(error):
        # Without the request: a page's frame asks the database who is there.
        page = render_to_string("507.html", {"sentence": SENTENCE, "hint": HINT})
        return _said(request, f"{SENTENCE} {HINT}", page, STATUS)
    if is_for_want_of_a_lock(error):
        log.warning("%s %s had to wait too long for the database", request.method, request.path)
        return _busy(request, BUSY)
    return server_error(request)


def crowded(scope: dict[str, Any]) -> HttpResponse:
    """To a request that was not worked on (admission.py): nothing is asked of the database, nobody knows who sends it."""
    asked = scope["query_string"].decode(errors="replace")
    return _busy(ASGIRequest(scope | {"query_string": asked}, BytesIO()), CROWDED, with_frame=False)


def _busy(request: HttpRequest, sentence: str, *, with_frame: bool = True) -> HttpResponse:
    """`with_frame` shows who is signed in, which is asked of the database."""
    hint = AGAIN if request.method == "POST" else ""
    known = {"sentence": sentence, "hint": hint, "back": _back(request), "request": request}
    page = render_to_string("503.html", known, request if with_frame else None)
    answer = _said(request, f"{sentence} {hint}", page, BUSY_STATUS)
    answer.headers["Retry-After"] = "2"
    return answer


def _said(request: HttpRequest, text: str, page: str, status: int) -> HttpResponse:
    if not request.headers.get("HX-Request"):
        return HttpResponse(page, status=status)
    said = HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")
    return trigger_client_event(said, "toast", {"text": text.strip(), "kind": "danger"})


def _back(request: HttpRequest) -> str:
    """The page that was left, for a form; the address itself for what was only looked at."""
    if request.method != "POST":
        return request.get_full_path()
    try:
        left = urlsplit(request.headers.get("Referer", ""))
        ours = left.netloc == request.get_host()
    except (ValueError, DisallowedHost):  # no address; a host that is none of ours
        return "/"
    return urlunsplit(("", "", left.path, left.query, "")) if ours else "/"


def is_for_want_of_a_lock(error: BaseException | None) -> bool:
    """By the database's own word that somebody else was not done in time."""
    stored = [each for each in _causes(error) if isinstance(each, DatabaseError)]
    states = {getattr(each.__cause__, "sqlstate", None) for each in stored}
    return bool(states & LOCKED_STATES) or any(str(each).startswith(LOCKED) for each in stored)


def is_for_want_of_space(error: BaseException | None) -> bool:
    """By the error's own words, or because it is one of storage and the disk is full: a database file that needs an
    inode only “cannot be opened”."""
    chain = list(_causes(error))
    if any(isinstance(each, OSError) and each.errno in FULL for each in chain):
        return True
    stored = [each for each in chain if isinstance(each, DatabaseError)]
    return any(word in str(each) for each in stored for word in WORDS) or bool(stored and _is_full(settings.DATA_DIR))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _is_full(folder: Path) -> bool:
    """Whether its file system has no block or no inode left for us; some count no inodes."""
    disk = os.statvfs(folder)
    return disk.f_bavail == 0 or (disk.f_files > 0 and disk.f_favail == 0)
