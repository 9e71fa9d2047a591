"""Reports leave in order, lines in batches, and nothing is lost or told twice."""

import json
from uuid import uuid4

from machines.contract import envelope, reports
from machines.host.context.job_output import JobOutput
from machines.host.reports import ledger as books
from machines.host.reports import reporting
from machines.host.reports.reporting import batch


def line(text: str, source: str = "o") -> dict:
    return {"k": "line", "at": 1.0, "s": source, "t": text}


def test_lines_are_gathered_and_numbered():
    job = uuid4()
    made, told = batch(
        job, 10, [line("a"), line("b", "e"), {"k": "phase", "at": 2.0, "name": "x", "number": 1, "of": 2}, line("c")]
    )
    assert [r.kind for r in made] == ["lines", "phase", "lines"]
    assert (made[0].first, [x.text for x in made[0].lines], made[2].first, told) == (11, ["a", "b"], 13, 13)


def test_a_batch_has_at_most_200_lines_and_64_kib():
    made, told = batch(uuid4(), 0, [line("x") for _ in range(450)])
    assert [len(r.lines) for r in made] == [200, 200, 50]
    assert told == 450
    made, _ = batch(uuid4(), 0, [line("y" * 16_000) for _ in range(9)])
    assert max(sum(len(x.text) for x in r.lines) for r in made) <= reporting.BATCH_CHARACTERS


def test_of_several_progress_entries_the_last_one_stands():
    made, _ = batch(uuid4(), 0, [{"k": "progress", "at": 1.0, "fraction": f, "note": ""} for f in (0.1, 0.2, 0.3)])
    assert [r.fraction for r in made] == [0.3]


def test_a_job_in_the_worker_says_no_more_lines_than_one_in_a_unit(monkeypatch):
    monkeypatch.setattr(reporting, "LINES", 3)
    phase = {"k": "phase", "at": 2.0, "name": "x", "number": 1, "of": 2}
    kept = reporting.within(2, [line("c"), line("d"), phase, line("e")])
    assert kept == [line("c"), line(reporting.CUT, "p"), phase]
    assert reporting.within(4, [line("f"), phase]) == [phase]


def test_what_waits_while_the_ledger_cannot_be_written_is_bounded(spool, monkeypatch):
    reporter = spool.reporter
    monkeypatch.setattr(reporting, "PENDING", 5)
    job = uuid4()
    with reporter._order:
        for number in range(50):
            reporter._tell(job, line(str(number)))
        assert len(reporter._pending[job]) == 5
        reporter.flush()


def test_what_is_said_at_once_goes_into_as_few_reports_as_hold_it():
    job = uuid4()
    phase = {"k": "phase", "at": 2.0, "name": "x", "number": 1, "of": 2}
    made, _ = batch(job, 0, [line("a"), phase, line("b")])
    assert reporting.gather(job, made) == [reports.JobOutput(job=job, parts=made)]
    assert reporting.gather(job, made[:1]) == made[:1]
    many, _ = batch(job, 0, [phase] * (reports.PARTS_AT_ONCE + 1))
    assert [r.kind for r in reporting.gather(job, many)] == ["job_output", "phase"]
    large, _ = batch(job, 0, [line("y" * 16_000) for _ in range(40)])
    gathered = reporting.gather(job, large)
    assert 1 < len(gathered) < len(large)
    assert [part for r in gathered for part in (r.parts if r.kind == "job_output" else [r])] == large


def test_no_report_of_what_was_said_is_larger_than_the_panel_takes():
    job = uuid4()
    for text in ("\U0001f600" * 16_000, "\x1b" * 16_000, "é" * 16_000):
        parts, _ = batch(job, 0, [line(text)] * 60)
        assert max(len(json.dumps(reports.to_wire(r))) for r in reporting.gather(job, parts)) < envelope.REPORT_LIMIT


def test_lines_and_cursor_are_one_transaction(spool):
    job = uuid4()
    with spool.ledger.writing() as db:
        spool.ledger.take(db, job, {"op": "build", "name": "web"}, "ada", "accepted")
    spool.reporter.relay(job, [line("a"), line("b")], 77)
    row = spool.ledger.job(job)
    assert (row.lines, row.cursor) == (2, 77)
    spool.reporter.relay(job, [line("c")], 99)
    assert [r.first for r in spool.of("lines")] == [1, 3]


def test_an_outcome_comes_after_the_last_line_and_counts_them(spool):
    job = uuid4()
    with spool.ledger.writing() as db:
        spool.ledger.take(db, job, {"op": "start", "name": "web"}, "ada", "accepted")
    output = spool.reporter.output(job)
    output.command(["machinectl", "start", "--", "web"])
    output.line("one")
    spool.reporter.finish(reports.Outcome(job=job, state="succeeded", at=1.0))
    assert [r.kind for r in spool.reports()] == ["command", "lines", "outcome"]
    assert spool.of("outcome")[0].lines == 1


def test_what_is_said_goes_out_by_itself(spool):
    job = uuid4()
    with spool.ledger.writing() as db:
        spool.ledger.take(db, job, {"op": "start", "name": "web"}, "ada", "accepted")
    spool.reporter.output(job).line("hello")
    assert spool.wait_for("lines", seconds=2)[0].lines[0].text == "hello"


def test_what_is_soon_outdated_is_not_spooled_while_redis_is_silent(spool):
    spool.mailbox.silence = 60
    spool.reporter.send_passing(reports.Heartbeat())
    assert spool.reports() == []
    spool.mailbox.silence = 1
    spool.reporter.send_passing(reports.Heartbeat())
    assert len(spool.reports()) == 1


def test_what_is_larger_than_the_panel_takes_leaves_no_gap(spool):
    machine = reports.MachineFact(name="m", state="running", why="x" * 1900)
    huge = reports.Inventory(host=reports.HostFact(), machines=[machine] * 1500)
    spool.reporter.send(reports.Refused(code="x", message="y"), huge, reports.Refused(code="x", message="z"))
    assert [r.kind for r in spool.reports()] == ["refused", "heartbeat", "refused"]


def test_a_gap_that_cannot_be_filled_is_closed_with_heartbeats(spool):
    spool.reporter.send(*[reports.Refused(code="x", message="y") for _ in range(5)])
    with spool.ledger.writing() as db:
        db.execute("delete from spool where number < 4")
    spool.reporter.fill(1, 4)
    assert [r.kind for r in spool.reports()] == ["heartbeat"] * 3 + ["refused"] * 2
    assert books.spooled_after(books.connect(spool.ledger.file), 0, 10)[0][0] == 1


def test_progress_is_throttled():
    told: list[dict] = []
    output = JobOutput(told.append)
    for number in range(100):
        output.progress(number / 100)
    output.progress(1.0)
    assert len(told) <= 3
    assert told[-1]["fraction"] == 1.0
