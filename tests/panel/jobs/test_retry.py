"""The same order once more: job-retry."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.models import Job, Machine, Revision
from tests import make
from tests.panel.jobs import cast


def test_it_is_a_new_job_that_names_the_old_one(as_admin, admin, alpha):
    first = cast.ended(alpha, "failed", sealed="kept")
    answer = as_admin.post(f"/jobs/{first.pk}/retry/", {"key": str(uuid4())})
    again = Job.objects.exclude(pk=first.pk).get()
    assert answer.url == f"/jobs/{again.pk}/"
    assert (again.retry_of, again.order, again.state, again.actor) == (first, first.order, "queued", admin)
    assert again.sealed == "kept"


def test_a_second_press_finds_the_first_one(as_admin, alpha):
    first = cast.ended(alpha, "failed")
    data = {"key": str(uuid4())}
    urls = {as_admin.post(f"/jobs/{first.pk}/retry/", data).url for _ in range(2)}
    assert len(urls) == 1
    assert Job.objects.count() == 2


def test_a_busy_machine_is_refused_with_the_job_in_the_way(as_admin, alpha):
    first = cast.ended(alpha, "failed")
    other = cast.job(alpha)
    answer = as_admin.post(f"/jobs/{first.pk}/retry/")
    assert answer.status_code == 409
    assert f"/jobs/{other.pk}/" in answer.content.decode()


def test_what_succeeded_or_goes_on_cannot_be_retried(as_admin, alpha):
    for job in (cast.ended(alpha), cast.job(alpha, state="running")):
        assert as_admin.post(f"/jobs/{job.pk}/retry/").status_code == 409
    assert Job.objects.count() == 2


def test_an_apply_is_pressed_again_and_not_retried(as_admin, alpha):
    configuration = orders.Configuration(revision=1, nspawn="", limits="")
    job = cast.ended(alpha, "failed", order=orders.Apply(name="web", configuration=configuration))
    answer = as_admin.post(f"/jobs/{job.pk}/retry/")
    assert answer.status_code == 409
    assert "Its draft is still there" in answer.content.decode()


def test_it_rejects_get(as_admin, alpha):
    assert as_admin.get(f"/jobs/{cast.ended(alpha, 'failed').pk}/retry/").status_code == 405


def test_it_needs_the_right(as_viewer, alpha):
    job = cast.ended(alpha, "failed")
    assert as_viewer.post(f"/jobs/{job.pk}/retry/").status_code == 403
    assert Job.objects.count() == 1


def test_it_needs_login(client, alpha):
    assert client.post(f"/jobs/{cast.ended(alpha, 'failed').pk}/retry/").status_code == 302


class TestBuilds:
    @pytest.fixture
    def failed(self, alpha, admin) -> Job:
        """A build that failed: its machine is hidden again, its configuration a draft."""
        machine = make.machine("web", on=alpha, state="missing", removed_at=timezone.now())
        revision = Revision.objects.create(machine=machine, memory_max="64M")
        order = orders.Build(
            name="web",
            recipe={"release": "bookworm"},
            first_boot={},
            configuration=orders.Configuration(revision=1, nspawn="x", limits=""),
        )
        return cast.ended(alpha, "failed", order=order, sealed="kept", revision=revision, finished_at=timezone.now())

    def test_it_builds_with_the_same_configuration_and_secrets_again(self, as_admin, failed):
        as_admin.post(f"/jobs/{failed.pk}/retry/")
        again = Job.objects.exclude(pk=failed.pk).get()
        assert (again.revision, again.sealed) == (failed.revision, "kept")
        assert (again.revision.state, again.revision.number) == ("applying", 1)
        assert "MemoryMax=64M" in again.order["configuration"]["limits"]
        assert Machine.objects.listed().filter(name="web").exists()

    def test_a_second_press_finds_the_first_one(self, as_admin, failed):
        data = {"key": str(uuid4())}
        answers = [as_admin.post(f"/jobs/{failed.pk}/retry/", data) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [302, 302]
        assert answers[0].url == answers[1].url
        assert Job.objects.count() == 2

    def test_it_says_so_when_the_configuration_was_replaced(self, as_admin, failed):
        failed.revision.delete()
        answer = as_admin.post(f"/jobs/{failed.pk}/retry/")
        assert answer.status_code == 409
        assert "Build the machine again" in answer.content.decode()

    def test_it_says_so_when_the_secrets_are_gone(self, as_admin, failed):
        Job.objects.filter(pk=failed.pk).update(finished_at=timezone.now() - timedelta(days=2))
        assert "discarded after a day" in as_admin.post(f"/jobs/{failed.pk}/retry/").content.decode()
