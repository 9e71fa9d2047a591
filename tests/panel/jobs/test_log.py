"""Reading logs: job-log-older, job-log-raw, and the lines by their numbers."""

import asyncio

import pytest
from django.db import connection
from django.test import AsyncClient
from django.test.utils import CaptureQueriesContext

from machines.contract.reports import LINES_AT_ONCE
from machines.panel.logs import log_lines, log_reader
from tests.panel.jobs import cast


@pytest.fixture
def job(alpha):
    done = cast.ended(alpha)
    cast.wrote(done, *(f"line {n}" for n in range(1, 1001)), chunk=7)
    return done


@pytest.mark.parametrize(
    ("first", "last"), [(1, 1), (1, 7), (7, 8), (400, 777), (999, 1000), (990, 2000), (1001, 1002)]
)
def test_lines_are_found_by_their_numbers(job, first, last):
    rows = log_reader.after(job.pk, first - 1, last - first + 1)
    assert [(row[0], row[3]) for row in rows] == [(n, f"line {n}") for n in range(first, min(last, 1000) + 1)]


def test_a_chunk_as_long_as_allowed_is_not_missed(alpha):
    done = cast.ended(alpha)
    cast.wrote(done, *(f"line {n}" for n in range(1, 501)), chunk=LINES_AT_ONCE)
    assert log_reader.after(done.pk, 499, 1) == [(500, cast.AT + 500, "o", "line 500")]


def test_reading_lines_is_two_queries(job, django_assert_num_queries):
    """Which pieces hold what a page takes, and these."""
    with django_assert_num_queries(2):
        log_reader.before(job.pk, 1001)
    with django_assert_num_queries(2):
        log_reader.after(job.pk, 0)


def test_of_long_lines_a_page_holds_fewer_and_reads_no_more_than_it_holds(as_viewer, alpha):
    done = cast.ended(alpha)
    cast.wrote(done, *(f"{n} " + "'" * 16_000 for n in range(1, 301)), chunk=10)
    with CaptureQueriesContext(connection) as queries:
        rows = log_reader.before(done.pk, 301)
    assert [row[0] for row in rows] == list(range(264, 301))
    assert queries[-1]["sql"].count(",") < 10, "some chunks of thirty"
    assert [row[0] for row in log_reader.after(done.pk, 7)] == list(range(8, 45))
    assert [row[0] for row in log_reader.before(done.pk, 8)] == list(range(1, 8))
    page = as_viewer.get(f"/jobs/{done.pk}/")
    assert len(page.content) < 1_500_000
    assert "… 12,004 more characters in the download" in page.content.decode()
    assert len(as_viewer.get(f"/jobs/{done.pk}/log/older/?before=200", headers={"X-Log": "1"}).content) < 1_500_000


def test_one_line_of_colours_alone_is_shown_without_them(alpha):
    colourful = "\x9b1m\x9b4m\x9b97m\x9b107m" + "\x9b2mx\x9b22mx" * 300
    html = log_lines.lines([(1, 0.0, "o", colourful)], 0.0)
    assert "sgr" not in html
    assert len(html) < log_lines.GROWS * len(colourful)
    assert 'class="sgr-fg-1">red' in log_lines.lines([(1, 0.0, "o", "\x1b[31mred\x1b[0m")], 0.0)


def test_a_search_ends_after_so_many_characters_and_says_from_where(alpha, monkeypatch):
    done = cast.ended(alpha)
    cast.wrote(done, *(f"line {n} " + "x" * 1000 for n in range(1, 101)), chunk=1)
    monkeypatch.setattr(log_reader, "PIECE", 10_000)
    monkeypatch.setattr(log_reader, "SEARCHED_CHARACTERS", 20_000)
    assert log_reader.matches(done.pk, "line", 101) == log_reader.Matches(20, 100, 81)


def test_earlier_lines_for_the_log_view(as_viewer, job):
    answer = as_viewer.get(f"/jobs/{job.pk}/log/older/?before=11", headers={"X-Log": "1"})
    shown = answer.content.decode()
    assert shown.startswith('<p id="L1"')
    assert shown.count("<p ") == 10


