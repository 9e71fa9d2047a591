"""Take a report: move its job, append its lines, refresh machines. Twice, late or out of order changes nothing.

Identity comes from the stream it was read from and from the signature, never from the body. A report and the number it
carries are taken in one transaction, so a killed courier neither loses nor repeats one.
"""

import json
import logging
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from nacl.signing import VerifyKey

from machines.contract import envelope, reports
from machines.contract.orders import Runs, kind_of
from machines.contract.problems import Problem, ReportUnreadable
from machines.contract.states import JobState
from machines.models import Host, Job, LogChunk, Machine, ObservedFiles
from machines.panel.audit import entries, receipts
from machines.panel.configs import drift, effective_settings
from machines.panel.courier import completion, machine_facts
from machines.panel.hosts import budgets, clocks, epochs, freshness, resync
from machines.panel.images import base_images
from machines.panel.orders import job_labels
from machines.panel.teams import redact

log = logging.getLogger(__name__)

KEPT_COMMANDS = 200
KEPT_WORDS = 256 * 1024  # characters of all commands of a job: they stand in its row
RECONCILED_AT_ONCE = 100  # jobs; the next inventory brings the next ones
PUTS_OFF = frozenset(
    {"inventory", "observed", "observed_files", "outcome"}
)  # after these something may wait for holds.catch_up()
OPEN_SECONDS = 0.3  # reports that are verified and read at once, before the transaction
GIVE_WAY_AFTER, GIVE_WAY_AT_MOST = 0.02, 0.15
UNKNOWN_JOBS = 50  # kept of a host
TAKE_SECONDS = 0.3  # of one transaction, beside which nobody else may write in SQLite
SUPERSEDED = "envelope-superseded"
WHERE_IT_STANDS = (
    "stream_position", "report_number", "signed_at", "last_seen", "usage", "ledger_epoch", "resync_epoch", "resync_since",
    "resync_ahead", "resend_asked_at",
)  # fmt: skip
FACTS = ("facts", "facts_at", "inventory_at", "listed_at", "trouble", "clock_skew", "clock_heard", "usage",
         "heard_epoch", "heard_sequence", "heard_latched", "panel_keys")  # fmt: skip
OVERTAKEN = 3  # sends after which an order that its host calls old was not merely overtaken by another courier's


class Taken(Enum):
    YES = "taken"
    AGAIN = "already received"
    GAP = "an earlier one is missing"
    OLDER_COPY = "its host was restored from an older copy"
    DOUBTFUL = "already received, and nothing else comes"
    REFUSED = "not a report from this host"


@dataclass(frozen=True)
class Opened:
    """An entry of a host's stream, verified and read: before the transaction, for a large one takes a while.

    `report` is None where it cannot be taken, `problem` says why; `number` is None where that is not told either.
    """

    size: int
    number: int | None
    at: float
    report: reports.AnyReport | None
    problem: Problem | None = None
    epoch: int = 0

    @property
    def sign(self) -> resync.Sign:
        return resync.Sign(self.epoch, self.number or 0, self.at)


def take(host_id: UUID, entries: Sequence[tuple[str, str]]) -> list[Taken]:
    """Take entries of a host's stream, (position, signed text), in one transaction: a commit for each report would cost as
    much as all they say. Returns what came of those it had time for, from the first one on. Never raises for what a host
    sends; a database error is the caller's, and nothing is taken."""
    host = Host.objects.get(pk=host_id)
    opened = _open_some(host, entries)
    _write_beforehand(host, opened[0])
    began = time.monotonic()
    taken: list[Taken] = []
    with transaction.atomic():
        identity = (host.verify_key, host.generation)
        host = Host.objects.select_for_update(no_key=True).get(pk=host_id)  # orders refer to its key meanwhile
        if identity != (host.verify_key, host.generation):  # it has joined anew since they were opened
            opened = [_open(host, VerifyKey(b64decode(host.verify_key)), entries[0][1])]
        jobs = Jobs(host)
        for number, ((position, _), each) in enumerate(zip(entries, opened, strict=False), 1):
            jobs.is_last = number == len(entries)
            taken.append(_take(host, each, jobs))
            host.stream_position = position
            if time.monotonic() > began + TAKE_SECONDS:
                break
        if host.last_seen and host.is_silent and _tells_of_machines(opened):  # old news of a host that says nothing now
            Machine.objects.on(host).listed().mark_unknown("", timezone.now())
        host.save(update_fields=WHERE_IT_STANDS)
    _give_way(time.monotonic() - began)
    if _tells_of_machines(opened):
        effective_settings.catch_up(host)
    return taken


