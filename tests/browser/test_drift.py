"""A machine that was there before the panel, and files that somebody changes by hand: taken over, put right, ignored."""

import hashlib

import pytest
from playwright.sync_api import Page, expect

from nspawnpanel.sandbox import Sandbox
from tests.person import Person, until

MACHINE = "/hosts/alpha/machines/handmade/"
FILE = "/etc/systemd/nspawn/handmade.nspawn"
UNIT = "systemd-nspawn@handmade.service"
OLD = "# made by hand in 2019\n[Exec]\nEnvironment=ROLE=shop\n\n[Network]\nZone=shop\n"
SOON = 10_000  # ms; it takes under one second


@pytest.fixture(scope="module")
def handmade(ada: Person, alpha_host: Sandbox) -> str:
    """Its files were there first."""
    alpha_host.write(FILE, OLD)
    alpha_host.plant("handmade")
    ada.sees("handmade", "stopped", 15)
    return "handmade"


def holds(page: Page) -> Page:
    page.goto(f"{MACHINE}effective/")
    return page


def badge(page: Page):
    return page.locator("#machine-table tr", has_text="handmade").get_by_role("link", name="drift")


def by_hand(host: Sandbox, text: str) -> None:
    host.write(FILE, text)


def test_what_was_there_is_shown_and_taken_over_without_a_byte_changed(page, handmade, ada, alpha_host):
    holds(page)
    expect(page.locator("#holds")).to_contain_text("Zone=")
    expect(page.locator("#files-head + *, .file-stack").first).to_be_visible()
    page.get_by_text(FILE).first.click()
    expect(page.locator("pre.file").first).to_contain_text("# made by hand in 2019")
    before = ada.newest_job()
    page.get_by_role("button", name="Import as revision 1").click()
    expect(page.locator("main")).to_contain_text("Nothing was changed there")
    assert alpha_host.read(FILE) == OLD
    assert ada.jobs_after(before) == []
    kept = ada.rows("SELECT r.* FROM machines_revision r JOIN machines_machine m ON m.applied_id = r.id WHERE m.name = 'handmade'")[0]  # fmt: skip
    assert (kept["number"], kept["nspawn_text"], kept["author_name"]) == (1, OLD, "found on disk")


def test_a_change_by_hand_shows_within_seconds_and_becomes_a_revision(page, handmade, alpha_host):
    page.goto("/machines/")
    expect(badge(page)).to_have_count(0)
    by_hand(alpha_host, OLD.replace("ROLE=shop", "ROLE=till"))
    expect(badge(page)).to_be_visible(timeout=SOON)
    badge(page).click()
    expect(page.locator("#by-hand")).to_contain_text("ROLE=till")
    expect(page.locator(".diff").first).to_contain_text("ROLE=shop")
    page.get_by_role("button", name="Import the changes from disk").click()
    expect(page.locator("main")).to_contain_text("are now revision 2")
    expect(page.locator("#by-hand")).to_have_count(0)
    page.goto(f"{MACHINE}revisions/2/")
    expect(page.locator("main")).to_contain_text("imported from disk")


def test_a_change_that_is_ignored_comes_back_when_the_file_changes_again(page, handmade, alpha_host):
    by_hand(alpha_host, OLD + "# a note\n")
    holds(page)
    page.get_by_role("button", name="Ignore").click(timeout=SOON)
    expect(page.locator("#by-hand")).to_contain_text("ignored until a file changes again")
    page.goto("/machines/")
    expect(page.locator("#machine-table tr", has_text="handmade")).to_be_visible()
    expect(badge(page)).to_have_count(0)
    by_hand(alpha_host, OLD + "# another note\n")
    expect(badge(page)).to_be_visible(timeout=SOON)


def test_applying_again_puts_the_file_right(page, handmade, ada, alpha_host):
    holds(page)
    before = ada.newest_job()
    page.get_by_role("button", name="Apply revision 2 again").click()
    until(lambda: ada.jobs_after(before), 10)
    ada.succeed(ada.jobs_after(before)[0])
    text = alpha_host.read(FILE)
    assert text.startswith("# Written by nspawnpanel, revision 2.")
    assert text.split("\n", 1)[1] == OLD.replace("ROLE=shop", "ROLE=till")
    until(lambda: ada.machine("handmade")["nspawn_sha256"] == hashlib.sha256(text.encode()).hexdigest(), 10)
    expect(page.locator("#by-hand")).to_have_count(0, timeout=SOON)
    assert not ada.machine("handmade")["drifted"]


def test_a_limit_set_by_hand_is_flagged_with_its_cause_and_what_mends_it(page, handmade, ada, alpha_host):
    page.goto(f"{MACHINE}config/")
    page.locator("main [name=memory_max]").fill("512M")
    page.locator("main button[name=then][value=review]").first.click()
    page.locator("#apply button[type=submit]").first.click()
    page.wait_for_url("**/jobs/*/")
    ada.end_of(int(page.url.rstrip("/").rsplit("/", 1)[1]))
    ada.succeed(ada.press("start", "handmade"))
    row = holds(page).locator("tr", has_text="MemoryMax=").first
    expect(row).to_contain_text("panel drop-in", timeout=SOON)
    expect(row.get_by_role("img", name="in effect")).to_be_visible(timeout=SOON)
    alpha_host.run(["systemctl", "set-property", UNIT, "MemoryMax=300M"])
    expect(row).to_contain_text("differs", timeout=SOON)
    expect(page.locator("#holds")).to_contain_text(f"rm /etc/systemd/system.control/{UNIT}.d/50-MemoryMax.conf")
    before = ada.newest_job()
    page.locator("#leftovers").get_by_role("button", name="Remove").click()
    until(lambda: ada.jobs_after(before), 10)
    ada.succeed(ada.jobs_after(before)[0])
    assert alpha_host.run(["ls", f"/etc/systemd/system.control/{UNIT}.d"], check=False).returncode != 0
    expect(row.get_by_role("img", name="in effect")).to_be_visible(timeout=SOON)
