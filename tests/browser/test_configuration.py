"""A configuration from form to kernel: draft, review, apply, and every way in which it is refused."""

import json

import pytest
from playwright.sync_api import Page, expect

from nspawnpanel.sandbox import Sandbox
from tests.person import Person, until

MACHINE = "/hosts/alpha/machines/conf/"
UNIT = "systemd-nspawn@conf.service"
FILE = "/etc/systemd/nspawn/conf.nspawn"


@pytest.fixture(scope="module")
def conf(ada: Person, alpha_host: Sandbox) -> str:
    alpha_host.plant("conf")
    ada.sees("conf", "stopped", 15)
    ada.succeed(ada.press("start", "conf"))
    ada.sees("conf", "running")
    return "conf"


@pytest.fixture
def form(page: Page, conf: str) -> Page:
    page.goto(f"{MACHINE}config/")
    return page


def fill(page: Page, **fields: str) -> None:
    for name, text in fields.items():
        page.locator(f"main [name={name}]").fill(text)


def review(page: Page) -> None:
    page.locator("main button[name=then][value=review]").first.click()


def apply(page: Page, ada: Person) -> dict:
    page.locator("#apply button[type=submit]").first.click()
    page.wait_for_url("**/jobs/*/")
    return ada.end_of(int(page.url.rstrip("/").rsplit("/", 1)[1]))


def shown(host: Sandbox, *properties: str) -> str:
    return host.run(["systemctl", "show", UNIT, *(f"--property={p}" for p in properties)]).stdout


def test_limits_hold_at_once_on_the_running_machine(form, ada, alpha_host):
    fill(form, memory_max="96M", cpu_quota="20%", tasks_max="200")
    review(form)
    expect(form.locator("main")).to_contain_text("MemoryMax")
    assert apply(form, ada)["state"] == "succeeded"
    assert shown(alpha_host, "MemoryMax", "TasksMax") == "MemoryMax=100663296\nTasksMax=200\n" or (
        shown(alpha_host, "TasksMax", "MemoryMax").split() == ["TasksMax=200", "MemoryMax=100663296"]
    )
    group = shown(alpha_host, "ControlGroup").strip().removeprefix("ControlGroup=")
    limits = alpha_host.run(
        ["sh", "-c", 'cat "/sys/fs/cgroup/memory$1/memory.limit_in_bytes" 2>/dev/null || cat "/sys/fs/cgroup$1/memory.max"', "sh", group]
    )  # fmt: skip
    assert limits.stdout.strip() == "100663296"
    assert alpha_host.read(FILE).startswith("# Written by nspawnpanel, revision 1.")


def test_a_limit_taken_away_is_gone_from_the_running_machine_and_needs_no_restart(form, ada, alpha_host):
    ada.succeed(ada.press("reboot", "conf"))  # it had no .nspawn file before the first revision
    until(lambda: not ada.machine("conf")["restart_needed"], 10)
    fill(form, cpu_quota="", tasks_max="")
    review(form)
    assert apply(form, ada)["state"] == "succeeded"
    assert "CPUQuotaPerSecUSec=infinity" in shown(alpha_host, "CPUQuotaPerSecUSec")
    assert "TasksMax=16384" in shown(alpha_host, "TasksMax")
    assert not ada.machine("conf")["restart_needed"]


def test_what_needs_a_restart_says_so_until_the_restart(form, ada, alpha_host):
    form.locator("main [name=volatile]").select_option("overlay")
    form.locator("main [name=private_users]").select_option("identity")
    review(form)
    assert apply(form, ada)["state"] == "succeeded"
    form.goto(MACHINE)
    expect(form.locator("main")).to_contain_text("estart needed")
    ada.succeed(ada.press("reboot", "conf"))
    until(lambda: not ada.machine("conf")["restart_needed"], 10)
    leader = alpha_host.run(["machinectl", "show", "conf", "--property=Leader", "--value"]).stdout.strip()
    root = alpha_host.run(["nsenter", "--target", leader, "--all", "findmnt", "-no", "FSTYPE", "/"]).stdout
    assert root.strip() == "overlay"
    assert alpha_host.run(["cat", f"/proc/{leader}/uid_map"]).stdout.split() == ["0", "0", "65536"]


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        ("cpu_quota", "lots", "percentage of one CPU"),
        ("memory_max", "12X", "not a size"),
        ("memory_max", "512", "less than 1 MiB"),
        ("tasks_max", "many", "whole number"),
    ],
)
def test_a_wrong_value_gets_a_sentence_on_its_field_and_stays_typed(form, field, text, sentence):
    fill(form, **{field: text})
    review(form)
    expect(form.locator("main")).to_contain_text(sentence)
    control = form.locator(f"main [name={field}]")
    expect(control).to_have_attribute("aria-invalid", "true")
    expect(control).to_have_value(text)


def test_a_bridge_that_host_does_not_have_is_said_on_the_field(form):
    form.locator("main [name=network_mode][value=bridge]").check(force=True)
    fill(form, network_target="br-nowhere")
    review(form)
    expect(form.locator("main [name=network_target]")).to_have_attribute("aria-invalid", "true")
    expect(form.locator("main")).to_contain_text("br-nowhere")


def test_what_systemd_would_ignore_cannot_be_applied(form, alpha_host):
    """A key nobody knows may stand in the draft's text; applying it is closed, with the reason."""
    before = alpha_host.read(FILE)
    form.goto(f"{MACHINE}config/raw/")
    text = form.locator("main [name=nspawn]").input_value()
    fill(form, nspawn=text.replace("[Exec]\n", "[Exec]\nFutureKey=yes\n", 1))
    review(form)
    expect(form.locator("main")).to_contain_text("FutureKey")
    expect(form.locator("#apply button[type=submit]").first).to_be_disabled()
    form.locator("[data-dialog-open='#discard']").click()
    form.locator("#discard button[type=submit]").click()
    form.wait_for_url(lambda url: "review" not in url)
    assert alpha_host.read(FILE) == before


def test_a_file_changed_by_hand_is_not_overwritten(form, ada, alpha_host):
    mine = alpha_host.read(FILE) + "# by hand\n"
    fill(form, memory_max="128M")
    review(form)
    expect(form.locator("#apply")).to_be_visible()
    alpha_host.write(FILE, mine)  # now, when the page that would have shown it is open already
    ended = apply(form, ada)
    assert json.loads(ended["problem"])["code"] == "config-changed"
    assert alpha_host.read(FILE) == mine


def test_each_revision_is_kept_and_can_be_compared(page, conf, ada):
    page.goto(f"{MACHINE}revisions/")
    expect(page.locator("main tbody tr")).to_have_count(3)
    page.goto(f"{MACHINE}revisions/2/")
    expect(page.locator("main")).to_contain_text("CPUQuota")
