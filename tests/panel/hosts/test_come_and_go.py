"""Hosts are renamed, removed, and others join under their names."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from nacl.signing import SigningKey

from machines.contract import orders
from machines.models import Enrolment, Event, Host, HostShare, Job, Machine, PanelKey, Revision, Team
from machines.panel.courier import enrol, intake, removed_hosts
from machines.panel.hosts import enrolments
from tests import make
from tests.pages import text

KEYS = "np-host1:" + "A" * 43 + "=:" + "B" * 43 + "="


@pytest.fixture
def alpha(db) -> Host:
    return make.host("alpha")


def remove(client: Client, name: str = "alpha", confirm: str = "alpha") -> int:
    return client.post(f"/hosts/{name}/remove/", {"confirm": confirm}).status_code


# --- names


def test_a_renamed_host_keeps_its_machines_and_jobs(as_admin, alpha, admin):
    make.machine("web", on=alpha)
    job = make.job(orders.Start(name="web"), on=alpha, by=admin)
    answer = as_admin.post("/hosts/alpha/rename/", {"name": "rack1"})
    assert (answer.status_code, answer.url) == (302, "/hosts/rack1/")
    assert "rack1" in text(as_admin.get("/hosts/rack1/machines/web/"))
    assert "rack1" in text(as_admin.get(f"/jobs/{job.pk}/"))
    event = Event.objects.get(kind="host-renamed")
    assert event.text == f"{admin.username} renamed the host alpha to rack1."


@pytest.mark.parametrize(("name", "said"), [
    ("", "required"), ("Rack 1", "Use lower-case"), ("beta", "There is a host beta already"), ("a\0", "Null characters"),
])  # fmt: skip
def test_a_name_that_cannot_be_is_refused_on_its_field(as_admin, alpha, name, said):
    make.host("beta")
    answer = as_admin.post("/hosts/alpha/rename/", {"name": name})
    assert answer.status_code == 422
    assert said in text(answer)
    assert Host.objects.filter(name="alpha").exists()


def test_a_name_under_which_a_host_is_joining_is_not_given_to_another(as_admin, alpha, admin):
    PanelKey.objects.create(public=Enrolment.text_of(SigningKey.generate().verify_key))
    enrolments.make("gamma", by=admin)
    assert "is joining as gamma at this moment" in text(as_admin.post("/hosts/alpha/rename/", {"name": "gamma"}))


# --- removal


def test_it_says_what_goes_and_asks_for_the_name(as_admin, alpha, admin):
    make.machine("web", on=alpha)
    make.job(orders.Start(name="web"), on=alpha, by=admin)
    page = text(as_admin.get("/hosts/alpha/remove/"))
    assert "1 machine, with settings history" in page
    assert "1 job of it that has not ended" in page
    assert remove(as_admin, confirm="alph") == 422
    assert Host.objects.filter(name="alpha").exists()


def test_whoever_signed_in_long_ago_confirms_first(alpha, admin, monkeypatch):
    client = make.client(admin)
    monkeypatch.setattr("machines.panel.web.access.is_recent", lambda _: False)
    answer = client.post("/hosts/alpha/remove/", {"confirm": "alpha"})
    assert answer.url.startswith("/accounts/reauthenticate/")
    assert Host.objects.filter(name="alpha").exists()


def test_a_removed_host_is_nowhere_and_its_jobs_and_history_stay(as_admin, alpha, admin):
    machine = make.machine("web", on=alpha)
    Revision.objects.create(machine=machine, number=1, state="applied")
    job = make.job(orders.Start(name="web"), on=alpha, by=admin, state="succeeded")
    assert remove(as_admin) == 302
    assert not Host.objects.exists()
    assert not Machine.objects.exists()
    assert "web" not in text(as_admin.get("/machines/"))
    assert "alpha (removed" in text(as_admin.get(f"/jobs/{job.pk}/"))
    page = as_admin.get("/hosts/alpha/")
    assert page.status_code == 410
    assert "systemctl disable --now nspawnpanel-host" in text(page)
    assert Event.objects.get(kind="host-removed").object_name == "alpha"


def test_others_are_not_told_that_there_was_one(as_admin, as_viewer, alpha):
    remove(as_admin)
    assert as_viewer.get("/hosts/alpha/").status_code == 404


@pytest.mark.parametrize(("state", "sends", "becomes", "said"), [
    ("queued", 0, "cancelled", ""), ("sent", 1, "cancelled", "What became of it there is not known."),
    ("accepted", 1, "failed", "is not known"), ("running", 1, "failed", "is not known"), ("lost", 1, "failed", "is not known"),
])  # fmt: skip
def test_jobs_of_it_end_and_say_what_is_known_of_them(as_admin, alpha, admin, state, sends, becomes, said):
    job = make.job(orders.Start(name="web"), on=alpha, by=admin, state=state, sends=sends, sealed="secret")
    remove(as_admin)
    ended = Job.objects.get(pk=job.pk)
    assert (ended.state, ended.sealed) == (becomes, "")
    assert ended.problem["message"] == "alpha was removed from the panel."
    assert said in ended.problem["hint"]
    assert ended.finished_at is not None


def test_its_later_messages_are_ignored(as_admin, alpha):
    remove(as_admin)
    with pytest.raises(Host.DoesNotExist):
        intake.take(alpha.pk, [("1-0", "x")])


def test_it_is_removed_once(as_admin, alpha, admin):
    removed_hosts.remove(alpha, by=admin)
    with pytest.raises(removed_hosts.Problem, match="was removed already"):
        removed_hosts.remove(alpha, by=admin)
    assert as_admin.get("/hosts/alpha/remove/").status_code == 404


def test_tokens_for_new_keys_of_it_end_with_it(as_admin, alpha, admin):
    PanelKey.objects.create(public=Enrolment.text_of(SigningKey.generate().verify_key))
    again = enrolments.make("alpha", by=admin, host=alpha)
    remove(as_admin)
    again.refresh_from_db()
    assert again.state == "withdrawn"


# --- and another one of its name


def test_a_host_that_joins_under_the_name_inherits_nothing(as_admin, alpha, admin):
    team = Team.objects.create(slug="shop", name="Shop")
    HostShare.objects.create(host=alpha, team=team)
    make.machine("web", on=alpha)
    old = make.job(orders.Start(name="web"), on=alpha, by=admin, state="sent", sends=1)
    Host.objects.filter(pk=alpha.pk).update(generation=7, sequence=40, quarantined_at=timezone.now())
    remove(as_admin)
    new = enrol.register("alpha", KEYS)
    assert new.pk != alpha.pk
    assert (new.generation, new.sequence, new.quarantined_at, new.facts) == (1, 0, None, {})
    assert not HostShare.objects.exists()
    assert not Machine.objects.on(new).exists()
    assert not Job.objects.filter(host=new).exists()
    assert Job.objects.get(pk=old.pk).state == "cancelled"
    page = text(as_admin.get("/hosts/alpha/"))
    assert "removed the host" not in page
    assert f"/jobs/{old.pk}/" not in text(as_admin.get("/jobs/?q=host:alpha"))


def test_it_can_be_removed_again_and_again(as_admin, alpha):
    remove(as_admin)
    Host.with_removed.update(name="alpha (removed long ago)", removed_at=timezone.now() - timedelta(days=3))
    enrol.register("alpha", KEYS)
    assert remove(as_admin) == 302
    assert Host.with_removed.filter(former_name="alpha").count() == 2
