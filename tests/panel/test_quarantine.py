"""Whoever stole a host's Redis password, against a real Valkey with the panel's real users: what it may do, how long it may,
and that no other host notices. The courier's turns are taken by hand."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from math import inf
from uuid import uuid4

import pytest
import redis
from django.utils import timezone
from nacl.signing import SigningKey

from machines.contract import orders, reports, routes
from machines.contract.states import JobState
from machines.models import Event, Host, Job, RedisCheck
from machines.panel.courier import host_caps, mailbox, redis_check, removed_hosts
from machines.panel.courier.courier import Courier
from machines.panel.courier.redis_users import Clients, Guard
from machines.panel.hosts import budgets, quarantine
from nspawnpanel.valkey import Valkey
from tests import make
from tests.panel.test_intake import HostVoice

pytestmark = pytest.mark.django_db(transaction=True)
LAST = f"{2**64 - 1}-{2**64 - 1}"
Attack = Callable[[redis.Redis, str], object]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        mailbox.add_user(server.admin_url, "np-courier", "secret", routes.courier_acl())
        mailbox.add_user(server.admin_url, "np-guard", "secret", routes.guard_acl())
        yield server


@pytest.fixture
def greedy(valkey: Valkey) -> HostVoice:
    valkey.flush()
    return join(valkey, HostVoice("alpha"))


@pytest.fixture
def other(valkey: Valkey) -> HostVoice:
    return join(valkey, HostVoice("beta"))


@pytest.fixture
def thief(valkey: Valkey, greedy: HostVoice) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(valkey.url(routes.user(str(greedy.host.id)), "secret"))
    yield client
    client.close()


@pytest.fixture
def courier(valkey: Valkey, greedy: HostVoice, monkeypatch) -> Courier:
    monkeypatch.setattr(host_caps, "APART", 0.0)  # the turns of a test follow each other at once
    monkeypatch.setattr("machines.panel.courier.mailbox.BLOCK_MS", 1)
    monkeypatch.setattr("machines.panel.courier.courier.TURN", inf)  # a busy machine is no part of the attack
    monkeypatch.setattr("machines.panel.courier.intake.TAKE_SECONDS", inf)
    return Courier(
        valkey.url("np-courier", "secret"), SigningKey.generate(), guard_url=valkey.url("np-guard", "secret")
    )


def join(valkey: Valkey, voice: HostVoice) -> HostVoice:
    host_id = str(voice.host.id)
    mailbox.add_user(valkey.admin_url, routes.user(host_id), "secret", routes.host_acl(host_id))
    Host.objects.filter(pk=voice.host.pk).update(heard_epoch=1)
    return voice


def stream(voice: HostVoice) -> str:
    return routes.stream(str(voice.host.id))


def kinds() -> list[str]:
    others = ["report-refused", "access-refused", "job-requested", "job-ended"]
    return list(Event.objects.exclude(kind__in=others).order_by("id").values_list("kind", flat=True))


def let_go_by(courier: Courier) -> None:
    """What a pause waits for."""
    Host.objects.exclude(paused_until=None).update(paused_until=timezone.now() - timedelta(seconds=1))
    courier._watch.look()


def read_until(courier: Courier, done: Callable[[], bool]) -> None:
    """As many turns as it takes on a busy machine."""
    for _ in range(50):
        courier._read_once()
        courier._watch.look()
        if done():
            return


def fill(client: redis.Redis, key: str) -> None:
    for _ in range(14):  # more than may lie there, also after a turn of the reader's
        client.xadd(key, {"r": "x" * 3_000_000})


def many_small(client: redis.Redis, key: str) -> None:
    pipe = client.pipeline(transaction=False)
    for _ in range(200):
        pipe.xadd(key, {"r": "nobody signed this"})
    pipe.execute()


def many_fields(client: redis.Redis, key: str) -> None:
    client.execute_command("XADD", key, "*", *["x", ""] * 60_000)


def last_id(client: redis.Redis, key: str) -> None:
    client.xadd(key, {"r": "x"}, id=LAST)


def last_id_unseen(client: redis.Redis, key: str) -> None:
    client.execute_command("XADD", key, "MAXLEN", "0", LAST, "r", "x")


ATTACKS = [fill, many_small, many_fields, last_id, last_id_unseen]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_greedy_host_is_emptied_then_paused_then_quarantined_and_no_other_notices(
    attack: Attack, valkey, courier, greedy, other, thief
):
    own = redis.Redis.from_url(valkey.url(routes.user(str(other.host.id)), "secret"))
    for turn in range(3):
        attack(thief, stream(greedy))
        own.xadd(stream(other), {"r": other.say(reports.Heartbeat())})
        read_until(courier, lambda turn=turn: len(kinds()) > turn)
        other.host.refresh_from_db()
        assert other.host.report_number == turn + 1
        assert (valkey.admin().memory_usage(stream(greedy)) or 0) < 100_000
        let_go_by(courier)
    assert kinds() == ["stream-emptied", "host-paused", "host-quarantined"]
    host = Host.objects.get(pk=greedy.host.pk)
    assert host.quarantined_at
    assert host.quarantine_why.startswith("alpha ")
    with pytest.raises(redis.AuthenticationError):
        attack(thief, stream(greedy))


@pytest.mark.parametrize("attack", [last_id, last_id_unseen], ids=lambda attack: attack.__name__)
def test_the_highest_id_mutes_no_host_for_longer_than_a_turn(attack: Attack, courier, greedy, thief):
    attack(thief, stream(greedy))
    courier._read_once()
    courier._watch.look()
    thief.xadd(stream(greedy), {"r": greedy.say(reports.Heartbeat())})
    courier._read_once()
    greedy.host.refresh_from_db()
    assert greedy.host.report_number == 1


def test_a_stream_that_begins_anew_under_lower_ids_is_read_all_the_same(valkey, courier, greedy, thief):
    """As after a start of Redis, where somebody chose an id of later today, or its clock was set back."""
    thief.xadd(stream(greedy), {"r": "x"}, id=int((time.time() + 3000) * 1000))
    courier._read_once()
    valkey.flush()
    thief.xadd(stream(greedy), {"r": greedy.say(reports.Heartbeat())})
    courier._watch.look()
    courier._read_once()
    assert Host.objects.get(pk=greedy.host.pk).report_number == 1


def test_what_was_taken_goes_from_redis_also_when_that_failed_at_the_moment(
    valkey, courier, greedy, thief, monkeypatch
):
    """Its worker says nothing more while it lies there."""

    def fail(*_: object) -> None:
        raise redis.ConnectionError

    with monkeypatch.context() as broken:
        broken.setattr(courier._incoming, "forget", fail)
        thief.xadd(stream(greedy), {"r": "x" * 3_000_000})
        with pytest.raises(redis.ConnectionError):
            courier._read_once()
    unread = thief.xadd(stream(greedy), {"r": greedy.say(reports.Heartbeat())})
    courier._watch.look()
    assert [position for position, _ in valkey.admin().xrange(stream(greedy))] == [unread.decode()]


def test_a_key_of_the_wrong_kind_keeps_nobodys_reports_from_being_read(valkey, courier, greedy, other):
    """No host's user can make one; whoever holds Redis can."""
    valkey.admin().set(stream(greedy), "no stream" * 100_000)
    valkey.admin().xadd(stream(other), {"r": other.say(reports.Heartbeat())})
    courier._watch.look()
    courier._read_once()
    other.host.refresh_from_db()
    assert other.host.report_number == 1
    assert kinds() == ["stream-emptied"]
    valkey.admin().xadd(stream(greedy), {"r": greedy.say(reports.Heartbeat())})
    courier._read_once()
    greedy.host.refresh_from_db()
    assert greedy.host.report_number == 1