def test_earlier_lines_as_a_page_without_javascript(as_viewer, job):
    shown = as_viewer.get(f"/jobs/{job.pk}/log/older/?before=11").content.decode()
    assert "<html" in shown
    assert 'id="L10"' in shown
    assert 'id="L11"' not in shown


@pytest.mark.parametrize("before", ["", "x", "0", "1", "-5", "99999999999999999999"])
def test_nonsense_for_a_number_is_no_error(as_viewer, job, before):
    for headers in ({}, {"X-Log": "1"}):
        assert as_viewer.get(f"/jobs/{job.pk}/log/older/?before={before}", headers=headers).status_code == 200


def downloaded(user, path: str) -> tuple[dict, str]:
    async def read():
        client = AsyncClient()
        await client.aforce_login(user)
        answer = await client.get(path)
        return answer.headers, b"".join([piece async for piece in answer.streaming_content]).decode()

    return asyncio.run(read())


@pytest.mark.django_db(transaction=True)
def test_the_raw_log_is_the_whole_log_as_it_was_written(viewer, alpha):
    done = cast.ended(alpha)
    texts = [f"line {n} \x1b[31m<b>" for n in range(1, 12_001)]
    cast.wrote(done, *texts, chunk=500)
    headers, text = downloaded(viewer, f"/jobs/{done.pk}/log/raw/")
    assert text.splitlines() == texts
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Content-Disposition"] == f'attachment; filename="job-{done.pk}-start-web.log"'
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.django_db(transaction=True)
def test_the_raw_log_of_a_job_without_lines_is_empty(viewer, alpha):
    assert downloaded(viewer, f"/jobs/{cast.job(alpha).pk}/log/raw/")[1] == ""


@pytest.mark.parametrize(
    ("texts", "number"),
    [
        (["a", "E: no", "b"], 2),
        (["a", "mmdebstrap: error: x"], 2),
        (["a", "\x1b[31;1mError\x1b[0m: x"], 2),
        (["error-free so far", "Cannot go on"], 1),
        (["a", "b"], None),
    ],
)
def test_the_line_that_says_why(alpha, texts, number):
    done = cast.ended(alpha, "failed")
    cast.wrote(done, *texts)
    assert log_reader.error_line(done, log_reader.before(done.pk, done.line_count + 1)) == number


def test_without_a_complaint_it_is_the_last_error_output(alpha):
    done = cast.ended(alpha, "failed")
    cast.wrote(done, "a", "b", source="e")
    cast.wrote(done, "c")
    assert log_reader.error_line(done, log_reader.before(done.pk, 4)) == 2


def test_a_job_that_went_well_has_no_such_line(alpha):
    done = cast.ended(alpha)
    cast.wrote(done, "error")
    assert log_reader.error_line(done, log_reader.before(done.pk, 2)) is None


def test_a_search_counts_the_lines_before_one_and_names_the_last_of_them(as_viewer, alpha):
    done = cast.ended(alpha)
    cast.wrote(done, "unpack \x1b[31mLibc\x1b[0m6", "set up libc6", "10 %\rlibc6 100 %", "other", "libc6 once more")
    asked = f"/jobs/{done.pk}/log/search/?q=LIBC6&before="
    assert as_viewer.get(f"{asked}5").json() == {"count": 3, "line": 3, "since": 1}
    assert as_viewer.get(f"{asked}2").json() == {"count": 1, "line": 1, "since": 1}
    assert as_viewer.get(f"{asked}1").json() == {"count": 0, "line": 0, "since": 1}
    assert as_viewer.get(f"{asked}999999").json()["count"] == 4


def test_a_search_looks_at_so_many_lines_and_says_from_where(job, monkeypatch):
    monkeypatch.setattr(log_reader, "SEARCHED", 100)
    assert log_reader.matches(job.pk, "line", 1001) == log_reader.Matches(100, 1000, 901)


@pytest.mark.parametrize(
    "strange", ["q=%00&before=%00", "q=", "before=-1&q=%ED%A0%80", "q=line&before=99999999999999999999"]
)
def test_a_strange_search_has_an_answer(as_viewer, job, strange):
    assert as_viewer.get(f"/jobs/{job.pk}/log/search/?{strange}").status_code == 200
