"""A host that was restored from an older copy of itself: noticed, said, resynchronised; and nobody else is taken for one."""

import time
from copy import deepcopy
from datetime import timedelta

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some
from nacl.signing import SigningKey

from machines.contract import envelope, orders, reports
from machines.contract.states import HostState, JobState, MachineState
from machines.models import Event, Host, Job, Machine, Revision
from machines.panel.courier.intake import Taken, take
from machines.panel.hosts import freshness, resync
from tests import make
from tests.panel.test_freshness import RUNNING, Clock, age, clock, state  # noqa: F401

pytestmark = pytest.mark.django_db


class Ledger:
    """A host's side, with a ledger that can be put back: what machines/host/reports/ledger.py and reporting.py do with it."""

    def __init__(self) -> None:
        self.key = SigningKey.generate()
        self.host = make.host(signing=self.key)
        self.epoch, self.number, self.ahead = 1, 0, 0.0
        self.spool: list[str] = []

    def say(self, report: reports.Report | None = None) -> str:
        self.number += 1
        self.spool.append(self.sign(self.number, report or reports.Heartbeat()))
        return self.spool[-1]

    def sign(self, number: int, report: reports.Report) -> str:
        signed = envelope.SignedReport(
            host=self.host.id, generation=1, epoch=self.epoch, number=number, at=time.time() + self.ahead,
            report=reports.to_wire(report),
        )  # fmt: skip
        return envelope.sign_report(signed, self.key)

    def copy(self) -> tuple[int, int, list[str]]:
        return deepcopy((self.epoch, self.number, self.spool))

    def put_back(self, copy: tuple[int, int, list[str]]) -> None:
        self.epoch, self.number, self.spool = deepcopy(copy)

    def obey(self, order: orders.Resynchronise) -> bool:
        is_behind = self.epoch < order.epoch - 1 or self.number < order.number
        if order.epoch <= self.epoch or (order.if_behind and not is_behind):
            return False
        self.epoch, self.number, self.spool = order.epoch, order.number, []
        self.say()
        self.say(RUNNING)
        return True


def deliver(ledger: Ledger, *texts: str) -> list[Taken]:
    return take(ledger.host.id, [(f"{time.time_ns()}-{n}", text) for n, text in enumerate(texts)])


def asked(host: Host | None = None) -> orders.Resynchronise:
    """What the courier sends then (test_courier.py)."""
    host = host or Host.objects.get()
    return orders.Resynchronise(epoch=host.resync_epoch, number=host.report_number, if_behind=host.resync_since is None)


@pytest.fixture
def ledger(clock: Clock) -> Ledger:  # noqa: F811
    made = Ledger()
    tell(made, clock, RUNNING)
    return made


def tell(ledger: Ledger, clock: Clock, *what: reports.Report, times: int = 1) -> None:  # noqa: F811
    for _ in range(times):
        clock.now += 10
        for report in what or (reports.Heartbeat(),):
            assert deliver(ledger, ledger.say(report)) == [Taken.YES]


def resynchronise(ledger: Ledger) -> None:
    assert ledger.obey(asked())
    assert set(deliver(ledger, *ledger.spool)) == {Taken.YES}


def test_one_word_of_a_host_that_was_put_back_is_enough_to_notice_it(ledger, clock):  # noqa: F811
    copy = ledger.copy()
    tell(ledger, clock, times=3)
    before = Host.objects.get().last_seen
    ledger.put_back(copy)
    clock.now += 10
    assert deliver(ledger, ledger.say()) == [Taken.OLDER_COPY]
    host = Host.objects.get()
    assert (host.last_seen, host.report_number, host.resync_epoch) == (before, 4, 2)
    assert (Machine.objects.get().state, Machine.objects.get().why) == (MachineState.UNKNOWN, resync.UNKNOWN)
    assert "alpha was restored from an older copy of itself" in Event.objects.get(kind="host-restored").text
    for _ in range(8):  # the old numbers, and then higher ones, while the order is on its way
        clock.now += 10
        assert deliver(ledger, ledger.say()) == [Taken.OLDER_COPY]
    assert state() == HostState.OFFLINE
    resynchronise(ledger)
    assert (state(), age()) == (HostState.ONLINE, pytest.approx(0, abs=0.1))
    assert Machine.objects.get().state == MachineState.RUNNING
    assert Event.objects.count() == 1
    tell(ledger, clock, times=3)


