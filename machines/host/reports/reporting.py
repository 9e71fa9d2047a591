"""What this host says: numbered, signed, spooled, then published on its Redis stream.

A report is durable before it is published, so Redis may be down, frozen or emptied: the publisher goes on from the
last number it got rid of, and the panel asks again for what it misses. Log lines travel in batches (21 times cheaper
than one by one); everything else leaves at once.
"""

import logging
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from nacl.signing import SigningKey

from machines.contract import chain, envelope, receipts, reports
from machines.contract.orders import Resynchronise
from machines.contract.reports import AnyReport, Part
from machines.host.context.job_output import Entry, JobOutput
from machines.host.reports import ledger as books
from machines.host.reports.job_log import CUT, LINES
from machines.host.reports.ledger import Ledger
from machines.host.reports.publisher import Publisher

LOG = logging.getLogger(__name__)

BATCH_SECONDS = 0.05
BATCH_LINES = 200
BATCH_CHARACTERS = 64 * 1024
PENDING = 20_000  # entries of one job that wait to be written down
SAID_BYTES = 256 * 1024  # of what goes into one report together
SILENCE = 15.0  # seconds without Redis after which what is soon outdated (heartbeats, inventories) is not spooled


@dataclass(frozen=True)
class Signer:
    """Reports and receipts are bound to this host in this generation."""

    host: UUID
    generation: int
    key: SigningKey

    def __call__(self, epoch: int, number: int, at: float, report: AnyReport) -> str:
        told = envelope.SignedReport(
            host=self.host,
            generation=self.generation,
            epoch=epoch,
            number=number,
            at=at,
            report=reports.to_wire(report),
        )
        return envelope.sign_report(told, self.key)

    def receipt(self, receipt: reports.Receipt, outcome: reports.Outcome) -> reports.Receipt:
        of = receipts.Origin(self.host, self.generation, outcome.job, outcome.state, outcome.at)
        digest = receipts.digest(receipt, of)
        return receipt.model_copy(
            update={"hash": digest, "signature": chain.sign_head(receipt.number, digest, self.key)}
        )


def batch(job: UUID, told: int, entries: Sequence[Entry]) -> tuple[list[Part], int]:
    """Entries of one job as reports, in order, with lines gathered; and how many lines are told after them.

    `told` is the number of lines told before. Of several progress entries in a row the last one stands for all.
    """
    out: list[Part] = []
    lines: list[reports.Line] = []

    def flush() -> None:
        nonlocal told, lines
        if lines:
            out.append(reports.Lines(job=job, first=told + 1, lines=lines))
            told += len(lines)
            lines = []

    size = 0
    for entry in entries:
        if entry["k"] == "line":
            size = size + len(entry["t"]) if lines else len(entry["t"])
            if lines and (len(lines) >= BATCH_LINES or size > BATCH_CHARACTERS):
                flush()
                size = len(entry["t"])
            lines.append(reports.Line(at=entry["at"], source=entry["s"], text=entry["t"]))
        else:
            flush()
            _add(out, job, entry)
    flush()
    return out, told


def within(told: int, entries: Sequence[Entry]) -> list[Entry]:
    """The same without the lines that are more than LINES of the job, as job_log.py does for jobs in units."""
    kept = list[Entry]()
    for entry in entries:
        told += entry["k"] == "line"
        if entry["k"] != "line" or told <= LINES:
            kept.append(entry)
        elif told == LINES + 1:
            kept.append({**entry, "s": "p", "t": CUT})
    return kept


def gather(job: UUID, parts: Sequence[Part]) -> list[AnyReport]:
    """As few reports as say the same in the same order: signing, sending and taking one costs as much as all it says."""
    groups: list[list[Part]] = []
    size = 0
    for part in parts:
        own = _size(part)
        if not groups or size + own > SAID_BYTES or len(groups[-1]) == reports.PARTS_AT_ONCE:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += own
    return [group[0] if len(group) == 1 else reports.JobOutput(job=job, parts=group) for group in groups]


def _size(part: Part) -> int:
    """About how many bytes it has on the wire, where a character that is not ASCII takes up to four."""
    if isinstance(part, reports.Lines):
        return sum(_written(line.text) + 50 for line in part.lines)
    return sum(map(_written, part.argv)) + 100 if isinstance(part, reports.Command) else 500


def _written(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)


def _add(out: list[Part], job: UUID, entry: Entry) -> None:
    values = {key: value for key, value in entry.items() if key not in {"k", "at"}}
    if entry["k"] == "phase":
        out.append(reports.Phase(job=job, at=entry["at"], **values))
    elif entry["k"] == "command":
        out.append(reports.Command(job=job, **values))
    elif entry["k"] == "progress":
        if out and isinstance(out[-1], reports.Progress):
            out.pop()
        out.append(reports.Progress(job=job, **values))


