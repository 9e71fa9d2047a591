"""The log of a job in a unit: every entry once, from any byte on, whatever was cut short."""

import os
from uuid import uuid4

from machines.host.reports import job_log
from machines.host.reports.job_log import JobLog, read_from


def line(text: str) -> dict:
    return {"k": "line", "at": 1.0, "s": "o", "t": text}


def test_it_is_read_on_from_a_cursor(tmp_path):
    log = JobLog(tmp_path)
    log.tell(line("a"))
    first, cursor = read_from(tmp_path, 0)
    log.tell(line("ü\nb"))
    second, end = read_from(tmp_path, cursor)
    assert [e["t"] for e in first + second] == ["a", "ü\nb"]
    assert read_from(tmp_path, end) == ([], end)


def test_half_a_line_waits_for_its_end(tmp_path):
    JobLog(tmp_path).tell(line("a"))
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"k": "li')
    entries, cursor = read_from(tmp_path, 0)
    assert [e["t"] for e in entries] == ["a"]
    JobLog(tmp_path).tell(line("b"))
    assert [e["t"] for e in read_from(tmp_path, cursor)[0]] == ["b"], "a torn line is skipped, the next one is whole"


def test_a_log_that_is_not_there_yet_is_empty(tmp_path):
    assert read_from(tmp_path / "nope", 0) == ([], 0)


def test_it_is_cut_off_and_still_takes_the_result(tmp_path, monkeypatch):
    monkeypatch.setattr(job_log, "LIMIT", 50_000)
    log = JobLog(tmp_path)
    for _ in range(50):
        log.tell(line("x" * 5000))
    log.result("succeeded", None, {})
    entries, cursor = read_from(tmp_path, 0)
    assert "truncated" in entries[-1]["t"]
    assert len(entries) < 14
    for _ in range(2):  # the result comes alone, and again to whoever has not gone on
        [result], end = read_from(tmp_path, cursor)
        assert result["k"] == "result"
    assert read_from(tmp_path, end) == ([], end)


def test_it_is_cut_off_after_so_many_lines_and_whatever_else_is_said_then(tmp_path, monkeypatch):
    monkeypatch.setattr(job_log, "LINES", 5)
    log = JobLog(tmp_path)
    for number in range(50):
        log.tell(line(str(number)))
        log.tell({"k": "progress", "at": 1.0, "fraction": 0.5, "note": ""})
    log.tell({"k": "phase", "at": 1.0, "name": "import", "number": 2, "of": 2})
    log.result("succeeded", None, {})
    entries, _ = read_from(tmp_path, 0)
    assert [entry["t"] for entry in entries if entry["k"] == "line"] == ["0", "1", "2", "3", "4", job_log.CUT]
    assert entries[-1]["k"] == "phase", "how far it is stays known"
    assert len(entries) == 5 + 5 + 1 + 1


def test_of_long_logs_fewer_are_kept_and_the_last_one_always(tmp_path, monkeypatch):
    monkeypatch.setattr(job_log, "KEPT_BYTES", 2500)
    for number in range(6):
        JobLog(tmp_path / str(number)).tell(line("x" * (900 if number < 5 else 4000)))
        os.utime(tmp_path / str(number), (number, number))
    job_log.keep_last(tmp_path, [])
    assert [folder.name for folder in tmp_path.iterdir()] == ["5"]
    job_log.rmtree.remove(tmp_path / "5")
    for number in range(6):
        JobLog(tmp_path / str(number)).tell(line("x" * 900))
        os.utime(tmp_path / str(number), (number, number))
    job_log.keep_last(tmp_path, [])
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["4", "5"]


def test_what_tools_print_survives(tmp_path):
    nasty = "\x1b[31m\x00 \u2028 \ud800 end"
    JobLog(tmp_path).tell(line(nasty))
    assert read_from(tmp_path, 0)[0][0]["t"].endswith(" end")


def test_only_the_log_stays_and_only_of_the_last_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(job_log, "KEPT", 3)
    for number in range(6):
        folder = tmp_path / str(number)
        JobLog(folder).tell(line("a"))
        (folder / "apt.conf").write_text("secret")
        os.utime(folder, (number, number))
    job_log.put_away(tmp_path / "5")
    assert [p.name for p in (tmp_path / "5").iterdir()] == ["log"]
    job_log.keep_last(tmp_path, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4", "5"]


def test_what_a_job_under_way_has_written_stays_however_many_end_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(job_log, "KEPT", 1)
    long, *others = [uuid4() for _ in range(4)]
    for at, job in enumerate((long, *others)):
        JobLog(tmp_path / str(job)).tell(line("a"))
        os.utime(tmp_path / str(job), (at, at))
    job_log.keep_last(tmp_path, [long])
    assert {folder.name for folder in tmp_path.iterdir()} == {str(long), str(others[-1])}


def test_a_job_that_died_is_explained_by_its_last_lines(tmp_path):
    log = JobLog(tmp_path)
    for number in range(30):
        log.tell(line(str(number)))
    assert job_log.last_lines(tmp_path, 3) == ["27", "28", "29"]
    assert job_log.last_lines(tmp_path / "nope", 3) == []
