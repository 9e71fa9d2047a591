"""The pictures of the README: a panel and two hosts of its own, a small real fleet, a real browser. `make screenshots`.

Nothing in them is staged but the wish: every state, phase, line and figure is what the hosts said at that moment.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from nspawnpanel.sandbox import CACHE, Sandbox, can_boot
from nspawnpanel.stack import REPOSITORY, Stack
from nspawnpanel.valkey import free_port
from tests.person import Person, until
from tests.real import POLICY, QUIET, chromium

DOCS = REPOSITORY / "docs"
AT_MOST = 250 * 1024  # bytes of a picture
WIDTH = 1280
SAVEBAR = 76  # pixels at the foot of a form
FLEET = {"atlas": ("web-1", "web-2", "db-1", "mail"), "boreas": ("cache-1", "ci-runner")}
STOPPED = "ci-runner"
BROKEN = "mail"


def main() -> int:
    if reason := can_boot() or ("" if chromium() else "no Chromium is installed"):
        sys.stderr.write(f"make screenshots: {reason}\n")
        return 1
    with ExitStack() as running:
        panel = running.enter_context(Stack(Path(running.enter_context(tempfile.TemporaryDirectory())), free_port()))
        hosts = {name: running.enter_context(Sandbox(f"pictures-{name}", CACHE)) for name in FLEET}
        for name, host in hosts.items():
            host.write("/etc/nspawnpanel/policy.toml", POLICY.read_text())
            panel.join(host, name)
        ada = Person(panel)
        populate(hosts, ada)
        page = running.enter_context(browser(panel))
        configure(page, ada)
        take_pictures(page, ada)
    return 0


def populate(hosts: dict[str, Sandbox], ada: Person) -> None:
    """Machines that run, one that is stopped, and one whose init is gone."""
    for host, names in FLEET.items():
        for name in names:
            hosts[host].plant(name)
        hosts[host].run(["mkdir", "-p", "/srv/shop"])
        ada.sees(names[-1], "stopped", 20, host)
        if BROKEN in names:
            hosts[host].run(["rm", f"/var/lib/machines/{BROKEN}/usr/lib/systemd/systemd"])
        for name in names:
            if name != STOPPED:
                ada.end_of(ada.press("start", name, host))


@contextmanager
def browser(panel: Stack) -> Iterator[Page]:
    """A signed-in page: light, 1280 wide."""
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium(), args=QUIET)
        page = chrome.new_page(base_url=panel.url, viewport={"width": WIDTH, "height": 800}, color_scheme="light")
        page.goto("/accounts/login/")
        page.fill("[name=login]", "admin")
        page.fill("[name=password]", (panel.data / "first-password").read_text().strip())
        page.click("main button[type=submit]")
        page.wait_for_url("**/machines/")
        yield page
        chrome.close()


def configure(page: Page, ada: Person) -> None:
    """A first revision of web-1, so that the next one has something to differ from."""
    page.goto("/hosts/atlas/machines/web-1/config/")
    page.fill("[name=memory_max]", "512M")
    page.fill("[name=cpu_quota]", "100%")
    add_port(page, 8080, 80)
    apply(page, "Serve the shop", ada)
    ada.succeed(ada.press("reboot", "web-1", "atlas"))
    page.goto("/hosts/atlas/machines/db-1/config/")
    add_port(page, 5432, 5432)
    apply(page, "Reach the database from outside", ada)  # leaves it with “restart needed”


def add_port(page: Page, outside: int, inside: int) -> None:
    page.click("[data-formset=ports] [data-formset-add]")
    page.locator("[data-formset-row]:visible [name$=-host_port]").last.fill(str(outside))
    page.locator("[data-formset-row]:visible [name$=-machine_port]").last.fill(str(inside))


def apply(page: Page, reason: str, ada: Person) -> None:
    before = ada.newest_job()
    page.get_by_role("button", name="Save and review").click()
    page.fill("[name=reason]", reason)
    page.locator("#apply button").first.click()  # at once, or “restart later” where something waits for a start
    page.wait_for_url("**/jobs/*/")
    ada.succeed(ada.jobs_after(before)[0])


def take_pictures(page: Page, ada: Person) -> None:
    review(page)
    until(lambda: all_is_known(ada), 120, lambda: "some machine has no address or no size yet")
    new_machine(page)
    page.get_by_role("button", name="Build machine").click()
    page.wait_for_url("**/jobs/*/")
    job = ada.newest_job()
    until(lambda: (ada.job(job)["progress"] or 0) > 0.75, 180, lambda: str(ada.job(job)))
    page.reload()  # as somebody finds it who comes later: with its commands counted
    picture(page, "build", 860)
    page.goto("/machines/")
    expect(page.locator("#machine-table")).to_contain_text("building")
    picture(page, "machines", 620)
    ada.end_of(job, 240)


def all_is_known(ada: Person) -> bool:
    """Sizes are counted slowly, addresses come after the boot."""
    machines = ada.rows("SELECT state, addresses, disk_bytes FROM machines_machine")
    return all(m["disk_bytes"] and (m["state"] != "running" or m["addresses"] != "[]") for m in machines)


def review(page: Page) -> None:
    page.goto("/hosts/atlas/machines/web-1/config/")
    page.fill("[name=memory_max]", "1G")
    page.fill("[name=tasks_max]", "2048")
    add_port(page, 8443, 443)
    page.click("[data-formset=binds] [data-formset-add]")
    page.fill("[name=binds-0-source]", "/srv/shop")
    page.fill("[name=binds-0-target]", "/var/www")
    page.check("[name=binds-0-read_only]")
    page.get_by_role("button", name="Save and review").click()
    page.fill("[name=reason]", "HTTPS, and room for the sale")
    picture(page, "review", 1180)


def new_machine(page: Page) -> None:
    page.goto("/machines/new/?host=atlas")
    page.fill("[name=name]", "shop-1")
    page.select_option("[name=release]", "bookworm")
    page.fill("[name=packages]", "nginx-light openssh-server")
    page.locator(".choice-card", has_text="Zone").click()
    page.fill("[name=network_target]", "shop")
    page.evaluate("document.querySelector('#host-notes').remove()")  # the mirror that happens to be this machine's
    network = page.locator("section", has=page.locator("#network-head")).bounding_box() or {}
    picture(page, "new-machine", round(network["y"] + network["height"] + page.evaluate("scrollY")) + SAVEBAR)


def picture(page: Page, name: str, height: int) -> None:
    """What fits, without a focus ring, a pointer or a note in passing."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.mouse.move(0, height - 1)
    page.evaluate("document.activeElement.blur(); document.querySelector('#toasts').replaceChildren()")
    page.wait_for_timeout(700)  # a refresh, and what fades
    page.evaluate("scrollTo(0, 0)")
    file = DOCS / f"{name}.png"
    page.screenshot(path=file, scale="css")
    size = file.stat().st_size
    sys.stdout.write(f"{file}: {size // 1024} KiB\n")
    assert size <= AT_MOST, f"{file} is larger than {AT_MOST // 1024} KiB"


if __name__ == "__main__":
    sys.exit(main())
