"""A machine becomes a template by a dialog, and another one is made from it."""

from playwright.sync_api import expect

from tests.person import until


def test_a_template_is_made_and_a_machine_from_it(page, ada, alpha_host):
    alpha_host.plant("golden")
    ada.sees("golden", "stopped", 20)
    page.goto("/hosts/alpha/machines/golden/")
    before = ada.newest_job()
    page.get_by_role("link", name="Convert to template").click()
    dialog = page.locator("dialog[open]")
    expect(dialog).to_contain_text("becomes read-only")
    dialog.get_by_role("button", name="Convert golden to a template").click()
    until(lambda: ada.jobs_after(before), 10)
    ada.succeed(ada.jobs_after(before)[0])
    expect(page.locator("#machine .states")).to_contain_text("template", timeout=15_000)
    expect(page.get_by_role("button", name="Start", exact=True)).to_have_count(0)
    page.get_by_role("link", name="New machine from golden").click()
    page.fill("[name=name]", "minted")
    before = ada.newest_job()
    page.get_by_role("button", name="machine").last.click()
    page.wait_for_url("**/jobs/*/")
    ada.succeed(ada.jobs_after(before)[0], 120)
    ada.sees("minted", "running", 20)
    assert alpha_host.read("/var/lib/machines/minted/etc/hostname") == "minted\n"
