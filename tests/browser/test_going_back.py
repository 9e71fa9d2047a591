"""Back, from what a form led to: the form shows what holds by then, and can be sent again."""

import pytest
from playwright.sync_api import Page, expect

QUIET = "/hosts/alpha/machines/quiet/"


@pytest.fixture
def draft(page: Page, seen: dict[str, str]) -> Page:
    yield page
    page.goto(f"{QUIET}config/review/")
    if page.locator("[data-dialog-open='#discard']").count():
        page.locator("[data-dialog-open='#discard']").click()
        page.locator("#discard button[type=submit]").click()
        page.wait_for_url(f"**{QUIET}")


def review(page: Page) -> None:
    page.locator("main button[name=then][value=review]").last.click()
    page.wait_for_url("**/review/")


def test_back_from_the_review_is_the_draft_and_can_be_changed_again(draft):
    draft.goto(f"{QUIET}config/")
    for size in ("300M", "400M", "500M"):
        draft.fill("[name=memory_max]", size)
        review(draft)
        expect(draft.locator("main")).to_contain_text(size)
        draft.go_back()
        expect(draft.locator("[name=memory_max]")).to_have_value(size)
        expect(draft.locator("main")).not_to_contain_text("meanwhile")


def test_back_from_the_review_is_the_same_text_and_can_be_changed_again(draft):
    draft.goto(f"{QUIET}config/raw/")
    for size in ("300M", "400M"):
        draft.fill("[name=limits]", f"[Service]\nMemoryMax={size}\n")
        review(draft)
        draft.go_back()
        expect(draft.locator("[name=limits]")).to_have_value(f"[Service]\nMemoryMax={size}\n")
    review(draft)
    expect(draft.locator("main")).to_contain_text("400M")


def test_back_from_a_job_does_not_offer_what_was_applied(draft, ada):
    draft.goto(f"{QUIET}config/")
    draft.fill("[name=memory_max]", "300M")
    review(draft)
    address = draft.url
    draft.locator("[data-dialog-open='#discard']").click()
    draft.locator("#discard button[type=submit]").click()
    draft.wait_for_url(f"**{QUIET}")
    draft.go_back()
    expect(draft.locator("#discard")).to_have_count(0)
    assert draft.url != address  # there is no draft any more: its page leads to the form


def test_back_past_a_form_with_faults_is_the_draft_that_came_of_it(draft):
    """And no question of the browser's whether to send the faults once more."""
    draft.goto(f"{QUIET}config/")
    draft.fill("[name=memory_max]", "12X")
    draft.locator("main button[name=then][value=review]").last.click()
    expect(draft.locator("[name=memory_max]")).to_have_attribute("aria-invalid", "true")
    draft.fill("[name=memory_max]", "300M")
    review(draft)
    draft.go_back()
    expect(draft.locator("[name=memory_max]")).to_have_value("300M")
    draft.reload()
    expect(draft.locator("[name=memory_max]")).to_have_value("300M")


def test_one_is_asked_before_a_form_with_faults_is_left(draft):
    asked = []
    draft.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    draft.goto(f"{QUIET}config/")
    draft.fill("[name=memory_max]", "12X")
    draft.locator("main button[name=then][value=review]").last.click()
    expect(draft.locator("[name=memory_max]")).to_have_attribute("aria-invalid", "true")
    draft.get_by_role("link", name="Hosts", exact=True).first.click()
    draft.wait_for_url("**/hosts/")
    assert asked == ["beforeunload"]
