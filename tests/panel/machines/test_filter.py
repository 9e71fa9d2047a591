"""What the filter field understands, and what matches."""

from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.models import User
from machines.panel.pages import machine_list, machine_rows
from tests import make

NOW = timezone.now()
ALL = User(is_administrator=True)


def found(text: str, busy: machine_rows.Busy | None = None) -> list[str]:
    machines = machine_list.matching(machine_list.parse_filter(text), busy or {}, NOW, by=ALL)
    return sorted(machines.values_list("name", flat=True))


@pytest.fixture
def fleet(alpha):
    beta = make.host("beta", last_seen=NOW - timedelta(minutes=12))
    make.machine("web-1", on=alpha, state="running", os="Debian GNU/Linux 12", addresses=["10.0.0.14", "fd00::14"])
    make.machine("web-2", on=alpha, state="failed", os="Fedora Linux 41")
    make.machine("db", on=alpha, state="stopped")
    make.machine("gone", on=alpha, state="missing")
    make.machine("proxy", on=beta, state="running")
    make.machine("ghost", on=beta, state="missing")
    make.machine("removed", on=alpha, removed_at=NOW)


def test_it_takes_words_and_terms_apart():
    wanted = machine_list.parse_filter("web State:failed host:beta fd00::1 tag:x")
    assert wanted.words == ("web", "fd00::1", "tag:x")
    assert wanted.states == ("failed",)
    assert wanted.hosts == ("beta",)
    assert wanted.text == "web State:failed host:beta fd00::1 tag:x"


def test_it_takes_so_many_words_and_no_more():
    assert len(machine_list.parse_filter("a " * 100).words) == machine_list.WORDS_AT_MOST


def test_it_adds_a_term_and_takes_it_away_again():
    once = machine_list.parse_filter(machine_list.parse_filter("web").with_term("state", "failed"))
    assert once.text == "web state:failed"
    assert once.with_term("state", "failed") == "web"
    assert once.with_term("state", "running") == "web state:failed state:running"


def test_it_knows_states_that_do_not_exist():
    assert machine_list.parse_filter("state:failed state:broken").strange == ["broken"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["db", "ghost", "gone", "proxy", "web-1", "web-2"]),
        ("web", ["web-1", "web-2"]),
        ("WEB fedora", ["web-2"]),
        ("beta", ["ghost", "proxy"]),
        ("10.0.0", ["web-1"]),
        ("fd00::14", ["web-1"]),
        ("state:failed", ["web-2"]),
        ("state:failed state:stopped", ["db", "web-2"]),
        ("state:running", ["web-1"]),
        ("state:unknown", ["proxy"]),
        ("state:missing", ["ghost", "gone"]),
        ("state:nonsense", []),
        ("host:beta", ["ghost", "proxy"]),
        ("host:alpha state:running web", ["web-1"]),
        ("host:bet", []),
        ("%", []),
        ("_", []),
        ("'; DROP TABLE", []),
    ],
)
def test_it_finds(text, names, fleet):
    assert found(text) == names


def test_a_machine_being_built_is_building_and_not_missing(fleet, alpha):
    busy: machine_rows.Busy = {(alpha.pk, "gone"): {"op": "build"}, (alpha.pk, "db"): {"op": "start"}}
    assert found("state:building", busy) == ["gone"]
    assert found("state:missing", busy) == ["ghost"]
    assert found("state:stopped", busy) == ["db"]


def test_a_lost_job_holds_no_machine(alpha, admin):
    job = make.job(orders.Start(name="web"), on=alpha, by=admin, state="lost")
    given = {"id": job.pk, "host_id": alpha.pk, "machine_name": "web", "state": "lost", "op": "start"}
    assert machine_rows.by_machine([given]) == {}
    assert list(machine_rows.by_machine([given | {"state": "running"}])) == [(alpha.pk, "web")]
