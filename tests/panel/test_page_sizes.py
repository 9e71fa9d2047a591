"""What the long pages weigh on the wire, uncompressed: most panels are looked at over a VPN, and some over a phone."""

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.contract.states import JobState
from tests import make

pytestmark = pytest.mark.django_db

HOSTS, MACHINES, JOBS = 200, 400, 80
ENDS = [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED, JobState.RUNNING, JobState.CANCELLED]


@pytest.fixture
def ada():
    return make.client(make.user("ada", role="administrator"))


@pytest.fixture
def fleet():
    now = timezone.now()
    hosts = make.fleet(HOSTS, MACHINES)
    for n in range(JOBS):
        state = ENDS[n % len(ENDS)]
        ended = now if state != JobState.RUNNING else None
        order = orders.Start(name=f"machine-{n:05}")
        make.job(order, on=hosts[n % HOSTS], state=state, started_at=now, finished_at=ended)


@pytest.mark.parametrize(("path", "rows", "most"), [("/machines/", 50, 105), ("/jobs/", 50, 120), ("/hosts/", 50, 80)])
def test_a_long_page_weighs_no_more_than_its_share(fleet, ada, path, rows, most):
    html = ada.get(path).content
    print(f"{path}: {len(html) / 1024:.1f} KiB")
    assert html.count(b"data-row-link") == rows
    assert len(html) <= most * 1024
