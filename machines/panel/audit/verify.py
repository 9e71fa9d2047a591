"""Whether the history is as it was written: every entry, what it follows, where it ends, and what was sealed.

An entry that was changed no longer has its hash; one that was put in another's place does not lead to the next; one that
is gone leaves its number; what was cut off at the end is in the head, in a seal, or in the courier's file. Who can write
all of these and has the courier's key can write another history.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from django.db import connection
from django.db.models import Subquery
from django.utils import timezone
from nacl.signing import VerifyKey

from machines import audit_triggers
from machines.contract import chain
from machines.models import Event, EventHead, EventSeal

FAULTS = 50  # named at most
AT_ONCE = 2000  # rows


@dataclass(frozen=True)
class Mark:
    """An entry that somebody else than the database knows of: where that stands, in words."""

    number: int
    hash: str
    where: str


@dataclass(frozen=True)
class Verdict:
    """Entries `first` … `last` were looked at. `faults` are sentences, each of which names the entry; `is_signed` says that
    the signatures of the seals were checked as well."""

    first: int
    last: int
    count: int
    seals: int
    is_signed: bool
    faults: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.faults


@dataclass(frozen=True)
class Earlier:
    """A key of the courier that signed seals up to an entry, and none after it."""

    key: VerifyKey
    until: int


def verify(
    key: VerifyKey | None = None,
    marks: tuple[Mark, ...] = (),
    *,
    newest: int | None = None,
    earlier: tuple[Earlier, ...] = (),
) -> Verdict:
    """Read the history through, up to where it ends when this begins. `newest` limits it to that many of the newest entries. `key` is the courier's public key, `earlier` are those it had before."""
    every = list(EventSeal.objects.order_by("number"))  # before the head, or others might append and seal in between
    head = EventHead.objects.filter(pk=EventHead.ONLY).first()
    if head is None:
        return Verdict(1, 0, 0, 0, False, ["The head of the history is missing."])
    first = head.first if newest is None else max(head.first, head.number - newest + 1)
    seals = {seal.number: seal for seal in every if seal.number >= first}
    walk = _Walk(head, first, seals, marks)
    faults = [*islice(walk.faults(), FAULTS)]
    if faults and EventHead.objects.get(pk=EventHead.ONLY).first != head.first:  # old ones went meanwhile
        return verify(key, marks, newest=newest, earlier=earlier)
    faults += islice(_bad_seals(seals, key, earlier), max(0, FAULTS - len(faults)))
    faults += [f"The database lets the history be changed: the trigger {name} is missing." for name in
               audit_triggers.missing(connection)]  # fmt: skip
    return Verdict(first, walk.last, walk.count, len(seals), key is not None, faults)


class _Walk:
    def __init__(self, head: EventHead, first: int, seals: dict[int, EventSeal], marks: tuple[Mark, ...]) -> None:
        self._head, self._first = head, first
        self._marks = [Mark(s.number, s.hash, f"sealed {_time(s)}") for s in seals.values()]
        self._marks += [mark for mark in marks if mark.number >= first]
        self.last, self.count = first - 1, 0

    def faults(self) -> Iterator[str]:
        known: dict[int, list[Mark]] = {}
        for mark in self._marks:
            known.setdefault(mark.number, []).append(mark)
        hash_before = chain.START if self._first == 1 else None
        for event in Event.objects.filter(pk__range=(self._first, self._head.number)).order_by("pk").iterator(AT_ONCE):
            if event.pk != self.last + 1:
                yield f"{_entries(self.last + 1, event.pk - 1)} missing."
                hash_before = None
            yield from _of_entry(event, hash_before)
            for mark in known.get(event.pk, ()):
                if mark.hash != event.hash:
                    yield f"Entry {event.pk} is not the one that was {mark.where}: it, or what is before it, was rewritten."
            self.last, self.count, hash_before = event.pk, self.count + 1, event.hash
        yield from self._of_end(hash_before)

    def _of_end(self, hash_at_end: str | None) -> Iterator[str]:
        at_end = EventHead.objects.filter(pk=EventHead.ONLY).values("number")
        stray = (
            Event.objects.filter(pk__gt=Subquery(at_end)).order_by("pk").first()
        )  # one question: others go on writing
        if stray:
            yield f"Entry {stray.pk} was not appended as entries are: the head does not know of it."
        beyond = [mark for mark in self._marks if mark.number > self.last]
        if self._head.number > self.last:
            yield f"{_entries(self.last + 1, self._head.number)} missing: the history had {self._head.number}."
        elif hash_at_end is not None and hash_at_end != self._head.hash:
            yield f"Entry {self.last} is not the one that was appended last."
        for mark in beyond:
            yield f"{_entries(self.last + 1, mark.number)} missing: entry {mark.number} was {mark.where}."


def _of_entry(event: Event, hash_before: str | None) -> Iterator[str]:
    if event.expected_hash() != event.hash:
        yield f"Entry {event.pk} was changed."
    elif hash_before is not None and event.previous != hash_before:
        yield f"Entry {event.pk} does not follow entry {event.pk - 1}: one of them was replaced."


def _bad_seals(seals: dict[int, EventSeal], key: VerifyKey | None, earlier: tuple[Earlier, ...]) -> Iterator[str]:
    for seal in seals.values() if key else ():
        keys = [key, *(each.key for each in earlier if seal.number <= each.until)]
        if not any(each and chain.is_signed_head(seal.number, seal.hash, seal.signature, each) for each in keys):
            yield f"The seal of entry {seal.number} is not the courier's."


def _entries(first: int, last: int) -> str:
    return f"Entry {first} is" if first == last else f"Entries {first} to {last} are"


def _time(seal: EventSeal) -> str:
    return f"on {timezone.localtime(seal.at):%Y-%m-%d at %H:%M}"


# --- what the courier keeps beside its key


def read_mark(file: Path) -> Mark | None:
    """What the courier has noted; None where it has not. Raises OSError, ValueError for a file that is not its own."""
    try:
        told = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    return Mark(int(told["number"]), str(told["hash"]), "noted by the courier in its own file")
