"""What no machine may have of its host, as a person sees it: on the form, on the host's page and on the machine's."""

from playwright.sync_api import Page, expect

from nspawnpanel.sandbox import Sandbox
from tests.person import Person

BAD = "/etc/systemd/nspawn/handmade.nspawn"


def test_a_bind_that_gives_the_host_away_is_refused_on_the_form_and_told_where_it_stands(
    page: Page, ada: Person, alpha_host: Sandbox
):
    for name in ("handmade", "plain"):
        alpha_host.plant(name)
    alpha_host.write(BAD, "[Files]\nBind=/srv/handmade:/mnt\n")
    alpha_host.run(["ln", "-sfn", "/opt/nspawnpanel", "/srv/handmade"])
    ada.sees("plain", "stopped", 15)
    try:
        page.goto("/hosts/alpha/machines/plain/config/")
        page.click("[data-formset=binds] [data-formset-add]")
        page.locator("[data-formset-row]:visible [name$=-source]").last.fill("/opt/nspawnpanel/bin")
        page.get_by_role("button", name="Save and review").click()
        expect(page.locator("main")).to_contain_text("No machine may write to that, whatever the policy says.")
        assert "/config/" in page.url

        page.goto("/hosts/alpha/machines/handmade/")
        expect(page.locator("#banner-bind")).to_contain_text("/srv/handmade leads to /opt/nspawnpanel", timeout=90_000)
        page.goto("/hosts/alpha/")
        expect(page.locator("#bad-binds")).to_contain_text("handmade")
        expect(page.locator("#protected")).to_contain_text("/opt/nspawnpanel")
    finally:
        alpha_host.run(["rm", "-f", BAD, "/srv/handmade"])
