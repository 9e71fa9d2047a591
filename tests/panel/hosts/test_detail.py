from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.models import Event, Host
from tests import make
from tests.pages import text

URL = "/hosts/alpha/"
HTMX = {"HX-Request": "true"}
FACTS = {
    "os": "Debian GNU/Linux 12", "kernel": "6.1.0", "architecture": "x86-64", "systemd": 252, "worker": "0.1.0", "cgroup": "v2",
    "booted": 1_700_000_000.0, "cpus": 8, "load": 1.5, "memory_total": 8 << 30, "memory_available": 6 << 30,
    "disk_total": 100 << 30, "disk_free": 60 << 30, "pool_type": "btrfs", "networkd": True, "bridges": ["br0"],
    "interfaces": ["eno1", "br0"], "mirror": "http://mirror.example/debian", "missing": {"mmdebstrap": "mmdebstrap"},
    "policy": {"operations": ["start", "build"], "private_users": "optional", "max_parallel_builds": 2},
}  # fmt: skip


@pytest.fixture
def alpha(db):
    return make.host("alpha", facts=FACTS, facts_at=timezone.now())


def test_it_shows_what_the_host_says_of_itself(as_viewer, alpha):
    page = text(as_viewer.get(URL))
    for shown in (
        "6.1.0", "x86-64", "252", "cgroup v2", "8, load 1.50", "2\u00a0GiB of 8\u00a0GiB", "40\u00a0GiB of 100\u00a0GiB on btrfs",
        "br0", "eno1", "http://mirror.example/debian", "install <code>mmdebstrap</code>", "start, build", "optional",
    ):  # fmt: skip
        assert shown in page, shown


def test_it_counts_machines_and_links_to_them(as_viewer, alpha):
    make.machine("web", on=alpha, state="running")
    make.machine("db", on=alpha, state="failed")
    page = text(as_viewer.get(URL))
    for shown in ("2 in all", "1 running", "1 failed", "?q=host:alpha+state:failed"):
        assert shown in page


def test_it_shows_its_jobs_under_way(as_viewer, alpha, admin):
    job = make.job(orders.Start(name="web"), on=alpha, by=admin)
    make.job(orders.Start(name="proxy"), on=make.host("beta"), by=admin)
    page = text(as_viewer.get(URL))
    assert f'href="/jobs/{job.pk}/"' in page
    assert "proxy" not in page


def test_it_shows_the_last_twenty_events(as_admin, as_viewer, alpha):
    for n in range(25):
        Event.objects.create(host=alpha, kind="envelope-forged", text=f"message {n} <b>")
    Event.objects.create(host=make.host("beta"), kind="host-enrolled", text="beta joined")
    assert 'id="event-' not in text(as_viewer.get(URL)), "what is nobody's only administrators read"
    page = text(as_admin.get(URL))
    assert page.count('id="event-') == 20
    assert "message 24 &lt;b&gt;" in page
    assert "message 4 " not in page
    assert "beta joined" not in page


def test_a_silent_host_is_shown_as_it_was(as_admin, alpha):
    alpha.last_seen = timezone.now() - timedelta(minutes=12)
    alpha.facts_at = alpha.inventory_at = alpha.last_seen
    alpha.save()
    page = text(as_admin.get(URL))
    assert "Not responding, last seen" in page
    assert "systemctl status nspawnpanel-host" in page
    assert "Reported" in page


def test_a_host_that_never_spoke_says_what_to_look_at(as_viewer, db):
    make.host("alpha", last_seen=None, facts={}, facts_at=None)
    assert "nspawnpanel-host.service" in text(as_viewer.get(URL))


def test_it_warns_without_networkd(as_viewer, alpha):
    alpha.facts["networkd"] = False
    alpha.save()
    assert "get no address" in text(as_viewer.get(URL))


def test_it_costs_five_queries_at_most(as_admin, alpha, admin, django_assert_max_num_queries):
    make.job(orders.Start(name="web"), on=alpha, by=admin)
    Event.objects.create(host=alpha, kind="host-enrolled", text="x")
    with django_assert_max_num_queries(5):
        as_admin.get(URL)


def test_it_answers_a_refresh_with_nothing_when_nothing_changed(as_admin, alpha):
    page = text(as_admin.get(URL, headers=HTMX))
    assert "<html" not in page
    version = page.split("?v=")[1].split('"')[0]
    assert as_admin.get(f"{URL}?v={version}", headers=HTMX).status_code == 204
    Event.objects.create(host=alpha, kind="host-enrolled", text="x")
    assert as_admin.get(f"{URL}?v={version}", headers=HTMX).status_code == 200


