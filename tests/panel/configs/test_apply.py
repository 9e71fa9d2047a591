"""Putting the draft on the host: config-apply."""

from uuid import uuid4

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.models import Job, Revision
from tests import make
from tests.panel.configs import cast

URL = "/hosts/alpha/machines/web/config/apply/"


def test_it_numbers_the_draft_and_orders_it(as_admin, admin, web):
    before = cast.applied(web, 4, memory_max="512M")
    made = cast.draft(web, admin, memory_max="1G")
    answer = as_admin.post(URL, {"seen": cast.stamp(web), "reason": " more room ", "key": str(uuid4())})
    job = Job.objects.get()
    made.refresh_from_db()
    assert answer.url == f"/jobs/{job.pk}/"
    assert (made.number, made.state, made.reason) == (5, "applying", "more room")
    assert (job.op, job.machine_name, job.revision, job.state, job.actor) == ("apply", "web", made, "queued", admin)
    order = orders.from_wire(job.order)
    assert order.configuration.limits == made.limits_text
    assert nspawn.revision_of(order.configuration.limits) == 5
    assert order.configuration.replaces_nspawn == before.nspawn_sha256


def test_a_second_press_finds_the_first_job(as_admin, admin, web):
    cast.draft(web, admin)
    data = {"seen": cast.stamp(web), "key": str(uuid4())}
    first, second = as_admin.post(URL, data), as_admin.post(URL, data)
    assert first.url == second.url
    assert Job.objects.count() == 1


def test_what_was_not_seen_is_not_applied(as_admin, admin, web):
    made = cast.draft(web, admin)
    seen = cast.stamp(web)
    made.memory_max = "2G"
    made.save()
    answer = as_admin.post(URL, {"seen": seen})
    made.refresh_from_db()
    assert answer.status_code == 409
    assert "saved a newer draft in the meantime" in answer.content.decode()
    assert (made.state, Job.objects.count()) == ("draft", 0)


def test_a_busy_machine_leaves_the_draft_as_it_was(as_admin, admin, web):
    made = cast.draft(web, admin)
    job = make.job(orders.Start(name="web"), on=web.host, by=make.user("bob", role="administrator"))
    answer = as_admin.post(URL, {"seen": cast.stamp(web), "key": str(uuid4())})
    made.refresh_from_db()
    assert answer.status_code == 409
    assert f"bob already requested “start” for web (job {job.pk})" in answer.content.decode()
    assert (made.state, made.number, made.nspawn_text) == ("draft", None, "")


def test_without_a_draft_there_is_nothing_to_apply(as_admin, web):
    answer = as_admin.post(URL, {"seen": cast.stamp(web)})
    assert answer.status_code == 409
    assert "no draft to apply" in answer.content.decode()


def test_a_draft_on_its_way_is_not_applied_again(as_admin, admin, web):
    cast.draft(web, admin)
    as_admin.post(URL, {"seen": cast.stamp(web), "key": str(uuid4())})
    assert as_admin.post(URL, {"seen": cast.stamp(web), "key": str(uuid4())}).status_code == 409
    assert Job.objects.count() == 1


def test_after_a_failure_the_number_is_used_again(as_admin, admin, web):
    made = cast.draft(web, admin)
    as_admin.post(URL, {"seen": cast.stamp(web), "key": str(uuid4())})
    Job.objects.update(state="failed")
    Revision.objects.filter(pk=made.pk).update(state="draft", number=None)
    as_admin.post(URL, {"seen": cast.stamp(web), "key": str(uuid4())})
    made.refresh_from_db()
    assert made.number == 1
    assert Job.objects.count() == 2


def test_a_machine_of_a_name_systemd_refuses_is_refused_with_a_sentence(as_admin, admin, alpha):
    odd = make.machine("odd_name", on=alpha)
    cast.draft(odd, admin)
    answer = as_admin.post("/hosts/alpha/machines/odd_name/config/apply/", {"seen": cast.stamp(odd)})
    assert answer.status_code == 409
    assert "not a machine name" in answer.content.decode()
    assert not Job.objects.exists()


@pytest.mark.parametrize("key", ["", "nonsense"])
def test_a_form_without_a_key_still_works(as_admin, admin, web, key):
    cast.draft(web, admin)
    assert as_admin.post(URL, {"seen": cast.stamp(web), "key": key}).status_code == 302


def test_it_rejects_get(as_admin, web):
    assert as_admin.get(URL).status_code == 405


def test_it_needs_the_right_to_configure(as_viewer, admin, web):
    cast.draft(web, admin)
    answer = as_viewer.post(URL, {"seen": cast.stamp(web)})
    assert answer.status_code == 403
    assert "the permission to configure" in answer.content.decode()
    assert not Job.objects.exists()


def test_it_needs_login(client, web):
    assert client.post(URL).status_code == 302


class TestWithARestart:
    @pytest.fixture
    def running(self, web):
        web.state = "running"
        web.addresses = ["10.0.0.2"]
        web.save()
        cast.applied(web)
        return web

    def order(self) -> orders.Apply:
        found = orders.from_wire(Job.objects.latest("pk").order)
        assert isinstance(found, orders.Apply)
        return found

    def test_the_button_says_so(self, as_admin, admin, running):
        cast.draft(running, admin, network_mode="zone", network_target="shop")
        sent = {
            "seen": cast.stamp(running),
            "then": "restart",
            "rollback": "on",
            "rollback_after": "90",
            "expects": "address",
        }
        as_admin.post(URL, sent)
        order = self.order()
        assert (order.restart, order.rollback_after, order.expects) == (True, 90, "address")

    def test_without_the_tick_nothing_goes_back(self, as_admin, admin, running):
        cast.draft(running, admin, network_mode="none")
        as_admin.post(
            URL, {"seen": cast.stamp(running), "then": "restart", "rollback_after": "90", "expects": "address"}
        )
        assert (self.order().restart, self.order().rollback_after) == (True, 0)

    def test_the_other_button_restarts_nothing(self, as_admin, admin, running):
        cast.draft(running, admin, network_mode="none")
        as_admin.post(
            URL, {"seen": cast.stamp(running), "rollback": "on", "rollback_after": "90", "expects": "address"}
        )
        assert (self.order().restart, self.order().rollback_after) == (False, 0)

    @pytest.mark.parametrize("seconds", ["1", "601", "soon"])
    def test_a_wrong_time_is_said_on_its_field(self, as_admin, admin, running, seconds):
        cast.draft(running, admin, network_mode="none")
        sent = {
            "seen": cast.stamp(running),
            "then": "restart",
            "rollback": "on",
            "rollback_after": seconds,
            "reason": "why",
        }
        answer = as_admin.post(URL, sent)
        page = answer.content.decode()
        assert answer.status_code == 422
        assert "Give 10 to 600 seconds" in page
        assert 'value="why"' in page
        assert not Job.objects.exists()


def test_what_would_not_hold_is_not_even_ordered(as_admin, admin, web):
    cast.draft(web, admin, settings={"Network.NamespacePath": "/run/x"})
    answer = as_admin.post(URL, {"seen": cast.stamp(web)})
    assert answer.status_code == 409
    assert "NamespacePath= is not valid" in answer.content.decode()
    assert not Job.objects.exists()
