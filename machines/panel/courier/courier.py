"""The courier: one process, the only holder of the panel's signing key.

It seals what is queued and sends it until the host accepts or the order expires, and takes what the hosts report. The
database is the queue; Redis may be emptied at any moment and nothing is lost.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import redis
from django.db import Error as DatabaseError
from django.db import close_old_connections, transaction
from django.db.models import Q
from django.utils import timezone
from kombu.exceptions import KombuError, OperationalError
from nacl.signing import SigningKey

from machines.contract import envelope, orders
from machines.contract.permissions import Role
from machines.contract.problems import Problem
from machines.contract.states import (
    INVENTORY_STALE_SECONDS,
    OFFLINE_SECONDS,
    JobState,
    MachineState,
)
from machines.models import Host, Job, Machine
from machines.models.job import WAS_SENT, JobQuerySet
from machines.panel.audit import receipts, refusals, retention, seals
from machines.panel.courier import completion, database_file, intake, key_ring
from machines.panel.courier.host_caps import Watch
from machines.panel.courier.key_ring import KeyRing
from machines.panel.courier.mailbox import TIMEOUT, Mailbox
from machines.panel.courier.redis_users import Guard
from machines.panel.courier.welcomes import Welcomes
from machines.panel.hosts import clocks, epochs, freshness, quarantine, resync
from machines.panel.images import archive_files
from machines.panel.orders import assignments
from machines.panel.orders.dispatch import SECRETS_LAST

log = logging.getLogger(__name__)

AT_ONCE = 100
SWEEP_EVERY = timedelta(seconds=1)
TIDY_EVERY = timedelta(hours=1)
CANCEL_AGAIN = CLOCK_AGAIN = timedelta(seconds=5)
RESEND_AGAIN = timedelta(seconds=2)
REPORTS_AT_ONCE = 20  # in one transaction at most; see intake.TAKE_SECONDS
TURN = 1.0  # seconds for one round of all hosts' reports, in equal parts
WATCH_EVERY = 0.5  # seconds
TOO_OLD = "Its host is connected, but has not reported the state of its machines for some time."
CONTROL_LIFE = 60  # seconds a control order is valid
FILES_AFTER = timedelta(seconds=20)  # how long a machine may be known without a word of its files
FILES_AGAIN = timedelta(minutes=10)  # between two questions to one host
ITSELF = envelope.Actor(
    name=completion.ITSELF, role=Role.ADMINISTRATOR
)  # who gives a control order that nobody has asked for
LONGEST_WAIT = timedelta(seconds=60)  # between two sendings of an order
SOME_TIME_AGO = datetime.min.replace(tzinfo=UTC)
HELD = -1  # in place of an epoch's number: nothing is sent
TROUBLE: tuple[type[Exception], ...] = (redis.RedisError, KombuError, OperationalError, OSError, DatabaseError)


class Courier:
    def __init__(
        self, url: str, key: SigningKey | KeyRing, epoch_file: Path | None = None, *, guard_url: str = ""
    ) -> None:
        self._ring = key if isinstance(key, KeyRing) else KeyRing(key)
        self._keeper = epochs.Keeper(epoch_file)
        self._notary = seals.Notary(lambda: self._ring.current, epoch_file.with_name("history") if epoch_file else None)
        self._epoch = 0  # the one in which orders were sent last
        self._sealing = threading.Lock()  # or the order with the later place might leave first
        self._outgoing, self._incoming = Mailbox(url), Mailbox(url)
        guard, third = Guard(guard_url, timeout=TIMEOUT) if guard_url else None, Mailbox(url)
        self._watch, self._welcomes = Watch(third, guard), Welcomes(self._ring, third, guard)
        self._stop = threading.Event()
        self._swept = self._looked = self._tidied = SOME_TIME_AGO
        self._asked: dict[UUID, datetime] = {}  # host → when it was asked to tell of files again
        self._told_keys: dict[UUID, datetime] = {}
        self._greeted: dict[UUID, datetime] = {}  # host → when it was last told of the epoch

    def run(self) -> None:
        """Work until stop() is called: sending in one thread, reading in another, and a third looks after those who take
        too much of what all share."""
        others = [
            threading.Thread(target=self._loop, args=("reading", self._read_once), name="reader"),
            threading.Thread(target=self._loop, args=("watching", self._watch_once), name="watcher"),
        ]
        for thread in others:
            thread.start()
        self._loop("sending", self._send_once)
        for thread in others:
            thread.join()

    def stop(self) -> None:
        self._stop.set()

    def _loop(self, what: str, step: Callable[[], None]) -> None:
        """Repeat a step for ever; a mailbox or database that is away is waited for."""
        away = False
        while not self._stop.is_set():
            try:
                database_file.follow()
                step()
                if away:
                    log.info("%s works again", what)
                away = False
            except TROUBLE as error:
                if not away:
                    log.warning("%s has to wait: %s", what, error)
                away = True
                close_old_connections()
                self._stop.wait(0.5)
            except Exception:  # a mistake of ours, perhaps with a host's help: it must not end the courier
                log.exception("%s failed and is tried again", what)
                self._stop.wait(0.5)

    # --- orders out

    def _send_once(self) -> None:
        """A poke is answered by sending; what only time changes is looked after once a second."""
        now = timezone.now()
        did = self.send_due(now)
        if _is_due(self._swept, SWEEP_EVERY, now):
            self.sweep(now)
            self._ring.follow()
            self.tell_keys(now)
            self._notary.look(now)
            self._swept = now
        if _is_due(self._looked, FILES_AFTER, now):
            self.ask_for_files(now)
            self._looked = now
        if _is_due(self._tidied, TIDY_EVERY, now):
            archive_files.forget_abandoned()
            retention.forget_old(now)
            refusals.say_held(now)
            receipts.look_for_missing(now)
            self._tidied = now
        self._keeper.mark(now, at_once=did)
        if self._outgoing.wait_for_poke():
            self._keeper.mark(now, at_once=True)  # somebody decided something: a copy from before is an older one

    def send_due(self, now: datetime) -> bool:
        """Send every order that is due, oldest first, and before them every cancel that has had no effect yet. Whether
        there was any.

        Silent hosts get nothing: their orders wait here, where they can be cancelled, not in a mailbox.
        """
        if not self._keeper.check():
            self._hold_back()
            return False
        self._begin_epoch(now)
        seen = now - timedelta(seconds=OFFLINE_SECONDS)
        awake = Job.objects.filter(host__last_seen__gte=seen, host__quarantined_at=None).select_related("host", "team")
        owed = _owed_a_cancel(awake, now)
        for job in owed:
            by = _canceller(job) if job.cancelled_by else ITSELF
            self._control(job.host, orders.Cancel(job=job.uuid), by=by)
            Job.objects.filter(pk=job.pk).update(cancel_sent_at=now)
        # A moment too far away was set by a clock that was wrong
        is_due = Q(send_next_at__lte=now) | Q(send_next_at__gt=now + LONGEST_WAIT)
        due = list(awake.waiting().filter(is_due, expires_at__gt=now, cancel_asked_at=None).order_by("id")[:AT_ONCE])
        for job in due:
            self._send(job, now)
        return bool(owed or due)

    def _hold_back(self) -> None:
        """While this is taken for an older copy of the panel: orders wait and say why, and none waits in a mailbox."""
        if not epochs.is_restored():
            return
        if self._epoch != HELD:
            self._empty_mailboxes()
            self._epoch = HELD
        why = epochs.problem().to_wire()
        # Those of a quarantined host say that (quarantine.py)
        unsaid = Job.objects.waiting().filter(host__quarantined_at=None).exclude(problem__code=why["code"])
        numbers = list(unsaid.values_list("pk", flat=True)[:AT_ONCE])
        Job.objects.waiting().filter(pk__in=numbers).update(problem=why)

    def _begin_epoch(self, now: datetime) -> None:
        """What lies in mailboxes is of an earlier epoch; every host hears of this one before its next order."""
        if self._epoch not in {self._keeper.number, 0}:
            self._empty_mailboxes()
        self._epoch = self._keeper.number
        for host in Host.objects.awake(now).filter(quarantined_at=None, heard_epoch__lt=self._epoch):
            if _is_due(self._greeted.get(host.pk, SOME_TIME_AGO), CANCEL_AGAIN, now):
                self._greeted[host.pk] = now
                self._control(host, orders.Refresh())

    def _empty_mailboxes(self) -> None:
        for number in Host.objects.values_list("pk", flat=True):
            self._outgoing.empty(number)

    def _send(self, job: Job, now: datetime) -> None:
        if why := _obstacle(job):
            still = Job.objects.waiting().filter(pk=job.pk)
            still.update(send_next_at=now + CLOCK_AGAIN, problem=why.to_wire())
            return
        with self._sealing:
            self._send_sealed(job, now)

    def _send_sealed(self, job: Job, now: datetime) -> None:
        order = {**job.order, "sealed": job.sealed} if job.sealed else job.order
        wait = min(5 * 2**job.sends, LONGEST_WAIT.seconds)
        try:
            sealed = self._seal(
                job.host, job.uuid, order, expires=job.expires_at.timestamp(), actor=_actor(job), attempt=job.sends + 1
            )  # fmt: skip
        except Problem as problem:  # too large for an envelope; it must not hold up the orders behind it
            self._end_here(job, JobState.FAILED, now, problem=problem.to_wire())
            return
        # Counted before it leaves: one that is cancelled from here on may have been taken all the same (Job.move).
        still = Job.objects.waiting().filter(pk=job.pk, cancel_asked_at=None)
        if not still.update(sends=job.sends + 1, send_next_at=now + timedelta(seconds=wait)):
            return
        try:
            self._outgoing.send(job.host_id, sealed)
        except TROUBLE:  # Redis is full, or away; it is tried again as soon as it is not
            still.update(send_next_at=now)
            raise
        sent_at = job.sent_at or now
        if not Job.objects.move(
            job.pk, JobState.SENT, sent_at=sent_at
        ):  # sent before, or its host was faster than this
            Job.objects.filter(pk=job.pk, sent_at=None).update(sent_at=sent_at)

    def _control(
        self,
        host: Host,
        order: orders.Order,
        *,
        by: envelope.Actor = ITSELF,
        mailbox: Mailbox | None = None,
        alone: bool = False,
        also_by: float | None = None,
    ) -> None:
        """`mailbox` is that of the calling thread, `alone` throws away what lies there, `also_by` is as for _seal()."""
        mailbox, expires = mailbox or self._outgoing, time.time() + CONTROL_LIFE
        with self._sealing:
            sealed = self._seal(host, uuid4(), orders.to_wire(order), expires=expires, actor=by, also_by=also_by)
            if alone:
                mailbox.empty(host.id)
            mailbox.send(host.id, sealed)

    def _seal(
        self,
        host: Host,
        job: UUID,
        order: dict[str, object],
        *,
        expires: float,
        actor: envelope.Actor,
        attempt: int = 1,
        also_by: float | None = None,
    ) -> str:
        """Dated by the host's own clock, so that the doctor's orders and what steers a job arrive there at any time; and
        by another one that may be its own, `also_by` seconds ahead."""
        ahead = host.clock_skew or 0.0
        other = ahead if also_by is None else also_by
        place = epochs.present_place if orders.kind_of(str(order["op"])).reads_only else epochs.next_place
        epoch, sequence = place(host, self._keeper.number)
        return envelope.seal(
            envelope.Envelope(
                host=host.id,
                generation=host.generation,
                job=job,
                attempt=attempt,
                epoch=epoch,
                sequence=sequence,
                order=orders.to_send(order),
                issued=time.time() + min(ahead, other),
                expires=expires + max(ahead, other),
                actor=actor,
            ),
            self._ring.for_host(host.panel_keys),
        )

    # --- what time alone changes

    def sweep(self, now: datetime) -> None:
        """Orders nobody accepted in time, and what may no longer be claimed of silent hosts."""
        freshness.clamp_future(now)
        overdue = Job.objects.waiting().filter(expires_at__lte=now)
        for job in overdue[:AT_ONCE]:
            if job.sends:
                self._outgoing.empty(job.host_id)
            self._end_here(job, JobState.EXPIRED, now, problem=_expired(job).to_wire(), owes_cancel=WAS_SENT)
        silent = Host.objects.silent(now)
        for job in Job.objects.filter(state__in=["accepted", "running"], host__in=silent)[:AT_ONCE]:
            Job.objects.move(job.pk, JobState.LOST)
        for job in Job.objects.filter(state=JobState.SENT, cancel_asked_at__isnull=False, host__in=silent)[:AT_ONCE]:
            self._outgoing.empty(job.host_id)
            self._end_here(job, JobState.CANCELLED, now, owes_cancel=WAS_SENT)
        for job in Job.objects.filter(state=JobState.QUEUED, cancel_asked_at__isnull=False)[:AT_ONCE]:
            self._end_here(job, JobState.CANCELLED, now, owes_cancel=WAS_SENT)
        claimed = Machine.objects.filter(host__in=silent).exclude(state=MachineState.UNKNOWN)
        claimed.mark_unknown("", now)
        for host in Host.objects.unread(now):
            why = host.trouble.get("loop") or host.trouble.get("machines") or TOO_OLD
            old = now - timedelta(seconds=INVENTORY_STALE_SECONDS)
            Machine.objects.on(host).listed().filter(changed_at__lt=old).mark_unknown(why, now)
        if not epochs.is_restored():
            assignments.place_due(now, AT_ONCE)
        quarantine.say_why_orders_wait(AT_ONCE)
        Job.objects.filter(finished_at__lte=now - SECRETS_LAST).exclude(sealed="").update(sealed="")

    def tell_keys(self, now: datetime) -> None:
        """Hosts that do not obey just the panel's keys hear of them, until they say that they do."""
        if epochs.is_restored() or not self._keeper.number:
            return
        for host in key_ring.untold(self._ring.ids())[:AT_ONCE]:
            if _is_due(self._told_keys.get(host.pk, SOME_TIME_AGO), CANCEL_AGAIN, now):
                self._told_keys[host.pk] = now
                self._control(host, orders.TrustKeys(keys=self._ring.publics()))

    def ask_for_files(self, now: datetime) -> None:
        """Machines whose files nobody has told of: that report was lost, or came before the machine was known."""
        bare = Machine.objects.listed().filter(observed_files=None, changed_at__lte=now - FILES_AFTER)
        bare = bare.exclude(state__in=[MachineState.UNKNOWN, MachineState.MISSING])
        for host in Host.objects.awake(now).filter(pk__in=bare.values("host")):
            if _is_due(self._asked.get(host.pk, SOME_TIME_AGO), FILES_AGAIN, now):
                self._asked[host.pk] = now
                self._control(host, orders.Refresh())

    @staticmethod
    def _end_here(job: Job, state: JobState, now: datetime, **fields: object) -> None:
        """A job ends without a word of its host, and all that hangs on it with it."""
        with transaction.atomic():
            if Job.objects.move(job.pk, state, finished_at=now, **fields):
                completion.abandoned(job)

    # --- reports in

    def _watch_once(self) -> None:
        self._welcomes.answer()
        self._watch.look()
        self._stop.wait(WATCH_EVERY)

    def _read_once(self) -> None:
        given = Host.objects.values_list("id", "stream_position", "quarantined_at", "paused_until")
        positions = {
            host_id: position
            for host_id, position, *shut in given
            if not quarantine.is_shut(*shut) and self._watch.may_be_read(host_id)
        }
        if not positions:
            self._stop.wait(WATCH_EVERY)
        found, faults = self._incoming.read(positions)
        for host_id, why in faults.items():
            self._watch.strike(host_id, why)
        for host_id, entries in found.items():
            try:
                self._take(host_id, entries, TURN / len(found))
            except TROUBLE:
                raise
            except Host.DoesNotExist:
                log.info("Host %s was removed while its reports were read; they are ignored", host_id)
            except Exception:  # with this host's help: the others have their turn
                log.exception("Reports of host %s could not be taken", host_id)

    def _take(self, host_id: UUID, entries: list[tuple[str, str]], turn: float) -> None:
        """What one host said, for a turn's time; the rest is read again when the others had theirs."""
        until = time.monotonic() + turn
        done = 0
        while done < len(entries):
            taken = intake.take(host_id, entries[done : done + REPORTS_AT_ONCE])
            if self._watch.note_refused(host_id, taken.count(intake.Taken.REFUSED)):
                return
            if intake.Taken.GAP in taken:
                self._ask_again(host_id)
            if {intake.Taken.OLDER_COPY, intake.Taken.DOUBTFUL} & set(taken):
                self._resynchronise(host_id)
            done += len(taken)
            if time.monotonic() > until:
                break
        self._watch.note_read(host_id, done, sum(len(text) for _, text in entries[:done]))
        self._incoming.forget(host_id, entries[done - 1][0])

    def _ask_again(self, host_id: UUID) -> None:
        """Something was lost on the way: ask the host's spool for it, but not for every report that follows."""
        now = timezone.now()
        asked = Host.objects.filter(_is_column_due("resend_asked_at", RESEND_AGAIN, now), pk=host_id)
        if asked.update(resend_asked_at=now):
            host = Host.objects.get(pk=host_id)
            self._control(host, orders.Resend(after=host.report_number), mailbox=self._incoming)

    def _resynchronise(self, host_id: UUID) -> None:
        """Let a host that was put back to an older copy, or may have been, begin another epoch. What lies in its mailbox
        might have been done before; it is dated by our clock and by that of the copy."""
        now, host = timezone.now(), Host.objects.get(pk=host_id)
        if epochs.is_restored() or (host.heard_epoch is not None and not self._keeper.number):
            return  # this panel may be the older copy: what it knows of the host's reports is not the last
        again = resync.AGAIN if host.resync_since else resync.ASK_AGAIN
        asked = Host.objects.filter(_is_column_due("resend_asked_at", again, now), pk=host_id)
        if not asked.update(resend_asked_at=now):
            return
        order = orders.Resynchronise(
            epoch=host.resync_epoch, number=host.report_number, if_behind=host.resync_since is None
        )
        self._control(host, order, mailbox=self._incoming, alone=True, also_by=host.resync_ahead)


