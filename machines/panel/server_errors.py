"""What is answered when something broke: a full disk by its name, everything else as our own fault."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views.defaults import server_error
from django_htmx.http import trigger_client_event

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# SQLite's words, and the system's that PostgreSQL repeats
WORDS = ("database or disk is full", "No space left on device", "Disk quota exceeded")
SENTENCE = "The panel's disk is full, so nothing of this was kept."
HINT = "Free some space or inodes on the panel's host (df -h, df -i), then do it again."
STATUS = 507  # Insufficient Storage


def answer(request: HttpRequest) -> HttpResponse:
    """The page of an error that nobody has foreseen; Django calls it while the error is being handled."""
    if not is_for_want_of_space(sys.exc_info()[1]):
        return server_error(request)
    if request.headers.get("HX-Request"):
        said = HttpResponse(f"{SENTENCE} {HINT}", status=STATUS, content_type="text/plain; charset=utf-8")
        return trigger_client_event(said, "toast", {"text": f"{SENTENCE} {HINT}", "kind": "danger"})
    # Without the request: a page's frame asks the database who is there.
    return HttpResponse(render_to_string("507.html", {"sentence": SENTENCE, "hint": HINT}), status=STATUS)


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