def _tells_of_machines(opened: Sequence[Opened]) -> bool:
    return any(each.report and each.report.kind in PUTS_OFF for each in opened)


def _open_some(host: Host, entries: Sequence[tuple[str, str]]) -> list[Opened]:
    """The first of them, as far as OPEN_SECONDS go; a large one alone."""
    key = VerifyKey(b64decode(host.verify_key))
    until = time.monotonic() + OPEN_SECONDS
    opened: list[Opened] = []
    for _, text in entries:
        each = _open(host, key, text)
        if opened and _is_large(each.report):
            break
        opened.append(each)
        if _is_large(each.report) or time.monotonic() > until:
            break
    return opened


def _open(host: Host, key: VerifyKey, text: str) -> Opened:
    try:
        signed, report = envelope.read_report(text, key, host=host.id, generation=host.generation)
    except ReportUnreadable as problem:  # stepped over: all that follows would be missing something for ever
        return Opened(len(text), problem.number, problem.at, None, problem, problem.epoch)
    except Problem as problem:
        return Opened(len(text), None, time.time(), None, problem)
    return Opened(len(text), signed.number, signed.at, report, None, signed.epoch)


def _is_large(report: reports.AnyReport | None) -> bool:
    """Whether it is about more machines than are written at once."""
    about = [*getattr(report, "machines", ()), *getattr(report, "gone", ())]
    return len(about) > machine_facts.AT_ONCE


def _write_beforehand(host: Host, opened: Opened) -> None:
    """What a large report says of machines, in short transactions before the one that takes its number and then finds it
    said. Cut short, the report is simply taken again."""
    report = opened.report
    if not isinstance(report, reports.Inventory | reports.Observed) or not _is_large(report):
        return
    for write in _in_slices(host, report):
        began = time.monotonic()
        with transaction.atomic():
            locked = Host.objects.select_for_update(no_key=True).get(pk=host.pk)
            is_next = resync.place(locked, opened.sign) is resync.Place.NEXT and locked.generation == host.generation
            if not is_next or not budgets.is_taken(locked, report.kind):
                return
            try:
                with transaction.atomic():
                    write()
            except OperationalError:
                raise
            except Exception:  # said when the report itself is taken
                return
        _give_way(time.monotonic() - began)


def _in_slices(host: Host, report: reports.Inventory | reports.Observed) -> Iterator[Callable[[], object]]:
    """First what is gone, which makes room."""
    if not machine_facts.are_distinct(report.machines):
        return
    is_partial = isinstance(report, reports.Inventory) and bool(report.partial)
    for some in machine_facts.slices(_gone_by(host, report)):
        yield partial(machine_facts.gone, Machine.objects.listed().filter(host=host, pk__in=some))
    for facts in machine_facts.slices(report.machines):
        yield partial(machine_facts.refresh, host, *facts, partial=is_partial)


def _gone_by(host: Host, report: reports.Inventory | reports.Observed) -> list[int]:
    """Keys of the rows of machines that are not there any more by this report."""
    listed = Machine.objects.on(host).listed()
    if isinstance(report, reports.Observed):
        return list(listed.filter(name__in=report.gone).values_list("pk", flat=True))
    if report.partial:
        return []
    there = {fact.name for fact in report.machines}
    return [number for number, name in listed.values_list("pk", "name") if name not in there]


def _give_way(seconds: float) -> None:
    """In SQLite whoever waits to write tries every tenth of a second, and we are to be found away for as long as we were
    there."""
    if connection.vendor == "sqlite" and seconds > GIVE_WAY_AFTER:
        time.sleep(min(seconds, GIVE_WAY_AT_MOST))


