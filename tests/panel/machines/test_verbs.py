"""The verbs share one view: each places its order, and each says what stands in its way."""

from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.contract.permissions import Role
from machines.models import Job
from machines.panel.orders.operations import ACTIONS
from tests import make
from tests.pages import text

ROW, PAGE = "m-{}", "machine"


def url(op: str, name: str = "web") -> str:
    return f"/hosts/alpha/machines/{name}/{op}/"


def htmx(target: str) -> dict[str, str]:
    return {"HX-Request": "true", "HX-Target": target}


@pytest.mark.parametrize("op", ACTIONS)
def test_it_places_the_order(op, as_admin, admin, web):
    answer = as_admin.post(url(op), follow=True)
    job = Job.objects.get()
    order = orders.to_wire(ACTIONS[op].to_order("web"))
    assert (job.op, job.machine_name, job.host, job.actor) == (order["op"], "web", web.host, admin)
    assert job.order == order
    assert answer.redirect_chain == [("/hosts/alpha/machines/web/", 302)]
    assert f"/jobs/{job.pk}/" in text(answer)


@pytest.mark.parametrize("op", ACTIONS)
def test_it_rejects_get(op, as_admin, web):
    assert as_admin.get(url(op)).status_code == 405
    assert not Job.objects.exists()


@pytest.mark.parametrize("op", ACTIONS)
def test_it_needs_the_right_to_operate(op, as_viewer, client, web):
    assert as_viewer.post(url(op)).status_code == 403
    assert client.post(url(op)).url.startswith("/accounts/login/")
    assert not Job.objects.exists()


def test_it_answers_a_row_with_the_pending_verb_and_a_note(as_admin, web):
    answer = as_admin.post(url("start"), headers=htmx(ROW.format(web.pk)))
    page = text(answer)
    assert page.startswith(f'<tr id="m-{web.pk}"')
    assert "<em>starting</em>" in page
    assert '"text": "Starting web."' in answer.headers["HX-Trigger"]
    assert f'"/jobs/{Job.objects.get().pk}/"' in answer.headers["HX-Trigger"]


def test_it_answers_the_machines_own_page_with_itself(as_admin, web):
    page = text(as_admin.post(url("start"), headers=htmx(PAGE)))
    assert '<div id="machine"' in page
    assert "<em>starting</em>" in page
    assert 'id="running-jobs"' in page


def test_a_target_it_does_not_know_gets_a_row_and_nothing_else(as_admin, web):
    page = text(as_admin.post(url("start"), headers=htmx("../../base.html")))
    assert page.startswith("<tr")


def test_a_second_press_finds_the_first_job(as_admin, web):
    as_admin.post(url("start"))
    assert as_admin.post(url("start")).status_code == 302
    assert as_admin.post(url("start"), headers=htmx(PAGE)).status_code == 200
    assert Job.objects.count() == 1


def test_somebody_elses_job_is_a_conflict_that_links_to_it(as_admin, web):
    other = make.job(orders.Reboot(name="web"), on=web.host, by=make.user("olga", role=Role.ADMINISTRATOR))
    answer = as_admin.post(url("poweroff"))
    assert answer.status_code == 409
    assert "olga already requested “reboot” for web" in text(answer)
    assert f'href="/jobs/{other.pk}/"' in text(answer)
    answer = as_admin.post(url("poweroff"), headers=htmx(PAGE))
    assert answer.status_code == 409
    assert text(answer).startswith("olga already requested")
    assert f'"/jobs/{other.pk}/"' in answer.headers["HX-Trigger"]
    assert Job.objects.count() == 1


def test_a_silent_host_gets_its_order_later(as_admin):
    beta = make.host("beta", last_seen=timezone.now() - timedelta(minutes=3))
    make.machine("web", on=beta, state="running")
    answer = text(as_admin.post("/hosts/beta/machines/web/poweroff/", follow=True))
    assert "waits until beta is back; it expires in 24 h and can be cancelled" in answer
    assert Job.objects.get().state == "queued"


def test_a_machine_that_is_not_there_is_a_404(as_admin, web):
    assert as_admin.post(url("start", "nobody")).status_code == 404
    web.removed_at = timezone.now()
    web.save(update_fields=["removed_at"])
    assert as_admin.post(url("start")).status_code == 404


