"""The list of jobs: job-index."""

from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.models import Job
from tests import make
from tests.panel.jobs import cast

URL = "/jobs/"
HTMX = {"HX-Request": "true"}


def shown(client, query: str = "", **headers) -> list[int]:
    page = client.get(URL + query, headers=headers).content.decode()
    ids = [part.split('"')[0] for part in page.split('<tr id="j-')[1:]]
    return [int(each) for each in ids]


def test_it_says_what_where_who_and_how_it_went(as_viewer, alpha, admin):
    cast.ended(alpha, "failed", problem={"message": "It broke <b>."}, order=orders.Poweroff(name="db"))
    page = as_viewer.get(URL).content.decode()
    for said in ("Power off db", ">alpha</a>", "ada", "failed", "It broke &lt;b&gt;."):
        assert said in page


def test_the_newest_is_first(as_viewer, alpha):
    ids = [cast.ended(alpha).pk for _ in range(3)]
    assert shown(as_viewer) == ids[::-1]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("state:failed", ["b"]),
        ("state:FAILED", ["b"]),
        ("state:failed state:queued", ["c", "b"]),
        ("state:unfinished", ["c"]),
        ("op:build", []),
        ("op:reboot", ["b"]),
        ("host:beta", ["c"]),
        ("who:Bob", ["c"]),
        ("who:bob state:failed", []),
        ("web", ["a"]),
        ("WE", ["a"]),
        ("state:nonsense", []),
        ("", ["c", "b", "a"]),
        ("%00 ", ["c", "b", "a"]),
    ],
)
def test_the_filter_finds(as_viewer, alpha, admin, query, found):
    jobs = {
        "a": cast.ended(alpha, order=orders.Start(name="web")).pk,
        "b": cast.ended(alpha, "failed", order=orders.Reboot(name="db")).pk,
        "c": cast.job(make.host("beta"), make.user("bob", role="administrator"), orders.Start(name="mail")).pk,
    }
    assert shown(as_viewer, f"?q={query}") == [jobs[each] for each in found]


def test_a_number_finds_its_job(as_viewer, alpha):
    first, _ = cast.ended(alpha), cast.ended(alpha)
    assert shown(as_viewer, f"?q=%23{first.pk}") == [first.pk]


def test_an_unknown_word_is_explained(as_viewer, alpha):
    cast.ended(alpha)
    page = as_viewer.get(URL + "?q=state:stopped").content.decode()
    assert "There is no state:stopped" in page
    assert "Clear the filter" in page


def test_nothing_at_all_is_said_kindly(as_viewer):
    assert "No jobs yet" in as_viewer.get(URL).content.decode()


def test_pages_follow_each_other_without_gap_or_overlap(as_viewer, alpha):
    ids = [cast.ended(alpha).pk for _ in range(120)][::-1]
    assert shown(as_viewer) == ids[:50]
    assert shown(as_viewer, f"?older={ids[49]}") == ids[50:100]
    assert shown(as_viewer, f"?older={ids[99]}") == ids[100:]
    assert shown(as_viewer, f"?newer={ids[100]}") == ids[50:100]
    assert shown(as_viewer, f"?newer={ids[50]}") == ids[:50]


def test_pages_link_to_each_other(as_viewer, alpha):
    ids = [cast.ended(alpha).pk for _ in range(51)][::-1]
    assert f'href="?q=host%3Aalpha&amp;older={ids[49]}"' in as_viewer.get(URL + "?q=host:alpha").content.decode()
    assert f'href="?newer={ids[50]}"' in as_viewer.get(f"{URL}?older={ids[49]}").content.decode()


@pytest.mark.parametrize(
    "query", ["?older=x", "?older=-1", "?newer=9999999999999999999", "?older=²", "?q=" + "a" * 900]
)
def test_nonsense_in_the_address_is_no_error(as_viewer, alpha, query):
    cast.ended(alpha)
    assert as_viewer.get(URL + query).status_code == 200


def test_a_waiting_job_says_why(as_viewer, alpha):
    alpha.last_seen = timezone.now() - timedelta(minutes=3)
    alpha.save()
    cast.job(alpha)
    page = as_viewer.get(URL).content.decode()
    assert "waiting: host alpha has been offline for" in page
    assert "expires in 23 h" in page


def test_a_running_job_says_how_far_it_is(as_viewer, alpha):
    cast.job(alpha, state="running", progress=0.41, phases=[{"name": "packages", "at": 1, "line": 1, "number": 1}])
    assert "packages, 41 %" in as_viewer.get(URL).content.decode()


def test_nothing_new_is_204_and_something_new_is_the_list(as_viewer, alpha):
    cast.ended(alpha)
    page = as_viewer.get(URL).content.decode()
    version = page.split("/jobs/?v=")[1].split('"')[0]
    assert as_viewer.get(f"{URL}?v={version}", headers=HTMX).status_code == 204
    Job.objects.update(state="failed")
    answer = as_viewer.get(f"{URL}?v={version}", headers=HTMX)
    assert answer.status_code == 200
    assert answer.content.decode().lstrip().startswith('<div id="jobs"')


def test_cancel_is_offered_to_those_who_may(as_admin, as_viewer, alpha):
    job = cast.job(alpha)
    assert f"/jobs/{job.pk}/cancel/confirm/" in as_admin.get(URL).content.decode()
    assert "cancel/confirm" not in as_viewer.get(URL).content.decode()


def test_it_needs_login(client):
    assert client.get(URL).status_code == 302


def test_it_rejects_post(as_admin):
    assert as_admin.post(URL).status_code == 405


def test_a_page_costs_five_queries_however_many_jobs(as_viewer, alpha, django_assert_max_num_queries):
    for number in range(60):
        cast.ended(alpha, order=orders.Start(name=f"m{number}"))
    with django_assert_max_num_queries(5):
        as_viewer.get(URL)


def test_a_tick_without_news_costs_four(as_viewer, alpha, django_assert_max_num_queries):
    cast.ended(alpha)
    version = as_viewer.get(URL).content.decode().split("/jobs/?v=")[1].split('"')[0]
    with django_assert_max_num_queries(4):
        assert as_viewer.get(f"{URL}?v={version}", headers=HTMX).status_code == 204