def _take(host: Host, opened: Opened, jobs: "Jobs") -> Taken:
    budgets.spend(host, reports=opened.size)
    if opened.number is None:
        _refuse(host, opened)
        return Taken.REFUSED
    jobs.ahead = opened.at - time.time()
    if opened.number == envelope.UNNUMBERED:
        is_heartbeat = isinstance(opened.report, reports.Heartbeat)
        return _take_unnumbered(host, opened, jobs) if is_heartbeat else Taken.REFUSED
    return _take_numbered(host, opened, opened.sign, jobs)


def _take_numbered(host: Host, opened: Opened, sign: resync.Sign, jobs: "Jobs") -> Taken:
    place = resync.place(host, sign)
    if place is resync.Place.GAP:
        return Taken.GAP
    if place is resync.Place.NEXT:
        _begin_epoch(host, sign)
        host.report_number = sign.number
        _take_new(host, opened, jobs)
        return Taken.YES
    if place is resync.Place.BEFORE and not resync.is_doubtful(host, sign):
        return Taken.AGAIN
    resync.plan(host, sign)
    if place is resync.Place.BEFORE:
        return Taken.DOUBTFUL
    if host.resync_since is None:
        _is_older_copy(host)
    return Taken.OLDER_COPY


def _is_older_copy(host: Host) -> None:
    """Nothing that was known of it may be claimed any more."""
    note_refusal(host, resync.CODE, resync.words(host))
    resync.declare(host)
    Machine.objects.on(host).listed().mark_unknown(resync.UNKNOWN, timezone.now())


def _begin_epoch(host: Host, sign: resync.Sign) -> None:
    if sign.epoch <= host.ledger_epoch:
        return
    if sign.epoch == host.resync_epoch and host.resync_since is None:  # it was asked, and has found that it is one
        _is_older_copy(host)
    resync.begin(host, sign.epoch)


def _take_unnumbered(host: Host, opened: Opened, jobs: "Jobs") -> Taken:
    """A heartbeat without a place in the order: newer than all that was taken, or anybody who holds Redis could keep a
    dead host alive with it."""
    if opened.at <= host.signed_at or not resync.counts_unnumbered(host, opened.epoch):
        return Taken.AGAIN
    _take_new(host, opened, jobs)
    return Taken.YES


def _take_new(host: Host, opened: Opened, jobs: "Jobs") -> None:
    if opened.at != envelope.SAYS_NOTHING or opened.report is None:
        _carry(host, opened, jobs)
    was_silent = host.is_silent
    if freshness.note(host, opened.at) and was_silent:  # it gets its waiting orders at once
        Job.objects.waiting().filter(host=host).update(send_next_at=timezone.now())


def _refuse(host: Host, opened: Opened) -> None:
    message = opened.problem.message if opened.problem else ""
    note_refusal(host, "report-refused", f"A report from this host was rejected: {message}")


def _carry(host: Host, opened: Opened, jobs: "Jobs") -> None:
    """Do what a report says. One that we cannot take is passed over: standing still would hold up every other host."""
    report = opened.report
    if report is None:
        _refuse(host, opened)
        return
    if not budgets.is_taken(host, report.kind):
        return
    known = {name: getattr(host, name) for name in FACTS}
    try:
        with transaction.atomic():
            TAKE[report.kind](host, report, jobs)
            if host.facts is not known["facts"]:  # here, so that facts no database takes are passed over as well
                host.save(update_fields=FACTS)
    except OperationalError:
        raise
    except Exception:
        for name, value in known.items():
            setattr(host, name, value)
        jobs.forget()
        log.exception("Report %s of %s (%s) could not be taken", opened.number, host.name, report.kind)
        note_refusal(host, "report-refused", f"A report from this host ({report.kind}) could not be processed.")


def note_reboot(host: Host, boot_id: str) -> None:
    """Keep that a host has booted since it was last heard, which ended all its machines and jobs."""
    before = host.facts.get("boot_id")
    if not before or not boot_id or boot_id == before:
        return
    heard = f" It was last seen at {host.last_seen:%Y-%m-%d %H:%M:%S} UTC." if host.last_seen else ""
    note_refusal(host, "host-rebooted", f"{host.name} has booted again.{heard}")


def note_refusal(host: Host, kind: str, text: str) -> None:
    """Keep a refusal, but not a flood of them."""
    entries.record_at_most(host, kind, text[:2000])


