"""The live head of a job's page: job-status."""

from django.utils import timezone

from machines.contract import orders
from machines.models import Job
from machines.panel.hosts import clocks, resync
from tests import make
from tests.panel.jobs import cast

HTMX = {"HX-Request": "true"}


def version(text: str) -> str:
    return text.split("/status/?v=")[1].split('"', maxsplit=1)[0]


def test_it_asks_for_itself_while_the_job_goes_on(as_viewer, alpha):
    job = cast.job(alpha, state="running")
    shown = as_viewer.get(f"/jobs/{job.pk}/status/", headers=HTMX).content.decode()
    assert f'hx-get="/jobs/{job.pk}/status/?v=' in shown
    assert "<html" not in shown


def test_it_stops_when_the_job_has_ended(as_viewer, alpha):
    job = cast.ended(alpha)
    assert (
        f'hx-get="/jobs/{job.pk}/status/' not in as_viewer.get(f"/jobs/{job.pk}/status/", headers=HTMX).content.decode()
    )


def test_nothing_new_is_204(as_viewer, alpha):
    job = cast.job(alpha, state="running")
    seen = version(as_viewer.get(f"/jobs/{job.pk}/").content.decode())
    assert as_viewer.get(f"/jobs/{job.pk}/status/?v={seen}", headers=HTMX).status_code == 204
    Job.objects.update(progress=0.5)
    assert as_viewer.get(f"/jobs/{job.pk}/status/?v={seen}", headers=HTMX).status_code == 200


def test_more_lines_are_no_news_for_the_head(as_viewer, alpha):
    job = cast.job(alpha, state="running")
    seen = version(as_viewer.get(f"/jobs/{job.pk}/").content.decode())
    cast.wrote(job, "a line")
    assert as_viewer.get(f"/jobs/{job.pk}/status/?v={seen}", headers=HTMX).status_code == 204


def test_opened_by_hand_it_leads_to_the_page(as_viewer, alpha):
    job = cast.job(alpha)
    assert as_viewer.get(f"/jobs/{job.pk}/status/").url == f"/jobs/{job.pk}/"


def test_it_costs_four_queries(as_viewer, alpha, django_assert_max_num_queries):
    job = cast.job(alpha, state="running")
    with django_assert_max_num_queries(4):
        as_viewer.get(f"/jobs/{job.pk}/status/", headers=HTMX)


def test_an_order_that_waits_for_a_clock_says_which_and_what_to_do(as_viewer, alpha):
    alpha.clock_skew = -300.0
    alpha.save()
    why = clocks.problem("alpha", -300.0)
    job = make.job(orders.Start(name="web"), on=alpha, state="queued", problem=why.to_wire())
    page = as_viewer.get(f"/jobs/{job.pk}/").content.decode().replace("\xa0", " ").replace("&#x27;", "'")
    assert "waiting: the clock of alpha is 5 m 0 s behind the panel's" in page
    assert "timedatectl" in page


def test_an_order_for_a_host_that_is_being_read_anew_says_so(as_viewer, alpha):
    alpha.resync_since = timezone.now()
    alpha.save()
    job = make.job(orders.Start(name="web"), on=alpha, problem=resync.waits("alpha").to_wire())
    page = as_viewer.get(f"/jobs/{job.pk}/").content.decode()
    assert "waiting: alpha was restored from an older copy of itself and is being resynchronized" in page
