"""The courier with a real Valkey and real ACL users; only the host is a stand-in."""

import json
import time
from base64 import b64decode
from collections.abc import Iterator
from datetime import timedelta
from math import ceil, inf
from pathlib import Path

import pytest
import redis
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from nacl.signing import SigningKey

from machines.contract import envelope, orders, reports, routes
from machines.contract.states import JobState, MachineState
from machines.models import Host, Job, Machine, Revision
from machines.panel.configs import rollouts
from machines.panel.courier import completion, mailbox
from machines.panel.courier.courier import REPORTS_AT_ONCE, Courier
from machines.panel.courier.enrol import environment, register
from machines.panel.courier.key_ring import load_key
from nspawnpanel.valkey import Valkey
from tests import make
from tests.panel.test_intake import HostVoice

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        mailbox.add_user(server.admin_url, "np-courier", "secret", routes.courier_acl())
        mailbox.add_user(server.admin_url, "np-web", "secret", routes.web_acl())
        yield server


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def courier(valkey, key, monkeypatch) -> Courier:
    """It has all the time it needs, for on a busy machine its own limits are soon over."""
    monkeypatch.setattr("machines.panel.courier.courier.TURN", inf)
    monkeypatch.setattr("machines.panel.courier.intake.TAKE_SECONDS", inf)
    valkey.flush()
    return Courier(valkey.url("np-courier", "secret"), key)


@pytest.fixture
def voice() -> HostVoice:
    return HostVoice()


def delivered(valkey: Valkey, host: Host, key: SigningKey) -> list[tuple[envelope.Envelope, orders.Order]]:
    """What lies in the host's mailbox, opened as the host would open it; oldest first."""
    admin = valkey.admin()
    raw = admin.lrange(routes.prefix(str(host.id)) + routes.queue(str(host.id)), 0, -1)
    keys = {envelope.key_id(key.verify_key): key.verify_key}
    texts = [json.loads(b64decode(json.loads(message)["body"]))[0][0] for message in reversed(raw)]
    return [envelope.unseal(text, keys, host=host.id, generation=host.generation) for text in texts]


def test_it_sends_what_is_queued_and_marks_it_sent(courier, valkey, key, voice):
    job = make.job(orders.Start(name="web"), on=voice.host)
    courier.send_due(timezone.now())
    [(sealed, order)] = delivered(valkey, voice.host, key)
    assert (sealed.job, order) == (job.uuid, orders.Start(name="web"))
    job.refresh_from_db()
    assert job.state == JobState.SENT


def test_it_sends_again_until_the_host_accepts(courier, valkey, key, voice):
    job = make.job(orders.Start(name="web"), on=voice.host)
    for seconds in (0, 1, 6):
        courier.send_due(timezone.now() + timedelta(seconds=seconds))
    assert len(delivered(valkey, voice.host, key)) == 2
    voice.tell(reports.Accepted(job=job.uuid))
    courier.send_due(timezone.now() + timedelta(seconds=50))
    assert len(delivered(valkey, voice.host, key)) == 2


def test_a_silent_hosts_orders_wait_where_they_can_be_cancelled(courier, valkey, key, voice, admin):
    Host.objects.update(last_seen=timezone.now() - timedelta(minutes=5))
    job = make.job(orders.Start(name="web"), on=voice.host, by=admin)
    courier.send_due(timezone.now())
    assert delivered(valkey, voice.host, key) == []
    assert completion.cancel(job, by=admin)
    job.refresh_from_db()
    assert job.state == JobState.CANCELLED


def test_an_order_nobody_accepts_expires(courier, voice):
    job = make.job(orders.Start(name="web"), on=voice.host, expires_at=timezone.now() - timedelta(seconds=1))
    courier.sweep(timezone.now())
    job.refresh_from_db()
    assert job.state == JobState.EXPIRED
    assert "did not accept" in job.problem["message"]


