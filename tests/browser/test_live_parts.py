"""What a live part becomes while a page stays open: its buttons do what they say, its menus can be seen."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from nspawnpanel.stack import Stack
from tests.browser.conftest import WIDTHS
from tests.person import Person

MACHINE = "/hosts/alpha/machines/shown/"


@pytest.fixture
def held(panel: Stack) -> Iterator[Stack]:
    """Nothing leaves the panel until the test starts the courier again: a job waits as long as a page needs."""
    panel.stop_part("courier")
    yield panel
    panel.restart_part("courier")


def stop_shown(ada: Person) -> None:
    if ada.machine("shown")["state"] != "stopped":
        ada.succeed(ada.press("poweroff", "shown"))
        ada.sees("shown", "stopped")


@pytest.fixture
def held_when_stopped(seen: dict[str, str], ada: Person, request: pytest.FixtureRequest) -> Stack:
    """The same, with the machine stopped before."""
    stop_shown(ada)
    return request.getfixturevalue("held")


def test_the_main_button_of_a_job_that_was_watched_to_its_end_opens_the_machine(page, seen, ada, held_when_stopped):
    panel = held_when_stopped
    job = ada.press("start", "shown")["id"]
    page.goto(f"/jobs/{job}/")
    expect(page.locator("#job-status").get_by_role("link", name="Cancel")).to_be_visible()
    panel.start_part("courier")
    button = page.locator("#job-status").get_by_role("link", name="Open shown")
    expect(button).to_be_visible(timeout=30_000)
    button.click()
    page.wait_for_url(f"**{MACHINE}")
    expect(page.locator("#running-jobs .count")).to_have_text("0")


def test_a_job_that_has_ended_asks_the_panel_for_nothing_more(page, seen, ada, held):
    job = ada.press("disable", "shown")["id"]
    page.goto(f"/jobs/{job}/")
    held.start_part("courier")
    expect(page.locator("#job-status .state[data-state=succeeded]")).to_be_visible(timeout=30_000)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("for (let i = 0; i < 3; i += 1) document.body.dispatchEvent(new CustomEvent('panel:tick'))")
    page.evaluate("fetch('/hosts/').then(answer => answer.text())")
    assert not [url for url in asked if f"/jobs/{job}/status" in url]


def test_a_watched_job_that_fails_can_be_tried_again_from_the_same_page(page, seen, ada, held):
    job = ada.press("start", "quiet")["id"]
    page.goto(f"/jobs/{job}/")
    held.start_part("courier")
    page.locator("#job-status").get_by_role("button", name="Retry").click(timeout=60_000)
    page.wait_for_url(lambda url: url.rstrip("/").split("/")[-1] not in {str(job), "retry"})
    ada.end_of(ada.newest_job())


def test_the_buttons_of_a_machine_mean_what_they_say_after_its_state_changed_twice(page, seen, ada):
    stop_shown(ada)
    page.goto(MACHINE)
    page.get_by_role("button", name="Start", exact=True).click()
    head = page.locator("#machine-actions")
    head.get_by_role("link", name="Power off").click(timeout=30_000)
    dialog = page.locator("dialog[open]")
    expect(dialog).to_contain_text("Power off shown")
    dialog.get_by_role("button", name="Power off").click()
    expect(head.get_by_role("button", name="Start", exact=True)).to_be_enabled(timeout=30_000)
    head.get_by_role("link", name="Remove").click()
    expect(page.locator("dialog[open]")).to_contain_text("Remove shown")
    page.keyboard.press("Escape")
    head.get_by_role("button", name="Start", exact=True).click()
    expect(head.get_by_role("link", name="Power off")).to_be_visible(timeout=30_000)


def test_the_number_of_running_jobs_goes_back_to_none_on_a_page_that_shows_no_job(page, seen, ada, held):
    ada.press("disable", "shown")
    page.goto("/recipes/")
    expect(page.locator("#running-jobs .count")).to_have_text("1")
    held.start_part("courier")
    expect(page.locator("#running-jobs .count")).to_have_text("0", timeout=30_000)


# Each menu item is what a pointer would hit there: not clipped by a table, not under anything, not outside the window.
HIT = """menu => [...menu.querySelectorAll('.dropdown-item')].filter(item => {
  const box = item.getBoundingClientRect();
  return ![[box.left + 4, box.top + 4], [box.right - 4, box.bottom - 4]].every(([x, y]) => {
    const there = document.elementFromPoint(x, y);
    return there && (item.contains(there) || there === item);
  });
}).map(item => item.textContent.trim())"""


def hidden_items(page: Page, opener: Locator) -> list[str]:
    """Open this menu; returns what of it cannot be pressed."""
    opener.click()
    menu = page.locator(".dropdown-menu.show")
    expect(menu.locator(".dropdown-item").first).to_be_visible()
    assert menu.locator(".dropdown-item").count() >= 2
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    hidden = menu.evaluate(HIT)
    page.keyboard.press("Escape")
    expect(menu).to_have_count(0)
    return hidden


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
@pytest.mark.parametrize(
    "path",
    ["/machines/", "/machines/?q=shown", "/jobs/", "/jobs/?q=op:start+state:failed"],
    ids=["machines", "one machine", "jobs", "few jobs"],
)
def test_the_whole_menu_of_the_first_and_the_last_row_can_be_pressed(page, seen, path, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(path)
    openers = page.locator("main table .row-actions [data-bs-toggle=dropdown]")
    for opener in (openers.first, openers.last):
        opener.scroll_into_view_if_needed()
        assert hidden_items(page, opener) == []


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_the_menus_of_filters_and_of_the_top_bar_can_be_pressed(page, seen, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto("/machines/")
    for opener in ("#facet-state", "[aria-label=Appearance]", "[aria-label^=Account]"):
        assert hidden_items(page, page.locator(opener)) == []
