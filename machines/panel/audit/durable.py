"""Commits that survive a cut of power, for what is noted outside the database must never be ahead of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def synced() -> Iterator[None]:
    """SQLite in WAL syncs no single commit, so a cut of power takes the last ones back. One that is synced takes all
    before it along."""
    _to_disk("FULL")
    try:
        yield
    finally:
        _to_disk("NORMAL")


def _to_disk(how: str) -> None:
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA synchronous={how}")