# --- jobs


class Jobs:
    """The jobs of a host that one turn's reports are about, each read once and kept as the turn changes it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: dict[UUID, Job | None] = {}
        self.is_last = False  # whether nothing waits behind the report at hand
        self.ahead = 0.0  # seconds by which the report at hand was signed after it came, by its host's clock

    def moment(self, at: float, after: datetime) -> datetime:
        """A moment on the host's clock by ours, as far as it can be: after `after`, and not in the future."""
        told, now = machine_facts.moment(clocks.by_ours(self._host, at)), timezone.now()
        return min(max(told, after), now)

    def signed(self, after: datetime) -> datetime:
        """When the report at hand was signed."""
        return self.moment(time.time() + self.ahead, after)

    def get(self, uuid: UUID) -> Job | None:
        if uuid not in self._known:
            self._known[uuid] = Job.objects.filter(host=self._host, uuid=uuid).first()
        return self._known[uuid]

    def forget(self) -> None:
        """What was changed last was taken back."""
        self._known.clear()


def _move(job: Job, to: JobState, **fields: Any) -> bool:
    """Job.objects.move() for a job that is at hand."""
    moved = Job.objects.move(job.pk, to, **fields)
    if moved:
        for column, value in {"state": to, **fields}.items():
            setattr(job, column, value)
    return moved


def _note_unknown(host: Host, job: UUID, state: str, at: float, machine: str = "") -> None:
    """Keep that a host tells of a job which this database does not know: it was ordered after this copy was made."""
    others = [told for told in host.unknown_jobs if told[0] != str(job)]
    host.unknown_jobs = [*others, [str(job), state, at, machine]][-UNKNOWN_JOBS:]
    host.save(update_fields=["unknown_jobs"])


def _accepted(host: Host, report: reports.Accepted, jobs: Jobs) -> None:
    job = jobs.get(report.job)
    if job is None:
        _note_unknown(host, report.job, "accepted", time.time() + jobs.ahead)
    else:
        _move(job, JobState.ACCEPTED, accepted_at=jobs.signed(job.sent_at or job.created_at), problem=None)


def _running(job: Job, began: datetime) -> None:
    if job.state == JobState.RUNNING:
        return
    _move(job, JobState.RUNNING, started_at=job.started_at or began, accepted_at=job.accepted_at or began, problem=None)


def _part(host: Host, report: reports.Part, jobs: Jobs) -> None:
    _say(host, jobs.get(report.job), [report], jobs)


def _said(host: Host, report: reports.JobOutput, jobs: Jobs) -> None:
    _say(host, jobs.get(report.job), report.parts, jobs)


def _say(host: Host, job: Job | None, parts: Sequence[reports.Part], jobs: Jobs) -> None:
    """Write what a job has said into its row and its log, each once."""
    if job is None:
        return
    first, lines, changed = job.line_count + 1, list[reports.Line](), set[str]()
    began = jobs.signed(job.accepted_at or job.sent_at or job.created_at)
    for part in parts:
        if isinstance(part, reports.Phase):
            began = jobs.moment(part.at, job.accepted_at or job.sent_at or job.created_at)
        if isinstance(part, reports.Lines):
            some, columns = _lines(host, job, part, began)
            lines += some
            changed |= columns
        elif isinstance(part, reports.Phase):
            changed |= _phase(job, part, began)
        else:
            changed |= SAID[part.kind](job, part)
    if lines:
        LogChunk.objects.bulk_create(_chunks(job, first, lines))
        changed |= {"line_count", "log_bytes"}
    if changed:
        Job.objects.filter(pk=job.pk).update(**{column: getattr(job, column) for column in changed})


def _chunks(job: Job, first: int, lines: list[reports.Line]) -> Iterator[LogChunk]:
    """Of LINES_AT_ONCE lines and CHUNK_CHARACTERS at most (or one line), which whoever reads a log relies on (logs/log_reader.py)."""
    some, size = list[list[Any]](), 0
    for line in lines:
        if len(some) == reports.LINES_AT_ONCE or (some and size + len(line.text) > budgets.CHUNK_CHARACTERS):
            yield LogChunk(job=job, first=first, count=len(some), size=size, lines=some)
            first, some, size = first + len(some), [], 0
        some.append([line.at, line.source, line.text])
        size += len(line.text)
    yield LogChunk(job=job, first=first, count=len(some), size=size, lines=some)


