"""What the host has taken on survives, once each, and its reports are numbered without holes."""

import sqlite3
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from machines.contract import reports
from machines.host.reports import ledger as books
from machines.host.reports.ledger import Ledger
from machines.host.system.faults import Misconfigured

BUILD = {"op": "build", "name": "web", "sealed": "c2VjcmV0"}


def take(ledger: Ledger, job=None, wanted=None) -> bool:
    with ledger.writing() as db:
        return ledger.take(db, job or uuid4(), wanted or {"op": "start", "name": "web"}, "ada", "accepted")


def test_a_job_is_taken_once(spool):
    job = uuid4()
    assert take(spool.ledger, job)
    assert not take(spool.ledger, job)


def test_it_keeps_secrets_apart_and_erases_them_at_the_end(spool):
    job = uuid4()
    take(spool.ledger, job, BUILD)
    row = books.read_job(spool.ledger.file, job)
    assert row is not None
    assert (row.sealed, "sealed" in row.wanted) == ("c2VjcmV0", False)
    spool.reporter.finish(reports.Outcome(job=job, state="failed", at=1.0))
    row = spool.ledger.job(job)
    assert row is not None
    assert (row.sealed, row.state, row.ended) == ("", "failed", 1.0)
    spool.ledger.close()
    assert b"c2VjcmV0" not in spool.ledger.file.read_bytes()


def test_a_job_ends_once(spool):
    job = uuid4()
    take(spool.ledger, job)
    assert spool.reporter.finish(reports.Outcome(job=job, state="succeeded", at=1.0))
    assert not spool.reporter.finish(reports.Outcome(job=job, state="failed", at=2.0))
    assert [r.state for r in spool.of("outcome")] == ["succeeded"]


def test_a_cancelled_job_does_not_begin(spool):
    job = uuid4()
    take(spool.ledger, job)
    spool.ledger.cancel(job)
    assert not spool.ledger.begin(job)


def test_it_lists_unfinished_jobs_in_the_order_they_came(spool):
    jobs = [uuid4() for _ in range(3)]
    for job in jobs:
        take(spool.ledger, job)
        time.sleep(0.002)
    spool.reporter.finish(reports.Outcome(job=jobs[1], state="failed", at=1.0))
    assert [row.id for row in spool.ledger.unfinished("web")] == [jobs[0], jobs[2]]


def test_numbers_have_no_holes_after_a_rollback(spool):
    spool.reporter.send(reports.Heartbeat())
    with pytest.raises(sqlite3.IntegrityError), spool.ledger.writing() as db:  # noqa: PT012
        spool.reporter.spool(db, reports.Heartbeat())
        db.execute("insert into spool values (1, '', 0)")
    spool.reporter.send(reports.Heartbeat())
    assert [r.kind for r in spool.reports()] == ["heartbeat", "heartbeat"]
    assert spool.seen == [1, 2]


def test_numbers_go_on_after_a_restart(spool):
    spool.reporter.send(reports.Heartbeat())
    again = Ledger(spool.ledger.file, host=spool.host, generation=1)
    assert again.spool_bounds() == (1, 1)
    again.close()


def test_numbers_begin_anew_in_a_new_generation(spool):
    spool.reporter.send(reports.Heartbeat())
    again = Ledger(spool.ledger.file, host=spool.host, generation=2)
    assert again.spool_bounds() == (1, 0)
    again.close()


def test_it_refuses_to_work_when_the_ledger_of_its_generation_is_gone(spool):
    spool.ledger.close()
    for file in spool.ledger.file.parent.glob("ledger.db*"):
        file.unlink()
    with pytest.raises(Misconfigured, match="is missing"):
        Ledger(spool.ledger.file, host=spool.host, generation=1)
    Ledger(spool.ledger.file, host=spool.host, generation=2).close()


def test_many_threads_get_different_numbers_in_order(spool):
    threads = [threading.Thread(target=spool.reporter.send, args=(reports.Heartbeat(),)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spool.reports()
    assert spool.seen == list(range(1, 21))


def test_the_spool_is_bounded_by_number_and_age(spool, monkeypatch):
    monkeypatch.setattr(books, "SPOOL_REPORTS", 5)
    spool.reporter.send(*[reports.Heartbeat() for _ in range(12)])
    spool.ledger.trim()
    assert spool.ledger.spool_bounds() == (8, 12)
    with spool.ledger.writing() as db:
        db.execute("update spool set at = 0")
    spool.ledger.trim()
    assert spool.ledger.spool_bounds() == (12, 12)


def test_the_spool_is_bounded_by_size(spool, monkeypatch):
    spool.reporter.send(*[reports.Heartbeat() for _ in range(10)])
    with spool.ledger.writing() as db:
        size = db.execute("select total(length(body)) from spool").fetchone()[0]
    monkeypatch.setattr(books, "SPOOL_BYTES", size / 2)
    spool.ledger.trim()
    assert spool.ledger.spool_bounds()[0] in {6, 7}


def test_on_a_full_disk_the_ballast_makes_room(spool, monkeypatch):
    ballast = spool.ledger.file.with_name("ballast")
    assert ballast.stat().st_size == books.BALLAST
    monkeypatch.setattr(Ledger, "_free", lambda _: books.ROOM - 1)
    assert take(spool.ledger)
    assert not ballast.exists()
    spool.ledger.trim()
    assert not ballast.exists(), "it is only laid again where there is plenty of room"
    monkeypatch.undo()
    spool.ledger.trim()
    assert ballast.exists()


def test_a_transaction_that_does_not_fit_leaves_nothing_behind(spool):
    with spool.ledger.writing() as db:
        pages = db.execute("pragma page_count").fetchone()[0]
    spool.ledger._db.execute(f"pragma max_page_count={pages + 2}")
    job = uuid4()
    with pytest.raises(sqlite3.OperationalError, match="full"):
        take(spool.ledger, job, {"op": "start", "name": "x" * 100_000})
    assert spool.ledger.job(job) is None


def test_the_ledger_is_root_s_alone(spool):
    assert spool.ledger.file.stat().st_mode & 0o077 == 0


def test_reading_an_unknown_job_is_none(spool):
    assert books.read_job(spool.ledger.file, uuid4()) is None
    assert Path(spool.ledger.file).exists()
