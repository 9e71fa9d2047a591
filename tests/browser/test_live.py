"""What changes on the host changes in the open page."""

from playwright.sync_api import expect


def test_a_machine_stopped_and_started_by_hand_shows_within_three_seconds(page, seen, alpha_host):
    page.goto("/machines/")
    row = page.locator("tr", has_text="shown")
    expect(row).to_contain_text("running")
    alpha_host.run(["machinectl", "terminate", "shown"])
    expect(row).to_contain_text("stopped", timeout=3_000)
    alpha_host.run(["machinectl", "start", "shown"])
    expect(row).to_contain_text("running", timeout=3_000)


def test_a_press_shows_at_once_and_ends_in_the_real_state(page, seen, ada):
    page.goto(seen["machine"])
    if page.get_by_role("button", name="Start", exact=True).count() == 0:
        ada.succeed(ada.press("poweroff", "shown"))
        page.reload()
    page.get_by_role("button", name="Start", exact=True).first.click()
    expect(page.locator("main")).to_contain_text("running", timeout=15_000)


def test_the_theme_is_kept(page, seen):
    page.goto("/machines/")
    with page.expect_response(
        lambda answer: "/theme/" in answer.url
    ):  # kept on the server before the page is loaded anew
        page.evaluate("document.querySelector('form[action*=theme] [value=dark]').click()")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.evaluate("document.querySelector('form[action*=theme] [value=system]').click()")
