"""Every page, light and dark, wide and narrow: axe finds nothing, the browser complains of nothing, nothing overflows."""

import pytest
from axe_playwright_python.sync_playwright import Axe

PAGES = {
    "machines": "/machines/",
    "machines filtered to nothing": "/machines/?q=nothing-like-this",
    "new machine": "/machines/new/",
    "new machine from a recipe": "/machines/new/?source=recipe",
    "new machine from a URL": "/machines/new/?source=pull",
    "new machine by copy": "/machines/new/?source=clone",
    "machine": "{machine}",
    "machine that failed": "{quiet}",
    "configuration": "{machine}config/",
    "configuration as text": "{machine}config/raw/",
    "what holds": "{machine}effective/?all=1",
    "revisions": "{machine}revisions/",
    "removal": "{quiet}remove/",
    "hosts": "/hosts/",
    "host": "/hosts/alpha/",
    "archives": "/archives/",
    "export": "{quiet}export/",
    "jobs": "/jobs/",
    "events": "/events/",
    "job that succeeded": "{good}",
    "job that failed": "{bad}",
    "recipes": "/recipes/",
    "recipe": "{recipe}",
    "recipe's version": "{recipe}versions/1/",
    "recipe's form": "{recipe}edit/",
    "new recipe of rpm packages": "/recipes/new/?of=fedora",
    "presets": "/presets/",
    "new preset": "/presets/new/",
    "teams": "/teams/",
    "new team": "/teams/new/",
    "unclaimed machines": "/machines/unclaimed/",
    "API tokens": "/settings/tokens/",
    "permissions": "/permissions/",
    "not found": "/hosts/nowhere/",
    "change password": "/accounts/password/change/",
    "profile": "/settings/profile/",
    "security": "/settings/security/",
    "authenticator app": "/settings/security/totp/activate/",
    "new passkey": "/settings/security/webauthn/add/",
    "sessions": "/settings/sessions/",
    "confirm it is you": "/accounts/reauthenticate/",
    "people": "/settings/people/",
    "person": "/settings/people/1/",
    "invitations": "/settings/invitations/",
}


# Ids tell a morph which element is which, so none stands twice.
TWICE = """() => { const ids = [...document.querySelectorAll('[id]')].map(each => each.id);
  return ids.filter((id, place) => ids.indexOf(id) !== place); }"""


@pytest.mark.parametrize("path", PAGES.values(), ids=PAGES.keys())
def test_it_is_accessible_and_fits_in_both_themes_and_widths(path, page, seen):
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(path.format(**seen))
            found = Axe().run(page)
            assert found.violations_count == 0, f"{theme} {width}: {found.generate_report()}"
            assert page.evaluate(TWICE) == []
            overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert overflow <= 0, f"{theme} {width}: {overflow} px too wide"


LENGTHEN = """() => {
  const lengthen = (words, long) => {
    for (const said of document.querySelectorAll(words)) if (!said.querySelector("*")) said.textContent = "x".repeat(long);
  };
  lengthen("main table :is(th[scope=row], td[data-label=Host]) a", 64);
  lengthen("main table :is(th small, .job-note, #job-table .state-note)", 200);
  return document.documentElement.scrollWidth - document.documentElement.clientWidth;
}"""


@pytest.mark.parametrize(
    "path", ["/machines/", "/hosts/", "/jobs/", "/recipes/", "/archives/", "/presets/", "/events/"]
)
def test_a_long_word_in_a_list_breaks_before_the_page_does(path, page, seen):
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path)
        assert page.evaluate(LENGTHEN) <= 0, f"{path} is too wide at {width}"


def test_the_sign_in_page_too(browser, panel):
    for theme in ("light", "dark"):
        for width in (1280, 360):
            page = browser.new_page(
                color_scheme=theme, reduced_motion="reduce", viewport={"width": width, "height": 800}
            )
            page.goto(f"{panel.url}/accounts/login/")
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            page.close()


@pytest.mark.parametrize("path", [p for p in PAGES.values() if "nowhere" not in p])
def test_it_can_be_read_without_javascript(path, browser, panel, cookies, seen):
    context = browser.new_context(base_url=panel.url, java_script_enabled=False)
    context.add_cookies(cookies)
    page = context.new_page()
    page.goto(path.format(**seen))
    assert page.locator("h1").inner_text().strip()
    context.close()
