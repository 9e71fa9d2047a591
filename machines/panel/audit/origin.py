"""Where what is being done comes from: known to the web process from the request, and read when an entry is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """`address` as the connection or a trusted proxy tells it; `token` the name of the API token, "" for a session."""

    address: str = ""
    token: str = ""


NOWHERE = Origin()
_present: ContextVar[Origin] = ContextVar("origin", default=NOWHERE)


def present() -> Origin:
    return _present.get()


@contextmanager
def of(origin: Origin) -> Iterator[None]:
    """What is done inside comes from there. Elsewhere (the courier, a command line) nothing does."""
    before = _present.set(origin)
    try:
        yield
    finally:
        _present.reset(before)