def test_jobs_that_were_under_way_are_decided_and_one_that_waits_goes_on(ledger, clock):  # noqa: F811
    """Those that the copy knows are what it says they are."""
    jobs = {
        name: make.job(orders.Start(name=name), on=ledger.host, state=at, sent_at=timezone.now(), accepted_at=timezone.now())
        for name, at in (("gone", "running"), ("sent", "sent"), ("kept", "running"), ("ended", "accepted"))
    }  # fmt: skip
    waits = make.job(orders.Start(name="waits"), on=ledger.host, send_next_at=timezone.now() + timedelta(hours=1))
    copy = ledger.copy()
    tell(ledger, clock)
    ledger.put_back(copy)
    clock.now += 10
    deliver(ledger, ledger.say())
    assert {job.state for job in Job.objects.exclude(pk=waits.pk)} == {JobState.LOST}
    ended = reports.Outcome(job=jobs["ended"].uuid, state="succeeded", at=clock.now)
    listed = reports.Inventory(host=reports.HostFact(), machines=[], jobs=[jobs["kept"].uuid])
    ledger.epoch, ledger.number = asked().epoch, asked().number
    deliver(ledger, ledger.say(), ledger.say(ended), ledger.say(listed))
    for job in jobs.values():
        job.refresh_from_db()
    assert {name: job.state for name, job in jobs.items()} == {
        "gone": "lost", "sent": "lost", "kept": "accepted", "ended": "succeeded"
    }  # fmt: skip
    assert (jobs["gone"].is_given_up, jobs["sent"].is_given_up, jobs["kept"].problem) == (True, True, None)
    assert jobs["gone"].problem["message"].startswith("alpha was restored from an older copy of itself")
    waits.refresh_from_db()
    assert (waits.state, waits.send_next_at) == (JobState.QUEUED, timezone.now())


def test_what_a_job_that_was_given_up_held_is_free_again(ledger, clock):  # noqa: F811
    """The draft of its configuration, and the machine for other orders."""
    web = Machine.objects.get()
    revision = Revision.objects.create(machine=web, number=1, state="applying")
    order = orders.Apply(name="web", configuration=orders.Configuration(revision=1, nspawn="x", limits=""))
    make.job(order, on=ledger.host, state=JobState.ACCEPTED, accepted_at=timezone.now(), revision=revision)
    copy = ledger.copy()
    tell(ledger, clock)
    ledger.put_back(copy)
    clock.now += 10
    deliver(ledger, ledger.say())
    resynchronise(ledger)
    revision.refresh_from_db()
    assert revision.state == Revision.State.DRAFT
    make.job(orders.Start(name="web"), on=ledger.host)


@pytest.mark.parametrize("later", [0, 3])
def test_a_copy_from_before_an_earlier_resynchronisation_is_noticed_too(ledger, clock, later):  # noqa: F811
    copy = ledger.copy()
    tell(ledger, clock, times=5)
    for epoch in (2, 3):
        ledger.put_back(copy)
        clock.now += 10
        assert deliver(ledger, ledger.say()) == [Taken.OLDER_COPY]
        resynchronise(ledger)
        assert Host.objects.get().ledger_epoch == epoch
        tell(ledger, clock, times=later + 1)
    assert Event.objects.filter(kind="host-restored").count() == 2


def test_a_copy_is_put_back_once_more_while_it_is_being_resynchronised(ledger, clock):  # noqa: F811
    copy = ledger.copy()
    tell(ledger, clock, times=2)
    ledger.put_back(copy)
    clock.now += 10
    deliver(ledger, ledger.say())
    ledger.obey(asked())
    stray = ledger.spool
    ledger.put_back(copy)
    clock.now += 10
    old = ledger.say()
    assert deliver(ledger, *stray, old) == [Taken.YES, Taken.YES, Taken.OLDER_COPY]
    resynchronise(ledger)
    assert (state(), Host.objects.get().ledger_epoch) == (HostState.ONLINE, 3)