@pytest.mark.parametrize("how", ["expires", "is cancelled"])
def test_an_apply_that_never_left_is_a_draft_again(how, courier, voice, admin):
    machine = make.machine("web", on=voice.host)
    revision = Revision.objects.create(machine=machine, number=1, state="applying")
    configuration = orders.Configuration(revision=1, nspawn="x", limits="")
    order = orders.Apply(name="web", configuration=configuration)
    job = make.job(order, on=voice.host, by=admin, revision=revision)
    if how == "expires":
        Job.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        courier.sweep(timezone.now())
    else:
        completion.cancel(job, by=admin)
    revision.refresh_from_db()
    assert (revision.state, revision.number) == ("draft", None)


@pytest.mark.parametrize("skew", [-300.0, 300.0])
def test_a_host_whose_clock_is_wrong_gets_the_doctors_orders_by_its_own_time_and_no_others(
    courier, valkey, key, voice, skew, monkeypatch
):
    Host.objects.update(clock_skew=skew)
    waiting = make.job(orders.Start(name="web"), on=voice.host)
    make.job(orders.Diagnose(), on=voice.host)
    now = timezone.now()
    courier.send_due(now)
    waiting.refresh_from_db()
    assert (waiting.state, waiting.problem["code"]) == (JobState.QUEUED, "clock-wrong")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + skew)
    [(sealed, order)] = delivered(valkey, voice.host, key)
    monkeypatch.undo()
    assert order == orders.Diagnose()
    assert sealed.expires - sealed.issued == pytest.approx(orders.EXPIRES_AFTER, abs=5)
    valkey.flush()
    Host.objects.update(clock_skew=0.2)
    courier.send_due(now + timedelta(seconds=6))
    assert orders.Start(name="web") in [order for _, order in delivered(valkey, voice.host, key)]


def test_an_order_that_a_wrong_clock_kept_back_to_its_end_says_so(courier, voice):
    Host.objects.update(clock_skew=-300.0)
    job = make.job(orders.Start(name="web"), on=voice.host)
    courier.send_due(timezone.now())
    courier.sweep(job.expires_at + timedelta(seconds=1))
    job.refresh_from_db()
    assert (job.state, job.problem["code"]) == (JobState.EXPIRED, "expired")
    assert "The clock of alpha is 5\xa0m\xa00\xa0s behind the panel's." in job.problem["hint"]


def test_it_goes_on_when_the_panel_s_clock_was_a_day_ahead_and_is_put_right(courier, valkey, key, voice, monkeypatch):
    monkeypatch.setattr(courier._outgoing, "wait_for_poke", lambda: False)
    now = timezone.now()
    with monkeypatch.context() as ahead:
        ahead.setattr(timezone, "now", lambda: now + timedelta(days=1))
        courier._send_once()
        courier._ask_again(voice.host.id)
    valkey.flush()
    job = make.job(orders.Start(name="web"), on=voice.host, expires_at=now - timedelta(seconds=1))
    courier._send_once()
    job.refresh_from_db()
    assert job.state == JobState.EXPIRED
    courier._ask_again(voice.host.id)
    assert orders.Resend(after=0) in [order for _, order in delivered(valkey, voice.host, key)]


def test_nothing_is_claimed_of_a_silent_host(courier, voice):
    Host.objects.update(last_seen=timezone.now() - timedelta(minutes=5))
    make.machine("web", on=voice.host, state=MachineState.RUNNING)
    job = make.job(orders.Start(name="web"), on=voice.host, state=JobState.RUNNING)
    courier.sweep(timezone.now())
    job.refresh_from_db()
    assert job.state == JobState.LOST
    assert Machine.objects.get().state == MachineState.UNKNOWN


def test_nothing_is_claimed_of_machines_their_host_no_longer_lists(courier, voice):
    """It lives; whoever reads its machines there does not."""
    now = timezone.now()
    hour_ago = now - timedelta(hours=1)
    web = make.machine("web", on=voice.host, state="running", activity={"restarts": 3}, changed_at=hour_ago)
    gone = make.machine("gone", on=voice.host, state="missing", changed_at=now - timedelta(hours=1))
    young = make.machine("young", on=voice.host, state="running")
    Host.objects.update(inventory_at=now - timedelta(seconds=100))
    courier.sweep(now)
    assert Machine.objects.get(pk=web.pk).state == "running"
    Host.objects.update(inventory_at=now - timedelta(seconds=130), trouble={"loop": "The worker hangs."})
    courier.sweep(now)
    web.refresh_from_db()
    assert (web.state, web.rank, web.why, web.activity) == ("unknown", 0, "The worker hangs.", {})
    assert Machine.objects.get(pk=gone.pk).state == "missing"
    assert Machine.objects.get(pk=young.pk).state == "running"


