"""What this host has taken on, and what it has said: one SQLite file, written before anything is done.

Why SQLite with synchronous=FULL: a job must be known before its first effect even if the power fails. Why one file for
jobs and for the spool of reports: "log lines spooled and log read up to here" is then one transaction, and a line can
neither be lost nor told twice.
"""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from machines.contract.receipts import CANCELLED_BEFORE
from machines.contract.reports import Heard, Outcome, Receipt
from machines.host.policy import owners
from machines.host.reports import order_sequence
from machines.host.system.faults import Misconfigured

SPOOL_REPORTS = 50_000
SPOOL_BYTES = 64 * 1024 * 1024
SPOOL_SECONDS = 7 * 86400
JOBS_SECONDS = 90 * 86400  # a captured envelope expires long before its job is forgotten
ROOM = 2 * 1024 * 1024  # bytes free below which the ballast goes
BALLAST = 8 * 1024 * 1024  # bytes set aside: when the disk is full, the ledger can still write

_TABLES = """
create table if not exists meta (key text primary key, value) without rowid;
create table if not exists jobs (
    id text primary key, op text not null, name text not null, wanted text not null, sealed text not null,
    actor text not null, state text not null, cancelled integer not null default 0,
    lines integer not null default 0, cursor integer not null default 0,
    taken real not null, begun real, ended real, outcome text, team text not null default '',
    order_sha256 text not null default ''
) without rowid;
create index if not exists jobs_open on jobs (name) where ended is null;
create table if not exists spool (number integer primary key, body text not null, at real not null);
"""


@dataclass(frozen=True)
class Row:
    """One job. `wanted` is the order without its sealed part; times in seconds since the epoch; `cursor` is how many
    bytes of the job's own log have been reported; `team` is whose rules hold for it, "" for the host's alone."""

    id: UUID
    op: str
    name: str
    wanted: dict[str, Any]
    sealed: str
    actor: str
    state: str
    cancelled: bool
    lines: int
    cursor: int
    taken: float
    begun: float | None
    ended: float | None
    outcome: dict[str, Any] | None
    team: str = ""


_COLUMNS = "id, op, name, wanted, sealed, actor, state, cancelled, lines, cursor, taken, begun, ended, outcome, team"


def _row(found: tuple[Any, ...]) -> Row:
    row = dict(zip(_COLUMNS.split(", "), found, strict=True))
    row |= {"id": UUID(row["id"]), "wanted": json.loads(row["wanted"]), "cancelled": bool(row["cancelled"])}
    return Row(**{**row, "outcome": json.loads(row["outcome"]) if row["outcome"] else None})


def connect(file: Path, synchronous: str = "FULL") -> sqlite3.Connection:
    """A connection for any thread of this process; transactions are written out, nothing is implicit."""
    db = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
    db.execute("pragma journal_mode=WAL")
    db.execute(f"pragma synchronous={synchronous}")
    return db


class SignReceipt(Protocol):
    def __call__(self, receipt: Receipt, outcome: Outcome) -> Receipt: ...


