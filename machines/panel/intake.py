"""Take a report: move its job, append its lines, refresh machines. Twice, late or out of order changes nothing.

Identity comes from the stream it was read from and from the signature, never from the body. A report and the number it
carries are taken in one transaction, so a killed courier neither loses nor repeats one.
"""

import logging
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

from django.db import OperationalError, transaction
from django.utils import timezone
from nacl.signing import VerifyKey

from machines.contract import envelope, nspawn, reports
from machines.contract.orders import IN_A_UNIT
from machines.contract.problems import Problem, ReportUnreadable
from machines.contract.states import JobState, MachineState
from machines.models import Event, Found, Host, Job, LogChunk, Machine, Revision
from machines.models.machine import NO_IMAGE, MachineQuerySet, rank_of
from machines.panel import archive_files, bases, clocks, drift, holds, job_words

log = logging.getLogger(__name__)

FRESH_SECONDS = 60.0  # how old a report without a number may be
KEPT_COMMANDS = 200
KEPT_WORDS = 256 * 1024  # characters of all commands of a job: they stand in its row
MAX_LINES = 200_000  # per job; a host that sends more is cut off
REFUSALS_PER_HOUR = 20
TAKE_SECONDS = 0.3  # of one transaction, beside which nobody else may write in SQLite; a longer report is taken whole
FACTS = ("facts", "facts_at", "inventory_at", "listed_at", "trouble", "clock_skew", "clock_heard")
# What machined alone knows, and what follows from it
FROM_MACHINED = {
    "leader", "addresses", "os", "image_id", "image_type", "image_path", "read_only", "read_only_by", "hidden_images",
}  # fmt: skip
MACHINES_AT_MOST = 10_000  # per host; what an inventory does not name goes again


# What else is to be done when a job has ended, however it did; groups of jobs go on (groups.py).
WHEN_ENDED: list[Callable[[Job], None]] = []


_unnumbered: dict[UUID, float] = {}  # host → when its last report without a number was signed


class Taken(Enum):
    YES = "taken"
    AGAIN = "already taken"
    GAP = "something before it is missing"
    REFUSED = "not a report of this host"


def take(host_id: UUID, entries: Sequence[tuple[str, str]]) -> list[Taken]:
    """Take entries of a host's stream, (position, signed text), in one transaction: a commit for each report would cost as
    much as all they say. Returns what came of those it had time for, from the first one on. Never raises for what a host
    sends; a database error is the caller's, and nothing is taken."""
    until = time.monotonic() + TAKE_SECONDS
    taken: list[Taken] = []
    with transaction.atomic():
        host = Host.objects.select_for_update(no_key=True).get(pk=host_id)  # orders refer to its key meanwhile
        key = VerifyKey(b64decode(host.verify_key))
        jobs = Jobs(host)
        for number, (position, text) in enumerate(entries, 1):
            jobs.is_last = number == len(entries)
            taken.append(_take(host, key, text, jobs))
            host.stream_position = position
            if time.monotonic() > until:
                break
        host.save(update_fields=["stream_position", "report_number", "last_seen"])
    return taken


def _take(host: Host, key: VerifyKey, text: str, jobs: "Jobs") -> Taken:
    try:
        signed, report = envelope.read_report(text, key, host=host.id, generation=host.generation)
    except ReportUnreadable as problem:  # stepped over: all that follows would be missing something for ever
        number, at, kind, carry = problem.number, time.time(), "", partial(_refuse, host, problem)
    except Problem as problem:
        _refuse(host, problem)
        return Taken.REFUSED
    else:
        number, at, kind = signed.number, signed.at, report.kind
        carry = partial(_carry, host, report, signed.number, jobs)
    jobs.ahead = at - time.time()
    if number == envelope.UNNUMBERED:
        return _take_unnumbered(host, at, carry) if kind == "heartbeat" else Taken.REFUSED
    taken = _in_order(host, number)
    if taken is Taken.YES:
        carry()
        host.report_number = number
    _seen(host)
    return taken