def test_a_mailbox_of_the_wrong_kind_keeps_nobodys_orders_from_leaving(valkey, courier, greedy, other):
    queues = [routes.prefix(str(v.host.id)) + routes.queue(str(v.host.id)) for v in (greedy, other)]
    valkey.admin().set(queues[0], "no list")
    first, second = (make.job(orders.Start(name="web"), on=voice.host) for voice in (greedy, other))
    courier.send_due(timezone.now())
    assert [valkey.admin().llen(queue) for queue in queues] == [1, 1]
    assert set(Job.objects.filter(pk__in=[first.pk, second.pk]).values_list("state", flat=True)) == {JobState.SENT}


def test_what_a_host_says_faster_than_any_worker_is_not_read_before_its_time(
    courier, greedy, other, valkey, monkeypatch
):
    """Its own worker waits for that; whoever goes on fills the stream of this host and is shut out for it."""
    monkeypatch.setattr(host_caps, "READ_PER_SECOND", 0.1)
    for _ in range(2):
        valkey.admin().xadd(stream(greedy), {"r": greedy.say(reports.Heartbeat())})
        courier._read_once()
    valkey.admin().xadd(stream(other), {"r": other.say(reports.Heartbeat())})
    courier._read_once()
    numbers = dict(Host.objects.values_list("name", "report_number"))
    assert numbers == {"alpha": 1, "beta": 1}


