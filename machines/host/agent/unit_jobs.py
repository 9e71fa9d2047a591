"""Jobs in units of their own, seen from the worker: start, follow, cancel, adopt, clean up.

A copy that costs nothing (a snapshot of a base) is not worth a unit, whose start alone takes longer than the copy: it is
done in the worker, and done again by the next one if the worker dies meanwhile.

The unit nspawnpanel-job-<id>.service runs unit_job.py. Its fixed name is the lock, stopping it is the cancel, its
limits cap the job, and it lives on when the worker dies. What it says stands in its own log (job_log.py), read from
the byte up to which the ledger says it was reported.
"""

import contextlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import machines
from machines.contract import orders, reports
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.agent import cleanup, handlers, unit_job
from machines.host.agent.unit_job import Ended
from machines.host.context import remnants
from machines.host.context.host_context import HostContext, Task
from machines.host.context.job_output import Entry
from machines.host.observe.watch import Watch
from machines.host.reports import job_log
from machines.host.reports.ledger import Ledger, Row
from machines.host.reports.reporting import Reporter
from machines.host.rootfs import build
from machines.host.system import systemctl, threads
from machines.host.system.faults import Stopped, TookTooLong, as_problem
from machines.host.system.paths import SLICE, job_of, job_unit
from machines.host.system.run import PASSED_ON, run

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
ALIVE_SECONDS = 0.5
AGAIN_SECONDS = 2
CLEAR_TRIES = 3
TRIES = 5  # of a removal that is killed again and again
OUR_LOG = "journalctl -u nspawnpanel-host"
STOP_SECONDS = 4  # between SIGTERM and SIGKILL
RECIPES = "recipes"  # what all orders that run a recipe wait for
UNPACKING = 2 * 1024**3  # bytes; the tools that unpack are held to 512 MiB themselves
SOURCE = Path(machines.__file__).parents[1]


def argv(row: Row, state: Path, surroundings: Path | None = None) -> list[str]:
    """The systemd-run command of a job. No secret is in it: the unit reads its order from the ledger, and from the file
    `surroundings` what else of our own environment it needs."""
    unit = job_unit(row.id)
    properties = [
        "KillMode=control-group", "SendSIGKILL=yes", f"TimeoutStopSec={STOP_SECONDS}",
        f"RuntimeMaxSec={orders.kind_of(row.op).time_limit}", "OOMPolicy=stop",
        "CPUWeight=20", "IOWeight=20", f"MemoryMax={_memory(row)}", "TasksMax=4096", "CPUAccounting=yes",
        "PrivateMounts=yes", "LogRateLimitIntervalSec=0",
    ]  # fmt: skip
    if surroundings:
        properties.append(f"EnvironmentFile={surroundings}")
    return [
        "systemd-run", "--quiet", f"--unit={unit}", f"--slice={SLICE}", "--service-type=exec",
        f"--description=nspawnpanel: {row.op} {row.name}",
        *(f"--property={assignment}" for assignment in properties),
        f"--setenv=NSPAWNPANEL_STATE={state}", f"--setenv=PYTHONPATH={SOURCE}", "--setenv=PYTHONUNBUFFERED=1",
        "--", sys.executable, "-m", "machines.host.agent.unit_job", str(row.id),
    ]  # fmt: skip


def write_environment_file(folder: Path, environ: Mapping[str, str]) -> Path | None:
    """Proxies and the like of our own environment, which units do not inherit, as a file only root can read; None when
    there are none. A proxy's address may hold a password, so it never stands in a command. Raises OSError."""
    known = {name: environ[name] for name in PASSED_ON if environ.get(name)}
    lines = [f"{name}={_quoted(value)}\n" for name, value in known.items() if value.isprintable()]
    if not lines:
        return None
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / "environment"
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as out:
        out.writelines(lines)
    return file


def _quoted(value: str) -> str:
    """As systemd reads it in an EnvironmentFile= (systemd.exec(5))."""
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


def _memory(row: Row) -> str:
    """What a job may hold. Whoever only fetches and unpacks needs little, whatever an archive would have it keep."""
    fetches = row.wanted.get("recipe", {}).get("kind") in {"archive", "pull"}
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
    return str(min(UNPACKING, most)) if fetches else "75%"


def _gate(op: str) -> str:
    """What a job waits with others for: builds of machines and of bases are one kind."""
    return RECIPES if orders.kind_of(op).runs_recipe else op