def test_a_name_that_no_order_may_carry_is_refused(as_admin, alpha):
    make.machine("under_score", on=alpha)
    answer = as_admin.post(url("start", "under_score"))
    assert answer.status_code == 409
    assert "is not a machine name that systemd accepts" in text(answer)


# --- the question before


@pytest.mark.parametrize("op", ["poweroff", "reboot", "terminate"])
def test_it_asks_before(op, as_admin, web):
    page = text(as_admin.get(url(f"confirm/{op}")))
    assert "<html" in page
    assert ACTIONS[op].asks in page
    assert f'action="{url(op)}"' in page
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("seen_on", "target"),
    [("/machines/?q=a", 'hx-target="#m-{}"'), ("/hosts/alpha/machines/web/", 'hx-target="#machine"'), ("/jobs/", "")],
)
def test_its_dialog_brings_the_answer_to_where_it_was_asked(seen_on, target, as_admin, web):
    headers = {"HX-Request": "true", "HX-Current-URL": f"http://testserver{seen_on}"}
    page = text(as_admin.get(url("confirm/poweroff"), headers=headers))
    assert page.strip().startswith("<dialog")
    assert target.format(web.pk) in page
    assert ("hx-post" in page) is bool(target)


@pytest.mark.parametrize("op", ["start", "enable", "remove", "nonsense"])
def test_nothing_is_asked_before_the_rest(op, as_admin, web):
    assert as_admin.get(url(f"confirm/{op}")).status_code == 404


def test_the_question_says_that_the_order_will_wait(as_admin):
    beta = make.host("beta", last_seen=timezone.now() - timedelta(minutes=3))
    make.machine("web", on=beta)
    assert "the request waits for it" in text(as_admin.get("/hosts/beta/machines/web/confirm/reboot/"))


# --- the menu of a row


def test_the_menu_offers_what_fits_the_state(as_admin, web):
    stopped = text(as_admin.get(url("menu")))
    assert "/start/" in stopped
    assert "/remove/" in stopped
    assert "/confirm/poweroff/" not in stopped
    web.state = "running"
    web.save(update_fields=["state"])
    running = text(as_admin.get(url("menu")))
    assert "/confirm/poweroff/" in running
    assert "/remove/" not in running
    assert "/start/" not in running


def test_the_menu_of_a_busy_machine_leads_to_its_job(as_admin, web, admin):
    job = make.job(orders.Start(name="web"), on=web.host, by=admin)
    menu = text(as_admin.get(url("menu")))
    assert f'href="/jobs/{job.pk}/"' in menu
    assert "/start/" not in menu
    assert "/remove/" not in menu


# --- templates


@pytest.fixture
def template(web):
    web.read_only, web.image_type, web.state = True, "subvolume", "stopped"
    web.save(update_fields=["read_only", "image_type", "state"])
    return web


def test_making_one_says_what_it_means_before(as_admin, web):
    page = text(as_admin.get(url("confirm/template")))
    assert "Convert web to a template" in page
    assert "new machines are made from it" in page
    as_admin.post(url("template"))
    assert Job.objects.get().order == {"op": "set_read_only", "name": "web", "read_only": True}


def test_a_template_is_not_started_and_says_why(as_admin, template):
    for op in ("start", "enable"):
        answer = as_admin.post(url(op))
        assert answer.status_code == 409
        assert "web is a template" in text(answer)
    assert not Job.objects.exists()


def test_a_template_offers_a_machine_from_it_and_no_start(as_admin, template):
    for address in ("/machines/", "/hosts/alpha/machines/web/", "/hosts/alpha/machines/web/menu/"):
        page = text(as_admin.get(address))
        assert "/web/start/" not in page, address
        assert "/web/enable/" not in page, address
    assert "template</span>" in text(as_admin.get("/machines/"))
    assert "?host=alpha&amp;clone=web" in page
    assert "/web/writable/" in page
    as_admin.post(url("writable"))
    assert Job.objects.get().order == {"op": "set_read_only", "name": "web", "read_only": False}


def test_a_viewer_cannot_make_one(as_viewer, web):
    assert as_viewer.post(url("template")).status_code == 403
    assert "confirm/template" not in text(as_viewer.get("/hosts/alpha/machines/web/"))