def test_a_cancel_is_sent_and_sent_again(courier, valkey, key, voice, admin):
    job = make.job(orders.Start(name="web"), on=voice.host, by=admin, state=JobState.RUNNING)
    completion.cancel(job, by=admin)
    courier.send_due(timezone.now())
    courier.send_due(timezone.now())
    courier.send_due(timezone.now() + timedelta(seconds=6))
    assert [order for _, order in delivered(valkey, voice.host, key)] == [orders.Cancel(job=job.uuid)] * 2


def test_a_host_older_than_the_panel_is_asked_in_words_it_knows(courier, valkey, key, voice):
    make.job(orders.Start(name="web"), on=voice.host)
    make.job(make.build_order("db"), on=voice.host)
    make.job(orders.Start(name="old", reset=True), on=voice.host)
    courier.send_due(timezone.now())
    start, build, reset = (sealed.order for sealed, _ in delivered(valkey, voice.host, key))
    assert start == {"op": "start", "name": "web"}
    assert not {"leftovers", "seen"} & build.keys()
    assert reset["reset"] is True


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL reads small tables whole, whatever it is asked")
def test_jobs_that_ended_long_ago_are_not_read_each_second(courier, voice):
    with CaptureQueriesContext(connection) as asked:
        courier.send_due(timezone.now())
    questions = [each["sql"] for each in asked if each["sql"].startswith("SELECT") and "machines_job" in each["sql"]]
    assert questions
    with connection.cursor() as cursor:
        for question in questions:
            plan = [step for *_, step in cursor.execute(f"EXPLAIN QUERY PLAN {question}")]
            assert [step for step in plan if "machines_job" in step and "INDEX job_" not in step] == [], question


def test_secrets_travel_sealed_and_not_in_the_order(courier, valkey, key, voice):
    order = orders.Build(
        name="web",
        recipe={"release": "bookworm"},
        first_boot={},
        configuration=orders.Configuration(revision=1, nspawn="x", limits=""),
    )
    job = make.job(order, on=voice.host, sealed="c2VhbGVk")
    courier.send_due(timezone.now())
    [(_, sent)] = delivered(valkey, voice.host, key)
    assert sent.sealed == "c2VhbGVk"
    job.refresh_from_db()
    assert job.order["sealed"] == ""


def test_it_reads_reports_and_asks_for_what_is_missing(courier, valkey, key, voice):
    job = make.job(orders.Start(name="web"), on=voice.host, state=JobState.SENT)
    admin = valkey.admin()
    admin.xadd(routes.stream(str(voice.host.id)), {"r": voice.say(reports.Accepted(job=job.uuid))})
    admin.xadd(routes.stream(str(voice.host.id)), {"r": voice.say(reports.Heartbeat(), number=9)})
    courier._read_once()
    job.refresh_from_db()
    assert job.state == JobState.ACCEPTED
    assert [order for _, order in delivered(valkey, voice.host, key)] == [orders.Resend(after=1)]


def test_files_that_came_before_their_machine_are_asked_for_again(courier, valkey, key, voice):
    """And of a machine whose files are known, or of a host that cannot answer, nothing is asked."""
    early = reports.ObservedFiles(machines=[reports.ObservedMachine(name="web")])
    voice.tell(early)
    voice.tell(reports.Observed(machines=[reports.MachineFact(name="web", state=MachineState.STOPPED)]))
    courier.ask_for_files(timezone.now())
    assert delivered(valkey, voice.host, key) == [], "it may be on its way"
    for seconds in (25, 50, 700):
        Host.objects.update(last_seen=timezone.now() + timedelta(seconds=seconds))
        courier.ask_for_files(timezone.now() + timedelta(seconds=seconds))
    assert [order for _, order in delivered(valkey, voice.host, key)] == [orders.Refresh()] * 2
    valkey.flush()
    voice.tell(early)
    courier.ask_for_files(timezone.now() + timedelta(seconds=60))
    Machine.objects.get().observed_files.delete()
    Host.objects.update(last_seen=timezone.now())
    courier.ask_for_files(timezone.now() + timedelta(days=1))
    assert delivered(valkey, voice.host, key) == []