def _is_due(last: datetime, every: timedelta, now: datetime) -> bool:
    """Whether something is to be done again. A moment that is ahead of us was kept before our clock was put right."""
    return not last <= now < last + every


def _is_column_due(last: str, every: timedelta, now: datetime) -> Q:
    """The same by a column of the database, which is None for what was never done."""
    return Q(**{last: None}) | ~Q(**{f"{last}__range": (now - every, now)})


def _owed_a_cancel(awake: JobQuerySet, now: datetime) -> list[Job]:
    """Two questions, each of which has an index: a single one for both reads every job there ever was."""
    again = _is_column_due("cancel_sent_at", CANCEL_AGAIN, now)
    asked = awake.unfinished().filter(again, cancel_asked_at__isnull=False, owes_cancel=False)
    withdrawn = awake.filter(again, owes_cancel=True).order_by("host_id")
    return [*asked[:AT_ONCE], *withdrawn[:AT_ONCE]][:AT_ONCE]


def _obstacle(job: Job) -> Problem | None:
    """Why an order cannot be sent to its host now."""
    host = job.host
    if host.resync_since:
        return resync.waits(host.name)
    if clocks.holds_back(host.clock_skew, job.op):
        return clocks.problem(host.name, host.clock_skew)
    return quarantine.problem(host) if host.quarantined_at else None


def _actor(job: Job) -> envelope.Actor:
    """Who asked for it, as its host is told: with what the person was in the team then. What an administrator asks is asked for no
    team, but a machine that is built for one."""
    is_any_teams = job.actor_role == Role.ADMINISTRATOR and job.op != orders.op_of(orders.Build)
    slug = "" if job.team is None or is_any_teams else job.team.slug
    return envelope.Actor(name=job.actor_name, role=job.actor_role, team=slug, extra=tuple(job.actor_extra))


def _canceller(job: Job) -> envelope.Actor:
    role = job.cancelled_role or ITSELF.role
    slug = "" if job.team is None or role == Role.ADMINISTRATOR else job.team.slug
    return envelope.Actor(name=job.cancelled_by, role=role, team=slug)


def _expired(job: Job) -> Problem:
    said, why = f"{job.host.name} did not accept the request in time.", _obstacle(job)
    # What became of it there: job_words.withdrawal()
    return Problem(said, code="expired", hint=why.message if why else "")