def _take_unnumbered(host: Host, at: float, carry: Callable[[], None]) -> Taken:
    """A heartbeat without a place in the order: newer than the last such one and of this minute, or anybody who holds
    Redis could keep a dead host alive with it."""
    is_fresh = abs(at - (host.clock_skew or 0.0) - time.time()) < FRESH_SECONDS and at > _unnumbered.get(host.pk, 0.0)
    if not is_fresh:
        return Taken.AGAIN
    _unnumbered[host.pk] = at
    carry()
    _seen(host)
    return Taken.YES


def _refuse(host: Host, problem: Problem) -> None:
    note_refusal(host, "report-refused", f"A report of this host was refused: {problem.message}")


def _carry(host: Host, report: reports.AnyReport, number: int, jobs: "Jobs") -> None:
    """Do what a report says. One that we cannot take is passed over: standing still would hold up every other host."""
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
        log.exception("Report %s of %s (%s) could not be taken", number, host.name, report.kind)
        note_refusal(host, "report-refused", f"A report of this host ({report.kind}) could not be taken.")


def _in_order(host: Host, number: int) -> Taken:
    if number <= host.report_number:
        return Taken.AGAIN
    return Taken.YES if number == host.report_number + 1 else Taken.GAP


def _seen(host: Host) -> None:
    """The host has spoken. One that was silent gets its waiting orders at once."""
    if host.is_silent:
        Job.objects.filter(host=host, state__in=["queued", "sent"]).update(send_next_at=timezone.now())
    host.last_seen = timezone.now()


def note_reboot(host: Host, boot_id: str) -> None:
    """Keep that a host has booted since it was last heard, which ended all its machines and jobs."""
    before = host.facts.get("boot_id")
    if not before or not boot_id or boot_id == before:
        return
    heard = f" It was last heard at {host.last_seen:%Y-%m-%d %H:%M:%S} UTC." if host.last_seen else ""
    note_refusal(host, "host-rebooted", f"{host.name} has booted again.{heard}")


def note_refusal(host: Host, kind: str, text: str) -> None:
    """Keep a refusal, but not a flood of them."""
    hour_ago = timezone.now() - timedelta(hours=1)
    if Event.objects.filter(host=host, kind=kind, at__gt=hour_ago).count() < REFUSALS_PER_HOUR:
        Event.objects.create(host=host, kind=kind, text=text[:2000])


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
        told, now = _time(at - (self._host.clock_skew or 0.0)), timezone.now()
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


def _accepted(_: Host, report: reports.Accepted, jobs: Jobs) -> None:
    job = jobs.get(report.job)
    if job:
        _move(job, JobState.ACCEPTED, accepted_at=jobs.signed(job.sent_at or job.created_at), problem=None)


def _running(job: Job, began: datetime) -> None:
    if job.state == JobState.RUNNING:
        return
    _move(job, JobState.RUNNING, started_at=job.started_at or began, accepted_at=job.accepted_at or began, problem=None)


def _part(_: Host, report: reports.Part, jobs: Jobs) -> None:
    _say(jobs.get(report.job), [report], jobs)


def _said(_: Host, report: reports.Said, jobs: Jobs) -> None:
    _say(jobs.get(report.job), report.parts, jobs)


def _say(job: Job | None, parts: Sequence[reports.Part], jobs: Jobs) -> None:
    """Write what a job has said into its row and its log, each once."""
    if job is None:
        return
    first, lines, changed = job.line_count + 1, list[reports.Line](), set[str]()
    began = jobs.signed(job.accepted_at or job.sent_at or job.created_at)
    for part in parts:
        if isinstance(part, reports.Phase):
            began = jobs.moment(part.at, job.accepted_at or job.sent_at or job.created_at)
        if isinstance(part, reports.Lines):
            lines += _lines(job, part, began)
        elif isinstance(part, reports.Phase):
            changed |= _phase(job, part, began)
        else:
            changed |= SAID[part.kind](job, part)
    if lines:
        LogChunk.objects.bulk_create(_chunks(job, first, lines))
        changed.add("line_count")
    if changed:
        Job.objects.filter(pk=job.pk).update(**{column: getattr(job, column) for column in changed})