def test_connections_without_end_are_closed(valkey, courier, greedy, thief):
    url = valkey.url(routes.user(str(greedy.host.id)), "secret")
    held = [redis.Redis.from_url(url) for _ in range(host_caps.CLIENTS + 1)]
    for client in held:
        client.ping()
    courier._watch.look()
    assert kinds() == ["stream-emptied"]
    courier._watch.look()
    assert kinds() == ["stream-emptied", "host-paused"]
    left = [client for client in valkey.admin().client_list() if client["user"] == routes.user(str(greedy.host.id))]
    assert left == []
    for client in held:
        client.close()


def test_what_lies_on_a_connection_counts_too():
    fill, few = mailbox.Fill(0), Clients(2, host_caps.CLIENT_BYTES + 1)
    assert "on its connections to Redis" in host_caps.breach(fill, "0", few)
    assert host_caps.breach(fill, "0", Clients(4, 200_000)) == ""


def test_orders_of_a_quarantined_host_wait_and_say_why(valkey, courier, greedy, other, as_viewer):
    Host.objects.filter(pk=greedy.host.pk).update(
        quarantined_at=timezone.now(), quarantine_why="alpha put in too much."
    )
    job, free = (make.job(orders.Start(name="web"), on=voice.host) for voice in (greedy, other))
    courier.send_due(timezone.now())
    courier.sweep(timezone.now())
    job.refresh_from_db(), free.refresh_from_db()
    assert (job.state, job.sends, job.problem["code"]) == (JobState.QUEUED, 0, "host-quarantined")
    assert job.problem["hint"].startswith("alpha put in too much. Requests wait until")
    assert "waiting: host alpha is quarantined" in as_viewer.get(f"/jobs/{job.pk}/").content.decode()
    assert free.state == JobState.SENT
    courier.sweep(job.expires_at + timedelta(seconds=1))
    job.refresh_from_db()
    assert job.state == JobState.EXPIRED
    assert "alpha is quarantined." in job.problem["hint"]


def test_released_it_is_heard_with_the_password_it_had_and_its_orders_leave(
    valkey, courier, greedy, thief, as_admin, as_viewer
):
    Host.objects.update(quarantined_at=timezone.now(), quarantine_why="alpha put in too much.")
    job = make.job(orders.Start(name="web"), on=greedy.host)
    courier._watch.look()
    courier.sweep(timezone.now())
    with pytest.raises(redis.AuthenticationError):
        thief.ping()
    assert as_viewer.post("/hosts/alpha/release/").status_code == 403
    for _ in range(2):  # pressed twice
        assert as_admin.post("/hosts/alpha/release/").status_code == 302
    assert kinds() == ["host-released"]
    courier._watch.look()
    thief.xadd(stream(greedy), {"r": greedy.say(reports.Heartbeat())})
    courier._read_once()
    greedy.host.refresh_from_db()
    assert greedy.host.report_number == 1
    courier.send_due(timezone.now())
    job.refresh_from_db()
    assert (job.state, job.problem) == (JobState.SENT, None)


def test_what_comes_until_its_user_is_off_does_not_count_when_it_is_released(
    valkey, courier, greedy, thief, admin, monkeypatch
):
    """Nor do its strikes before that, though they were within a minute."""
    follow = Guard.follow

    def late(guard: Guard, off, hosts) -> None:
        if off:
            fill(thief, stream(greedy))
        follow(guard, off, hosts)

    with monkeypatch.context() as slow:
        slow.setattr(Guard, "follow", late)
        for turn in range(3):
            fill(thief, stream(greedy))
            courier._watch.look()
            if turn == 1:
                Host.objects.update(paused_until=None)
                Guard.follow(courier._watch._guard, [], [greedy.host.pk])
    assert kinds() == ["stream-emptied", "host-paused", "host-quarantined"]
    assert not valkey.admin().exists(stream(greedy))
    quarantine.release(Host.objects.get(pk=greedy.host.pk), by=admin)
    courier._watch.look()
    fill(thief, stream(greedy))
    courier._watch.look()
    assert kinds()[3:] == ["host-released", "stream-emptied"]


