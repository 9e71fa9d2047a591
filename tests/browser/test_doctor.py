"""The doctor and the proof of limits as a person uses them: press, read, mend; in both themes, wide and narrow."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from nspawnpanel.sandbox import Sandbox
from tests.person import Person

NETWORKD = ("systemd-networkd.socket", "systemd-networkd.service")


@pytest.fixture(scope="module")
def capped(ada: Person, alpha_host: Sandbox) -> str:
    """A running machine with both limits, its address on the page."""
    alpha_host.plant("capped")
    unit = "systemd-nspawn@capped.service"
    drop_in = "[Service]\nMemoryMax=128M\nCPUQuota=20%\n"
    alpha_host.write(f"/etc/systemd/system/{unit}.d/10-test.conf", drop_in)
    alpha_host.run(["systemctl", "daemon-reload"])
    ada.sees("capped", "stopped", 15)
    ada.succeed(ada.press("start", "capped"))
    ada.sees("capped", "running")
    yield "/hosts/alpha/machines/capped/"
    alpha_host.run(["systemctl", "start", *NETWORKD])
    ada.succeed(ada.press("terminate", "capped"))


def is_fit_to_see(page: Page) -> None:
    """Axe finds nothing and nothing overflows."""
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 900})
            page.reload()  # or colours are still on their way from one theme to the other
            found = Axe().run(page)
            assert found.violations_count == 0, f"{theme} {width}: {found.generate_report()}"
            overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert overflow <= 0, f"{theme} {width}: {overflow} px too wide"


def test_what_is_broken_on_the_host_is_found_and_mended_with_a_button(page, capped, alpha_host):
    alpha_host.run(["systemctl", "stop", *NETWORKD])
    page.goto("/hosts/alpha/")
    page.get_by_role("link", name="Doctor").click()
    page.get_by_role(
        "button", name=re.compile("Run diagnostics|Run again")
    ).click()  # somebody may have run them before
    expect(page.locator("main")).to_contain_text("systemd-networkd does not run on the host", timeout=15_000)
    expect(page.locator(".finding-problem code")).to_have_text("systemctl enable --now systemd-networkd.service")
    is_fit_to_see(page)
    page.get_by_role("button", name="Start and enable systemd-networkd").click()
    expect(page.locator("main")).to_contain_text("systemd-networkd runs on the host", timeout=30_000)
    expect(page.locator(".finding-problem")).to_have_count(0)


def test_the_limits_are_proved_with_a_chart_each(page, capped, ada):
    page.goto(capped)
    page.get_by_role("link", name="Test limits").click()
    page.get_by_role("button", name="Run limit test").click()
    expect(page.locator("main")).to_contain_text("A test load is running", timeout=5_000)
    expect(page.locator("main")).to_contain_text("MemoryMax=128\u00a0MiB is enforced", timeout=60_000)
    expect(page.locator("main")).to_contain_text("CPUQuota=20\u00a0% is enforced")
    expect(page.get_by_role("img", name="enforced")).to_have_count(2)
    is_fit_to_see(page)
    page.get_by_text("Figures").first.click()
    expect(page.get_by_role("table").first).to_be_visible()
    assert ada.machine("capped")["state"] == "running"