class Ledger:
    """The one writer of the file (jobs in units only read it). Safe to use from every thread."""

    def __init__(self, file: Path, *, host: UUID, generation: int) -> None:
        """Raises Misconfigured when the ledger of this very generation has disappeared."""
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.file = file
        self._lock = threading.RLock()
        self._reserve = file.with_name("ballast")
        _refuse_lost(file, host, generation)
        self._db = connect(file)
        file.chmod(0o600)
        self._db.executescript(_TABLES + owners.TABLE)
        _add_later_columns(self._db)
        self._begin_generation(host, generation)
        _remember(file, host, generation)
        self._lay_reserve()

    def _begin_generation(self, host: UUID, generation: int) -> None:
        """Reports are numbered from 1 in each generation of the host."""
        key = f"{host}/{generation}"
        with self.writing() as db:
            before = _meta(db, "generation")
            if before.partition("/")[0] != str(host):  # enrolled anew, perhaps with another panel: it inherits nothing
                db.execute("delete from owners")
            if before != key:
                db.execute("delete from spool")
                db.execute("delete from meta")
                db.execute(
                    "insert into meta values ('generation', ?), ('number', 0), ('published', 0), ('epoch', 1)", (key,)
                )

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction. On a disk that is all but full the ballast is given up for it."""
        with self._lock:
            self._make_room()
            self._db.execute("begin immediate")
            try:
                yield self._db
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    def _make_room(self) -> None:
        """Before a transaction, not after: SQLite rolls one back by itself when it does not fit."""
        if self._free() < ROOM:
            self._reserve.unlink(missing_ok=True)

    def is_short(self) -> bool:
        """Whether it lives on the ballast's place."""
        return not self._reserve.exists()

    def _lay_reserve(self) -> None:
        if not self._reserve.exists() and self._free() > 4 * BALLAST:
            with contextlib.suppress(OSError):
                self._reserve.write_bytes(os.urandom(BALLAST))  # zeros might be compressed away

    def _free(self) -> int:
        disk = os.statvfs(self.file.parent)
        return disk.f_bavail * disk.f_frsize

    # --- jobs

    def take(
        self,
        db: sqlite3.Connection,
        job: UUID,
        wanted: dict[str, Any],
        actor: str,
        state: str,
        *,
        team: str = "",
        order_sha256: str = "",
    ) -> bool:
        """Write a job down. False when it was written down before: the order has arrived twice. `order_sha256` is of the
        order as it came (contract/receipts.py)."""
        wanted = dict(wanted)
        sealed = str(wanted.pop("sealed", ""))
        name = str(wanted.get("name", ""))
        done = db.execute(
            "insert into jobs (id, op, name, wanted, sealed, actor, state, taken, team, order_sha256)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing",
            (str(job), wanted["op"], name, json.dumps(wanted), sealed, actor, state, time.time(), team, order_sha256),
        )
        return done.rowcount == 1

    def job(self, job: UUID) -> Row | None:
        """A job by its id, or None when it was never taken."""
        with self._lock:
            found = self._db.execute(f"select {_COLUMNS} from jobs where id = ?", (str(job),)).fetchone()  # noqa: S608
        return _row(found) if found else None

    def unfinished(self, name: str = "") -> list[Row]:
        """Jobs that have not ended, in the order they were taken; all of them or those of one machine."""
        with self._lock:
            found = self._db.execute(
                f"select {_COLUMNS} from jobs where ended is null and (? = '' or name = ?) order by taken",  # noqa: S608
                (name, name),
            ).fetchall()
        return [_row(row) for row in found]

    def ended(self) -> list[Row]:
        """Jobs that ended while their reports may still be of interest (seven days)."""
        with self._lock:
            found = self._db.execute(
                f"select {_COLUMNS} from jobs where ended > ? and outcome is not null",  # noqa: S608
                (time.time() - SPOOL_SECONDS,),
            ).fetchall()
        return [_row(row) for row in found]

    def begin(self, job: UUID) -> bool:
        """Mark a job as begun. False when it was cancelled before that or has ended."""
        with self.writing() as db:
            done = db.execute(
                "update jobs set state = 'running', begun = coalesce(begun, ?)"
                " where id = ? and ended is null and cancelled = 0",
                (time.time(), str(job)),
            )
        return done.rowcount == 1

    def cancel(self, job: UUID) -> bool:
        """Mark a job to be stopped. False when it is unknown or has ended."""
        with self.writing() as db:
            done = db.execute("update jobs set cancelled = 1 where id = ? and ended is null", (str(job),))
        return done.rowcount == 1

    def refuse_beforehand(self, job: UUID, actor: str) -> None:
        """A cancel that overtook its order: the row makes the order a second arrival when it comes."""
        with self.writing() as db:
            self.take(db, job, {"op": CANCELLED_BEFORE}, actor, "cancelled")
            db.execute("update jobs set cancelled = 1 where id = ?", (str(job),))

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for functions that only read; while it is held no other thread writes."""
        with self._lock:
            yield self._db

    def forget_jobs(self) -> None:
        """Drop jobs that ended three months ago."""
        with self.writing() as db:
            db.execute("delete from jobs where ended < ?", (time.time() - JOBS_SECONDS,))

    def heard(self) -> Heard:
        """How far the panel was heard."""
        with self._lock:
            return order_sequence.heard(self._db)

    # --- spool

    def epoch(self) -> int:
        with self._lock:
            return epoch_of(self._db)

    def spool_bounds(self) -> tuple[int, int]:
        """(first number still here, last number ever given); (1, 0) for an empty spool."""
        with self._lock:
            first = self._db.execute("select min(number) from spool").fetchone()[0]
            last = int(_meta(self._db, "number"))
        return (first or last + 1), last

    def trim(self) -> None:
        """Keep the spool within its bounds of number, size and age; and the ballast in its place."""
        with self.writing() as db:
            last = int(_meta(db, "number"))
            db.execute(
                "delete from spool where number < ? and (number <= ? or at < ?)",
                (last, last - SPOOL_REPORTS, time.time() - SPOOL_SECONDS),
            )
            while (size := db.execute("select total(length(body)) from spool").fetchone()[0]) > SPOOL_BYTES:
                self._drop_oldest(db, size - SPOOL_BYTES, last)
        self._lay_reserve()

    @staticmethod
    def _drop_oldest(db: sqlite3.Connection, excess: float, last: int) -> None:
        for number, size in db.execute("select number, length(body) from spool order by number").fetchall():
            if excess <= 0 or number == last:
                return
            db.execute("delete from spool where number = ?", (number,))
            excess -= size

    def close(self) -> None:
        with self._lock:
            self._db.close()


def write_receipt(db: sqlite3.Connection, outcome: Outcome, sign: SignReceipt) -> Outcome:
    """The outcome of a job that has not ended yet, with the next receipt; of any other, as it is. `sign` gives it its hash
    and its signature."""
    found = db.execute(
        "select op, name, actor, taken, order_sha256 from jobs where id = ? and ended is null", (str(outcome.job),)
    ).fetchone()
    if found is None:
        return outcome
    op, name, actor, taken, order_sha256 = found
    receipt = Receipt(
        number=int(_meta(db, "receipt") or 0) + 1, epoch=epoch_of(db), op=op, machine=name, actor=actor[:300], taken=taken,
        order_sha256=order_sha256, previous=_meta(db, "receipt_hash"),
    )  # fmt: skip
    signed = sign(receipt, outcome)
    for key, value in (("receipt", signed.number), ("receipt_hash", signed.hash)):
        db.execute("insert or replace into meta values (?, ?)", (key, value))
    return outcome.model_copy(update={"receipt": signed})


def end(db: sqlite3.Connection, job: UUID, outcome: dict[str, Any]) -> bool:
    """Write a job's end, and whose its machine is by that; its sealed secrets go. False when it had ended already."""
    done = db.execute(
        "update jobs set state = ?, ended = ?, outcome = ?, sealed = '' where id = ? and ended is null",
        (outcome["state"], outcome["at"], json.dumps(outcome), str(job)),
    )
    if done.rowcount != 1:
        return False
    op, wanted = db.execute("select op, wanted from jobs where id = ?", (str(job),)).fetchone()
    owners.follow(db, job, op, json.loads(wanted), outcome)
    return True