class Reporter:
    """Takes reports from every thread, in order, and gets rid of them."""

    def __init__(self, ledger: Ledger, sign: Signer, publisher: Publisher) -> None:
        self._ledger = ledger
        self._sign = sign
        self._publisher = publisher
        self._pending: dict[UUID, list[Entry]] = defaultdict(list)
        self._order = threading.RLock()
        self._something = threading.Event()
        threading.Thread(target=self._keep_flushing, name="log-lines", daemon=True).start()

    def send(self, *what: AnyReport, extra_packages: Callable[[sqlite3.Connection], None] | None = None) -> None:
        """Spool reports in one durable transaction, together with what `also` writes, and publish them at once."""
        with self._ledger.writing() as db:
            if extra_packages is not None:
                extra_packages(db)
            self.spool(db, *what)
        self._publisher.wake()

    def send_passing(self, report: AnyReport) -> bool:
        """The same for what the next one makes worthless: not spooled, hence False, while Redis cannot be reached."""
        if self._publisher.silent_for() >= SILENCE:
            return False
        self.send(report)
        return True

    def send_unspooled(self, heartbeat: reports.Heartbeat) -> None:
        """Past a ledger that cannot be written. Raises redis.RedisError."""
        self._publisher.say(self._sign(self._ledger.epoch(), envelope.UNNUMBERED, time.time(), heartbeat))

    def spool(self, db: sqlite3.Connection, *what: AnyReport) -> None:
        """Within a transaction of the caller's, who wakes the publisher after it."""
        for report in what:
            number, at = books.next_number(db), time.time()
            signed = self._sign(books.epoch_of(db), number, at, report)
            if len(signed) > envelope.longest(
                envelope.REPORT_LIMIT
            ):  # which would be refused, and its number always missing
                LOG.error("A report (%s) is larger than the panel takes and was not sent", report.kind)
                signed = self._say_nothing(db, number)
            books.spool(db, number, signed, at)

    def fill(self, first: int, until: int) -> None:
        """Give the numbers `first` … `until`-1, whose reports are no longer spooled, to heartbeats that say nothing, so
        that the panel is not stopped by a gap for ever."""
        with self._ledger.writing() as db:
            for number in range(first, until):
                books.spool(db, number, self._say_nothing(db, number), time.time())

    def _say_nothing(self, db: sqlite3.Connection, number: int) -> str:
        return self._sign(books.epoch_of(db), number, envelope.SAYS_NOTHING, reports.Heartbeat())

    def begin_epoch(self, order: Resynchronise, *what: AnyReport) -> bool:
        """Begin another epoch of the ledger with these reports. False when there is nothing to be done."""
        with self._ledger.writing() as db:
            if not books.begin_epoch(db, order.epoch, order.number, if_behind=order.if_behind):
                return False
            self.spool(db, *what)
        self._publisher.resend(order.number)
        return True

    def wake(self) -> None:
        """For callers of spool(): their transaction is done, so it can be published."""
        self._publisher.wake()

    def output(self, job: UUID) -> JobOutput:
        """The output of a job that runs in this process."""
        return JobOutput(lambda entry: self._tell(job, entry))

    def _tell(self, job: UUID, entry: Entry) -> None:
        with self._order:
            if len(self._pending[job]) < PENDING:  # more wait only while the ledger cannot be written
                self._pending[job].append(entry)
        self._something.set()

    def _keep_flushing(self) -> None:
        while True:
            self._something.wait()
            time.sleep(BATCH_SECONDS)
            self._something.clear()
            try:
                self.flush()
            except Exception:  # a full disk must not end the thread; what was pending is tried again
                LOG.exception("Log lines could not be spooled")
                time.sleep(1)
                self._something.set()

    def flush(self) -> None:
        """Spool what jobs have said and what waits to be gathered into batches."""
        with self._order:
            if not self._pending:
                return
            with self._ledger.writing() as db:
                for job, entries in self._pending.items():
                    self._spool_entries(db, job, entries)
            self._pending.clear()
        self._publisher.wake()

    def _spool_entries(
        self, db: sqlite3.Connection, job: UUID, entries: Sequence[Entry], cursor: int | None = None
    ) -> None:
        before = books.lines_of(db, job)
        what, told = batch(job, before, entries if cursor is not None else within(before, entries))
        books.count_lines(db, job, told, cursor)
        self.spool(db, *gather(job, what))

    def relay(self, job: UUID, entries: Sequence[Entry], cursor: int) -> None:
        """What a job in a unit has said, with the place in its log up to which this is all: one transaction."""
        with self._ledger.writing() as db:
            self._spool_entries(db, job, entries, cursor)
        self._publisher.wake()

    def finish(self, outcome: reports.Outcome) -> bool:
        """A job's last words and its outcome, in one transaction. False when it had ended before."""
        with self._order:
            ended = self._write_end(outcome)
            self._pending.pop(outcome.job, None)  # before anybody else may spool it once more
        self._publisher.wake()
        return ended

    def _write_end(self, outcome: reports.Outcome) -> bool:
        with self._ledger.writing() as db:
            self._spool_entries(db, outcome.job, self._pending.get(outcome.job, []))
            outcome = outcome.model_copy(update={"lines": books.lines_of(db, outcome.job)})
            outcome = books.write_receipt(db, outcome, self._sign.receipt)
            ended = books.end(db, outcome.job, reports.to_wire(outcome))
            if ended:
                self.spool(db, outcome)
        return ended