def _phase(job: Job, phase: reports.Phase, began: datetime) -> set[str]:
    if job.is_final:
        return set()
    _running(job, began)
    name = job_labels.phase(job.order, phase.name)
    phases = [*job.phases, {"name": name, "at": phase.at, "number": phase.number, "line": job.line_count + 1}]
    job.phases, job.phases_of, job.progress, job.progress_note = phases[-50:], phase.of, None, ""
    return {"phases", "phases_of", "progress", "progress_note"}


def _progress(job: Job, progress: reports.Progress) -> set[str]:
    """Before its first phase a job only waits in line, and says where."""
    job.progress, job.progress_note = progress.fraction if job.phases else None, progress.note
    return {"progress", "progress_note"}


def _command(job: Job, command: reports.Command) -> set[str]:
    kept = sum(len(word) for argv in job.commands for word in argv)
    if len(job.commands) >= KEPT_COMMANDS or kept >= KEPT_WORDS:
        return set()
    job.commands = [*job.commands, command.argv]
    return {"commands"}


def _lines(host: Host, job: Job, report: reports.Lines, began: datetime) -> tuple[list[reports.Line], set[str]]:
    """Those that are new, and the columns that have changed beside their number. Numbers have no holes, whatever a host
    says; what is beyond a budget is left out, with all that follows."""
    if job.log_cut or report.first > settings.LOG_LINES_PER_JOB:
        return [], _cut(job, budgets.OF_JOB) if not job.log_cut else set()
    if kind_of(job.op).runs is Runs.UNIT and not job.phases:  # it says that it waits for others
        _wait(job, began)
    else:
        _running(job, began)
    fresh = report.lines[max(0, job.line_count + 1 - report.first) :]
    kept, size = _as_many_as_fit(fresh, budgets.room(host, job))
    cut = _cut(job, budgets.room(host, job).cut) if len(kept) < len(fresh) else set()
    job.line_count += len(kept)
    job.log_bytes += size
    budgets.spend(host, lines=len(kept), log=size)
    return kept, cut


def _wait(job: Job, began: datetime) -> None:
    if job.state != JobState.ACCEPTED:
        _move(job, JobState.ACCEPTED, accepted_at=job.accepted_at or began)


def _as_many_as_fit(lines: list[reports.Line], room: budgets.Room) -> tuple[list[reports.Line], int]:
    """(lines, the bytes they take)."""
    kept, size = list[reports.Line](), 0
    for line in lines[: max(0, room.lines)]:
        if size + budgets.weight(line) > room.characters:
            break
        kept.append(line)
        size += budgets.weight(line)
    return kept, size


def _cut(job: Job, budget: str) -> set[str]:
    job.log_cut = budget
    return {"log_cut"}


SAID: dict[str, Callable[[Job, Any], set[str]]] = {"progress": _progress, "command": _command}


def _outcome(host: Host, report: reports.Outcome, jobs: Jobs) -> None:
    job = jobs.get(report.job)
    _end(host, job, report, jobs)
    receipts.take(host, report, job)


def _end(host: Host, job: Job | None, report: reports.Outcome, jobs: Jobs) -> None:
    if not job:
        _note_unknown(host, report.job, report.state, report.at, report.machine.name if report.machine else "")
        return
    if _is_withdrawn(job, report):
        return
    ended = jobs.moment(report.at, job.started_at or job.accepted_at or job.sent_at or job.created_at)
    state = JobState(report.state)
    ours = _move(
        job,
        state,
        finished_at=ended,
        accepted_at=job.accepted_at or ended,
        started_at=job.started_at or job.accepted_at or ended,
        problem=budgets.fitting_problem(report.problem),
        result=budgets.fitting_result(redact.result(job, report.result)),
        progress=None,
        progress_note="",
        sealed="" if state is JobState.SUCCEEDED else job.sealed,
    )
    if not ours:
        return
    if report.machine:
        machine_facts.refresh(host, report.machine)
    base_images.learn(host, job, report)
    completion.finalize(job, report)


