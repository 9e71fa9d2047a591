"""Each order that ends has its receipt in the host's ledger: chained, signed, and told with its outcome."""

import sqlite3
from uuid import UUID, uuid4

from machines.contract import chain, receipts, reports
from machines.host.reports.ledger import Ledger


def ended(spool, state: str = "succeeded") -> UUID:
    job = uuid4()
    with spool.ledger.writing() as db:
        spool.ledger.take(
            db, job, {"op": "start", "name": "web"}, "ada (operator of ops)", "accepted", order_sha256="ab" * 32
        )
    spool.reporter.finish(reports.Outcome(job=job, state=state, at=5.0))
    return job


def test_receipts_are_a_chain_under_the_host_s_key(spool):
    jobs = [ended(spool, state) for state in ("succeeded", "failed", "cancelled")]
    previous = ""
    for number, (job, told) in enumerate(zip(jobs, spool.of("outcome"), strict=True), 1):
        receipt = told.receipt
        assert (receipt.number, receipt.previous, told.job) == (number, previous, job)
        assert (receipt.op, receipt.machine, receipt.actor, receipt.order_sha256) == (
            "start",
            "web",
            "ada (operator of ops)",
            "ab" * 32,
        )
        of = receipts.Origin(spool.host, 1, job, told.state, told.at)
        assert receipt.hash == receipts.digest(receipt, of)
        assert chain.is_signed_head(number, receipt.hash, receipt.signature, spool.key.verify_key)
        previous = receipt.hash


def test_a_job_that_ends_twice_has_one_receipt(spool):
    job = ended(spool)
    assert not spool.reporter.finish(reports.Outcome(job=job, state="failed", at=6.0))
    ended(spool)
    assert [told.receipt.number for told in spool.of("outcome")] == [1, 2]


def test_what_is_told_again_has_the_receipt_it_had(spool):
    job = ended(spool)
    row = spool.ledger.job(job)
    assert row is not None
    assert reports.Outcome.model_validate(row.outcome).receipt == spool.of("outcome")[0].receipt


def test_a_ledger_of_the_version_before_goes_on(tmp_path):
    host, file = uuid4(), tmp_path / "ledger.db"
    Ledger(file, host=host, generation=1).close()
    with sqlite3.connect(file) as db:
        db.execute("alter table jobs drop column order_sha256")
    db.close()
    book, job = Ledger(file, host=host, generation=1), uuid4()
    with book.writing() as db:
        assert book.take(db, job, {"op": "start", "name": "web"}, "ada", "accepted", order_sha256="ab" * 32)
    book.close()
