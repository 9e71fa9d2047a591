"""What the long pages weigh on the wire, uncompressed: most panels are looked at over a VPN, and some over a phone."""

from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.contract.states import JobState
from machines.models import Machine
from tests import make

pytestmark = pytest.mark.django_db

HOSTS, MACHINES, JOBS = 200, 400, 80
STATES = ["running", "running", "running", "stopped", "failed"]
ENDS = [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED, JobState.RUNNING, JobState.CANCELLED]


@pytest.fixture
def ada():
    return make.client(make.user("ada", role="administrator"))


@pytest.fixture
def fleet():
    now = timezone.now()
    hosts = [make.host(f"host-{n:03}", last_seen=now + timedelta(hours=1)) for n in range(HOSTS)]
    Machine.objects.bulk_create(
        Machine(
            host=hosts[n % HOSTS], name=f"machine-{n:05}", state=STATES[n % 5], rank=0 if n % 5 == 4 else 1,
            since=now, addresses=[f"10.{n % 250}.{n // 250}.2"], os="Debian GNU/Linux 12 (bookworm)",
            image_type="subvolume", memory_bytes=64 << 20, disk_bytes=400 << 20, enabled=n % 2 == 0,
        )
        for n in range(MACHINES)
    )  # fmt: skip
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
