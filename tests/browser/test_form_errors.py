"""What is said of wrong fields and of refused acts: where one sees it, and only as long as it is so."""

import pytest
from playwright.sync_api import Page, expect

from tests.person import Person

QUIET = "/hosts/alpha/machines/quiet/"


def build(page: Page) -> None:
    page.locator(".savebar").get_by_role("button", name="Build machine").click()
    expect(page.locator("main .alert[role=alert]")).to_be_visible()


def test_a_field_that_was_corrected_is_no_longer_called_wrong(page, seen):
    page.goto("/machines/new/")
    page.locator("summary", has_text="Limits").click()
    page.fill("[name=memory_max]", "12X")
    build(page)
    expect(page.locator(".alert-title")).to_have_text("2 fields need attention")
    page.fill("[name=name]", "corrected")
    expect(page.locator(".alert-title")).to_have_text("One field needs attention")
    expect(page.locator("main")).not_to_contain_text("Give the machine a name")
    expect(page.locator("[name=name]")).not_to_have_attribute("aria-invalid", "true")
    page.locator(".choice-card", has_text="Image from a URL").click()
    expect(page.locator("[name=url]")).to_be_visible()
    expect(page.locator("main")).not_to_contain_text("Give the machine a name")
    page.fill("[name=memory_max]", "128M")
    expect(page.locator("main .alert[role=alert]")).to_have_count(0)
    page.evaluate("document.querySelector('form[data-guard]').dataset.busy = '1'")  # nothing asks before leaving


@pytest.mark.parametrize(
    ("path", "field", "text"),
    [
        ("/machines/new/", "memory_max", "12X"),
        ("/machines/new/", "hostname", "not a name"),
        ("/machines/new/?source=distribution", "proxy", "nonsense"),
        ("/recipes/new/?of=debian", "proxy", "nonsense"),
        (f"{QUIET}config/", "Exec.OOMScoreAdjust", "5000"),
    ],
)
def test_a_part_of_the_page_with_an_error_is_open(page, seen, path, field, text):
    page.goto(path)
    control = page.locator(f'main [name="{field}"]')
    control.evaluate("each => { const fold = each.closest('details'); if (fold) fold.open = true; }")
    control.fill(text)
    control.evaluate("each => { const fold = each.closest('details'); if (fold) fold.open = false; }")
    page.evaluate("document.querySelector('form[data-guard]').requestSubmit()")
    expect(page.locator("main .alert[role=alert]")).to_be_visible()
    control = page.locator(f'main [name="{field}"]')
    expect(control).to_have_attribute("aria-invalid", "true")
    expect(control).to_be_visible()
    page.on("dialog", lambda dialog: dialog.accept())


def test_a_second_press_is_refused_in_a_note_that_stays_until_something_changes(page, seen, ada: Person, panel):
    page.goto("/machines/?q=quiet")
    panel.stop_part("courier")
    try:
        menu = page.locator("[id^=menu-]").first
        menu.click()
        item = page.locator(".dropdown-menu.show").get_by_role("button", name="Start at boot")
        expect(item).to_be_visible()
        job = ada.press("start", "quiet")["id"]
        item.click()
        note = page.locator("#toasts > *")
        expect(note).to_contain_text(f"job {job}")
        # seen to change, however quickly it ends later
        expect(page.locator("main tbody tr")).to_contain_text("starting")
    finally:
        panel.restart_part("courier")
    ada.end_of(job)
    page.complaints[:] = [said for said in page.complaints if "409" not in said]
    expect(note).to_have_count(0, timeout=30_000)
