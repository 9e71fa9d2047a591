"""A starter recipe from its button to two machines: the first is built and leaves a base, the second is a copy of it."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.person import Person, until

RECIPE = "Debian 12"
ONLY_HERE = "bsdextrautils ncal"  # no other test builds the like, so its first run is a first one


@pytest.fixture(scope="module")
def recipe(ada: Person) -> int:
    """The starter recipe, added by its button, and its second version."""
    ada.post("/recipes/starters/", {"starter": "debian-12"}, page="/recipes/")
    number = ada.rows("SELECT id FROM machines_recipe WHERE name = ?", RECIPE)[0]["id"]
    rows = {"repositories-TOTAL_FORMS": 0, "repositories-INITIAL_FORMS": 0}
    fields = {"name": RECIPE, "system": "debian", "release": "bookworm", "packages": ONLY_HERE, "seen": 1}
    ada.post(f"/recipes/{number}/edit/", {**fields, **rows})
    return number


@pytest.fixture(scope="module")
def first(ada: Person, recipe: int) -> dict:
    """The first machine of the recipe on this host."""
    return ada.succeed(ada.build("shop-1", source="recipe", recipe=recipe, release=None), 300)


def build(page: Page, ada: Person, name: str) -> dict:
    """Fill in what is needed and press the button; the job once it has ended well."""
    before = ada.newest_job()
    page.fill("[name=name]", name)
    page.get_by_role("button", name="Build machine").last.click()
    page.wait_for_url("**/jobs/*/")
    return ada.succeed(ada.jobs_after(before)[0], 300)


def test_a_starter_is_added_by_one_click(page, ada, recipe):
    page.goto("/recipes/")
    page.get_by_text("Add a starter recipe").click()
    page.get_by_role("button", name="Add Arch Linux").click()
    expect(page.locator("#recipe-table")).to_contain_text("Arch Linux")


def test_choosing_shows_other_fields_and_keeps_what_was_typed(page, ada, recipe):
    page.goto("/machines/new/?source=distribution")
    page.fill("[name=name]", "kept")
    page.fill("[name=packages]", "htop")
    page.locator("summary", has_text="First boot").click()
    page.fill("[name=root_password]", "correct horse")
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.select_option("[name=distribution]", "rocky")
    assert "correct" not in (sent.value.post_data or "")
    expect(page.locator("[name=release]")).to_have_value("10")
    expect(page.locator("[name=packages]")).to_have_value("htop")
    expect(page.locator("#source-lacks")).to_contain_text("apt install dnf")
    page.locator(".choice-card", has_text="Image from a URL").click()
    expect(page.locator("[name=url]")).to_be_visible()
    expect(page.locator("[name=sha256]")).to_be_hidden()
    page.get_by_label("By its SHA-256 checksum").check()
    expect(page.locator("[name=sha256]")).to_be_visible()
    expect(page.get_by_text("No verification")).to_have_count(0)
    expect(page.locator("[name=name]")).to_have_value("kept")


def test_the_first_machine_is_built_and_runs(page, ada, first):
    assert ada.sees("shop-1", "running", 20)
    page.goto(f"/jobs/{first['id']}/")
    card = page.locator(".made")
    expect(card).to_contain_text("fresh build")
    page.get_by_role("link", name=re.compile(r"^\d+$")).click()
    expect(page.locator("main")).to_contain_text("there is nothing to compare with")


def test_the_second_is_a_copy_of_its_base(page, ada, first):
    page.goto(f"/jobs/{first['id']}/")
    page.get_by_role("link", name="New machine").click()
    expect(page.locator("#source-part")).to_contain_text("alpha has its base image, built")
    job = build(page, ada, "shop-2")
    ada.sees("shop-2", "running", 20)
    page.reload()
    expect(page.locator(".made")).to_contain_text("from base")
    page.goto("/hosts/alpha/machines/shop-2/")
    expect(page.locator("#machine")).to_contain_text(f"{RECIPE}, version 2")
    expect(page.locator("#machine")).to_contain_text("from a base image built")
    assert job["recipe_version_id"] == first["recipe_version_id"]


def base_row(page: Page) -> Locator:
    return page.locator("section[aria-labelledby=bases-head] tr", has_text=ONLY_HERE)


def test_the_base_is_built_anew_and_the_packages_compared(page, ada, recipe, first):
    page.goto("/hosts/alpha/")
    before = ada.newest_job()
    base_row(page).get_by_role("button", name="Rebuild base").click()
    page.wait_for_url("**/jobs/*/")
    job = ada.succeed(ada.jobs_after(before)[0], 300)
    page.goto(f"/jobs/{job['id']}/?tab=result")
    expect(page.locator("main")).to_contain_text(f"packages are as in job {first['id']}")
    page.goto(f"/recipes/{recipe}/")
    expect(page.locator("main")).to_contain_text("From base image")
    expect(page.locator("[id^=run-]")).to_have_count(3)


def test_a_base_is_discarded_by_a_dialog(page, ada, first):
    page.goto("/hosts/alpha/")
    before = ada.newest_job()
    base_row(page).get_by_role("link", name="Remove base image").click()
    page.get_by_role("button", name="Remove base image").click()
    until(lambda: ada.jobs_after(before), 10)
    ada.succeed(ada.jobs_after(before)[0])
    page.reload()
    expect(page.locator("#bases-head")).to_be_visible()
    expect(base_row(page)).to_have_count(0)


def test_a_machine_is_copied_and_gets_a_user_and_an_identity_of_its_own(page, ada, alpha_host):
    alpha_host.plant("original")
    ada.sees("original", "stopped", 20)
    page.goto("/machines/new/?clone=original&host=alpha")
    page.locator("summary", has_text="First boot").click()
    page.fill("[name=user]", "mary")
    page.fill("[name=user_password]", "correct horse")
    build(page, ada, "copied")
    ada.sees("copied", "running", 20)
    shadow = alpha_host.run(["cat", "/var/lib/machines/copied/etc/shadow"]).stdout
    assert re.search(r"(?m)^mary:\$y\$", shadow)
    page.goto("/hosts/alpha/machines/copied/")
    expect(page.locator("#machine")).to_contain_text("clone of original")