def _chunks(job: Job, first: int, lines: list[reports.Line]) -> Iterator[LogChunk]:
    """Of LINES_AT_ONCE lines at most, which whoever reads a log relies on (logs.py)."""
    for begin in range(0, len(lines), reports.LINES_AT_ONCE):
        some = [[line.at, line.source, line.text] for line in lines[begin : begin + reports.LINES_AT_ONCE]]
        yield LogChunk(job=job, first=first + begin, count=len(some), lines=some)


def _phase(job: Job, phase: reports.Phase, began: datetime) -> set[str]:
    if job.is_final:
        return set()
    _running(job, began)
    name = job_words.phase(job.order, phase.name)
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


def _lines(job: Job, report: reports.Lines, began: datetime) -> list[reports.Line]:
    """Those that are new; numbers have no holes, whatever a host says."""
    if max(job.line_count, report.first) > MAX_LINES:
        return []
    if job.op in IN_A_UNIT and not job.phases:  # it says that it waits for others
        _move(job, JobState.ACCEPTED, accepted_at=job.accepted_at or began)
    else:
        _running(job, began)
    fresh = report.lines[max(0, job.line_count + 1 - report.first) :]
    job.line_count += len(fresh)
    return fresh


SAID: dict[str, Callable[[Job, Any], set[str]]] = {"progress": _progress, "command": _command}


def _outcome(host: Host, report: reports.Outcome, jobs: Jobs) -> None:
    job = jobs.get(report.job)
    if not job:
        return
    ended = jobs.moment(report.at, job.started_at or job.accepted_at or job.sent_at or job.created_at)
    state = JobState(report.state)
    ours = _move(
        job,
        state,
        finished_at=ended,
        accepted_at=job.accepted_at or ended,
        started_at=job.started_at or job.accepted_at or ended,
        problem=report.problem,
        result=report.result,
        progress=None,
        progress_note="",
        sealed="" if state is JobState.SUCCEEDED else job.sealed,
    )
    if not ours:
        return
    if report.machine:
        refresh(host, report.machine)
    bases.learn(host, job, report)
    _settle(host, job, report)
    _tell_ended(job)


def _settle(host: Host, job: Job, report: reports.Outcome) -> None:
    """What the end of a job means for its machine's row and its revision."""
    machine = Machine.objects.filter(host=host, name=job.machine_name).first()
    succeeded = report.state == "succeeded"
    if job.op == "export":
        archive_files.settle(job, report.result if succeeded else {})
    if machine is None:
        return
    if job.op == "remove" and succeeded:
        machine.revisions.exclude(state=Revision.State.APPLIED).delete()
        _forget(machine)
    if job.revision and job.op == "apply":
        _as_ordered(job.revision, job.order["configuration"])
    written = succeeded or bool(
        report.machine and job.revision and report.machine.nspawn_sha256 == job.revision.nspawn_sha256
    )
    if job.revision and _kept_others(job, job.revision, report):
        _not_ours(job.revision, machine)
        job.revision = None
    if written and job.revision:
        job.revision.save(update_fields=["nspawn_text", "limits_text", "found_in"])
    # A draft that was written all the same: its job had been given up here while the host was silent.
    if job.revision and (written or job.revision.state == Revision.State.APPLYING):
        if written and job.revision.number is None:
            Revision.objects.filter(pk=job.revision.pk).update(number=job.order["configuration"]["revision"])
        settle_revision(job.revision, machine, written=written, at=_time(report.result.get("applied_at", report.at)))
    if job.op == "build" and succeeded:
        Machine.objects.filter(pk=machine.pk).update(built_by=job)
    if job.op == "build" and not succeeded and report.machine is None:
        _forget(machine)  # its draft stays, for a retry


def _kept_others(job: Job, revision: Revision, report: reports.Outcome) -> bool:
    """Whether a machine was built with files that were there before, as somebody decided, in place of ours."""
    if job.order.get("leftovers") != "keep" or report.state != "succeeded" or report.machine is None:
        return False
    there = (report.machine.nspawn_sha256, report.machine.limits_sha256)
    return there != (revision.nspawn_sha256, revision.limits_sha256)


