"""Every setting in a browser: found by its name, typed in rows, seen as text and back again; with and without JavaScript."""

import pytest
from playwright.sync_api import Page, expect

from nspawnpanel.sandbox import Sandbox
from tests.person import Person

CONFIG = "/hosts/alpha/machines/every/config/"


@pytest.fixture(scope="module")
def every(ada: Person, alpha_host: Sandbox) -> str:
    alpha_host.plant("every")
    ada.sees("every", "stopped", 15)
    return "every"


def rows(page: Page, name: str):
    return page.locator(f'[id="rows_{name}"] [data-formset-row]:visible')


def test_a_rare_setting_is_found_typed_and_seen_as_text(page: Page, every: str) -> None:
    page.goto(CONFIG)
    field = page.locator('[name="Exec.LimitNOFILE"]')
    expect(field).to_be_hidden()
    page.locator("#setting-filter").fill("open files")
    expect(field).to_be_visible()
    expect(page.locator('[name="memory_max"]')).to_be_hidden()
    field.fill("1024:524288")
    page.locator("#setting-filter").fill("environment")
    add = page.locator('[id="rows_Exec.Environment"] [data-formset-add]')
    for name, value in (("LANG", "C.UTF-8"), ("GREETING", "two words")):
        add.click()
        last = rows(page, "Exec.Environment").last
        last.locator("[name$=part0]").fill(name)
        last.locator("[name$=part1]").fill(value)
    rows(page, "Exec.Environment").last.locator('[data-formset-move="up"]').click()
    page.locator("main .savebar button[name=then][value='']").click()
    expect(page.locator("main")).to_contain_text("Draft saved")
    expect(page.locator('[name="Exec.LimitNOFILE"]')).to_be_visible()  # it says something now

    page.get_by_role("link", name="Raw", exact=True).click()
    text = page.locator("[name=nspawn]").input_value()
    assert 'Environment="GREETING=two words"\nEnvironment=LANG=C.UTF-8\n' in text
    page.locator("[name=nspawn]").fill("# by hand\n" + text.replace("1024:524288", "lots"))
    page.get_by_role("button", name="Save and show as form").click()
    expect(page.locator("[role=alert]").first).to_contain_text("Give a limit or SOFT:HARD")
    page.locator("[data-raw-line]").first.click()
    assert (
        page.evaluate(
            "getSelection().toString() || document.activeElement.value.slice(document.activeElement.selectionStart, document.activeElement.selectionEnd)"
        )
        == "LimitNOFILE=lots"
    )
    page.locator("[name=nspawn]").fill("# by hand\n" + text.replace("1024:524288", "2048") + "X-Later=1\n")
    page.get_by_role("button", name="Save and show as form").click()
    expect(page.locator('[name="Exec.LimitNOFILE"]')).to_have_value("2048")
    expect(page.locator("main")).to_contain_text("1 line that no field shows")


def test_rows_without_javascript(browser, panel, cookies, every: str) -> None:
    context = browser.new_context(base_url=panel.url, java_script_enabled=False)
    context.add_cookies(cookies)
    page = context.new_page()
    page.goto(CONFIG)
    for number, port in enumerate(("8081", "8082")):
        page.get_by_role("button", name="Add a port").click()
        assert page.locator(".field-error").count() == 0
        page.locator(f"[name=ports-{number}-host_port]").fill(port)
    page.get_by_role("button", name="Move this port up").nth(1).click()
    expect(page.locator("[name=ports-0-host_port]")).to_have_value("8082")
    page.get_by_role("button", name="Remove this port").nth(1).click()
    page.locator("[name=ports-0-host_port]").press("Enter")  # saves, and presses none of the buttons above
    expect(page.locator("main")).to_contain_text("Draft saved")
    expect(page.locator("[name=ports-0-host_port]")).to_have_value("8082")
    expect(page.locator("[name=ports-1-host_port]")).to_have_count(0)
    context.close()