def _is_withdrawn(job: Job, report: reports.Outcome) -> bool:
    """Whether this says no more than that the host has it in its ledger too that a job has ended here."""
    if job.owes_cancel:
        Job.objects.filter(pk=job.pk).update(owes_cancel=False)
    never_began = report.state == JobState.CANCELLED.value and job.is_final and job.accepted_at is None
    if never_began and job.withdrawn_at is None:
        Job.objects.filter(pk=job.pk).update(withdrawn_at=timezone.now())
    return never_began


# --- machines and hosts


def _observed(host: Host, report: reports.Observed, _: Jobs) -> None:
    if report.links:
        host.facts = {**host.facts, **report.links.model_dump()}
    _check_distinct(report.machines)
    machine_facts.gone(Machine.objects.listed().filter(pk__in=_gone_by(host, report)))
    if left_out := machine_facts.refresh(host, *report.machines):
        budgets.note(host, "machines", max(left_out, host.usage.get("machines", 0)))


def _inventory(host: Host, report: reports.Inventory, jobs: Jobs) -> None:
    now = freshness.moment(host, jobs.ahead, host.inventory_at)
    note_reboot(host, report.host.boot_id)
    _check_distinct(report.machines)
    before, host.facts = host.facts, budgets.fitting(host, report.host.model_dump(mode="json"))
    host.facts_at = host.inventory_at = now
    if any(before.get(name) != host.facts.get(name) for name in effective_settings.DEPENDS_ON_HOST):
        effective_settings.put_off(Machine.objects.on(host))
    machine_facts.gone(Machine.objects.listed().filter(pk__in=_gone_by(host, report)))
    budgets.note(host, "machines", machine_facts.refresh(host, *report.machines, partial=bool(report.partial)))
    if report.partial:
        host.trouble = {**host.trouble, "machines": report.partial}
        listed = {fact.name for fact in report.machines}
        Machine.objects.on(host).listed().exclude(name__in=listed).mark_unknown(report.partial, now)
    else:
        host.trouble = {about: why for about, why in host.trouble.items() if about != "machines"}
        host.listed_at = now
    _reconcile(host, report.jobs)


def _check_distinct(facts: Sequence[reports.MachineFact]) -> None:
    if not machine_facts.are_distinct(facts):
        raise ValueError("A machine is listed twice.")


def _found(host: Host, report: reports.ObservedFiles, _: Jobs) -> None:
    """What lies on the host for machines it has told of, and what holds of them."""
    told = {each.name: each for each in report.machines}
    rows = Machine.objects.on(host).filter(name__in=told).select_related("applied").order_by("pk")
    machines = list(rows.select_for_update(no_key=True, of=("self",)))
    free = budgets.free_for_files(host, [machine.pk for machine in machines])
    kept, changed = list[ObservedFiles](), list[Machine]()
    for machine in machines:
        found = ObservedFiles(machine=machine, **_as_found(told[machine.name]))
        if found.size > free:
            continue
        free -= found.size
        kept.append(found)
        if _take_commands(machine, told[machine.name], found):
            changed.append(machine)
    ObservedFiles.objects.bulk_create(kept, update_conflicts=True, unique_fields=["machine"], update_fields=FOUND)
    columns = ["unit_command", "run_command", "drifted", "changed_at"]
    Machine.objects.bulk_create(changed, update_conflicts=True, unique_fields=["id"], update_fields=columns)
    budgets.note_files(host, [found.machine_id for found in kept], [machine.pk for machine in machines])


def _take_commands(machine: Machine, told: reports.ObservedMachine, found: ObservedFiles) -> bool:
    """Keep in a machine's row what follows from its files. False where it says so already."""
    facts: dict[str, Any] = {"unit_command": told.unit_command, "run_command": told.run_command}
    if machine.applied and machine.applied.found_in:
        facts["drifted"] = drift.has_moved(machine, found)
    if all(getattr(machine, name) == value for name, value in facts.items()):
        return False
    for name, value in {**facts, "changed_at": timezone.now()}.items():
        setattr(machine, name, value)
    return True


# Columns of Found that a report brings anew
FOUND = ("told", "needs_reload", "shown", "kernel", "lacks", "inside", "at", "size", "stale")


