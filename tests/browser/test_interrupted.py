"""A session that ends while somebody fills in a form."""

from playwright.sync_api import expect


def test_what_was_typed_comes_back_after_signing_in_again(page, panel, alpha_host):
    page.goto("/machines/new/")
    page.fill("[name=name]", "kept-1")
    page.locator(".choice-card", has_text="Zone").click()
    page.fill("[name=network_target]", "back")
    page.locator("summary", has_text="Ports and binds").click()
    page.click("[data-formset=ports] [data-formset-add]")
    page.fill("[name=ports-0-host_port]", "8080")
    page.locator("summary", has_text="First boot").click()
    page.fill("[name=root_password]", "correct horse")
    page.context.clear_cookies()
    page.get_by_role("button", name="Build machine").click()
    page.wait_for_url("**/accounts/login/**")
    page.fill("[name=login]", "admin")
    page.fill("[name=password]", (panel.data / "first-password").read_text().strip())
    page.click("main button[type=submit]")
    page.wait_for_url("**/machines/new/")
    expect(page.locator("[name=name]")).to_have_value("kept-1")
    expect(page.locator("[name=network_target]")).to_have_value("back")
    expect(page.locator("[name=ports-0-host_port]")).to_have_value("8080")
    expect(page.locator("[name=root_password]")).to_have_value("")
    expect(page.locator("#toasts")).to_contain_text("What you typed is back")
    page.reload()
    expect(page.locator("[name=name]")).to_have_value("")


def test_a_session_that_ends_leads_nobody_away_from_what_they_type(page, panel, alpha_host):
    page.goto("/machines/new/")
    page.fill("[name=name]", "kept-2")
    page.context.clear_cookies()
    with page.expect_response("**/jobs/running/**", timeout=20_000) as answer:
        pass
    assert "HX-Redirect" in {name.title().replace("Hx", "HX") for name in answer.value.headers}
    page.evaluate("new Promise(done => setTimeout(done, 200))")
    assert page.url.endswith("/machines/new/")
    expect(page.locator("[name=name]")).to_have_value("kept-2")
    page.evaluate("document.querySelector('form[data-guard]').dataset.busy = '1'")
