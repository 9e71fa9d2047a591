"""An SQLite file that somebody puts in the place of ours while we have it open.

Whoever moves a copy there leaves this process with the old file, which has no name any more: it would work on what nobody
else sees. Facts: rename(2) over an open file changes nothing for those who hold it.
"""

import threading
from pathlib import Path

from django.db import connection

_mine = threading.local()  # .file: (device, inode) of the file as this thread opened it


def follow() -> None:
    """Let go of this thread's connection when another file stands in its database's place; the next query opens it."""
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return
    try:
        there = Path(str(connection.settings_dict["NAME"])).stat()
    except OSError:  # in memory, or just being moved there
        return
    file = (there.st_dev, there.st_ino)
    if getattr(_mine, "file", file) != file:
        connection.close()
    _mine.file = file