def set_slice_weight() -> None:
    """Jobs give way to machines when CPU or disk are short; the weight counts between slices, so it is the slice's."""
    try:
        run(systemctl.set_property(SLICE, ["CPUWeight=50", "IOWeight=50"]), timeout=30)
    except Problem as problem:
        LOG.warning("%s could not be given its weight: %s", SLICE, problem)


class Units:
    def __init__(self, host: HostContext, ledger: Ledger, reporter: Reporter, watch: Watch) -> None:
        self._host, self._ledger, self._reporter, self._watch = host, ledger, reporter, watch
        self._lock, self._sweeping = threading.Lock(), threading.Lock()
        self._busy: dict[UUID, str] = {}
        self._here: dict[UUID, Task] = {}
        self._queue: list[Row] = []

    # --- beginning

    def place(self, row: Row) -> None:
        """Begin a job now, or when fewer of its kind are under way."""
        if self._is_instant(row):
            self._do_here(row)
            return
        gate = _gate(row.op)
        with self._lock:
            if self._is_full(gate):
                self._queue.append(row)
                self._reporter.output(row.id).line("Waiting for other jobs of this type on this host.")
                self._say_positions(gate)
                return
            self._busy[row.id] = gate
        self._launch(row)

    def _is_full(self, gate: str) -> bool:
        most = self._host.policy.max_parallel_builds if gate == RECIPES else orders.kind_of(gate).at_once
        return sum(busy == gate for busy in self._busy.values()) >= most

    def _say_positions(self, gate: str) -> None:
        for position, row in enumerate((row for row in self._queue if _gate(row.op) == gate), 1):
            self._reporter.output(row.id).progress(0, f"number {position} in the queue")

    def _launch(self, row: Row, *, again: bool = False) -> None:
        try:
            if not again and not self._ledger.begin(row.id):
                raise Stopped("The job was cancelled before it started.")
            surroundings = write_environment_file(self._host.paths.job(row.id), os.environ)
            run(argv(row, self._host.paths.state, surroundings), timeout=30)
        except (Problem, OSError) as error:
            problem = as_problem(error, OUR_LOG)
            self._end(row, "cancelled" if isinstance(problem, Stopped) else "failed", problem.to_wire(), {})
            return
        self._follow(row)

    def _next(self, row: Row) -> None:
        """A job has ended: the first of its kind in line may begin."""
        with self._lock:
            self._busy.pop(row.id, None)
            gate = _gate(row.op)
            following = next((waiting for waiting in self._queue if _gate(waiting.op) == gate), None)
            if following is None or self._is_full(gate):
                return
            self._queue.remove(following)
            self._busy[following.id] = gate
            self._say_positions(gate)
        self._launch(following)

    # --- in this process

    def _is_instant(self, row: Row) -> bool:
        order = orders.from_wire(row.wanted)
        return isinstance(order, orders.Build) and build.is_instant(self._host, order)

    def _do_here(self, row: Row) -> None:
        order, begun = orders.from_wire(row.wanted), time.time()
        task = Task(
            row.id, order, self._reporter.output(row.id), begun, handlers.deadline(order, begun), sealed=row.sealed
        )
        self._here[row.id] = task
        self._watch.suppress(row.name)
        try:
            if not self._ledger.begin(row.id):
                raise Stopped("The job was cancelled before it started.")
            host = replace(self._host, policy=self._host.policy.of(row.team))
            ended = unit_job.work(host, task, OUR_LOG)
        except Problem as problem:
            ended = "cancelled" if isinstance(problem, Stopped) else "failed", problem.to_wire(), {}
        finally:
            self._here.pop(row.id, None)
        self._persist(row, lambda row: self._end_here(row, ended))

    def _end_here(self, row: Row, ended: Ended) -> None:
        left = self._clear(row, ended[0])
        self._report(row, *ended)
        if left:
            self.sweep()

    def _take_up(self, row: Row) -> None:
        """An earlier worker died over a job it did itself, or before its unit began: its machine is there, and only has
        to be started; or nothing of it is, and it is begun anew."""
        if self._is_made(row):
            self._end_here(row, self._run_as_ordered(row))
        else:
            self._clear(row, "failed")
            self._forget_unit(row)  # one that was killed before its first word has the name still
            self.place(row)

    def _is_made(self, row: Row) -> bool:
        order = orders.from_wire(row.wanted)
        return isinstance(order, orders.Build) and build.is_made_by(self._host, order, row.id)

    def _run_as_ordered(self, row: Row) -> Ended:
        order = orders.from_wire(row.wanted)
        assert isinstance(order, orders.Build)
        task = Task(row.id, order, self._reporter.output(row.id), time.time(), handlers.deadline(order, time.time()))

        def run_it() -> dict[str, Any]:
            build.run_as_ordered(self._host, task, MachineName(order.name), order)
            return {}

        return unit_job.attempt(run_it, OUR_LOG)

    # --- following

    def _follow(self, row: Row) -> None:
        self._beside("follow", row, self._follow_once)

    def _beside(self, what: str, row: Row, step: Callable[[Row], None]) -> None:
        threads.begin(self._persist, f"{what}-{row.name}", row, step)

    def _persist(self, row: Row, step: Callable[[Row], None]) -> None:
        """A full disk or a bus that is away must not lose the job."""
        while True:
            try:
                step(row)
            except Exception:
                LOG.exception("Job %s cannot go on now; trying again", row.id)
                time.sleep(AGAIN_SECONDS)
            else:
                return

    def _follow_once(self, row: Row) -> None:
        """Relay what the job says until it has said its result or its unit is gone."""
        known = self._ledger.job(row.id)
        if known is None or known.ended is not None:
            return
        cursor, looked, alive = known.cursor, 0.0, True
        folder = self._host.paths.job(row.id)
        while True:
            if alive and time.monotonic() - looked > ALIVE_SECONDS:
                alive, looked = self._is_alive(row), time.monotonic()
            entries, after = job_log.read_from(folder, cursor)
            if entries and entries[0]["k"] == "result":  # not relayed: whoever dies before the outcome reads it again
                self._wait_gone(row)
                self._conclude(row, entries[0])
                return
            if after != cursor:
                self._reporter.relay(row.id, entries, after)
                cursor = after
            if not alive and not entries:
                self._conclude_without_result(row)
                return
            if len(entries) < 1000:
                time.sleep(LOOK_SECONDS)

    def _is_alive(self, row: Row) -> bool:
        state = self._state(row)["ActiveState"]
        return state in {"active", "activating", "deactivating", "reloading"}

    def _state(self, row: Row) -> dict[str, Any]:
        return self._host.bus.do(self._host.bus.unit(job_unit(row.id)))

    def _wait_gone(self, row: Row) -> None:
        patience = time.monotonic() + 15
        while self._is_alive(row) and time.monotonic() < patience:
            time.sleep(LOOK_SECONDS)

    # --- ending

    def _conclude(self, row: Row, entry: Entry) -> None:
        self._end(row, str(entry["state"]), entry["problem"], entry["result"])

    def _conclude_without_result(self, row: Row) -> None:
        """The unit is gone and never said how it ended: it was stopped, killed, or the host went down under it."""
        known = self._ledger.job(row.id)
        how = self._result_of(row)
        if self._goes_on(row, was_ended=how == "timeout" or (known is not None and known.cancelled)):
            self._reporter.output(row.id).line("The removal was interrupted and is now completed.")
            self._forget_unit(row)
            self._launch(row, again=True)
            return
        if known is not None and known.cancelled:
            self._end(row, "cancelled", Stopped("The job was cancelled.").to_wire(), {})
        elif how == "timeout":
            limit = orders.kind_of(row.op).time_limit // 60
            self._end(row, "timed_out", TookTooLong(f"The job took longer than {limit} minutes.").to_wire(), {})
        elif self._is_made(row):
            self._end(row, *self._run_as_ordered(row))
        elif how == "":
            lost = Problem(
                "The job was lost: the host was restarted while it was running.", code="job-lost", retryable=True,
            )  # fmt: skip
            self._end(row, "failed", lost.to_wire(), {})
        else:
            words = {
                "oom-kill": "it exceeded its memory limit",
                "signal": "it was killed",
                "exit-code": "it crashed",
            }
            crashed = Problem(
                f"The job ended without reporting a result: {words.get(how, how)}.", code="job-died",
                details="\n".join(job_log.last_lines(self._host.paths.job(row.id), 20)),
            )  # fmt: skip
            self._end(row, "failed", crashed.to_wire(), {})
        self.sweep()

    def _goes_on(self, row: Row, *, was_ended: bool) -> bool:
        """Half a machine is no machine: a removal that was killed goes on where it was, some times. One that was ended on
        purpose does so when its machine cannot start any more: then there is nothing to go back to."""
        if not orders.kind_of(row.op).goes_on_when_killed or (
            was_ended and not os.path.lexists(self._host.paths.aside(row.id))
        ):
            return False
        folder = self._host.paths.job(row.id)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (folder / "again").open("ab") as tries:
                tries.write(b".")
                return tries.tell() <= TRIES
        except OSError:
            return False

    def _result_of(self, row: Row) -> str:
        """systemd's word on how the unit ended; "" when systemd knows no such unit (any more)."""
        unit = job_unit(row.id)
        if self._state(row)["LoadState"] != "loaded":
            return ""
        return str(self._host.bus.do(self._host.bus.unit(unit, "Service"))["Result"])

    def _end(self, row: Row, state: str, problem: Any, result: Any) -> None:
        """Clean up, then report; then the next build may begin."""
        left = self._clear(row, state)
        if problem and problem["code"] == "job-lost":
            problem |= {"hint": f"{left or 'Its partial work has been removed.'} Try again."}
        self._report(row, state, problem, result)
        self._forget_unit(row)
        self._watch.refresh()
        self._next(row)
        with contextlib.suppress(OSError):  # told with all that cannot be removed
            job_log.keep_last(self._host.paths.jobs, [other.id for other in self._ledger.unfinished()])
        if left:
            self.sweep()

    def _clear(self, row: Row, state: str) -> str:
        """Nothing half-made stays; what cannot be removed even now must not keep the job from ending: a sentence about that."""
        for tries in range(CLEAR_TRIES):
            if tries:
                time.sleep(1)
            try:
                cleanup.clear(self._host.paths, row, succeeded=state == "succeeded")
                return ""
            except (Problem, OSError, ValueError) as error:
                LOG.warning("The leftovers of job %s could not be removed: %s", row.id, error)
                said = f"Part of it could not be removed: {remnants.reason(error)}. {remnants.AGAIN}"
        self._reporter.output(row.id).line(said)
        return said

    def _report(self, row: Row, state: str, problem: Any, result: Any) -> None:
        def report(machine: reports.MachineFact | None) -> None:
            self._reporter.finish(reports.Outcome.model_validate({
                "job": row.id, "state": state, "at": time.time(), "problem": problem, "result": result or {},
                "machine": machine,
            }))  # fmt: skip

        if row.name:
            self._watch.report_final(row.name, report, image_too=True)
        else:
            report(None)

    def _forget_unit(self, row: Row) -> None:
        """A unit that failed stays loaded until somebody has read how."""
        try:
            if self._state(row)["ActiveState"] == "failed":
                run(systemctl.reset_failed(job_unit(row.id)), timeout=20)
        except Problem as problem:
            LOG.info("%s could not be forgotten: %s", job_unit(row.id), problem)

    # --- cancelling, adopting

    def cancel(self, row: Row) -> None:
        """Stop a job's unit, or take it out of the line. Its follower reports the end."""
        with self._lock:
            waiting = next((r for r in self._queue if r.id == row.id), None)
            if waiting is not None:
                self._queue.remove(waiting)
                self._say_positions(_gate(row.op))
        here = self._here.get(row.id)
        if here is not None:
            here.stop.set()
        elif waiting is not None:
            self._end(row, "cancelled", Stopped("The job was cancelled before it started.").to_wire(), {})
        elif self._is_alive(row):
            run(systemctl.stop(job_unit(row.id)), timeout=30)

    def keep_sweeping(self) -> None:
        """Now and every ten minutes."""
        threads.every(remnants.AGAIN_SECONDS, self._sweep, "sweeping")

    def sweep(self) -> None:
        """Once more, beside everything else."""
        threads.begin(self._sweep, "sweep")

    def _sweep(self) -> None:
        """What was left behind goes. Nothing is raised."""

        def is_alive(job: UUID) -> bool:
            state = self._host.bus.do(self._host.bus.unit(job_unit(job)))["ActiveState"]
            return state not in {"inactive", "failed"}

        try:
            with self._sweeping:
                if cleanup.sweep(self._host.paths, self._ledger, is_alive, self._host.remnants):
                    self._watch.refresh()
            for line in run(systemctl.failed("nspawnpanel-job-*"), timeout=30).out.splitlines():
                if (job := job_of(unit := line.split()[0])) and not self._is_open(job):
                    run(systemctl.reset_failed(unit), timeout=20)
        except Exception:
            LOG.exception("What earlier jobs have left could not be looked through")

    def _is_open(self, job: UUID) -> bool:
        row = self._ledger.job(job)
        return row is not None and row.ended is None

    def adopt(self, row: Row) -> None:
        """A job of an earlier worker: follow it on, or begin it if it never began."""
        if row.begun is None and not row.cancelled:
            self.place(row)
            return
        if not row.cancelled and not job_log.exists(self._host.paths.job(row.id)) and not self._is_alive(row):
            self._beside("take-up", row, self._take_up)
            return
        with self._lock:
            self._busy[row.id] = _gate(row.op)
        self._follow(row)