def _not_ours(revision: Revision, machine: Machine) -> None:
    """What was asked for was not written: the machine is one that was configured by hand, which can be taken over."""
    Machine.objects.filter(pk=machine.pk).update(
        applied=None, drifted=False, ignored="", restart_needed=False, changed_at=timezone.now()
    )
    revision.delete()
    holds.recount(machine.pk)


def _as_ordered(revision: Revision, configuration: dict[str, Any]) -> None:
    """What was written has our first line, also where the revision was taken over from a file without one."""
    revision.nspawn_text, revision.limits_text = configuration["nspawn"], configuration["limits"]
    revision.found_in = ""


def _tell_ended(job: Job) -> None:
    for tell in WHEN_ENDED:
        tell(job)


def never_done(job: Job) -> None:
    """A job that ended without its host: its revision is a draft again, the machine it was to build is not there."""
    if job.op == "export":
        archive_files.settle(job)
    _never_done_to(job)
    _tell_ended(job)


def _never_done_to(job: Job) -> None:
    machine = Machine.objects.filter(host_id=job.host_id, name=job.machine_name).first()
    if machine is None:
        return
    if job.revision and job.revision.state == Revision.State.APPLYING:
        settle_revision(job.revision, machine, written=False, at=timezone.now())
    if job.op == "build" and not machine.image_id:
        _forget(machine)


def _forget(machine: Machine) -> None:
    Machine.objects.filter(pk=machine.pk).update(
        removed_at=timezone.now(),
        changed_at=timezone.now(),
        applied=None,
        built_by=None,
        restart_needed=False,
        drifted=False,
        ignored="",
        not_as_asked=0,
        state=MachineState.MISSING,
        image_id="",
        nspawn_sha256="absent",
        limits_sha256="absent",
    )


def settle_revision(revision: Revision, machine: Machine, *, written: bool, at: datetime) -> None:
    """The files were written (the revision is the applied one now), or they were not (it is a draft again)."""
    if not written:
        Revision.objects.filter(pk=revision.pk).update(state=Revision.State.DRAFT, number=None)
        return
    Revision.objects.filter(pk=revision.pk).update(state=Revision.State.APPLIED, applied_at=at)
    before = machine.applied.nspawn_text if machine.applied else ""
    needs_restart = machine.was_up and _body(before) != _body(revision.nspawn_text)
    # A machine that was started after the files were written runs with them.
    started_since = machine.since is not None and machine.since >= at
    Machine.objects.filter(pk=machine.pk).update(
        applied=revision,
        restart_needed=(machine.restart_needed or needs_restart) and not started_since,
        nspawn_sha256=revision.nspawn_sha256,
        limits_sha256=revision.limits_sha256,
        drifted=False,
        ignored="",
        changed_at=timezone.now(),
    )
    holds.recount(machine.pk)


def _body(text: str) -> str:
    """A file without our first line, which differs with every revision."""
    return nspawn.unmark(text)


# --- machines and hosts


def _time(seconds: Any) -> datetime:
    """A moment that every time zone can show; now, for what is none."""
    try:
        return datetime.fromtimestamp(float(seconds), UTC) if 0 <= float(seconds) <= reports.LATEST else timezone.now()
    except (TypeError, ValueError):
        return timezone.now()


def _columns(fact: reports.MachineFact) -> dict[str, Any]:
    addresses = [a.address for a in fact.addresses if not a.address.lower().startswith("fe80")]
    return {
        "state": fact.state,
        "rank": rank_of(fact.state),
        "since": _time(fact.since) if fact.since is not None else None,
        "unit": fact.unit,
        "leader": fact.leader,
        "addresses": addresses,
        "enabled": fact.enabled,
        "os": fact.os,
        "image_id": fact.image_id,
        "image_type": fact.image_type,
        "image_path": fact.image_path,
        "read_only": fact.read_only,
        "read_only_by": fact.read_only_by,
        "hidden_images": fact.hidden_images,
        "nspawn_sha256": fact.nspawn_sha256,
        "limits_sha256": fact.limits_sha256,
        "unreadable": fact.unreadable,
        "effective": fact.effective,
        "why": fact.why,
        "activity": fact.activity.model_dump(mode="json", exclude_defaults=True),
        "disk_bytes": fact.disk_bytes,
        "memory_bytes": fact.memory_bytes,
        "cpu_ns": fact.cpu_ns,
        "tasks": fact.tasks,
    }


