"""The log of a job in a real browser: what is searched, what can be seen, when it follows."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from nspawnpanel.stack import Stack
from tests.person import Person

LONG = 5000
WRITE = """
from machines.models import Job, LogChunk
job = Job.objects.get(pk={job})
for number in range(job.line_count + 1, {last} + 1, 500):
    texts = [f"needle {{n}}" if n in (120, 4700) else f"line {{n}}" for n in range(number, min(number + 500, {last} + 1))]
    lines = [[1_760_000_000.0 + number + place, "o", text] for place, text in enumerate(texts)]
    LogChunk.objects.create(job=job, first=number, count=len(texts), lines=lines)
Job.objects.filter(pk=job.pk).update(line_count={last})
"""


def write(panel: Stack, job: int, last: int) -> None:
    """Fill a job's log up to this line."""
    panel.manage("shell", "-c", WRITE.format(job=job, last=last))


@pytest.fixture(scope="module")
def long(panel: Stack, seen: dict[str, str]) -> str:
    """A finished job whose log is longer than a page holds."""
    write(panel, int(seen["good"].strip("/").split("/")[1]), LONG)
    return seen["good"]


@pytest.fixture
def living(panel: Stack, seen: dict[str, str], ada: Person) -> Iterator[int]:
    """A job that goes on as long as the test does, with some lines."""
    panel.stop_part("courier")
    job = ada.press("disable", "quiet")["id"]
    write(panel, job, 300)
    yield job
    panel.restart_part("courier")
    ada.end_of(job)


def search(page: Page, words: str) -> None:
    page.get_by_role("searchbox", name="Search in the log").fill(words)


def found(page: Page):
    return page.locator("[data-log-hits]")


def test_a_search_finds_lines_that_are_not_loaded_and_brings_them(page, long):
    page.goto(long)
    assert page.locator("#L120").count() == 0
    search(page, "NEEDLE")
    expect(found(page)).to_have_text("1 + 1 earlier line")
    page.get_by_role("button", name="Previous match").click()
    expect(page.locator("#L4700")).to_be_in_viewport()
    page.get_by_role("button", name="Previous match").click()
    expect(page.locator("#L120.is-now")).to_be_in_viewport(timeout=30_000)  # thousands of lines are loaded before
    expect(found(page)).to_have_text("1/2")


def test_a_search_says_none_only_when_no_line_of_the_whole_log_has_it(page, long):
    page.goto(long)
    search(page, "needle 120")
    expect(found(page)).to_have_text("1 earlier line")
    page.keyboard.press("Enter")
    expect(page.locator("#L120.is-now")).to_be_in_viewport(timeout=30_000)  # thousands of lines are loaded before
    page.reload()
    search(page, "no such words")
    expect(found(page)).to_have_text("none")
    page.route("**/log/search/**", lambda route: route.abort())
    search(page, "needle 12")
    expect(found(page)).to_have_text("none here, earlier lines not searched")
    page.complaints.clear()


@pytest.mark.parametrize("size", [(1280, 900), (1280, 620), (360, 740)], ids=str)
def test_the_last_line_of_a_living_log_is_above_the_fold(page, living, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(f"/jobs/{living}/")
    expect(page.locator("#L300")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("size", [(1280, 900), (1280, 620)], ids=str)
def test_the_end_of_a_finished_log_is_reached_without_scrolling_the_page(page, long, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(long)
    page.locator("[data-log-scroll]").evaluate("box => { box.scrollTop = box.scrollHeight; }")
    expect(page.locator(".log-end")).to_be_in_viewport(ratio=1)
    assert page.evaluate("scrollY") == 0


FOLDS_AND_GROWS = """() => new Promise(done => {
  const box = document.querySelector('[data-log-scroll]');
  const lines = [...box.querySelectorAll('.log-block > p')];
  lines.slice(0, 200).forEach(line => { line.hidden = true; line.style.display = 'none'; });
  void box.scrollTop; // the browser clamps now; its event comes with the next frame
  lines.slice(0, 200).forEach(line => { line.hidden = false; line.style.display = ''; });
  requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done)));
})"""


def test_following_does_not_stop_by_itself_when_lines_fold_away_and_others_come(page, living, panel):
    page.goto(f"/jobs/{living}/")
    follow = page.get_by_role("button", name="Follow")
    expect(follow).to_have_attribute("aria-pressed", "true")
    for _ in range(5):
        page.evaluate(FOLDS_AND_GROWS)
    expect(follow).to_have_attribute("aria-pressed", "true")
    write(panel, living, 320)
    expect(page.locator("#L320")).to_be_in_viewport()


def test_following_stops_when_somebody_scrolls_up_and_goes_on_at_the_end(page, living, panel):
    page.goto(f"/jobs/{living}/")
    follow = page.get_by_role("button", name="Follow")
    expect(page.locator("#L300")).to_be_in_viewport()
    page.locator("[data-log-scroll]").evaluate("box => { box.scrollTop -= 400; }")  # as finding in the page does
    expect(follow).to_have_attribute("aria-pressed", "false")
    write(panel, living, 320)
    expect(page.locator("[data-log-new]")).to_have_text("↓ 20 new lines")
    page.locator("[data-log-new]").click()
    expect(follow).to_have_attribute("aria-pressed", "true")
    page.locator("[data-log-scroll]").hover()
    page.mouse.wheel(0, -300)
    expect(follow).to_have_attribute("aria-pressed", "false")