def test_a_users_rules_of_an_older_release_become_those_of_this_one_and_its_password_stays(
    valkey, courier, greedy, thief
):
    name = routes.user(str(greedy.host.id))
    valkey.admin().execute_command("ACL", "SETUSER", name, "+select", "(+xadd ~*)")
    thief.select(2)
    courier._watch.look()
    for forbidden in (lambda: thief.select(2), lambda: thief.xadd("np:other", {"r": "x"})):
        with pytest.raises(redis.exceptions.NoPermissionError):
            forbidden()
    assert thief.xadd(stream(greedy), {"r": "x"})


def test_no_user_is_made_for_a_host_that_has_none(valkey, courier):
    stranger = make.host(f"gamma-{uuid4()}")
    courier._watch.look()
    assert valkey.admin().acl_getuser(routes.user(str(stranger.id))) is None


def test_without_a_guard_a_quarantined_host_is_not_read_and_its_stream_stays_empty(valkey, greedy, thief):
    courier = Courier(valkey.url("np-courier", "secret"), SigningKey.generate())
    Host.objects.update(quarantined_at=timezone.now(), quarantine_why="alpha put in too much.")
    thief.xadd(stream(greedy), {"r": greedy.say(reports.Heartbeat())})
    courier._watch.look()
    assert valkey.admin().exists(stream(greedy)) == 0
    assert redis_check.kept() == [redis_check.NO_GUARD]


def test_a_guard_that_lost_its_user_is_told_and_greedy_hosts_are_held_back_all_the_same(
    valkey, greedy, thief, monkeypatch
):
    monkeypatch.setattr(host_caps, "STREAM_BYTES", 1000)
    courier = Courier(
        valkey.url("np-courier", "secret"), SigningKey.generate(), guard_url=valkey.url("np-guard", "wrong")
    )
    thief.xadd(stream(greedy), {"r": "x" * 5000})
    courier._watch.look()
    assert valkey.admin().exists(stream(greedy)) == 0
    assert "guard-url" in redis_check.kept()[0]


def test_a_worker_of_the_release_before_is_emptied_and_paused_and_never_quarantined_for_all_it_has_kept(
    valkey, greedy, thief, courier, monkeypatch
):
    monkeypatch.setattr(host_caps, "STREAM_BYTES", 1000)
    Host.objects.update(heard_epoch=None)
    for _ in range(4):
        Host.objects.update(paused_until=None)
        courier._watch.look()  # its Redis user is on again
        thief.xadd(stream(greedy), {"r": "x" * 5000})
        courier._watch.look()
    assert Host.objects.get(pk=greedy.host.pk).quarantined_at is None
    assert Event.objects.filter(kind="host-paused").exists()


def test_what_cannot_be_taken_of_one_host_keeps_no_other_from_being_heard(valkey, greedy, other, courier, monkeypatch):
    take = courier._take

    def broken(host_id, entries, turn):
        if host_id == greedy.host.pk:
            raise ValueError("nobody thought of this")
        take(host_id, entries, turn)

    monkeypatch.setattr(courier, "_take", broken)
    admin = valkey.admin()
    for voice in (greedy, other):
        admin.xadd(stream(voice), {"r": voice.say(reports.Heartbeat(load=3.0))})
    courier._read_once()
    assert Host.objects.get(pk=other.host.pk).facts["load"] == 3.0


def test_a_redis_that_is_set_as_ours_has_no_faults_and_another_says_each(valkey, as_admin, as_viewer, greedy):
    guard = Guard(valkey.url("np-guard", "secret"), timeout=5)
    assert redis_check.faults(guard) == []
    told = {"maxmemory": "0", "maxmemory-policy": "allkeys-lru", "maxmemory-clients": "0",
            "proto-max-bulk-len": "536870912", "client-query-buffer-limit": "1073741824"}  # fmt: skip
    found = redis_check.judge(told)
    assert [fault.split(": set ")[1] for fault in found] == [
        "maxmemory 256mb in its configuration.", "maxmemory-policy noeviction in its configuration.",
        "maxmemory-clients 64mb in its configuration.", "proto-max-bulk-len 4mb in its configuration.",
        "client-query-buffer-limit 8mb in its configuration.",
    ]  # fmt: skip
    redis_check.keep(found)
    for page in ("/hosts/", "/hosts/alpha/"):
        assert "set maxmemory-clients 64mb" in as_admin.get(page).content.decode()
        assert "maxmemory" not in as_viewer.get(page).content.decode()
    RedisCheck.objects.update(checked_at=timezone.now() - timedelta(hours=1))
    assert redis_check.kept() == []


