"""Signs of life: old words put in again, kept back, handed on late; clocks that jump."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from nacl.signing import SigningKey

from machines.contract import envelope, reports
from machines.contract.states import HostState, MachineState
from machines.models import Event, Host, Machine
from machines.panel.courier import intake
from machines.panel.courier.courier import Courier
from machines.panel.courier.intake import Taken, take
from tests.panel.test_intake import HostVoice, fact

pytestmark = pytest.mark.django_db


class Clock:
    """The panel's clock, which only the test turns on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(timezone, "now", lambda: datetime.fromtimestamp(self.now, UTC))


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def voice(clock) -> HostVoice:
    return HostVoice()


def deliver(voice: HostVoice, *texts: str) -> list[Taken]:
    return take(voice.host.id, [(f"{time.time_ns()}-{n}", text) for n, text in enumerate(texts)])


def state() -> HostState:
    return Host.objects.get().state()


def age() -> float:
    seen = Host.objects.get().last_seen
    return (timezone.now() - seen).total_seconds()


def beat(voice: HostVoice, clock: Clock, times: int = 2) -> None:
    for _ in range(times):
        clock.now += 10
        assert voice.tell(reports.Heartbeat()) is Taken.YES


RUNNING = reports.Inventory(host=reports.HostFact(), machines=[fact()])


def test_one_captured_report_put_in_each_15_seconds_keeps_no_dead_host_alive(voice, clock):
    voice.tell(RUNNING)
    captured = [voice.say(reports.Heartbeat()), voice.say(RUNNING)]
    deliver(voice, *captured)
    for _ in range(5):
        clock.now += 15
        assert deliver(voice, *captured) == [Taken.AGAIN, Taken.AGAIN]
    assert (state(), age()) == (HostState.OFFLINE, pytest.approx(75, abs=0.1))


def test_one_that_the_panel_never_got_is_no_sign_of_life_when_it_comes_late(voice, clock):
    """And a machine that it tells of does not read running."""
    beat(voice, clock)
    kept = [voice.say(reports.Heartbeat()), voice.say(RUNNING), voice.say(reports.Heartbeat())]
    clock.now += 90
    assert deliver(voice, *kept) == [Taken.YES] * 3
    assert (state(), age()) == (HostState.OFFLINE, pytest.approx(90, abs=0.1))
    assert Machine.objects.get().state == MachineState.UNKNOWN
    host = Host.objects.get()
    assert (timezone.now() - host.inventory_at).total_seconds() == pytest.approx(90, abs=0.1)


def test_what_was_kept_back_for_less_than_a_minute_proves_no_more_than_it_did_then(voice, clock):
    beat(voice, clock)
    kept = voice.say(reports.Heartbeat())
    clock.now += 50
    deliver(voice, kept)
    assert age() == pytest.approx(50, abs=0.1)


def test_a_report_behind_a_gap_proves_nothing_until_the_gap_is_closed(voice, clock):
    beat(voice, clock)
    clock.now += 40
    missing, after = voice.say(reports.Heartbeat()), voice.say(reports.Heartbeat())
    assert deliver(voice, after) == [Taken.GAP]
    assert age() == pytest.approx(40, abs=0.1)
    assert deliver(voice, missing, after) == [Taken.YES, Taken.YES]
    assert age() == pytest.approx(0, abs=0.1)


def test_the_last_words_of_a_host_with_a_full_disk_count_once_whichever_courier_takes_them(voice, clock):
    """The newest one stands in the database, so neither another courier nor the same one later takes it again."""
    clock.now += 10
    kept = voice.say(reports.Heartbeat(), number=0)
    assert deliver(voice, kept) == [Taken.YES]
    assert not hasattr(intake, "_unnumbered"), "nothing a courier would have to remember"
    for _ in range(5):
        clock.now += 15
        assert deliver(voice, kept) == [Taken.AGAIN]
    assert state() == HostState.OFFLINE


def test_an_old_word_without_a_number_is_no_news_after_one_that_has_a_number(voice, clock):
    kept = voice.say(reports.Heartbeat(), number=0)
    voice.number = 0
    beat(voice, clock)
    assert deliver(voice, kept) == [Taken.AGAIN]


def test_redis_away_for_three_minutes_is_no_alarm(voice, clock):
    """A heartbeat or two wait in the spool, the rest is never written; then all come at once."""
    beat(voice, clock)
    waited = [voice.say(reports.Heartbeat()), voice.say(reports.Heartbeat())]
    clock.now += 180
    assert state() == HostState.OFFLINE
    deliver(voice, *waited, voice.say(reports.Heartbeat()))
    assert (state(), age()) == (HostState.ONLINE, pytest.approx(0, abs=0.1))
    assert Host.objects.get().clock_skew == pytest.approx(0, abs=0.1)
    assert not Event.objects.exists()


@pytest.mark.parametrize("jump", [-86400.0, -300.0, -50.0, 50.0, 300.0, 86400.0])
def test_a_host_whose_clock_jumps_stays_online_and_the_new_difference_is_kept(voice, clock, jump):
    for voice.ahead in (0.0, jump, 0.0):
        for _ in range(6):
            beat(voice, clock, 1)
            assert state() == HostState.ONLINE
            assert not Host.objects.get().is_unread(timezone.now())
        voice.tell(RUNNING)
        assert age() < 3
        assert Host.objects.get().clock_skew == pytest.approx(voice.ahead, abs=0.1)
    clock.now += 10
    kept = voice.say(reports.Heartbeat(), number=0)
    assert deliver(voice, kept) == [Taken.YES], "its last words count again, though some were signed in the future"
    assert not Event.objects.exists()


