"""The page of a panel that was restored from an older copy, its banner, and what a person's decision does."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from machines.contract import orders, reports
from machines.contract.states import JobState
from machines.models import Epoch, Event, GroupMember, Host, Job, JobGroup
from machines.panel.hosts import epochs
from machines.panel.pages import restored
from tests import make
from tests.pages import text
from tests.panel.test_intake import HostVoice

pytestmark = pytest.mark.django_db
SAID = "This panel was restored from an older copy (of 2026-11-28 22:10)."


@pytest.fixture
def copy(alpha):
    """The database is an older copy, of a quarter of an hour ago; that was noticed now."""
    Epoch.objects.create(pk=Epoch.ONLY, mark=40, marked_at=datetime(2026, 11, 28, 22, 10, tzinfo=UTC))
    epochs.alarm(epochs.BEHIND, above=1)
    Epoch.objects.update(restored_at=timezone.now() - timedelta(seconds=5))
    Host.objects.update(heard_epoch=1)
    return restored.row()


@pytest.fixture
def old(copy, alpha, admin):
    return make.job(orders.Remove(name="m5"), on=alpha, by=admin, created_at=timezone.now() - timedelta(minutes=20))


def confirm(client, copy, **fields):
    form = {"seen": restored.stamp(copy), "shown": [job.pk for job in Job.objects.all()], **fields}
    return client.post("/restored/confirm/", form, follow=True)


@pytest.mark.parametrize(
    "page", ["/machines/", "/hosts/", "/jobs/", "/events/", "/recipes/", "/hosts/alpha/", "/restored/"]
)
def test_every_page_says_that_it_is_an_older_copy(as_admin, as_viewer, copy, page):
    shown = text(as_admin.get(page))
    assert shown.count(SAID) >= 1
    assert "View differences" in shown
    if page != "/restored/":
        seen = text(as_viewer.get(page))
        assert seen.count(SAID) >= 1
        assert "View differences" not in seen


def test_no_page_says_so_otherwise(as_viewer, as_admin, alpha):
    Epoch.objects.create(pk=Epoch.ONLY, mark=40)
    assert "restored from" not in text(as_viewer.get("/machines/"))
    assert "there is nothing to confirm" in text(as_admin.get("/restored/"))


def test_the_page_shows_what_differs(as_admin, old, copy, alpha):
    make.job(orders.Start(name="new"), on=alpha)
    make.machine("later", on=alpha)
    beta = make.host("beta", last_seen=timezone.now() - timedelta(days=1))
    Host.objects.filter(pk=alpha.pk).update(
        heard_sequence=9, sequence=4, facts_at=timezone.now(), unknown_jobs=[["1234567890", "succeeded", 1.7e9, "db"]]
    )
    page = text(as_admin.get("/restored/"))
    assert f'name="keep" value="{old.pk}">Remove m5' in page, "nothing is chosen from the start"
    assert "as far as this copy knows, not sent" in page
    assert " checked>Start new" in page, "what was placed since waits on"
    assert "Has received 5 more requests than this copy has sent." in page
    assert "Not seen since." in page
    assert beta.name in page
    assert "succeeded at 2023-11-14" in page
    assert "Exists, but is unknown to this copy." in page


def test_nothing_chosen_withdraws_what_waited_and_keeps_what_was_placed_since(as_admin, old, copy, alpha):
    since = make.job(orders.Start(name="new"), on=alpha, problem=epochs.problem().to_wire())
    answer = confirm(as_admin, copy, keep=[since.pk])
    assert "Confirmed, 1 waiting request withdrawn. Requests are sent again." in text(answer)
    old.refresh_from_db()
    assert (old.state, old.owes_cancel, old.cancelled_by) == (JobState.CANCELLED, True, "ada")
    since.refresh_from_db()
    assert (since.state, since.problem) == (JobState.QUEUED, None)
    epoch = Epoch.objects.get()
    assert (epoch.restored_at, epoch.number > 1_700_000_000) == (None, True)
    assert "ada confirmed it; 1 waiting requests" in Event.objects.get(kind="restore-confirmed").text


def test_a_chosen_order_waits_on(as_admin, old, copy):
    confirm(as_admin, copy, keep=[old.pk])
    old.refresh_from_db()
    assert (old.state, old.owes_cancel) == (JobState.QUEUED, False)


def test_what_was_placed_after_the_page_was_shown_waits_on(as_admin, old, copy, alpha):
    shown = [old.pk]
    later = make.job(orders.Start(name="new"), on=alpha)
    confirm(as_admin, copy, shown=shown)
    later.refresh_from_db()
    assert later.state == JobState.QUEUED


def test_the_next_epoch_is_above_all_that_is_known(as_admin, copy, alpha):
    Epoch.objects.update(above=2_000_000_000)
    confirm(as_admin, restored.row())
    assert Epoch.objects.get().number == 2_000_000_001


def wait_until_somebody_waits_for_a_lock() -> None:
    until = time.monotonic() + 10
    with connection.cursor() as cursor:
        while time.monotonic() < until:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
            time.sleep(0.02)
    raise AssertionError("nobody waits")


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_it_is_confirmed_while_a_host_says_that_it_has_heard_more(copy, alpha, admin):
    """Whoever takes a report holds the row of its host, and then wants that of the epoch."""
    Host.objects.filter(pk=alpha.pk).update(unknown_jobs=[["1234567890", "succeeded", 1.7e9, "db"]])

    def confirmed() -> int:
        try:
            return restored.confirm(by=admin, seen=restored.stamp(copy), keep=(), shown=())
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as another:
        with transaction.atomic():
            host = Host.objects.select_for_update(no_key=True).get(pk=alpha.pk)
            confirming = another.submit(confirmed)
            wait_until_somebody_waits_for_a_lock()
            epochs.alarm(epochs.HEARD_MORE.format("alpha"), above=2**40, by=host)
        assert confirming.result(timeout=10) == 0
    assert Epoch.objects.get().number > 2**40
    assert Host.objects.get(pk=alpha.pk).unknown_jobs == []


def test_who_may_not_administer_cannot_confirm(as_viewer, old, copy):
    assert confirm(as_viewer, copy).status_code == 403
    assert as_viewer.get("/restored/").status_code == 403
    assert 'href="/restored/"' not in text(as_viewer.get("/machines/"))
    assert restored.row() is not None


def test_another_copy_than_the_one_shown_is_not_confirmed(as_admin, old, copy):
    Epoch.objects.update(mark=30)
    answer = confirm(as_admin, copy)
    assert answer.status_code == 409 or "Nothing was changed" in text(answer)
    old.refresh_from_db()
    assert (old.state, restored.row() is None) == (JobState.QUEUED, False)


def test_a_change_of_several_machines_goes_on_with_none_of_an_older_copy(as_admin, old, copy, alpha, admin):
    group = JobGroup.objects.create(
        title="Preset x", content={}, stop_at_failure=False, author=admin, author_name="ada"
    )
    for position, (name, job) in enumerate((("m5", old), ("m6", None))):
        machine = make.machine(name, on=alpha)
        state = GroupMember.State.PLACED if job else GroupMember.State.WAITING
        GroupMember.objects.create(group=group, machine=machine, position=position, job=job, state=state)
    confirm(as_admin, copy)
    second = GroupMember.objects.get(machine__name="m6")
    assert (second.state, second.problem) == (GroupMember.State.SKIPPED, restored.NOT_TRIED)
    assert Job.objects.count() == 1
    group.refresh_from_db()
    assert group.ended_at is not None


def test_a_waiting_order_says_why(as_admin, old, copy):
    Job.objects.update(problem=epochs.problem().to_wire())
    for page in (f"/jobs/{old.pk}/", "/jobs/"):
        assert "waiting: this panel was restored from an older copy" in text(as_admin.get(page))


WORDS = [
    ({"sends": 0}, "It was never sent, so nothing was done."),
    ({"sends": 2, "owes_cancel": True}, "it is unknown whether anything was done"),
    ({"sends": 2, "withdrawn_at": timezone.now()}, "alpha has withdrawn it, so nothing was done there."),
    ({"sends": 2}, "Whether alpha received it is unknown."),
]


@pytest.mark.parametrize("state", ["expired", "cancelled"])
@pytest.mark.parametrize(("facts", "words"), WORDS)
def test_an_order_that_ended_here_says_what_became_of_it_there(as_admin, alpha, state, facts, words):
    problem = {"message": "alpha did not accept the request in time.", "hint": ""} if state == "expired" else None
    job = make.job(orders.Start(name="web"), on=alpha, state=state, problem=problem, **facts)
    make.machine("web", on=alpha)
    page = text(as_admin.get(f"/jobs/{job.pk}/"))
    assert words in page
    assert page.count("nothing was done") == words.count("nothing was done")
    if state == "expired":
        assert words in text(as_admin.get("/hosts/alpha/machines/web/"))


def test_jobs_a_host_tells_of_and_nobody_knows_are_kept_within_bounds(db):
    voice = HostVoice()
    for _ in range(60):
        job = uuid4()
        voice.tell(reports.Accepted(job=job))
        voice.tell(reports.Outcome(job=job, state="succeeded", at=1.0))
    told = Host.objects.get().unknown_jobs
    assert len(told) == 50
    assert {state for _, state, _, _ in told} == {"succeeded"}