def test_what_redis_does_not_tell_is_not_called_well_set(valkey):
    mailbox.add_user(valkey.admin_url, "deaf", "secret", ["+ping"])
    [fault] = redis_check.faults(Guard(valkey.url("deaf", "secret"), timeout=5))
    assert fault.startswith("The Redis configuration cannot be read")


def test_a_host_that_goes_on_and_on_beyond_its_day_is_shut_out_and_released_it_may_say_as_much_again(
    courier, greedy, other, admin, settings
):
    settings.REPORTS_PER_DAY = 1000
    Host.objects.filter(pk=other.host.pk).update(usage={"day": budgets.today(), "reports": 1900})
    Host.objects.filter(pk=greedy.host.pk).update(usage={"day": budgets.today(), "reports": 2001, "machines": 7})
    courier._watch.look()
    host = Host.objects.get(pk=greedy.host.pk)
    assert host.quarantine_why == "alpha has sent more than 2.0\xa0KiB of reports today."
    assert Host.objects.get(pk=other.host.pk).quarantined_at is None
    quarantine.release(host, by=admin)
    courier._watch.look()
    host.refresh_from_db()
    assert (host.quarantined_at, host.usage) == (None, {"machines": 7})


def test_a_pause_that_began_while_the_panel_s_clock_was_a_day_ahead_is_over_once_that_is_right():
    assert quarantine.is_shut(None, timezone.now() + timedelta(seconds=4))
    assert not quarantine.is_shut(None, timezone.now() + timedelta(days=1))


@pytest.mark.parametrize(
    ("position", "following"),
    [("0", "0-1"), ("5-3", "5-4"), (f"5-{2**64 - 1}", "6-0"), (LAST, LAST)],
)
def test_the_id_that_follows_a_position(position, following):
    assert mailbox.after(position) == following


def test_the_guard_gives_a_host_a_new_password_and_closes_the_connections_of_the_old_one(valkey, greedy, thief):
    thief.ping()
    Guard(valkey.url("np-guard", "secret"), timeout=5).admit(greedy.host.pk, "fresh")
    with pytest.raises(redis.RedisError):
        thief.execute_command("BRPOP", *[routes.prefix(str(greedy.host.pk)) + routes.queue(str(greedy.host.pk))], 0.01)
    fresh = redis.Redis.from_url(valkey.url(routes.user(str(greedy.host.pk)), "fresh"))
    fresh.xadd(routes.stream(str(greedy.host.pk)), {"r": "x"})
    with pytest.raises(redis.exceptions.NoPermissionError):
        fresh.get("x")
    fresh.close()


def test_a_removed_host_has_no_user_no_stream_and_no_mailbox_any_more(valkey, greedy, other, courier, thief, admin):
    thief.xadd(routes.stream(str(greedy.host.pk)), {"r": "x"})
    removed_hosts.remove(greedy.host, by=admin)
    courier._watch.look()
    with valkey.admin() as server:
        assert routes.user(str(greedy.host.pk)) not in server.acl_users()
        assert routes.user(str(other.host.pk)) in server.acl_users()
        assert not server.keys(f"{routes.prefix(str(greedy.host.pk))}*")
    with pytest.raises(redis.RedisError):
        thief.xadd(routes.stream(str(greedy.host.pk)), {"r": "x"})


def test_a_removed_host_whose_user_came_back_with_an_older_copy_of_redis_is_seen_off_again(
    valkey, greedy, courier, admin
):
    removed_hosts.remove(greedy.host, by=admin)
    courier._watch.look()
    name = routes.user(str(greedy.host.pk))
    mailbox.add_user(valkey.admin_url, name, "secret", routes.host_acl(str(greedy.host.pk)))
    courier._watch.look()
    with valkey.admin() as server:
        assert name not in server.acl_users()


def test_users_of_hosts_that_this_panel_does_not_know_are_left_alone(valkey, greedy, courier):
    name = routes.user("12345678-1234-1234-1234-123456789012")
    mailbox.add_user(valkey.admin_url, name, "secret", routes.host_acl("12345678-1234-1234-1234-123456789012"))
    courier._watch.look()
    with valkey.admin() as server:
        assert name in server.acl_users()
        server.acl_deluser(name)
