"""From a sealed message to its outcome: refuse, write down, acknowledge, carry out, report the end.

Control orders act at once. Converging orders run in queues, one per machine name; terminate overtakes its queue, for it is
what a person orders when a poweroff hangs. Creating and destroying orders become units (unit_jobs.py). An earlier worker's
unfinished orders are taken up again at start.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from machines.contract import envelope, orders, receipts, reports
from machines.contract.envelope import Envelope
from machines.contract.orders import Order, Runs
from machines.contract.permissions import Role
from machines.contract.problems import BadValue, EnvelopeRefused, Problem
from machines.host.agent import ceilings, handlers, message
from machines.host.agent.queues import Queues
from machines.host.agent.unit_jobs import Units
from machines.host.context.host_context import HostContext, Task
from machines.host.context.panel_keys import PanelKeys
from machines.host.observe import host_facts
from machines.host.observe.watch import Watch
from machines.host.policy import owners, policy
from machines.host.reports import order_sequence
from machines.host.reports.ledger import Ledger, Row
from machines.host.reports.publisher import Publisher
from machines.host.reports.reporting import Reporter
from machines.host.storage import base_images
from machines.host.system import threads
from machines.host.system.faults import MachineBusy, Stopped, TookTooLong, as_problem
from machines.host.system.rate_limit import Budget

LOG = logging.getLogger(__name__)

REFUSALS = 20  # reports of refused messages at once; one more per REFUSAL_SECONDS
REFUSAL_SECONDS = 5.0
AGAIN_SECONDS = 2.0
STALE_SECONDS = 600.0  # an order accepted longer ago than this is not carried out by a worker that comes back


class Executor:
    def __init__(
        self,
        host: HostContext,
        *,
        identity: tuple[UUID, int],
        panel_keys: PanelKeys,
        ledger: Ledger,
        reporter: Reporter,
        publisher: Publisher,
        watch: Watch,
        units: Units,
        table: Mapping[type[Order], handlers.Handler] = handlers.TABLE,
    ) -> None:
        self._host, self._watch, self._units, self._table = host, watch, units, table
        self._identity, self._keys = identity, panel_keys
        self._ledger, self._reporter, self._publisher = ledger, reporter, publisher
        self._queues = Queues()
        self._active: dict[UUID, Task] = {}
        self._refusals = Budget(REFUSALS, REFUSAL_SECONDS)
        self._junk = Budget(REFUSALS, REFUSAL_SECONDS)

    def obeyed(self) -> list[str]:
        """The ids of the panel's keys whose orders are carried out."""
        return self._keys.ids()

    # --- messages in

    def receive(self, sealed_order: str) -> None:
        """Take one message of the queue. Never raises for what a message says."""
        host, generation = self._identity
        try:
            sealed, order = envelope.unseal(sealed_order, self._keys, host=host, generation=generation)
            orders.authorize(sealed.actor.role, order, sealed.actor.extra) if order.runs is Runs.CONTROL else None
        except Problem as problem:
            self.refuse(problem)
            return
        if order.runs is Runs.CONTROL:
            self._control(sealed, order, key=envelope.signed_by(sealed_order))
        else:
            self._take(sealed, order)

    def refuse(self, problem: Problem, heard: reports.Heard | None = None) -> None:
        """Log and report a message that was not obeyed, within budgets: of what the panel signed, and of all others. `heard`
        when its place in the panel's line is why. Never raises."""
        job = problem.job if isinstance(problem, EnvelopeRefused) else None
        budget = self._refusals if job else self._junk
        if not budget.take():
            return
        others = budget.held_back()
        text = problem.message + (f" {others} others were dropped since the last such report." if others else "")
        LOG.warning("A message was refused: %s%s: %s", problem.code, f" (job {job})" if job else "", text)
        try:
            self._reporter.send(reports.Refused(code=problem.code, message=text[:4000], job=job, heard=heard))
        except (sqlite3.Error, OSError):
            LOG.exception("A refused message cannot be reported")

    def admit(self, raw: bytes) -> str | None:
        """The sealed order in a message of the queue, or None for one that the panel did not send. Never raises."""
        try:
            return message.sealed_in(raw, self._keys)
        except Problem as problem:
            self.refuse(problem)
            return None

    def _take(self, sealed: Envelope, order: Order) -> None:
        """Write the job down before anything is done, and say so; then begin it."""
        accepted, digest = reports.Accepted(job=sealed.job), receipts.order_digest(sealed.order)
        actor = str(sealed.actor)
        with self._ledger.writing() as db:
            follows = order_sequence.hear(db, sealed)
            if follows:
                team = sealed.actor.team or owners.of(db, str(getattr(order, "name", "")))
                fresh = self._ledger.take(
                    db, sealed.job, orders.to_wire(order), actor, "accepted", team=team, order_sha256=digest
                )
                self._reporter.spool(db, accepted)
        if not follows:
            self._refuse_superseded(sealed)
            return
        self._reporter.wake()
        if not fresh:
            self._again(sealed.job)
            return
        LOG.info("Job %s: %s %s, ordered by %s", sealed.job, order.op, getattr(order, "name", ""), actor)
        try:
            orders.authorize(sealed.actor.role, order, sealed.actor.extra)
            self._judge(sealed, order, team)
        except Problem as problem:
            self._end(sealed.job, "", "failed", problem)
            return
        self._begin(sealed.job, order)

    def _judge(self, sealed: Envelope, order: Order, team: str) -> None:
        """Whether the machine is the team's that it was asked for, and whether this host allows it to that team; a build then has its
        name. Raises Problem."""
        with self._ledger.reading() as db:
            owners.check(db, sealed.actor, order)
            if isinstance(order, orders.RemoveBase):
                owners.check_base(db, sealed.actor, base_images.maker(self._host.paths, order.base))
        rules = self._host.policy.of(team)
        policy.allow(rules, order, as_administrator=sealed.actor.role == Role.ADMINISTRATOR)
        others = [row for row in self._ledger.unfinished() if row.id != sealed.job]
        with self._ledger.reading() as db:
            ceilings.check(self._host, db, order, rules, others)
        if isinstance(order, orders.Build) and not self._has_image(order.name):
            with self._ledger.writing() as db:
                owners.claim(db, order.name, team, sealed.job)

    def _has_image(self, name: str) -> bool:
        folders = self._host.paths.image_folders
        return any(os.path.lexists(folder / word) for folder in folders for word in (name, f"{name}.raw"))

    def _refuse_superseded(self, sealed: Envelope) -> None:
        """It comes from an older copy of the panel, or was put into the mailbox a second time."""
        heard = self._ledger.heard()
        self.refuse(order_sequence.refusal(sealed, heard), heard)

    def _again(self, job: UUID) -> None:
        """The order has arrived before: say once more how it ended, if it has; nothing else."""
        row = self._ledger.job(job)
        if row is None:
            return
        if row.outcome is not None:
            self._reporter.send(reports.Outcome.model_validate(row.outcome))

    def _begin(self, job: UUID, order: Order, *, again: bool = False) -> None:
        name = str(getattr(order, "name", ""))
        if order.runs is Runs.UNIT:
            self._queues.put(name, lambda: self._place(job, name))
        else:
            queue = f"{order.op} {name}" if order.overtakes else name
            self._queues.put(queue, lambda: self._converge(job, order, name, again))

    def _place(self, job: UUID, name: str) -> None:
        """Hand a creating or destroying order to a unit, unless another one holds the name."""
        row = self._ledger.job(job)
        busy = self._holder(job, name)
        if row is None or row.ended is not None:
            return
        if busy is not None:
            self._end(job, name, "failed", busy)
        else:
            self._units.place(row)

    def _holder(self, job: UUID, name: str) -> MachineBusy | None:
        """The build or removal that was there first under this name, as a problem."""
        every = self._ledger.unfinished()
        own = next((row.taken for row in every if row.id == job), 0.0)
        if moving := self._mover(job, every, own):
            return moving
        rows = [row for row in every if row.name == name] if name else []
        first = next(
            (r for r in rows if orders.kind_of(r.op).runs is Runs.UNIT and r.id != job and (r.taken < own or r.begun)),
            None,
        )
        if first is None:
            return None
        return MachineBusy(
            f"{name} is busy: another job ({first.op}, {first.id}) is running on it.",
            hint="Wait for that job or cancel it.",
            retryable=True,
        )

    @staticmethod
    def _mover(job: UUID, rows: list[Row], own: float) -> MachineBusy | None:
        """All images are moved into a new pool alone: neither beside other jobs nor they beside it."""
        is_move = any(orders.kind_of(row.op).runs_alone and row.id == job for row in rows)
        first = next(
            (r for r in rows if r.id != job and r.taken < own and (is_move or orders.kind_of(r.op).runs_alone)), None
        )
        if first is None:
            return None
        if is_move:
            said = f"Another job ({first.op}, {first.id}) is running on this host."
        else:
            said = f"The images of this host are being moved into a new pool (job {first.id})."
        return MachineBusy(said, hint="Wait for that job or cancel it.", retryable=True)

    # --- converging orders

    def _converge(self, job: UUID, order: Order, name: str, again: bool, *, stopped: bool = False) -> None:
        """`stopped`: an earlier worker had begun it and a person has cancelled it since."""
        row = self._ledger.job(job)
        begun = row.begun if again and row is not None and row.begun is not None else time.time()
        task = Task(job, order, self._reporter.output(job), begun, handlers.deadline(order, time.time()), again)
        if stopped:
            task.stop.set()
        self._active[job] = task
        self._watch.suppress(name)
        try:
            if busy := self._holder(job, name):
                raise busy
            if not stopped and not self._ledger.begin(job):
                raise Stopped("The job was cancelled before it started.")
            host = replace(self._host, policy=self._host.policy.of(row.team)) if row else self._host
            result = self._table[type(order)](host, task)
        except Exception as error:  # the one place where everything a handler raises becomes an outcome
            self._failed(job, name, error)
        else:
            self._end(job, name, "succeeded", None, result)
        finally:
            self._active.pop(job, None)

    def _failed(self, job: UUID, name: str, error: Exception) -> None:
        problem = as_problem(error, "journalctl -u nspawnpanel-host")
        state = {Stopped: "cancelled", TookTooLong: "timed_out"}.get(type(problem), "failed")
        self._end(job, name, state, problem, getattr(problem, "result", {}))

    def _end(
        self, job: UUID, name: str, state: str, problem: Problem | None, result: dict[str, object] | None = None
    ) -> None:
        """Report how a job ended, with the machine as it really is now."""

        def report(machine: reports.MachineFact | None) -> None:
            self._reporter.finish(reports.Outcome.model_validate({
                "job": job, "state": state, "at": time.time(), "result": result or {}, "machine": machine,
                "problem": problem.to_wire() if problem else None,
            }))  # fmt: skip

        while True:
            try:
                if name:
                    self._watch.report_final(name, report)
                else:
                    report(None)
            except (sqlite3.Error, OSError):
                LOG.exception("The end of job %s cannot be written down; trying again", job)
                time.sleep(AGAIN_SECONDS)
            else:
                return

    # --- control orders

    def _control(self, sealed: Envelope, order: Order, *, key: str) -> None:
        with self._ledger.writing() as db:
            follows = order_sequence.hear(db, sealed, reads_only=order.reads_only)
        if not follows:
            self._refuse_superseded(sealed)
        elif isinstance(order, orders.Resend):
            self._resend(order.after)
        elif isinstance(order, orders.Refresh):
            self._watch.resend_all()
        elif isinstance(order, orders.Resynchronise):
            self._resynchronise(order)
        elif isinstance(order, orders.Cancel):
            self._cancel(order.job, sealed)
        elif isinstance(order, orders.TrustKeys):
            self._trust(order, key)

    def _resend(self, after: int) -> None:
        """Publish again what did not arrive. What the spool no longer holds is filled up, and ends are told again."""
        first, last = self._ledger.spool_bounds()
        if after + 1 < first:
            self._reporter.fill(after + 1, first)
            for row in self._ledger.ended():
                self._reporter.send(reports.Outcome.model_validate(row.outcome))
        self._publisher.resend(min(after, last))

    def _resynchronise(self, order: orders.Resynchronise) -> None:
        """This host was put back to an older copy of itself. What its ledger says is told anew: that it lives, how jobs
        have ended, and how everything is."""
        paths, told = self._host.paths, self._host.trouble.told()
        ends = [reports.Outcome.model_validate(row.outcome) for row in self._ledger.ended()]
        lives = host_facts.heartbeat(paths, told, self._ledger.heard(), self._keys.ids())
        if self._reporter.begin_epoch(order, lives, *ends):
            LOG.warning("The ledger was put back to an older copy; it goes on in epoch %d", order.epoch)
            self._watch.resend_all()

    def _trust(self, order: orders.TrustKeys, key: str) -> None:
        """Told at once, so that the panel need not say it again; what could not be written is told by the next heartbeat."""
        try:
            self._keys.trust(order.keys, signed_by=key)
        except (Problem, OSError, ValueError) as problem:
            LOG.warning("Other keys of the panel cannot be taken: %s", problem)
        else:
            LOG.info("Orders are obeyed that are signed by %s", ", ".join(self._keys.ids()))
        paths, told = self._host.paths, self._host.trouble.told()
        self._reporter.send_passing(host_facts.heartbeat(paths, told, self._ledger.heard(), self._keys.ids()))

    def _cancel(self, job: UUID, sealed: Envelope) -> None:
        """Stop a job wherever it is: running here, in a unit, waiting, or not even arrived. One of another team goes on."""
        row, actor = self._ledger.job(job), str(sealed.actor)
        if row is None:
            # The row makes sure that the order, should it still arrive, does nothing; so the end can be told now.
            self._ledger.refuse_beforehand(job, actor)
            self._end(job, "", "cancelled", Stopped("The job was cancelled before it reached the host."))
            return
        if row.ended is not None:
            self._again(job)
            return
        try:
            with self._ledger.reading() as db:
                owners.check_cancel(db, sealed.actor, row.name, row.team)
        except Problem as problem:
            self.refuse(problem)
            return
        LOG.info("Job %s is cancelled by %s", job, actor)
        self._ledger.cancel(job)
        task = self._active.get(job)
        if task is not None:
            task.stop.set()
        elif orders.kind_of(row.op).runs is Runs.UNIT:  # beside this thread, in which orders are taken in one by one
            threads.begin(self._units.cancel, f"cancel {job}", row)

    # --- after a start of the worker

    def adopt(self) -> None:
        """Take up what an earlier worker left: jobs in units are followed on, converging orders are carried out again
        while that still makes sense. What a worker of another version took on in words of its own is given up."""
        self._units.keep_sweeping()
        for row in self._ledger.unfinished():
            order = _order_of(row)
            if order is None:
                threads.begin(self._give_up, f"give up {row.id}", row)
            elif orders.kind_of(row.op).runs is Runs.UNIT:
                self._units.adopt(row)
            else:
                self._adopt_converging(row, order)

    def _give_up(self, row: Row) -> None:
        """Its unit, if it has one, is stopped before its end is told; what it had half made goes with a later sweep."""
        try:
            self._units.cancel(row)
        except Problem as problem:
            LOG.warning("Job %s cannot be stopped: %s", row.id, problem)
        if row.cancelled:
            self._end(row.id, row.name, "cancelled", Stopped("The job was cancelled."))
            return
        unknown = Problem(
            f"A worker of another version had taken the order “{row.op}”, which this one cannot read. It was not finished.",
            hint="Request it again.",
            code="order-unreadable",
            retryable=True,
        )
        self._end(row.id, row.name, "failed", unknown)

    def _adopt_converging(self, row: Row, order: Order) -> None:
        if row.cancelled and not (orders.kind_of(row.op).undoes_when_cancelled and row.begun):
            self._end(row.id, row.name, "cancelled", Stopped("The job was cancelled."))
            return
        since = row.begun or row.taken
        if row.cancelled:  # what it has begun is ended: both files are the old ones or the new ones, no start goes on
            self._queues.put(row.name, lambda: self._converge(row.id, order, row.name, again=True, stopped=True))
            return
        if not order.stays_fresh and time.time() > max(handlers.deadline(order, since), since + STALE_SECONDS):
            late = Problem("The host's worker was not running in time to do this.", code="worker-restarted")
            self._end(row.id, row.name, "failed", late)
        else:
            self._begin(row.id, order, again=row.begun is not None)


def _order_of(row: Row) -> Order | None:
    """The order of a job, or None where it cannot be read."""
    try:
        return orders.from_wire(row.wanted)
    except BadValue:
        return None
