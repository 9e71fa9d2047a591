"""Two ledgers: what a host vouches for beside what the panel ordered, and what stands on one side only."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from nacl.signing import SigningKey

from machines.contract import orders, receipts, reports
from machines.contract.states import JobState
from machines.host.reports import reporting
from machines.models import Event, Job, Receipt
from machines.panel.audit import receipts as compared
from machines.panel.audit import retention
from tests import make
from tests.panel.test_intake import HostVoice

pytestmark = pytest.mark.django_db


class Ledger:
    """A host that writes receipts as the real one does, or otherwise."""

    def __init__(self) -> None:
        self.voice = HostVoice()
        self.host = self.voice.host
        self.number, self.last = 0, ""

    def job(self, name: str = "web", **fields) -> Job:
        now = timezone.now()
        return make.job(orders.Start(name=name), on=self.host, state=JobState.RUNNING, accepted_at=now, **fields)

    def receipt(
        self, job: Job, *, state: str = "succeeded", at: float = 2.0, key: SigningKey | None = None, **said
    ) -> reports.Receipt:
        self.number += 1
        given = {
            "number": self.number, "op": job.op, "machine": job.machine_name, "actor": f"{job.actor_name} ({job.actor_role})",
            "order_sha256": receipts.order_digest(orders.to_send(job.order)), "taken": 1.0, "previous": self.last, **said,
        }  # fmt: skip
        signer = reporting.Signer(self.host.id, self.host.generation, key or self.voice.key)
        outcome = reports.Outcome(job=job.uuid, state=state, at=at)
        made = signer.receipt(reports.Receipt.model_validate(given), outcome)
        self.last = made.hash
        return made

    def end(self, job: Job, receipt: reports.Receipt | None, *, state: str = "succeeded") -> None:
        self.voice.tell(reports.Outcome(job=job.uuid, state=state, at=2.0, receipt=receipt))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def told() -> list[tuple[str, str]]:
    return list(Event.objects.exclude(kind="job-ended").order_by("pk").values_list("kind", "text"))


def faults(ledger: Ledger, minutes: int = 0) -> list[str]:
    return compared.compare(ledger.host, timezone.now() + timedelta(minutes=minutes)).faults


def test_an_order_that_was_carried_out_stands_on_both_sides(ledger):
    for _ in range(3):
        job = ledger.job()
        ledger.end(job, ledger.receipt(job))
    assert Receipt.objects.count() == 3
    assert told() == []
    both = compared.compare(ledger.host, timezone.now() + timedelta(hours=1))
    assert (both.count, both.compared, both.faults) == (3, 3, [])
    assert both.since


def test_one_that_is_told_again_is_kept_once(ledger):
    job = ledger.job()
    receipt = ledger.receipt(job)
    ledger.end(job, receipt)
    ledger.end(job, receipt)
    assert Receipt.objects.count() == 1
    assert told() == []


def test_an_order_that_the_panel_never_gave_is_named(ledger):
    stranger = ledger.job("shop")
    receipt = ledger.receipt(stranger)
    stranger_uuid = stranger.uuid
    stranger.delete()
    ledger.end(stranger, receipt)
    ((kind, text),) = told()
    assert (kind, Event.objects.get(kind=kind).tone) == ("order-unknown", "danger")
    assert text == (f"alpha: it carried out “start” of shop for ada (administrator), an order that this panel does not know "
                    f"(receipt 1, job {stranger_uuid}).")  # fmt: skip
    assert faults(ledger) == [f"Receipt 1: {text.removeprefix('alpha: ')}"]


def test_a_job_that_is_deleted_here_leaves_its_receipt(ledger):
    job = ledger.job()
    ledger.end(job, ledger.receipt(job))
    assert faults(ledger) == []
    Job.objects.all().delete()
    assert "an order that this panel does not know" in faults(ledger)[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": {"op": "start", "name": "web", "reset": True}}, "its order differs"),
        ({"op": "poweroff"}, "where job {} says “poweroff” of web"),
        ({"machine_name": "shop"}, "where job {} says “start” of shop"),
        ({"actor_name": "bob"}, "carried out job {} for ada (administrator), where the job says bob"),
        ({"state": "failed"}, "job {} has failed here, and succeeded by receipt 1"),
    ],
)
def test_a_job_that_is_altered_here_no_longer_says_what_was_carried_out(ledger, change, said):
    job = ledger.job()
    ledger.end(job, ledger.receipt(job))
    Job.objects.update(**change)
    assert said.format(job.pk) in faults(ledger)[0]


def test_a_host_that_did_something_else_is_named_at_once(ledger):
    job = ledger.job()
    ledger.end(job, ledger.receipt(job, machine="shop"))
    assert "it carried out “start” of shop, where job" in told()[0][1]
    assert told()[0][0] == "receipt-differs"


def test_a_forged_receipt_is_none(ledger):
    first, second = ledger.job(), ledger.job("shop")
    ledger.end(first, ledger.receipt(first, key=SigningKey.generate()))
    ledger.end(second, ledger.receipt(second).model_copy(update={"actor": "eve (viewer)"}))
    assert not Receipt.objects.exists()
    assert [kind for kind, _ in told()] == ["receipt-refused", "receipt-refused"]
    assert "not signed with the host's key" in told()[0][1]
    assert "does not have its hash" in told()[1][1]
    first.refresh_from_db()
    assert first.state == "succeeded", "the end of the job counts all the same"


def test_a_receipt_of_another_job_s_outcome_is_none(ledger):
    job, other = ledger.job(), ledger.job("shop")
    ledger.end(other, ledger.receipt(job))
    assert told()[0][0] == "receipt-refused"


def test_one_number_for_two_orders_is_named(ledger):
    job, other = ledger.job(), ledger.job("shop")
    ledger.end(job, ledger.receipt(job))
    ledger.number, ledger.last = 0, ""
    ledger.end(other, ledger.receipt(other))
    assert told() == [("receipt-differs", "alpha has signed two different receipts number 1.")]


def test_a_chain_that_does_not_follow_is_named(ledger):
    jobs = [ledger.job(), ledger.job("shop")]
    ledger.end(jobs[0], ledger.receipt(jobs[0]))
    ledger.last = "ab" * 32
    ledger.end(jobs[1], ledger.receipt(jobs[1]))
    assert ("receipt-differs", "Receipt 2 of alpha does not follow receipt 1.") in told()
    assert "Receipt 2 does not follow receipt 1: one of them was replaced." in faults(ledger)


def test_receipts_that_are_gone_are_named(ledger):
    for number in range(5):
        job = ledger.job(f"web{number}")
        ledger.end(job, ledger.receipt(job))
    Receipt.objects.filter(number__in=[2, 3]).delete()
    assert "Receipts 2 to 3 are missing." in faults(ledger)
    Receipt.objects.filter(number=4).update(actor="eve (viewer)")
    assert "Receipt 4: number 4 does not have its hash." in faults(ledger)


def test_a_job_without_a_receipt_is_named_after_a_while_and_once(ledger):
    good = ledger.job()
    ledger.end(good, ledger.receipt(good))
    bare = ledger.job(
        "shop",
    )
    ledger.end(bare, None)
    assert faults(ledger) == []
    assert faults(ledger, 11) == [f"Job {bare.pk} (start shop) was ended by alpha without a receipt."]
    for _ in range(2):
        compared.look_for_missing(timezone.now() + timedelta(minutes=11))
    assert told() == [("receipt-missing", f"alpha has ended job {bare.pk} (start shop) without a receipt.")]


def test_a_host_that_writes_none_is_not_accused(ledger):
    job = ledger.job()
    ledger.end(job, None)
    both = compared.compare(ledger.host, timezone.now() + timedelta(days=1))
    assert (both.since, both.faults) == (None, [])
    compared.look_for_missing(timezone.now() + timedelta(days=1))
    assert told() == []


def test_a_cancel_that_overtook_its_order_is_no_difference(ledger):
    job = ledger.job()
    job.accepted_at = None
    job.state = JobState.CANCELLED
    job.save()
    receipt = ledger.receipt(job, state="cancelled", op=receipts.CANCELLED_BEFORE, machine="", order_sha256="")
    ledger.end(job, receipt, state="cancelled")
    assert (told(), faults(ledger, 60)) == ([], [])


def test_a_ledger_in_another_epoch_goes_on_from_where_it_was_put_back_to(ledger):
    jobs = [ledger.job(f"web{n}") for n in range(4)]
    ledger.end(jobs[0], ledger.receipt(jobs[0]))
    copy = (ledger.number, ledger.last)
    ledger.end(jobs[1], ledger.receipt(jobs[1]))
    ledger.number, ledger.last = copy
    for job in jobs[2:]:
        ledger.end(job, ledger.receipt(job, epoch=1))
    assert Receipt.objects.count() == 4
    assert (told(), faults(ledger)) == ([], [])


def test_old_ones_go_with_the_history(ledger, settings):
    job = ledger.job()
    ledger.end(job, ledger.receipt(job))
    retention.forget_old(timezone.now())
    assert Receipt.objects.exists()
    retention.forget_old(timezone.now() + timedelta(days=settings.AUDIT_DAYS + 1))
    assert not Receipt.objects.exists()


def test_an_order_is_told_apart_without_what_is_sealed():
    order = {"op": "start", "name": "web"}
    assert receipts.order_digest(order) == receipts.order_digest({**order, "sealed": uuid4().hex})
    assert receipts.order_digest(order) != receipts.order_digest({**order, "name": "shop"})


# --- where it is read


def test_an_administrator_reads_that_both_sides_agree_or_why_not(ledger, as_admin, as_viewer):
    page = "/hosts/alpha/receipts/"
    assert "No receipts yet" in as_admin.get(page).content.decode()
    job = ledger.job()
    ledger.end(job, ledger.receipt(job))
    text = as_admin.get(page).content.decode()
    assert "Both sides agree: 1" in text
    assert f'<a href="/jobs/{job.pk}/">{job.pk}</a>' in text
    assert as_viewer.get(page).status_code == 403
    Job.objects.all().delete()
    Receipt.objects.update(actor="<b>eve</b> (viewer)")
    text = as_admin.get(page).content.decode()
    assert "Panel and host do not agree" in text
    assert "&lt;b&gt;eve" in text
    assert '<span class="tag tag-danger">none</span>' in text


def test_the_command_compares_the_receipts_too(ledger, capsys):
    job = ledger.job()
    ledger.end(job, ledger.receipt(job))
    call_command("verify_audit")
    assert "1 receipts of 1 hosts agree with the panel's jobs." in capsys.readouterr().out
    Job.objects.update(actor_name="bob")
    with pytest.raises(CommandError, match="The receipts of alpha and the panel's jobs do not agree"):
        call_command("verify_audit")
    assert "where the job says bob" in capsys.readouterr().out
