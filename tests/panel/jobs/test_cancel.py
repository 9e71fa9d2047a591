"""Stopping a job: job-cancel-ask and job-cancel."""

import pytest

from machines.contract import orders
from machines.models import Job
from tests.panel.jobs import cast


def test_a_job_nobody_sent_ends_at_once(as_admin, alpha):
    job = cast.job(alpha)
    answer = as_admin.post(f"/jobs/{job.pk}/cancel/")
    job.refresh_from_db()
    assert answer.url == f"/jobs/{job.pk}/"
    assert (job.state, job.cancelled_by) == ("cancelled", "ada")


def test_a_running_job_is_asked_to_stop(as_admin, alpha):
    job = cast.job(alpha, state="running")
    as_admin.post(f"/jobs/{job.pk}/cancel/")
    job.refresh_from_db()
    assert job.state == "running"
    assert job.cancel_asked_at
    assert "cancelling" in as_admin.get(f"/jobs/{job.pk}/").content.decode()


@pytest.mark.parametrize(
    ("state", "said"), [("succeeded", "has already succeeded"), ("expired", "has already expired")]
)
def test_what_has_ended_cannot_be_cancelled(as_admin, alpha, state, said):
    job = cast.ended(alpha, state)
    answer = as_admin.post(f"/jobs/{job.pk}/cancel/")
    assert answer.status_code == 409
    assert said in answer.content.decode()


def test_a_second_cancel_is_told_so(as_admin, alpha):
    job = cast.job(alpha, state="running")
    as_admin.post(f"/jobs/{job.pk}/cancel/")
    answer = as_admin.post(f"/jobs/{job.pk}/cancel/")
    assert answer.status_code == 409
    assert "is being cancelled already" in answer.content.decode()


def test_it_says_before_what_will_happen_to_half_done_work(as_admin, alpha):
    waiting = cast.job(alpha)
    assert "The request is withdrawn" in as_admin.get(f"/jobs/{waiting.pk}/cancel/confirm/").content.decode()
    running = cast.job(alpha, state="running", order=orders.Remove(name="db"))
    assert "may be left incomplete" in as_admin.get(f"/jobs/{running.pk}/cancel/confirm/").content.decode()


def test_for_htmx_it_asks_in_a_dialog(as_admin, alpha):
    job = cast.job(alpha)
    shown = as_admin.get(f"/jobs/{job.pk}/cancel/confirm/", headers={"HX-Request": "true"}).content.decode()
    assert "<dialog" in shown
    assert "<html" not in shown


def test_it_rejects_get(as_admin, alpha):
    assert as_admin.get(f"/jobs/{cast.job(alpha).pk}/cancel/").status_code == 405


def test_it_needs_the_right_to_operate(as_viewer, alpha):
    job = cast.job(alpha)
    assert as_viewer.post(f"/jobs/{job.pk}/cancel/").status_code == 403
    assert as_viewer.get(f"/jobs/{job.pk}/cancel/confirm/").status_code == 403
    assert Job.objects.get().state == "queued"


def test_it_needs_login(client, alpha):
    assert client.post(f"/jobs/{cast.job(alpha).pk}/cancel/").status_code == 302
