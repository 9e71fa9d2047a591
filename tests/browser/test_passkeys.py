"""Passkeys in a real Chromium with an authenticator of its own: added, used as the second step, alone, and to confirm."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from nspawnpanel.stack import Stack

SECURITY = "/settings/security/"


@pytest.fixture
def page(browser: Browser, panel: Stack) -> Iterator[Page]:
    """By the name localhost, for an address has no passkeys; fails the test when the browser refused anything."""
    context = browser.new_context(base_url=panel.url.replace("127.0.0.1", "localhost"))
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in {"error", "warning"} else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    yield page
    page.goto(SECURITY)
    page.get_by_role("link", name="Remove blue key").click()
    page.get_by_role("button", name="Remove passkey").click()
    expect(page.locator("main")).to_contain_text("Passkey removed")
    context.close()
    assert not [each for each in complaints if not each.startswith("Failed to load resource")]


def test_a_passkey_is_added_and_signs_in_alone(page: Page, panel: Stack) -> None:
    tools = page.context.new_cdp_session(page)
    tools.send("WebAuthn.enable")
    tools.send("WebAuthn.addVirtualAuthenticator", {"options": {
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
        "isUserVerified": True, "automaticPresenceSimulation": True}})  # fmt: skip
    page.goto("/accounts/login/")
    page.fill("[name=login]", "admin")
    page.fill("[name=password]", (panel.data / "first-password").read_text().strip())
    page.locator("main button[type=submit]").first.click()
    page.goto(f"{SECURITY}webauthn/add/")
    page.fill("[name=name]", "blue key")
    page.get_by_role("button", name="Add passkey").click()
    expect(page.locator("main")).to_contain_text("Recovery codes")
    page.goto(SECURITY)
    expect(page.locator("#passkey-table")).to_contain_text("alone")

    sign_out(page)
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.locator("h1")).to_have_text("Machines")

    sign_out(page)  # and after the password it is asked for as well
    page.fill("[name=login]", "admin")
    page.fill("[name=password]", (panel.data / "first-password").read_text().strip())
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.locator("h1")).to_have_text("Machines")

    page.goto("/accounts/reauthenticate/?next=/settings/security/")
    page.get_by_role("link", name="Use a passkey").click()
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.locator("#passkey-table")).to_contain_text("blue key")


def sign_out(page: Page) -> None:
    page.goto("/accounts/logout/")
    page.locator("main").get_by_role("button", name="Sign out").click()
    expect(page.locator("h1")).to_have_text("Sign in")