def lines_of(db: sqlite3.Connection, job: UUID) -> int:
    """How many log lines of a job have been spooled."""
    found = db.execute("select lines from jobs where id = ?", (str(job),)).fetchone()
    return int(found[0]) if found else 0


def count_lines(db: sqlite3.Connection, job: UUID, lines: int, cursor: int | None = None) -> None:
    """Lines told so far, and how far the job's own log has been read."""
    db.execute("update jobs set lines = ?, cursor = coalesce(?, cursor) where id = ?", (lines, cursor, str(job)))


def epoch_of(db: sqlite3.Connection) -> int:
    """The ledger's own epoch: raised when it was put back to an older copy (begin_epoch)."""
    return int(_meta(db, "epoch") or 1)


def begin_epoch(db: sqlite3.Connection, epoch: int, number: int, *, if_behind: bool) -> bool:
    """Go on in a higher epoch after report `number`, without what waits to be sent. False when that is done already, or
    `if_behind` and this is no older copy."""
    own, last = epoch_of(db), int(_meta(db, "number"))
    if epoch <= own or (if_behind and own == epoch - 1 and last >= number):
        return False
    db.execute("delete from spool")
    for key, value in (("epoch", epoch), ("number", number), ("published", number)):
        db.execute("insert or replace into meta values (?, ?)", (key, value))
    return True


def next_number(db: sqlite3.Connection) -> int:
    """The number of the next report, taken in this transaction: it has no holes because a rollback gives it back."""
    number = int(_meta(db, "number")) + 1
    db.execute("update meta set value = ? where key = 'number'", (number,))
    return number


def spool(db: sqlite3.Connection, number: int, body: str, at: float) -> None:
    """Keep a signed report under its number. `at` in seconds since the epoch."""
    db.execute("insert into spool values (?, ?, ?)", (number, body, at))


def published(db: sqlite3.Connection) -> int:
    """The number up to which reports are known to have reached Redis."""
    return int(_meta(db, "published"))


def set_published(db: sqlite3.Connection, number: int) -> None:
    """Remember it; not synced, for a few reports going out twice change nothing."""
    db.execute("update meta set value = ? where key = 'published'", (number,))


def spooled_after(db: sqlite3.Connection, number: int, limit: int) -> list[tuple[int, str]]:
    """(number, signed report) of those after a number, in order."""
    return db.execute(
        "select number, body from spool where number > ? order by number limit ?", (number, limit)
    ).fetchall()


def read_job(file: Path, job: UUID) -> Row | None:
    """A job as a unit of its own sees it: read only."""
    with contextlib.closing(connect(file)) as db:
        found = db.execute(f"select {_COLUMNS} from jobs where id = ?", (str(job),)).fetchone()  # noqa: S608
    return _row(found) if found else None


def _add_later_columns(db: sqlite3.Connection) -> None:
    """To a ledger of an earlier worker."""
    there = {row[1] for row in db.execute("pragma table_info(jobs)")}
    for column in ("team", "order_sha256"):
        if column not in there:
            db.execute(f"alter table jobs add column {column} text not null default ''")


def _meta(db: sqlite3.Connection, key: str) -> str:
    found = db.execute("select value from meta where key = ?", (key,)).fetchone()
    return str(found[0]) if found else ""


def _refuse_lost(file: Path, host: UUID, generation: int) -> None:
    mark = file.with_name("generation")
    if mark.exists() and mark.read_text() == f"{host}/{generation}" and not file.exists():
        raise Misconfigured(
            f"{file} is missing, so this host no longer knows which requests it has carried out.",
            hint="Give the host a new key generation in the panel (join again), so that no old request is carried "
            "out twice.",
        )


def _remember(file: Path, host: UUID, generation: int) -> None:
    file.with_name("generation").write_text(f"{host}/{generation}")