def test_what_was_kept_while_the_panel_s_clock_was_ahead_keeps_no_dead_host_alive(voice, clock):
    courier = Courier("redis://127.0.0.1:1", SigningKey.generate())  # nothing is sent
    beat(voice, clock, 3)
    clock.now += 86400
    voice.ahead = -86400
    beat(voice, clock, 3)
    clock.now -= 86400
    courier.sweep(timezone.now())
    for _ in range(7):
        clock.now += 10
        courier.sweep(timezone.now())
    assert state() == HostState.OFFLINE


def test_a_clock_that_jumps_ages_no_inventory(voice, clock):
    beat(voice, clock)
    voice.ahead = -600
    beat(voice, clock, 1)
    voice.tell(RUNNING)
    assert not Host.objects.get().is_unread(timezone.now())


def test_a_host_that_joins_with_a_wrong_clock_is_there_after_its_second_heartbeat(voice, clock):
    Host.objects.update(last_seen=None)
    voice.ahead = -3600
    voice.tell(RUNNING)
    beat(voice, clock, 1)
    assert state() == HostState.JOINING
    beat(voice, clock, 1)
    assert state() == HostState.ONLINE
    assert Machine.objects.get().state == MachineState.RUNNING


def test_what_only_fills_a_gap_says_nothing_of_the_host(voice, clock):
    """Neither of its load nor of its clock."""
    beat(voice, clock)
    before = Host.objects.get()
    signed = envelope.SignedReport(
        host=voice.host.id, generation=1, number=voice.number + 1, at=envelope.SAYS_NOTHING,
        report=reports.to_wire(reports.Heartbeat(load=77.0)),
    )  # fmt: skip
    clock.now += 30
    assert deliver(voice, envelope.sign_report(signed, voice.key)) == [Taken.YES]
    host = Host.objects.get()
    assert host.report_number == before.report_number + 1
    assert (host.facts, host.clock_heard, host.last_seen) == (before.facts, before.clock_heard, before.last_seen)


def test_a_newer_host_whose_words_cannot_be_read_is_alive_all_the_same(voice, clock):
    beat(voice, clock)
    clock.now += 30
    unknown = envelope.SignedReport(
        host=voice.host.id, generation=1, number=voice.number + 1, at=clock.now, report={"kind": "tomorrow"}
    )
    assert deliver(voice, envelope.sign_report(unknown, voice.key)) == [Taken.YES]
    assert age() == pytest.approx(0, abs=0.1)


def test_a_stream_that_is_kept_back_whole_buys_no_more_than_it_cost_and_says_that_the_clock_is_behind(voice, clock):
    """What cannot be told (freshness.py): the host read offline for ten minutes, so that it could look alive for ten."""
    beat(voice, clock)
    kept = []
    for _ in range(60):  # then it dies
        clock.now += 10
        kept.append(voice.say(reports.Heartbeat()))
    assert state() == HostState.OFFLINE
    for text in kept:
        clock.now += 10
        deliver(voice, text)
        host = Host.objects.get()
        assert host.is_silent or host.clock_skew == pytest.approx(-600, abs=1)
    clock.now += 61
    assert state() == HostState.OFFLINE
    for text in kept:
        clock.now += 10
        assert deliver(voice, text) == [Taken.AGAIN]
    assert state() == HostState.OFFLINE


WHAT_HAPPENS = some.lists(
    some.one_of(
        some.tuples(some.just("passes"), some.integers(1, 90)),
        some.tuples(some.just("says"), some.booleans()),
        some.tuples(some.just("comes"), some.integers(0, 30)),
        some.tuples(some.just("all come"), some.none()),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happenings=WHAT_HAPPENS)
def test_only_a_new_recent_report_in_its_place_moves_when_a_host_was_seen(clock, happenings):
    """Whatever is kept back, reordered, put in twice or lost; and after it all, two words of the host are enough."""
    Host.objects.all().delete()
    voice, said = HostVoice(), []
    Host.objects.update(last_seen=timezone.now() - timedelta(hours=1), clock_skew=0.0, clock_heard=0.0)

    def come(*chosen: tuple[int, float, str]) -> None:
        for number, at, text in chosen:
            before = Host.objects.get()
            deliver(voice, text)
            after = Host.objects.get()
            is_new = number == before.report_number + 1 or (number == 0 and at > before.signed_at)
            if after.last_seen != before.last_seen:
                assert is_new
                by_our_clock = at - after.clock_skew  # which two late ones in a row may have set
                assert abs(clock.now - by_our_clock) < 60
                assert after.last_seen.timestamp() == pytest.approx(min(by_our_clock, clock.now), abs=0.001)

    for what, value in happenings:
        if what == "passes":
            clock.now += value
        elif what == "says":
            said.append((voice.number + 1, clock.now, voice.say(reports.Heartbeat())))
            if value:
                kept = voice.number
                said.append((0, clock.now, voice.say(reports.Heartbeat(), number=0)))
                voice.number = kept
        elif what == "all come":
            come(*said)
        elif said:
            come(said[value % len(said)])
    for _ in range(2):
        clock.now += 10
        said.append((voice.number + 1, clock.now, voice.say(reports.Heartbeat())))
        come(*sorted(said))
    host = Host.objects.get()
    assert (host.report_number, age()) == (voice.number, pytest.approx(0, abs=0.001))
