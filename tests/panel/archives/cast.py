"""Archives for tests."""

import hashlib
from typing import Any

from machines.models import Archive
from tests import make


def archive(content: bytes = b"", **fields: Any) -> Archive:
    """One that is complete; with `content` its size and sum are those of that."""
    given = {
        "title": "web.tar.zst",
        "state": "ready",
        "size": len(content) or 5,
        "author_name": "ada",
        "team": make.team(),
    }
    given |= {"received": given["size"], "sha256": hashlib.sha256(content).hexdigest()}
    return Archive.objects.create(**given | fields)
