"""A preset on two machines of a real host: put there, changed, rolled out again; and a group that stops at a failure."""

import re

import pytest

from nspawnpanel.sandbox import Sandbox
from tests.person import Person, until

NAMES = ("preset-a", "preset-b")


@pytest.fixture(scope="module")
def two(ada: Person, alpha_host: Sandbox) -> list[int]:
    for name in NAMES:
        alpha_host.plant(name)
    return [ada.sees(name, "stopped", 30)["id"] for name in NAMES]


def save(ada: Person, path: str, memory: str) -> str:
    fields = {
        "name": "Small", "settings-TOTAL_FORMS": 2, "settings-INITIAL_FORMS": 0, "settings-0-setting": "MemoryMax", "settings-0-value": memory,
        "settings-1-setting": "Exec.NoNewPrivileges", "settings-1-value": "yes",
    }  # fmt: skip
    return ada.post(path, fields)


def roll_out(ada: Person, preset: str, machines: list[int], **fields: str) -> int:
    """Order it and wait for its end; the group's number."""
    led_to = ada.post(f"{preset}roll-out/", {"machine": machines, "shown": machines, "then": "apply", **fields})
    number = int(re.search(r"/job-groups/(\d+)/", led_to)[1])
    until(lambda: ada.rows("SELECT ended_at FROM machines_jobgroup WHERE id = ?", number)[0]["ended_at"], 60)
    return number


def states(ada: Person, group: int) -> list[str]:
    found = ada.rows(
        "SELECT m.state AS how, j.state AS job FROM machines_groupmember m LEFT JOIN machines_job j ON j.id = m.job_id"
        " WHERE m.group_id = ? ORDER BY m.position",
        group,
    )
    return [row["job"] or row["how"] for row in found]


def limit(host: Sandbox, name: str) -> str:
    return host.run(
        ["systemctl", "show", "--property=MemoryMax", "--value", f"systemd-nspawn@{name}.service"]
    ).stdout.strip()


def test_it_reaches_both_and_a_change_of_it_too(ada, alpha_host, two):
    preset = save(ada, "/presets/new/", "256M")
    assert states(ada, roll_out(ada, preset, two, stop="on")) == ["succeeded", "succeeded"]
    assert [limit(alpha_host, name) for name in NAMES] == [str(256 * 1024**2)] * 2
    assert "NoNewPrivileges=yes" in alpha_host.read("/etc/systemd/nspawn/preset-a.nspawn")
    save(ada, f"{preset}edit/", "512M")
    assert "differs in" in ada.get(preset)
    page = ada.get(f"{preset}roll-out/")
    assert page.count("512M") == 2, "what would change is shown for each before anything is ordered"
    assert states(ada, roll_out(ada, preset, two)) == ["succeeded", "succeeded"]
    assert [limit(alpha_host, name) for name in NAMES] == [str(512 * 1024**2)] * 2
    assert "from preset Small" in ada.get("/hosts/alpha/machines/preset-a/config/")


def test_a_failure_stops_the_rest_and_they_are_as_before(ada, alpha_host, two):
    """The first machine's file was changed on the host a moment ago."""
    preset = next(f"/presets/{row['id']}/" for row in ada.rows("SELECT id FROM machines_preset WHERE name = 'Small'"))
    save(ada, f"{preset}edit/", "128M")
    file = "/etc/systemd/system/systemd-nspawn@preset-a.service.d/50-nspawnpanel.conf"
    alpha_host.write(file, alpha_host.read(file) + "# by hand\n")
    assert states(ada, roll_out(ada, preset, two, stop="on")) == ["failed", "skipped"]
    assert limit(alpha_host, "preset-b") == str(512 * 1024**2)
