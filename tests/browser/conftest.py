"""A signed-in page of a real Chromium that notes what the browser complains about."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page

from nspawnpanel.sandbox import Sandbox
from nspawnpanel.stack import Stack
from tests.person import Person
from tests.real import a_browser

WIDTHS = {"wide": 1280, "narrow": 360}
LATELY = 300.0  # seconds


def sign_in(page: Page, panel: Stack, user: str = "admin", password: str = "") -> None:
    page.goto(f"{panel.url}/accounts/login/")
    page.fill("[name=login]", user)
    page.fill("[name=password]", password or (panel.data / "first-password").read_text().strip())
    page.click("main button[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with a_browser() as chrome:
        yield chrome


@dataclass
class SignedIn:
    """Cookies of somebody who has signed in lately: after a quarter of an hour some pages ask again who this is."""

    browser: Browser
    panel: Stack
    _kept: list = field(default_factory=list)
    _since: float = 0.0

    def cookies(self) -> list:
        if not self._kept or time.monotonic() - self._since > LATELY:
            context = self.browser.new_context()
            sign_in(context.new_page(), self.panel)
            self._kept, self._since = context.cookies(), time.monotonic()
            context.close()
        return self._kept


@pytest.fixture(scope="package")
def somebody(browser: Browser, panel: Stack, ada: Person) -> SignedIn:
    return SignedIn(browser, panel)


@pytest.fixture
def cookies(somebody: SignedIn) -> list:
    return somebody.cookies()


@pytest.fixture
def page(browser: Browser, panel: Stack, cookies: list) -> Iterator[Page]:
    """Signed in; fails the test when the browser refused or missed anything (CSP, scripts, files)."""
    context = browser.new_context(base_url=panel.url, viewport={"width": 1280, "height": 900})
    context.add_cookies(cookies)
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda m: page.complaints.append(m.text) if m.type in {"error", "warning"} else None)
    page.on("pageerror", lambda e: page.complaints.append(str(e)))
    yield page
    complaints = [c for c in page.complaints if not c.startswith("Failed to load resource: the server responded")]
    context.close()
    assert not complaints, complaints


@pytest.fixture(scope="session")
def seen(ada: Person, alpha_host: Sandbox) -> dict[str, str]:
    """A fleet with something on every page: a running and a stopped machine, jobs good and bad, a draft, revisions."""
    for name in ("shown", "quiet"):
        alpha_host.plant(name)
    ada.sees("quiet", "stopped", 15)
    ada.succeed(ada.press("start", "shown"))
    good = ada.newest_job()
    ada.post("/recipes/starters/", {"starter": "debian-12"}, page="/recipes/")
    recipe = ada.rows("SELECT id FROM machines_recipe WHERE name = 'Debian 12'")[0]["id"]
    alpha_host.run(["rm", "-rf", "/var/lib/machines/quiet/usr"])  # without an init systemd-nspawn would start a shell
    failed = ada.end_of(ada.press("start", "quiet"))
    assert failed["state"] == "failed", failed
    return {
        "machine": "/hosts/alpha/machines/shown/",
        "quiet": "/hosts/alpha/machines/quiet/",
        "good": f"/jobs/{good}/",
        "recipe": f"/recipes/{recipe}/",
        "bad": f"/jobs/{failed['id']}/",
    }