def test_it_rejects_post_and_unknown_hosts(as_admin, alpha):
    assert as_admin.post(URL).status_code == 405
    assert as_admin.get("/hosts/nowhere/").status_code == 404


def test_it_says_what_the_host_cannot_read(as_admin, alpha):
    alpha.trouble, alpha.listed_at = (
        {"machines": "machined does not answer <b>."},
        timezone.now() - timedelta(minutes=3),
    )
    alpha.save()
    page = text(as_admin.get(URL))
    assert "alpha cannot read everything right now" in page
    assert "machined does not answer &lt;b&gt;." in page
    assert "Last complete list of machines:" in page


def test_a_host_that_lists_nothing_for_minutes_is_not_in_order(as_admin, alpha):
    alpha.inventory_at = timezone.now() - timedelta(minutes=4)
    alpha.save()
    page = text(as_admin.get(URL))
    assert "It has not reported the state of all its machines for some time." in page
    assert "Reported" in page


@pytest.mark.parametrize(
    ("skew", "said"),
    [
        (None, "–"),
        (0.5, "in sync with the panel"),
        (-5.0, "5 s behind the panel"),
        (75.0, "1 m 15 s ahead of the panel"),
    ],
)
def test_it_says_how_its_clock_stands(as_viewer, alpha, skew, said):
    alpha.clock_skew = skew
    alpha.save()
    page = text(as_viewer.get(URL)).replace("\xa0", " ")
    assert f"<dt>Clock</dt><dd>{said}" in page
    assert ('id="clock"' in page) == (skew == 75.0)


def test_what_could_not_be_removed_is_listed_with_its_reason_until_it_is_gone(as_admin, alpha):
    assert "Could not be removed" not in text(as_admin.get(URL))
    left = {
        "path": "/var/lib/machines/.nspawnpanel-1.tmp",
        "why": "/var/lib/machines/.nspawnpanel-1.tmp/swap is used as swap",
        "since": 1_700_000_000.0,
    }
    type(alpha).objects.update(facts=FACTS | {"remnants": [left, "nonsense", {"path": 7, "since": "x"}]})
    page = text(as_admin.get(URL))
    assert "Could not be removed" in page
    for shown in (left["path"], left["why"], "First attempt", "tries again every ten minutes"):
        assert shown in page


def test_it_shows_what_no_machine_may_have(as_admin, alpha):
    assert "Never bound" not in text(as_admin.get(URL))  # its worker is older and knows of no such thing
    alpha.facts = {**FACTS, "protected": [{"path": "/data/agent", "why": "a program that agent.service runs as root"}]}
    alpha.save()
    page = text(as_admin.get(URL))
    assert "Never bound" in page
    for shown in ("/etc/nspawnpanel", "/var/lib/machines", "/data/agent", "A program that agent.service runs as root"):
        assert shown in page


def test_machines_whose_binds_give_the_host_away_are_named(as_admin, alpha):
    alpha.facts = {**FACTS, "bad_binds": {"web": "Bind=/opt:/x: /opt holds /opt/nspawnpanel."}}
    alpha.save()
    page = text(as_admin.get(URL))
    assert "Binds that expose this host" in page
    assert "Bind=/opt:/x: /opt holds /opt/nspawnpanel." in page


def test_a_quarantined_host_says_why_and_offers_its_release_to_those_who_may(as_viewer, as_admin, alpha):
    Host.objects.update(quarantined_at=timezone.now(), quarantine_why="alpha opened more than 64 connections to Redis.")
    for client, offered in ((as_viewer, False), (as_admin, True)):
        page = client.get("/hosts/alpha/").content.decode()
        assert "alpha opened more than 64 connections to Redis." in page
        assert ('action="/hosts/alpha/release/"' in page) is offered
        assert "quarantined" in client.get("/hosts/").content.decode()


def test_one_that_was_put_back_to_an_older_copy_says_so_until_it_has_begun_anew(as_viewer, alpha):
    assert 'id="older-copy"' not in as_viewer.get("/hosts/alpha/").content.decode()
    alpha.resync_since = timezone.now()
    alpha.save()
    assert "alpha was restored from an older copy of itself" in as_viewer.get("/hosts/alpha/").content.decode()
