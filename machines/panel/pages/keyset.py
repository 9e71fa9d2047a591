"""Pages by keyset, as all lists have them: one row more than a page holds is read, in the direction one goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Cut(Generic[Row]):
    """The rows of one page in the order they are shown, and whether there are others on either side."""

    rows: list[Row]
    has_previous: bool
    has_next: bool


def cut(found: Sequence[Row], per: int, *, backwards: bool, is_first: bool) -> Cut[Row]:
    """What is shown of up to `per` + 1 rows that follow a row or, going `backwards`, precede it; `is_first` where they
    follow none."""
    more, kept = len(found) > per, list(found[:per])
    if backwards:
        return Cut(kept[::-1], has_previous=more, has_next=True)
    return Cut(kept, has_previous=not is_first, has_next=more)


def number(text: str) -> int:
    """An id in a query string; 0 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