def test_bytes_that_are_no_text_cost_their_host_one_refusal_and_nobody_anything(courier, valkey, voice):
    other = HostVoice("beta")
    admin = valkey.admin()
    for field in ({b"r": b"\xff\xfe"}, {b"\xff": b"\x80"}, {b"r": b"\0"}):
        admin.xadd(routes.stream(str(voice.host.id)), field)
    admin.xadd(routes.stream(str(other.host.id)), {"r": other.say(reports.Heartbeat())})
    courier._read_once()
    courier._read_once()
    other.host.refresh_from_db()
    assert other.host.report_number == 1


def test_a_flood_of_one_host_leaves_the_others_their_turn(courier, valkey, voice, monkeypatch):
    other = HostVoice("beta")
    first, second = sorted((voice, other), key=lambda each: str(each.host.id))
    admin = valkey.admin()
    for _ in range(50):
        admin.xadd(routes.stream(str(first.host.id)), {"r": first.say(reports.Heartbeat())})
    admin.xadd(routes.stream(str(second.host.id)), {"r": second.say(reports.Heartbeat())})
    monkeypatch.setattr("machines.panel.courier.courier.TURN", 0.0)
    courier._read_once()
    assert set(Host.objects.values_list("report_number", flat=True)) == {REPORTS_AT_ONCE, 1}
    for _ in range(ceil(50 / REPORTS_AT_ONCE) - 1):
        courier._read_once()
    assert sorted(Host.objects.values_list("report_number", flat=True)) == [1, 50]


def test_a_long_turn_is_cut_short_and_what_is_left_is_taken_next(courier, valkey, voice, monkeypatch):
    """Beside a transaction nobody else writes in SQLite, so it must not last as long as a host likes."""
    stream, admin = routes.stream(str(voice.host.id)), valkey.admin()
    for _ in range(5):
        admin.xadd(stream, {"r": voice.say(reports.Heartbeat())})
    monkeypatch.setattr("machines.panel.courier.courier.TURN", 0.0)
    monkeypatch.setattr("machines.panel.courier.intake.TAKE_SECONDS", 0.0)
    courier._read_once()
    voice.host.refresh_from_db()
    assert voice.host.report_number == 1
    assert admin.xlen(stream) == 4, "what was taken is let go of, and none before that"
    for _ in range(4):
        courier._read_once()
    voice.host.refresh_from_db()
    assert voice.host.report_number == 5


def test_what_is_cancelled_while_it_leaves_is_not_sent(courier, valkey, key, voice, admin):
    job = make.job(orders.Start(name="web"), on=voice.host)
    completion.cancel(job, by=admin)
    courier._send(job, timezone.now())
    assert delivered(valkey, voice.host, key) == []


def test_what_was_taken_makes_room(courier, valkey, voice):
    """A host may fill the Redis that all share; then nobody could say anything ever again."""
    stream, admin = routes.stream(str(voice.host.id)), valkey.admin()
    for _ in range(400):
        admin.xadd(stream, {"r": "x" * 3000})
    for _ in range(2):
        courier._read_once()
    assert admin.xlen(stream) < 100


def test_an_order_too_large_for_an_envelope_fails_alone(courier, valkey, key, voice, monkeypatch):
    text = "# " + "\N{SNOWMAN}" * 100_000
    huge = orders.Apply(name="db", configuration=orders.Configuration(revision=1, nspawn=text, limits=""))
    failed, other = make.job(huge, on=voice.host), make.job(orders.Start(name="web"), on=voice.host)
    ended = []
    monkeypatch.setattr(rollouts, "job_ended", ended.append)
    courier.send_due(timezone.now())
    failed.refresh_from_db()
    assert (failed.state, failed.problem["code"]) == (JobState.FAILED, "envelope-oversized")
    assert ended == [failed], "whatever waits for its end is told"
    assert [sealed.job for sealed, _ in delivered(valkey, voice.host, key)] == [other.uuid]