def refresh(
    host: Host, fact: reports.MachineFact, known: dict[str, Machine] | None = None, *, partial: bool = False
) -> None:
    """Make a machine's row say what its host says; write only what differs. `partial` is a fact read without machined."""
    machine = known.get(fact.name) if known is not None else _known(host, fact.name)
    columns = {name: value for name, value in _columns(fact).items() if not (partial and name in FROM_MACHINED)}
    if machine is None:
        Machine.objects.create(host=host, name=fact.name, **columns)
        return
    columns["drifted"] = drift.is_drifted(machine, fact.nspawn_sha256, fact.limits_sha256) or _keeps_drift(machine)
    if machine.ignored and machine.ignored != f"{fact.nspawn_sha256}.{fact.limits_sha256}" and not fact.unreadable:
        columns["ignored"] = ""  # it has changed again
    differs = {name: value for name, value in columns.items() if getattr(machine, name) != value}
    if machine.removed_at:  # it is back, by somebody's hand
        differs["removed_at"] = None
    if machine.restart_needed and machine.applied and machine.applied.applied_at:
        since = columns["since"]
        is_down = not fact.state.is_up and fact.state != MachineState.UNKNOWN
        if is_down or (since and since >= machine.applied.applied_at):
            differs["restart_needed"] = False
    if differs:
        Machine.objects.filter(pk=machine.pk).update(changed_at=timezone.now(), **differs)
    if differs.keys() & holds.DEPENDS_ON:
        holds.recount(machine.pk)


def _keeps_drift(machine: Machine) -> bool:
    """Of a file that was taken over from elsewhere, only its text tells; see _found()."""
    return machine.drifted and bool(machine.applied and machine.applied.found_in)


def _known(host: Host, name: str) -> Machine | None:
    return Machine.objects.select_related("applied").filter(host=host, name=name).first()


def _gone(machine: Machine) -> None:
    """The host has it no more. One that we configured stays as missing, so that nothing vanishes unseen."""
    if machine.revisions.exists() or Job.objects.on(machine.host, machine.name).unfinished().exists():
        Machine.objects.filter(pk=machine.pk).exclude(state=MachineState.MISSING).update(
            state=MachineState.MISSING, rank=rank_of(MachineState.MISSING), since=None, leader=None, drifted=False,
            changed_at=timezone.now(), **NO_IMAGE,
        )  # fmt: skip
        holds.recount(machine.pk)
    else:
        machine.delete()


def _observed(host: Host, report: reports.Observed, _: Jobs) -> None:
    if Machine.objects.on(host).count() > MACHINES_AT_MOST:
        return
    if report.links:
        host.facts = {**host.facts, **report.links.model_dump()}
    for fact in report.machines:
        refresh(host, fact)
    for machine in Machine.objects.listed().select_related("host").filter(host=host, name__in=report.gone):
        _gone(machine)


def _inventory(host: Host, report: reports.Inventory, _: Jobs) -> None:
    now = timezone.now()
    note_reboot(host, report.host.boot_id)
    before, host.facts = host.facts, report.host.model_dump(mode="json")
    host.facts_at = host.inventory_at = now
    if any(before.get(name) != host.facts.get(name) for name in holds.DEPENDS_ON_HOST):
        host.save(update_fields=["facts"])
        for number in Found.objects.filter(machine__host=host).values_list("machine_id", flat=True):
            holds.recount(number)
    known = {m.name: m for m in Machine.objects.on(host).select_related("applied", "host")}
    for fact in report.machines:
        refresh(host, fact, known, partial=bool(report.partial))
    listed = {fact.name for fact in report.machines}
    if report.partial:
        host.trouble = {**host.trouble, "machines": report.partial}
        make_unknown(Machine.objects.on(host).listed().exclude(name__in=listed), report.partial, now)
    else:
        host.trouble = {about: why for about, why in host.trouble.items() if about != "machines"}
        host.listed_at = now
        for name, machine in known.items():
            if name not in listed and machine.removed_at is None:
                _gone(machine)
    _reconcile(host, report.jobs)


