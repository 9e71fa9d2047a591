"""Limits set beside ours: shown, taken into a draft, and their files ordered away."""

import pytest

from machines.models import Job, ObservedFiles, Revision
from machines.panel.configs import drafts, external_limits
from tests.panel.configs import cast
from tests.panel.configs.test_holds import LATE, LEFT, OURS, find

pytestmark = pytest.mark.django_db

URL = "/hosts/alpha/machines/web/effective/"
HELD = "[Service]\nMemoryMax=1G\nCPUQuotaPeriodSec=10ms\n"


@pytest.fixture
def left(web) -> ObservedFiles:
    cast.applied(web, memory_max="512M")
    web.refresh_from_db()
    return find(
        web, (OURS, web.applied.limits_text), (LEFT, HELD), (LATE, "[Service]\nExecStartPre=/bin/true\nTasksMax=9\n")
    )


def named(*files: tuple[str, str]) -> dict[str, list[str]]:
    return {"path": [path for path, _ in files], "sha256": [cast.sha(text) for _, text in files]}


def test_each_file_says_what_it_holds_and_whether_it_may_go(left, web):
    first, second = external_limits.read(web, left)
    assert (first.held, first.only_limits, first.same) == (
        {"MemoryMax": "1G", "CPUQuotaPeriodSec": "10ms"},
        True,
        False,
    )
    assert (second.held, second.only_limits) == ({"TasksMax": "9"}, False)


def test_they_become_a_draft_that_says_what_holds(as_admin, left, web):
    answer = as_admin.post(f"{URL}import-limits/", {**named((LEFT, HELD)), "seen": cast.stamp(web)})
    assert answer.url.endswith("/config/review/")
    draft = Revision.objects.get(state="draft")
    assert "MemoryMax=1G" in draft.render_limits()
    assert "CPUQuotaPeriodSec=10ms" in draft.render_limits()
    assert "TasksMax" not in draft.render_limits()


def test_a_draft_that_is_there_goes_on(as_admin, admin, left, web):
    cast.draft(web, admin, cpu_quota="50%")
    as_admin.post(f"{URL}import-limits/", {**named((LEFT, HELD)), "seen": cast.stamp(web)})
    assert {"CPUQuota=50%", "MemoryMax=1G"} <= set(drafts.current(web).render_limits().splitlines())


def test_what_changed_since_it_was_shown_is_not_taken(as_admin, left, web):
    answer = as_admin.post(f"{URL}import-limits/", {**named((LEFT, "other")), "seen": cast.stamp(web)})
    assert answer.status_code == 409
    assert not Revision.objects.filter(state="draft").exists()


def test_removing_orders_that_very_file_away(as_admin, left):
    as_admin.post(f"{URL}remove-dropin/", {"path": LEFT, "sha256": cast.sha(HELD)})
    job = Job.objects.get()
    assert (job.op, job.order["files"]) == ("remove_dropins", [{"path": LEFT, "sha256": cast.sha(HELD)}])


@pytest.mark.parametrize("path", [OURS, LATE, "/etc/passwd"])
def test_nothing_else_can_be_ordered_away(as_admin, left, path):
    text = next((f.text for f in left.files if f.path == path), "")
    assert as_admin.post(f"{URL}remove-dropin/", {"path": path, "sha256": cast.sha(text)}).status_code == 409
    assert not Job.objects.exists()


def test_the_page_offers_it(as_admin, as_viewer, left):
    page = as_admin.get(URL).content.decode()
    assert "Import into a draft" in page
    assert page.count("effective/remove-dropin/") == 1
    assert "Import into a draft" not in as_viewer.get(URL).content.decode()
