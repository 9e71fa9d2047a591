"""Reports on their way into a real Redis, with the rights of a host's own user."""

from collections.abc import Iterator

import pytest
import redis

from machines.contract import reports, routes
from machines.host.reports import publisher
from machines.host.reports.publisher import Publisher
from machines.panel.courier import mailbox
from nspawnpanel.valkey import Valkey

LONG = [reports.Line(at=1.0, source="o", text="x" * 15_000)] * 4


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def stream(valkey: Valkey, spool) -> str:
    mailbox.add_user(valkey.admin_url, "host", "secret", routes.host_acl(str(spool.host)))
    return routes.stream(str(spool.host))


@pytest.fixture
def own(valkey: Valkey, spool, stream: str, monkeypatch) -> Publisher:
    """One that is not started: a test turns it by hand, without waiting."""
    monkeypatch.setattr(publisher, "LOOK_AGAIN", 0.0)
    return Publisher(spool.ledger, valkey.url("host", "secret"), stream)


def say(spool, count: int) -> None:
    for number in range(count):
        spool.reporter.send(reports.Lines(job=spool.host, first=number + 1, lines=LONG))


def test_what_the_panel_does_not_take_waits_on_the_host(valkey, spool, stream, own):
    """The memory of Redis is everybody's, and the panel shuts out whoever takes too much of it."""
    say(spool, 100)
    for _ in range(100):
        own._publish_some()
    admin = valkey.admin()
    size = admin.memory_usage(stream, samples=0)
    assert publisher.WINDOW < size < publisher.WINDOW + 2 * publisher.AT_ONCE_BYTES
    assert admin.xlen(stream) < 100
    for _ in range(100):  # and goes on as the panel takes it
        admin.xtrim(stream, minid=admin.xrevrange(stream, count=1)[0][0])
        own._publish_some()
    assert not own._publish_some()
    assert admin.execute_command("XINFO", "STREAM", stream)["entries-added"] == 100


def test_one_report_larger_than_what_may_wait_keeps_no_later_one_back(valkey, spool, stream, own, monkeypatch):
    """A panel of an older release lets go of the last report it has taken with the next one only."""
    monkeypatch.setattr(publisher, "WINDOW", 50_000)
    admin = valkey.admin()
    for number in range(4):
        spool.reporter.send(reports.Lines(job=spool.host, first=number + 1, lines=LONG))
        for _ in range(3):
            own._publish_some()
        admin.xtrim(stream, minid=admin.xrevrange(stream, count=1)[0][0])
    assert admin.execute_command("XINFO", "STREAM", stream)["entries-added"] == 4


def test_somebody_else_s_entry_keeps_it_silent_only_until_the_panel_has_read_it(valkey, spool, stream, own):
    """Whoever has its password may put in more than it lets wait, and stop there."""
    admin, panel = valkey.admin(), mailbox.Mailbox(valkey.admin_url)
    for number in range(2):
        admin.xadd(stream, {"r": "x" * 3_000_000})
        say(spool, 1)
        own._publish_some()  # sees then how full it is
        last = admin.xadd(stream, {"r": "x" * 3_000_000})
        say(spool, 1)
        own._publish_some()
        assert admin.xlen(stream) == 3, "it waits"
        panel.forget(spool.host, last)
        own._publish_some()
        assert own._publish_some()
        assert admin.xlen(stream) == 1, number
        panel.begin_anew(spool.host)


def test_it_publishes_all_the_same_where_it_may_not_ask_how_full_its_stream_is(valkey, spool, stream, own):
    """A panel of an older release does not let it."""
    admin = valkey.admin()
    admin.execute_command("ACL", "SETUSER", "host", "clearselectors", f"(+xadd %W~{stream})")
    say(spool, 30)
    while own._publish_some():
        pass
    assert admin.xlen(stream) == 30


def test_a_full_redis_is_told_and_nothing_counts_as_sent(valkey, spool, stream, own):
    admin = valkey.admin()
    say(spool, 1)
    admin.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.OutOfMemoryError):
            own._publish_some()
    finally:
        admin.config_set("maxmemory", "256mb")
    assert own._publish_some()
    assert admin.xlen(stream) == 1