def test_a_mistake_does_not_end_the_courier(courier):
    turns = []

    def step() -> None:
        turns.append(1)
        if len(turns) > 1:
            courier.stop()
        raise ValueError("unforeseen")

    courier._loop("testing", step)
    assert len(turns) == 2


def test_the_web_process_may_poke_and_nothing_else(valkey):
    web = redis.Redis.from_url(valkey.url("np-web", "secret"))
    web.lpush(routes.POKE, "1")
    for forbidden in (
        lambda: web.lpush("np:h:x:host.x", "forged"),
        lambda: web.get("anything"),
        web.flushall,
        lambda: web.brpop([routes.POKE], timeout=1),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            forbidden()


def test_a_hosts_user_is_confined_to_its_host(valkey, db):
    host = make.host("alpha")
    lines = environment(
        host, redis_url=f"redis://127.0.0.1:{valkey.port}/0", redis_admin_url=valkey.admin_url, panel_keys=["A" * 43 + "="],
        panel_url="https://panel.example",
    )  # fmt: skip
    assert "NSPAWNPANEL_PANEL_URL=https://panel.example\n" in lines
    url = dict(line.split("=", 1) for line in lines.splitlines())["NSPAWNPANEL_REDIS_URL"]
    own = redis.Redis.from_url(url)
    own.xadd(routes.stream(str(host.id)), {"r": "x"})
    for forbidden in (
        lambda: own.xadd(routes.stream("other"), {"r": "x"}),
        lambda: own.sadd(routes.prefix(str(host.id)) + routes.queue(str(host.id)), "a set stops the courier"),
        lambda: own.xread({routes.stream(str(host.id)): "0"}),
        lambda: own.lpush(routes.prefix(str(host.id)) + routes.queue(str(host.id)), "forged"),
        lambda: own.publish("x", "y"),
        lambda: own.eval("return 1", 0),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            forbidden()


def commands(server: redis.Redis) -> Iterator[tuple[str, list[str]]]:
    """Every command of the server, subcommands too, with as many words as it needs at least."""
    for name, about in server.execute_command("COMMAND").items():
        below = [
            (each[0].decode() if isinstance(each[0], bytes) else each[0], each[1]) for each in about["subcommands"]
        ]
        for full, arity in below or [(name, about["arity"])]:
            words = full.split("|")
            yield full, words + ["1"] * (abs(arity) - len(words))


def test_of_all_commands_of_the_server_a_host_holds_those_its_worker_sends(valkey):
    """And so whoever stole its password: neither SELECT, nor a subscription, nor what the server learns to do one day."""
    admin = valkey.admin()
    mailbox.add_user(valkey.admin_url, "np-h-x", "secret", routes.host_acl("x"))
    refusal = "no permissions to run the"
    held = {
        name for name, words in commands(admin)
        if refusal not in str(admin.execute_command("ACL", "DRYRUN", "np-h-x", *words))
    }  # fmt: skip
    everybodys = {"auth", "hello", "quit", "reset"}
    assert held == {"ping", "multi", "exec", "brpop", "llen", "xadd", "memory|usage", *everybodys}


@pytest.mark.parametrize("redis_url", ["redis://panel.example/2", "redis://panel.example?db=2"])
def test_another_database_of_redis_is_refused_before_anything_is_made(redis_url, db, valkey):
    spare = make.host("spare")
    keys = f"np-host1:{spare.verify_key}:{spare.box_key}"
    with pytest.raises(CommandError, match="ends in /2, but only database 0 of Redis is used"):
        call_command("add_host", "beta", keys, redis_url=redis_url, redis_admin_url=valkey.admin_url)
    assert not Host.objects.filter(name="beta").exists()


def test_a_thief_of_a_hosts_password_is_out_when_it_joins_again(courier, valkey, voice):
    def join() -> redis.Redis:
        text = environment(
            voice.host, redis_url=f"redis://127.0.0.1:{valkey.port}/0", redis_admin_url=valkey.admin_url, panel_keys=["A" * 43 + "="]
        )  # fmt: skip
        return redis.Redis.from_url(dict(line.split("=", 1) for line in text.splitlines())["NSPAWNPANEL_REDIS_URL"])

    stream = routes.stream(str(voice.host.id))
    thief = join()
    thief.xadd(stream, {"r": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")  # nothing can be added after this
    courier._read_once()
    join().xadd(stream, {"r": voice.say(reports.Heartbeat())})
    courier._read_once()
    voice.host.refresh_from_db()
    assert voice.host.report_number == 1
    with pytest.raises(redis.exceptions.AuthenticationError):
        thief.xadd(stream, {"r": "x"})


def test_the_signing_key_must_be_private(tmp_path: Path):
    key = load_key(tmp_path / "key")
    assert load_key(tmp_path / "key") == key
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(PermissionError, match="chmod 600"):
        load_key(tmp_path / "key")


def test_joining_with_the_same_keys_keeps_the_generation_and_with_others_raises_it(db):
    def keys() -> str:
        host = make.host(f"scratch-{Host.objects.count()}")
        line = f"np-host1:{host.verify_key}:{host.box_key}"
        host.delete()
        return line

    first, second = keys(), keys()
    assert register("alpha", first).generation == 1
    assert register("alpha", first).generation == 1
    assert register("alpha", second).generation == 2


# --- hosts that were put back to an older copy of themselves


def put_in(valkey: Valkey, voice: HostVoice, *texts: str) -> None:
    for text in texts:
        valkey.admin().xadd(routes.stream(str(voice.host.id)), {"r": text})


def test_a_host_that_was_put_back_gets_one_order_and_no_other_until_it_has_begun_anew(courier, valkey, key, voice):
    voice.epoch = 1
    put_in(valkey, voice, *(voice.say(reports.Heartbeat()) for _ in range(3)))
    courier._read_once()
    sent = make.job(orders.Start(name="sent"), on=voice.host)
    courier.send_due(timezone.now())
    put_in(valkey, voice, voice.say(reports.Heartbeat(), number=2))
    courier._read_once()
    waiting = make.job(orders.Start(name="web"), on=voice.host)
    courier.send_due(timezone.now())
    order = orders.Resynchronise(epoch=2, number=3)
    assert [told for _, told in delivered(valkey, voice.host, key)] == [order], (
        "what lay there may have been done before"
    )
    sent.refresh_from_db()
    waiting.refresh_from_db()
    assert (sent.state, sent.problem["code"]) == ("lost", "host-restored")
    assert (waiting.state, waiting.problem["code"]) == ("queued", "host-restored")
    put_in(valkey, voice, *(voice.say(reports.Heartbeat(), number=n) for n in (3, 4)))
    courier._read_once()
    assert len(delivered(valkey, voice.host, key)) == 1, "not for each of its words"
    voice.epoch = 2
    put_in(valkey, voice, voice.say(reports.Heartbeat(), number=4))
    courier._read_once()
    valkey.flush()
    courier.send_due(timezone.now())
    assert [told for _, told in delivered(valkey, voice.host, key)] == [orders.Start(name="web")]


def test_old_reports_of_a_silent_host_put_in_over_and_over_fill_no_mailbox(courier, valkey, key, voice, monkeypatch):
    voice.epoch = 1
    captured = voice.say(reports.Heartbeat())
    put_in(valkey, voice, captured)
    courier._read_once()
    for minutes in range(1, 6):
        moment = timezone.now() + timedelta(minutes=2 * minutes)
        monkeypatch.setattr(timezone, "now", lambda moment=moment: moment)
        put_in(valkey, voice, captured, captured)
        courier._read_once()
        monkeypatch.undo()
    assert len(valkey.admin().lrange(routes.prefix(str(voice.host.id)) + routes.queue(str(voice.host.id)), 0, -1)) == 1
    [(_, order)] = delivered(valkey, voice.host, key)
    assert order == orders.Resynchronise(epoch=2, number=1, if_behind=True)
    assert Host.objects.get().is_silent or Host.objects.get().resync_since is None