def test_old_reports_put_in_again_during_and_after_are_neither_news_nor_another_copy(ledger, clock):  # noqa: F811
    captured = [ledger.say() for _ in range(3)]
    deliver(ledger, *captured)
    copy = ledger.copy()
    tell(ledger, clock, times=2)
    ledger.put_back(copy)
    clock.now += 10
    captured += [ledger.say() for _ in range(4)]
    deliver(ledger, *captured)
    resynchronise(ledger)
    for _ in range(4):
        clock.now += 10
        assert deliver(ledger, ledger.say(), *captured) == [Taken.YES] + [Taken.AGAIN] * len(captured)
    assert (state(), Event.objects.count(), Host.objects.get().resync_since) == (HostState.ONLINE, 1, None)


def test_numbers_that_jump_forward_are_a_gap_and_no_older_copy(ledger, clock):  # noqa: F811
    ledger.number += 100
    assert deliver(ledger, ledger.say()) == [Taken.GAP]
    assert not Event.objects.exists()


def test_what_is_sent_again_on_demand_or_fills_a_gap_is_no_older_copy(ledger, clock):  # noqa: F811
    """Twice, out of order, and for numbers that were taken meanwhile: what fills a gap is dated by nobody."""
    tell(ledger, clock, times=3)
    spooled = list(ledger.spool)
    clock.now += 10
    filled = [
        envelope.sign_report(
            envelope.SignedReport(host=ledger.host.id, generation=1, epoch=1, number=n, at=envelope.SAYS_NOTHING,
                                  report=reports.to_wire(reports.Heartbeat())), ledger.key)
        for n in range(1, 5)
    ]  # fmt: skip
    assert deliver(ledger, *filled, *reversed(spooled)) == [Taken.AGAIN] * 8
    assert not Event.objects.exists()


@pytest.mark.parametrize("jump", [-3600.0, -50.0, 50.0, 3600.0])
def test_reports_that_come_twice_across_a_jump_of_the_clock_are_no_older_copy(ledger, clock, jump):  # noqa: F811
    for ledger.ahead in (jump, 0.0):
        clock.now += 10
        for _ in range(6):
            clock.now += 10
            deliver(ledger, ledger.say())
            assert set(deliver(ledger, *ledger.spool)) <= {Taken.AGAIN}
    assert not Event.objects.exists()


def test_a_host_put_back_together_with_its_clock_reads_offline_and_finds_out_when_asked(ledger, clock):  # noqa: F811
    tell(ledger, clock)
    copy = ledger.copy()
    tell(ledger, clock, times=20)
    ledger.put_back(copy)
    ledger.ahead = -200.0
    told = []
    for _ in range(7):
        clock.now += 10
        told += deliver(ledger, ledger.say())
    assert (told[0], told[-1], state()) == (Taken.AGAIN, Taken.DOUBTFUL, HostState.OFFLINE)
    assert not Event.objects.exists(), "whoever puts in old reports again could say as much"
    assert Host.objects.get().resync_ahead == pytest.approx(-200, abs=1), "the order is dated by its clock, too"
    resynchronise(ledger)
    assert Event.objects.filter(kind="host-restored").exists()
    tell(ledger, clock, times=2)
    assert (state(), Host.objects.get().clock_skew) == (HostState.ONLINE, pytest.approx(-200, abs=1))


def test_a_host_that_is_only_asked_whether_it_is_behind_goes_on_as_it_was(ledger, clock):  # noqa: F811
    tell(ledger, clock, times=3)
    clock.now += 70
    assert deliver(ledger, ledger.spool[0]) == [Taken.DOUBTFUL]
    assert not ledger.obey(asked())
    tell(ledger, clock)
    host = Host.objects.get()
    assert (state(), host.ledger_epoch, Event.objects.exists()) == (HostState.ONLINE, 1, False)


def test_a_host_older_than_the_panel_goes_by_its_numbers_alone(ledger, clock):  # noqa: F811
    Host.objects.update(ledger_epoch=0)
    ledger.epoch = 0
    tell(ledger, clock, times=2)
    ledger.number = 1
    clock.now += 10
    assert deliver(ledger, ledger.say()) == [Taken.AGAIN]
    assert not Event.objects.exists()
    ledger.number, ledger.epoch = Host.objects.get().report_number, 1
    tell(ledger, clock)
    assert Host.objects.get().ledger_epoch == 1, "its worker was replaced by one that knows epochs"


