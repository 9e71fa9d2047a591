"""An older copy of the panel's database: noticed before anything is sent, and by nothing else than that."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from machines.contract import orders, reports
from machines.contract.states import JobState
from machines.models import Epoch, Event, Host, Job
from machines.panel.courier import completion
from machines.panel.courier.courier import Courier
from machines.panel.hosts import epochs
from tests import make
from tests.panel.test_courier import delivered, key, valkey, voice  # noqa: F401  # fixtures
from tests.panel.test_intake import HostVoice

pytestmark = pytest.mark.django_db(transaction=True)
HEARD = reports.Heard(epoch=1, sequence=0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "epoch"


def courier_with(valkey, key, file: Path | None) -> Courier:  # noqa: F811
    return Courier(valkey.url("np-courier", "secret"), key, file)


def work(courier: Courier) -> None:
    """One turn of the sending loop, as after a poke."""
    now = timezone.now()
    courier.send_due(now)
    courier._keeper.mark(now, at_once=True)


def copy_of_the_database() -> dict[str, list[dict]]:
    models = (Epoch, Host, Job)
    return {model.__name__: list(model.objects.values()) for model in models}


def put_back(copied: dict[str, list[dict]]) -> None:
    """What restoring a dump does to the rows these tests are about."""
    for model in (Job, Epoch):
        model.objects.all().delete()
    for row in copied["Host"]:
        Host.objects.filter(pk=row["id"]).update(**{name: value for name, value in row.items() if name != "id"})
    Epoch.objects.bulk_create(Epoch(**row) for row in copied["Epoch"])
    Job.objects.bulk_create(Job(**row) for row in copied["Job"])


def is_restored() -> bool:
    return Epoch.objects.get().restored_at is not None


def test_the_first_start_begins_quietly(valkey, key, voice, file):  # noqa: F811
    valkey.flush()
    make.job(orders.Start(name="web"), on=voice.host)
    courier = courier_with(valkey, key, file)
    work(courier)
    assert len(delivered(valkey, voice.host, key)) == 1
    assert not is_restored()
    assert json.loads(file.read_text()) == {"epoch": 1, "mark": Epoch.objects.get().mark}


def test_an_order_withdrawn_after_a_copy_was_made_is_not_sent_when_the_copy_is_back(valkey, key, voice, file, admin):  # noqa: F811
    valkey.flush()
    Host.objects.update(last_seen=timezone.now() - timedelta(minutes=5))
    courier = courier_with(valkey, key, file)
    work(courier)
    remove = make.job(orders.Remove(name="m5"), on=voice.host, by=admin)
    copied = copy_of_the_database()
    remove.delete()
    work(courier)
    put_back(copied)
    Host.objects.update(last_seen=timezone.now())
    for again in (courier, courier_with(valkey, key, file)):  # running meanwhile, and started afterwards
        work(again)
        assert delivered(valkey, voice.host, key) == []
    job = Job.objects.get()
    assert (job.state, job.problem["code"]) == (JobState.QUEUED, "panel-restored")
    told = Event.objects.get(kind="panel-restored")
    assert told.text.startswith("This panel was restored from an older copy (of 20")
    assert Epoch.objects.get().copied_at == copied["Epoch"][0]["marked_at"]


def test_a_database_without_its_epoch_file_is_an_older_copy(valkey, key, voice, file, monkeypatch):  # noqa: F811
    """A fresh machine, with the database and the signing key of the one that is gone."""
    work(courier_with(valkey, key, file))
    file.unlink()
    fresh = courier_with(valkey, key, file)
    assert not fresh._keeper.check()
    assert not is_restored(), "another courier may be at work on it"
    monkeypatch.setattr(epochs, "OTHERS_SECONDS", 0.0)
    assert not fresh._keeper.check()
    assert is_restored()
    assert not courier_with(valkey, key, file)._keeper.check(), "nor after its next start"


def test_a_database_from_before_there_were_epochs_is_an_older_copy_where_there_is_a_file(valkey, key, voice, file):  # noqa: F811
    work(courier_with(valkey, key, file))
    Epoch.objects.all().delete()
    assert not courier_with(valkey, key, file)._keeper.check()
    assert is_restored()


def test_two_couriers_on_one_database_never_alarm_each_other(valkey, key, voice, tmp_path):  # noqa: F811
    """Each with a file of its own, and two that share one; a third comes without a file."""
    files = [tmp_path / name for name in ("a", "b", "b")]
    (tmp_path / "b").write_text(json.dumps({"epoch": 1, "mark": 0}))
    couriers = [courier_with(valkey, key, file) for file in files]
    late = courier_with(valkey, key, tmp_path / "c")
    late._keeper.check()
    for _ in range(5):
        for courier in couriers:
            make.job(orders.Enable(name=f"m{Job.objects.count()}"), on=voice.host)
            work(courier)
            work(late)
    assert not is_restored()
    assert late._keeper.check(), "another one vouches for the database"
    assert json.loads((tmp_path / "c").read_text())["mark"] > 1


def test_a_host_that_has_heard_more_makes_it_an_older_copy(valkey, key, voice, file):  # noqa: F811
    """The file was put back with the database: the whole machine was."""
    valkey.flush()
    courier = courier_with(valkey, key, file)
    work(courier)
    voice.tell(reports.Heartbeat(heard=reports.Heard(epoch=1, sequence=7)))
    assert is_restored()
    assert "alpha has received more" in Epoch.objects.get().why
    make.job(orders.Start(name="web"), on=voice.host)
    work(courier)
    assert delivered(valkey, voice.host, key) == []


def test_a_host_that_has_heard_two_panels_makes_it_an_older_copy(valkey, key, voice, file):  # noqa: F811
    work(courier_with(valkey, key, file))
    refused = reports.Refused(
        code="envelope-superseded", message="x", heard=reports.Heard(epoch=1, sequence=0, latched=True)
    )
    voice.tell(refused)
    assert is_restored()


def test_a_host_that_lies_is_believed_once(valkey, key, voice, file):  # noqa: F811
    work(courier_with(valkey, key, file))
    voice.tell(reports.Heartbeat(heard=reports.Heard(epoch=2**61, sequence=7)))
    assert not is_restored(), "no epoch begins in the future"
    voice.tell(reports.Heartbeat(heard=reports.Heard(epoch=1, sequence=7)))
    assert is_restored()
    Epoch.objects.update(restored_at=None, number=5, confirmed_at=timezone.now())
    voice.tell(reports.Heartbeat(heard=reports.Heard(epoch=6, sequence=7)))
    assert not is_restored()
    assert Event.objects.filter(kind="epoch-unknown").count() == 2


def test_two_hosts_that_lie_in_turn_are_believed_once_a_day_each(valkey, key, voice, file):  # noqa: F811
    work(courier_with(valkey, key, file))
    believed = 0
    for each in [voice, HostVoice("liar")] * 3:
        each.tell(reports.Heartbeat(heard=reports.Heard(epoch=Epoch.objects.get().number, sequence=10**6)))
        believed += is_restored()
        Epoch.objects.update(restored_at=None, confirmed_at=timezone.now())
    assert believed == 2


def test_orders_have_their_place_and_questions_take_none(valkey, key, voice, file):  # noqa: F811
    valkey.flush()
    courier = courier_with(valkey, key, file)
    voice.tell(reports.Heartbeat(heard=reports.Heard()))
    make.job(orders.Start(name="web"), on=voice.host)
    work(courier)
    make.job(orders.Start(name="db"), on=voice.host)
    courier._ask_again(voice.host.pk)
    work(courier)
    sent = [
        (type(order).__name__, sealed.epoch, sealed.sequence) for sealed, order in delivered(valkey, voice.host, key)
    ]
    assert sent == [("Refresh", 1, 0), ("Start", 1, 1), ("Resend", 1, 1), ("Start", 1, 2)]


def test_a_host_that_knows_no_line_is_sent_none(valkey, key, voice, file):  # noqa: F811
    valkey.flush()
    make.job(orders.Start(name="web"), on=voice.host)
    work(courier_with(valkey, key, file))
    [(sealed, _)] = delivered(valkey, voice.host, key)
    assert (sealed.epoch, sealed.sequence) == (0, 0)


def test_an_order_another_courier_overtook_is_sent_again_at_once(valkey, key, voice, file):  # noqa: F811
    valkey.flush()
    courier = courier_with(valkey, key, file)
    work(courier)
    voice.tell(reports.Heartbeat(heard=HEARD))
    job = make.job(orders.Start(name="web"), on=voice.host)
    work(courier)
    voice.tell(reports.Refused(code="envelope-superseded", message="x", job=job.uuid, heard=HEARD))
    work(courier)
    assert len(delivered(valkey, voice.host, key)) == 2
    job.refresh_from_db()
    assert job.problem is None
    assert not Event.objects.filter(kind="order-refused").exists()


def test_an_order_that_its_host_calls_old_again_and_again_says_so(valkey, key, voice, file):  # noqa: F811
    valkey.flush()
    courier = courier_with(valkey, key, file)
    work(courier)
    voice.tell(reports.Heartbeat(heard=HEARD))
    job = make.job(orders.Start(name="web"), on=voice.host)
    for _ in range(4):
        work(courier)
        voice.tell(reports.Refused(code="envelope-superseded", message="It is an old one.", job=job.uuid, heard=HEARD))
    job.refresh_from_db()
    assert job.problem["message"] == "It is an old one."


def owed(job: Job) -> tuple[bool, bool]:
    job.refresh_from_db()
    return job.owes_cancel, job.withdrawn_at is not None


@pytest.mark.parametrize("how", ["expires", "is cancelled while its host is silent"])
def test_an_order_that_was_sent_and_ends_here_is_withdrawn_in_the_host_s_ledger(how, valkey, key, voice, file, admin):  # noqa: F811
    valkey.flush()
    courier = courier_with(valkey, key, file)
    job = make.job(orders.Start(name="web"), on=voice.host, by=admin)
    work(courier)
    if how == "expires":
        Job.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    else:
        completion.cancel(job, by=admin)
        Host.objects.update(last_seen=timezone.now() - timedelta(minutes=5))
    courier.sweep(timezone.now())
    ended = Job.objects.get().state
    assert (ended, owed(job)) == (JobState.EXPIRED if how == "expires" else JobState.CANCELLED, (True, False))
    assert delivered(valkey, voice.host, key) == [], "what lies in its mailbox is taken back"
    Host.objects.update(last_seen=timezone.now())
    work(courier)
    [(_, order)] = delivered(valkey, voice.host, key)
    assert order == orders.Cancel(job=job.uuid)
    voice.tell(reports.Outcome(job=job.uuid, state="cancelled", at=timezone.now().timestamp()))
    assert owed(job) == (False, True)
    assert job.state == ended
    courier.send_due(timezone.now() + timedelta(seconds=30))
    assert len(delivered(valkey, voice.host, key)) == 1


def test_an_order_that_was_done_all_the_same_says_how_it_ended(valkey, key, voice, file):  # noqa: F811
    valkey.flush()
    courier = courier_with(valkey, key, file)
    job = make.job(orders.Start(name="web"), on=voice.host)
    work(courier)
    Job.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    courier.sweep(timezone.now())
    voice.tell(reports.Outcome(job=job.uuid, state="succeeded", at=timezone.now().timestamp()))
    assert owed(job) == (False, False)
    assert job.state == JobState.SUCCEEDED


def test_an_order_placed_while_the_clock_was_a_day_ahead_does_not_wait_for_that_day(valkey, key, voice, file):  # noqa: F811
    valkey.flush()
    make.job(orders.Start(name="web"), on=voice.host, send_next_at=timezone.now() + timedelta(days=1))
    work(courier_with(valkey, key, file))
    assert len(delivered(valkey, voice.host, key)) == 1
