"""The courier, which alone has the signing key, vouches for the history: it notes the head in a file of its own as often as
that moves, and signs it into the database and its journal (`journalctl`) every SEAL_EVERY."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from django.db.models import F
from nacl.signing import SigningKey

from machines.contract import chain
from machines.models import Event, EventHead, EventSeal
from machines.panel.audit import durable, entries, verify

log = logging.getLogger(__name__)

SEAL_EVERY = timedelta(minutes=10)


@dataclass
class Notary:
    """`file` is beside the key; without one, as in tests of other things, nothing is noted outside the database."""

    key: Callable[[], SigningKey]  # the present one
    file: Path | None = None
    _noted: verify.Mark | None = field(default=None, init=False)

    def look(self, now: datetime) -> None:
        """Compare what was noted with what is there, then note where the history is now. Raises OSError."""
        head = EventHead.objects.filter(pk=EventHead.ONLY).first()
        if head is None or not head.number:
            return
        known = self._noted or (verify.read_mark(self.file) if self.file else None)
        if known and known.number == head.number and known.hash == head.hash:
            self._noted = known
            self._seal(head, now)
            return
        if known and (why := _lost(known, head)):
            log.error("The history is damaged: %s", why)
            entries.record("history-damaged", f"The history is not what the courier has noted: {why}",
                           result=Event.Result.FAILED)  # fmt: skip
            head = EventHead.objects.get(pk=EventHead.ONLY)
        self._note(head)
        self._seal(head, now)

    def _note(self, head: EventHead) -> None:
        """The entries are on the disk before the file names them."""
        self._noted = verify.Mark(head.number, head.hash, "")
        if self.file:
            with durable.synced():
                EventHead.objects.filter(pk=EventHead.ONLY).update(first=F("first"))
            aside = self.file.with_name(f"{self.file.name}.{os.getpid()}.tmp")
            aside.write_text(json.dumps({"number": head.number, "hash": head.hash}))
            aside.replace(self.file)

    def _seal(self, head: EventHead, now: datetime) -> None:
        newest = EventSeal.objects.order_by("-number").first()
        if newest and (newest.number >= head.number or newest.at <= now < newest.at + SEAL_EVERY):
            return
        signature = chain.sign_head(head.number, head.hash, self.key())
        if EventSeal.objects.get_or_create(
            number=head.number, defaults={"hash": head.hash, "at": now, "signature": signature}
        )[1]:
            log.info(
                "The history has %d entries; the last one's hash is %s, signed %s", head.number, head.hash, signature
            )


def _lost(known: verify.Mark, head: EventHead) -> str:
    """What is missing of what was noted, or "": a sentence."""
    if known.number < head.first:
        return ""
    now = Event.objects.filter(pk=known.number).values_list("hash", flat=True).first()
    if now == known.hash:
        return ""
    if now is None:
        return f"entry {known.number} is missing (the newest was {head.number})."
    return f"entry {known.number}, or one before it, is another one."
