"""A change of the network that goes back by itself, a change by hand that is kept, and what two revisions differ in."""

import json

import pytest
from playwright.sync_api import Page, expect

from nspawnpanel.sandbox import Sandbox
from tests.person import Person, until

MACHINE = "/hosts/alpha/machines/wayback/"
FILE = "/etc/systemd/nspawn/wayback.nspawn"


@pytest.fixture(scope="module")
def wayback(ada: Person, alpha_host: Sandbox) -> str:
    alpha_host.plant("wayback")
    ada.sees("wayback", "stopped", 15)
    ada.succeed(ada.press("start", "wayback"))
    until(lambda: ada.machine("wayback")["addresses"] != "[]", 30)
    return "wayback"


def review(page: Page) -> None:
    page.locator("main button[name=then][value=review]").first.click()
    page.wait_for_url("**/config/review/")


def job_of(page: Page, ada: Person) -> dict:
    page.wait_for_url("**/jobs/*/")
    return ada.end_of(int(page.url.rstrip("/").rsplit("/", 1)[1]), 120)


def apply(page: Page, ada: Person, **fields: str) -> dict:
    page.goto(f"{MACHINE}config/")
    for name, text in fields.items():
        page.locator(f"main [name={name}]").fill(text)
    review(page)
    page.locator("#apply button[type=submit]").first.click()
    return job_of(page, ada)


def test_a_network_that_brings_no_address_goes_back_by_itself(page, ada, wayback, alpha_host):
    assert apply(page, ada, memory_max="512M")["state"] == "succeeded"
    before = alpha_host.read(FILE)
    page.goto(f"{MACHINE}config/")
    page.locator("main [name=network_mode][value=none]").check(force=True)
    review(page)
    expect(page.locator("main [name=rollback]")).to_be_checked()
    page.locator("main [name=expects]").select_option("address")
    page.locator("main [name=rollback_after]").fill("10")
    page.locator("#apply button[value=restart]").click()
    ended = job_of(page, ada)
    assert (ended["state"], json.loads(ended["problem"])["code"]) == ("failed", "rolled-back")
    expect(page.locator("#job-problem")).to_contain_text("the previous configuration was restored")
    assert alpha_host.read(FILE) == before
    assert ada.machine("wayback")["state"] == "running"
    page.goto(f"{MACHINE}config/review/")
    expect(page.locator("#trouble")).to_contain_text("had no address 10 s after its restart")
    page.locator("[data-dialog-open='#discard']").click()
    page.locator("#discard button[type=submit]").click()
    page.wait_for_url(f"**{MACHINE}")


def test_a_change_by_hand_is_kept_beside_the_draft_s(page, ada, wayback, alpha_host):
    page.goto(f"{MACHINE}config/")
    page.locator("main [name=memory_max]").fill("256M")
    review(page)
    alpha_host.write(FILE, alpha_host.read(FILE) + "\n[Exec]\nHostname=by-hand\n")
    found = page.locator("#found")
    until(lambda: (page.reload(), found.count())[1], 20)
    expect(found).to_contain_text("by-hand")
    expect(found).to_contain_text("256M")
    found.locator("button[value=merge]").click()
    page.wait_for_url("**/config/review/")
    expect(page.locator("#apply button[type=submit]").first).to_be_enabled()
    page.locator("#reason").fill("less is enough")
    page.locator("#apply button[type=submit]").first.click()
    assert job_of(page, ada)["state"] == "succeeded"
    assert "Hostname=by-hand" in alpha_host.read(FILE)


def test_two_revisions_are_compared(page, wayback):
    page.goto(f"{MACHINE}revisions/")
    expect(page.locator("main")).to_contain_text("less is enough")
    page.locator("main form button[type=submit]").first.click()
    page.wait_for_url("**/revisions/compare/?a=1&b=2")
    expect(page.locator(".changes")).to_contain_text("512M")
    expect(page.locator("#file-diff")).to_contain_text("Hostname=by-hand")