def _as_found(told: reports.ObservedMachine) -> dict[str, Any]:
    columns = told.model_dump(mode="json", exclude={"name", "files", "unit_command", "run_command"})
    files = [file.model_dump(mode="json") for file in told.files]
    size = len(json.dumps([columns, files], ensure_ascii=False))
    return {**columns, "told": files, "at": timezone.now(), "size": size, "stale": effective_settings.mark()}


def _reconcile(host: Host, on_host: list[UUID]) -> None:
    """Jobs the host still has are under way; jobs it took and knows nothing of are lost."""
    for job in Job.objects.filter(host=host, state=JobState.LOST, uuid__in=on_host)[:RECONCILED_AT_ONCE]:
        Job.objects.move(job.pk, JobState.RUNNING if job.started_at else JobState.ACCEPTED, problem=None)
    grace = timezone.now() - timedelta(seconds=120)
    forgotten = Job.objects.filter(host=host, state__in=["accepted", "running"], accepted_at__lt=grace)
    problem = Problem("The host no longer knows this job.", code="job-lost", hint="Check the machine itself.")
    for job in forgotten.exclude(uuid__in=on_host)[:RECONCILED_AT_ONCE]:
        if Job.objects.move(job.pk, JobState.LOST, problem=problem.to_wire()):
            _give_up(job)
    lost = Job.objects.filter(host=host, state=JobState.LOST, problem__code=resync.CODE, finished_at=None)
    for job in lost.exclude(uuid__in=on_host)[:RECONCILED_AT_ONCE]:
        _give_up(job)


def _give_up(job: Job) -> None:
    """Nobody will say how a lost job ended: whoever waits for it goes on."""
    job.state, job.finished_at = JobState.LOST, timezone.now()
    Job.objects.filter(pk=job.pk, state=JobState.LOST).update(finished_at=job.finished_at)
    completion.abandoned(job)


def _heartbeat(host: Host, report: reports.Heartbeat, jobs: Jobs) -> None:
    if jobs.is_last:  # one that waited behind others says nothing of now
        clocks.measure(host, jobs.ahead)
    fresh = report.model_dump(include={"load", "memory_available", "disk_free", "boot_id"})
    note_reboot(host, report.boot_id)
    host.facts = {**host.facts, **fresh}
    host.facts_at = freshness.moment(host, jobs.ahead, host.facts_at)
    host.trouble, host.panel_keys = report.trouble, sorted(report.panel_keys)
    _heard(host, report.heard)


def _heard(host: Host, heard: reports.Heard | None) -> None:
    if doubt := epochs.note_heard(host, heard):
        note_refusal(host, "epoch-unknown", doubt)


def _refused(host: Host, report: reports.Refused, _: Jobs) -> None:
    if report.heard:
        _heard(host, report.heard)
        host.save(update_fields=FACTS)
    if (
        report.code == SUPERSEDED and report.job
    ):  # another courier's order overtook it, or somebody sent an old one again
        waiting = Job.objects.waiting().filter(host=host, uuid=report.job)
        waiting.update(send_next_at=timezone.now())
        waiting.filter(sends__gte=OVERTAKEN).update(problem=_why_refused(host, report).to_wire())
        return
    note_refusal(host, "order-refused", f"{report.message} ({report.code})")
    if report.job:
        waiting = Job.objects.waiting().filter(host=host, uuid=report.job)
        waiting.update(problem=_why_refused(host, report).to_wire())


def _why_refused(host: Host, report: reports.Refused) -> Problem:
    """An order that a host calls too early or too late is right, and one of the clocks is not."""
    if report.code in {"envelope-early", "envelope-expired"}:
        return clocks.problem(host.name, host.clock_skew)
    return Problem(report.message, code=report.code)


TAKE: dict[str, Callable[[Host, Any, Jobs], None]] = {
    "accepted": _accepted,
    "job_output": _said,
    **dict.fromkeys(("phase", "progress", "command", "lines"), _part),
    "outcome": _outcome,
    "observed": _observed,
    "inventory": _inventory,
    "observed_files": _found,
    "heartbeat": _heartbeat,
    "refused": _refused,
}
