"""The offer of a btrfs pool: to whom, with which bounds, and what it orders."""

import pytest
from django.utils import timezone

from machines.models import Job
from tests import make
from tests.pages import text

URL = "/hosts/alpha/pool/"
GIB = 1 << 30
FACTS = {"pool_type": "ext4", "disk_total": 100 * GIB, "disk_free": 60 * GIB, "bases": [{"bytes": GIB}]}


@pytest.fixture
def alpha(db):
    host = make.host("alpha", facts=FACTS, facts_at=timezone.now())
    make.machine("web", on=host, disk_bytes=7 * GIB)
    return host


def test_a_host_on_ext4_is_offered_one_and_others_are_not(as_admin, alpha):
    assert 'href="/hosts/alpha/pool/"' in text(as_admin.get("/hosts/alpha/"))
    alpha.facts = {**FACTS, "pool_type": "btrfs"}
    alpha.save(update_fields=["facts"])
    assert "/pool/" not in text(as_admin.get("/hosts/alpha/"))
    assert as_admin.get(URL).status_code == 404


def test_a_viewer_is_not_offered_one(as_viewer, alpha):
    assert "/pool/" not in text(as_viewer.get("/hosts/alpha/"))
    assert as_viewer.get(URL).status_code == 403
    assert as_viewer.post(URL, {"size": 20}).status_code == 403
    assert not Job.objects.exists()


def test_it_says_what_it_means_and_which_sizes_there_are(as_admin, alpha):
    page = text(as_admin.get(URL))
    for shown in (
        "machines.before-pool",
        "8.0 GiB",
        "60 GiB are free",
        "between 11 and 59 GiB",
        'min="11"',
        'max="59"',
    ):
        assert shown in page, shown
    assert 'value="29"' in page


def test_it_orders_the_pool_once(as_admin, alpha):
    key = "11111111-1111-4111-8111-111111111111"
    for _ in range(2):
        answer = as_admin.post(URL, {"size": "20", "key": key})
        job = Job.objects.get()
        assert answer.url == f"/jobs/{job.pk}/"
    assert job.order == {"op": "pool", "size": 20 * GIB}
    assert f"View job {job.pk}" in text(as_admin.get(URL))


@pytest.mark.parametrize("size", ["10", "60", "-1", "x", "", "99999999999999999999"])
def test_a_size_that_cannot_be_is_refused(as_admin, alpha, size):
    answer = as_admin.post(URL, {"size": size})
    assert answer.status_code == 422
    assert 'class="field-error"' in text(answer) or "invalid" in text(answer)
    assert not Job.objects.exists()


@pytest.mark.parametrize("state", ["running", "degraded", "starting", "restarting", "stopping"])
def test_running_machines_are_named_first(as_admin, alpha, state):
    make.machine("db", on=alpha, state=state)
    page = text(as_admin.get(URL))
    assert "1 machine of this host is running: db" in page
    assert "Power it off first" in page


def test_a_full_host_is_told_that_there_is_no_room(as_admin, alpha):
    alpha.facts = {**FACTS, "disk_free": 5 * GIB}
    alpha.save(update_fields=["facts"])
    page = text(as_admin.get(URL))
    assert "There is not enough space" in page
    assert "Create the pool" not in page
    assert as_admin.post(URL, {"size": "11"}).status_code == 422