def test_last_words_without_a_number_of_an_older_copy_are_none(ledger, clock):  # noqa: F811
    copy = ledger.copy()
    tell(ledger, clock)
    ledger.put_back(copy)
    clock.now += 10
    deliver(ledger, ledger.say())
    clock.now += 10
    assert deliver(ledger, ledger.sign(0, reports.Heartbeat())) == [Taken.AGAIN]


def test_a_host_that_says_it_over_and_over_fills_no_list_of_events(ledger, clock):  # noqa: F811
    copy = ledger.copy()
    for _ in range(60):
        tell(ledger, clock)
        ledger.put_back(copy)
        clock.now += 1
        deliver(ledger, ledger.say())
        resynchronise(ledger)
    assert Event.objects.count() == 20


def test_no_epoch_a_host_may_name_is_too_high_to_be_answered(ledger, clock):  # noqa: F811
    ledger.epoch = 2**62 - 1
    tell(ledger, clock)
    ledger.number = 0
    clock.now += 10
    assert deliver(ledger, ledger.say()) == [Taken.OLDER_COPY]
    assert asked().epoch == 2**62


HAPPENINGS = some.lists(
    some.one_of(
        some.tuples(some.just("passes"), some.integers(1, 90)),
        some.tuples(some.just("says"), some.none()),
        some.tuples(some.just("comes"), some.integers(0, 40)),
        some.tuples(some.just("spool is trimmed"), some.integers(0, 3)),
        some.tuples(some.just("spool comes"), some.none()),
        some.tuples(some.just("is copied"), some.none()),
        some.tuples(some.just("is put back"), some.integers(0, 5)),
        some.tuples(some.just("obeys"), some.none()),
    ),
    max_size=40,
)


@settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(happenings=HAPPENINGS)
def test_whatever_comes_when_the_panel_finds_back_to_what_the_host_says(clock, happenings):  # noqa: F811
    """Honest reports, old ones put in again, reordered, twice, lost, with the host put back at any time to any copy. Only a
    new, recent report moves when it was seen; one that was never put back is never said to be."""
    Host.objects.all().delete()
    ledger = Ledger()
    copies, captured, was_put_back = [ledger.copy()], [], False

    def come(*texts: str) -> None:
        for text in texts:
            before = Host.objects.get()
            [taken] = deliver(ledger, text)
            after = Host.objects.get()
            if after.last_seen != before.last_seen:
                assert taken is Taken.YES
                assert (after.ledger_epoch, after.report_number) > (before.ledger_epoch, before.report_number)
                assert abs(after.last_seen.timestamp() - clock.now) < freshness.FRESH_SECONDS

    def obey() -> None:
        if Host.objects.get().resync_epoch >= 2:
            ledger.obey(asked())

    for what, value in happenings:
        if what == "passes":
            clock.now += value
        elif what == "says":
            clock.now += 0.001
            captured.append(ledger.say())
        elif what == "comes" and captured:
            come(captured[value % len(captured)])
        elif what == "spool is trimmed":
            ledger.spool = ledger.spool[value:]
        elif what == "spool comes":
            come(*ledger.spool)
        elif what == "is copied":
            copies.append(ledger.copy())
        elif what == "is put back":
            ledger.put_back(copies[value % len(copies)])
            was_put_back = True
        elif what == "obeys":
            obey()
            captured += ledger.spool
    for _ in range(10):  # all is well from here on
        clock.now += 10
        ledger.say()
        first = Host.objects.get().report_number + 1  # the panel asks again for what is missing
        come(*(nothing(ledger, n) for n in range(first, ledger.number + 1 - len(ledger.spool))), *ledger.spool)
        obey()
        come(*ledger.spool)
    host = Host.objects.get()
    assert (host.state(), host.ledger_epoch, host.report_number) == (HostState.ONLINE, ledger.epoch, ledger.number)
    assert host.resync_since is None
    assert was_put_back or not Event.objects.filter(host=host).exists()


def nothing(ledger: Ledger, number: int) -> str:
    signed = envelope.SignedReport(
        host=ledger.host.id, generation=1, epoch=ledger.epoch, number=number, at=envelope.SAYS_NOTHING,
        report=reports.to_wire(reports.Heartbeat()),
    )  # fmt: skip
    return envelope.sign_report(signed, ledger.key)