def make_unknown(machines: MachineQuerySet, why: str, now: datetime) -> None:
    """Nothing may be claimed of these any more; `why` is for people, "" when their host says nothing at all."""
    claimed = machines.exclude(state=MachineState.MISSING).exclude(state=MachineState.UNKNOWN, why=why)
    rank = rank_of(MachineState.UNKNOWN)
    claimed.update(state=MachineState.UNKNOWN, rank=rank, why=why, activity={}, changed_at=now)


def _found(host: Host, report: reports.Found, _: Jobs) -> None:
    """What lies on the host for machines it has told of, and what holds of them."""
    told = {each.name: each for each in report.machines}
    for machine in Machine.objects.on(host).filter(name__in=told).select_related("host", "applied"):
        each = told[machine.name]
        found, _created = Found.objects.update_or_create(machine=machine, defaults=_as_found(each))
        facts: dict[str, Any] = {"unit_command": each.unit_command, "run_command": each.run_command}
        if machine.applied and machine.applied.found_in:
            facts["drifted"] = drift.has_moved(machine, found)
        differs = {name: value for name, value in facts.items() if getattr(machine, name) != value}
        if differs:
            Machine.objects.filter(pk=machine.pk).update(changed_at=timezone.now(), **differs)
        holds.recount(machine.pk)


def _as_found(told: reports.FoundMachine) -> dict[str, Any]:
    columns = told.model_dump(mode="json", exclude={"name", "files", "unit_command", "run_command"})
    return {**columns, "told": [file.model_dump(mode="json") for file in told.files], "at": timezone.now()}


def _reconcile(host: Host, on_host: list[UUID]) -> None:
    """Jobs the host still has are under way; jobs it took and knows nothing of are lost."""
    for job in Job.objects.filter(host=host, state=JobState.LOST, uuid__in=on_host):
        Job.objects.move(job.pk, JobState.RUNNING if job.started_at else JobState.ACCEPTED, problem=None)
    grace = timezone.now() - timedelta(seconds=120)
    forgotten = Job.objects.filter(host=host, state__in=["accepted", "running"], accepted_at__lt=grace)
    for job in forgotten.exclude(uuid__in=on_host):
        problem = Problem(
            "The host does not know this job any more.", code="job-lost", hint="Look at the machine itself."
        )
        Job.objects.move(job.pk, JobState.LOST, problem=problem.to_wire())


def _heartbeat(host: Host, report: reports.Heartbeat, jobs: Jobs) -> None:
    if jobs.is_last:  # one that waited behind others says nothing of now
        clocks.measure(host, jobs.ahead)
    fresh = report.model_dump(include={"load", "memory_available", "disk_free", "boot_id"})
    note_reboot(host, report.boot_id)
    host.facts = {**host.facts, **fresh}
    host.facts_at = timezone.now()
    host.trouble = report.trouble


def _refused(host: Host, report: reports.Refused, _: Jobs) -> None:
    note_refusal(host, "order-refused", f"{report.message} ({report.code})")
    if report.job:
        waiting = Job.objects.filter(host=host, uuid=report.job, state__in=["queued", "sent"])
        waiting.update(problem=_why_refused(host, report).to_wire())


def _why_refused(host: Host, report: reports.Refused) -> Problem:
    """An order that a host calls too early or too late is right, and one of the clocks is not."""
    if report.code in {"envelope-early", "envelope-expired"}:
        return clocks.problem(host.name, host.clock_skew)
    return Problem(report.message, code=report.code)


TAKE: dict[str, Callable[[Host, Any, Jobs], None]] = {
    "accepted": _accepted,
    "said": _said,
    **dict.fromkeys(("phase", "progress", "command", "lines"), _part),
    "outcome": _outcome,
    "observed": _observed,
    "inventory": _inventory,
    "found": _found,
    "heartbeat": _heartbeat,
    "refused": _refused,
}
