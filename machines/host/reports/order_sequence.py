"""The panel's line: every order that changes something has its place, (epoch, sequence), after all before it.

A panel that was put back to an older copy of itself goes on from an earlier place. It cannot know that, but this host has
heard more. What is not after all that was heard is never obeyed. Should such an order be younger than the highest one heard,
there are two panels of one epoch: nothing of either is obeyed (the host latches) until a person has decided in the panel,
which begins a higher epoch.
"""

import json
import sqlite3
import time
from typing import Any

from machines.contract.envelope import Envelope
from machines.contract.problems import EnvelopeRefused
from machines.contract.reports import Heard

FORK_SECONDS = 10.0  # by which an order with a lower place must be younger: couriers side by side race by milliseconds
OLDER_COPY = "The request comes from an older copy of the panel than the one this host last heard from."
TWO_PANELS = (
    "The panel was restored from an older copy of itself, so this host ignores it until an administrator confirms that."
)


def heard(db: sqlite3.Connection) -> Heard:
    """How far the panel was heard."""
    return Heard(**{name: value for name, value in _read(db).items() if name in Heard.model_fields})


def hear(db: sqlite3.Connection, sealed: Envelope, *, reads_only: bool = False) -> bool:
    """Whether an order may be obeyed by its place; if so, that is the highest one now. In the caller's transaction.

    An order that only reads may always be, and tells of nothing but a new epoch: so a panel that asks again for reports
    does not catch up with what it has forgotten.
    """
    known = _read(db)
    if (sealed.epoch, known["epoch"]) == (0, 0):  # of a panel that knows no line
        return True
    is_new = bool(sealed.epoch > known["epoch"])
    if reads_only and not is_new:
        return True
    if is_new or (sealed.epoch == known["epoch"] and sealed.sequence > known["sequence"] and not known["latched"]):
        _write(db, epoch=sealed.epoch, sequence=sealed.sequence, issued=sealed.issued, at=time.time(), latched=False)
        return True
    if sealed.epoch == known["epoch"] and _is_fork(sealed, known):
        _write(db, **{**known, "latched": True})
    return False


def _is_fork(sealed: Envelope, known: dict[str, Any]) -> bool:
    """By both clocks: one of two couriers may be dated by a clock that is wrong."""
    return sealed.issued - float(known["issued"]) > FORK_SECONDS < time.time() - float(known["at"])


def refusal(sealed: Envelope, known: Heard) -> EnvelopeRefused:
    """Why an order is not obeyed for its place: it comes from an older copy of the panel, or a second time."""
    said = TWO_PANELS if known.latched and sealed.epoch >= known.epoch else OLDER_COPY
    return EnvelopeRefused(said, code="envelope-superseded", job=sealed.job)


def _read(db: sqlite3.Connection) -> dict[str, Any]:
    found = db.execute("select value from meta where key = 'heard'").fetchone()
    return json.loads(found[0]) if found else {"epoch": 0, "sequence": 0, "issued": 0.0, "at": 0.0, "latched": False}


def _write(db: sqlite3.Connection, **values: Any) -> None:
    db.execute("insert or replace into meta values ('heard', ?)", (json.dumps(values),))
