"""What lies on a real host and what holds there arrives in the panel, byte for byte and within seconds."""

import json
import os
from collections.abc import Iterator

import pytest

from machines.contract.configuration import compare_effective, limits
from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.stack import Stack
from tests.person import Person, until
from tests.real import POLICY

SUITES = {"bookworm": "brown-252", "trixie": "brown-257"}
NSPAWN = "[Exec]\r\nBoot=yes\n; a comment = with Ümläut\n[Files]\nTemporaryFileSystem=/opt/scratch:size=1M\n"
EVERYTHING = "find /etc/systemd /run/systemd/nspawn /run/systemd/system.control /var/lib/machines/brown/etc /var/lib/machines/brown.nspawn -type f -print0 2>/dev/null | sort -z | xargs -0 sha256sum"  # fmt: skip


@pytest.fixture(scope="module", params=SUITES)
def brown(request: pytest.FixtureRequest, panel: Stack, ada: Person) -> Iterator["Brown"]:
    """A host that had a machine, its file and a limit of its own before it joined."""
    with Sandbox(f"tests-{request.param}-{os.getpid()}", CACHE, suite=request.param) as host:
        host.write("/etc/nspawnpanel/policy.toml", POLICY.read_text())
        host.plant("brown")
        host.write("/etc/systemd/nspawn/brown.nspawn", NSPAWN)
        host.run(["systemctl", "set-property", "systemd-nspawn@brown.service", "MemoryHigh=300M"])
        before = everything(host)
        panel.join(host, SUITES[request.param])
        yield Brown(host, ada, SUITES[request.param], before)


def everything(host: Sandbox) -> list[str]:
    """Sums of all files that could matter, but for the worker's own."""
    said = host.run(["sh", "-c", EVERYTHING]).stdout.splitlines()
    return [line for line in said if "nspawnpanel" not in line]


class Brown:
    """A machine that was there before the panel."""

    def __init__(self, host: Sandbox, ada: Person, name: str, before: list[str]) -> None:
        self.host, self.ada, self.name, self.before = host, ada, name, before

    def found(self) -> dict:
        rows = self.ada.rows(
            "SELECT f.* FROM machines_observedfiles f JOIN machines_machine m ON m.id = f.machine_id"
            " JOIN machines_host h ON h.id = m.host_id WHERE m.name = 'brown' AND h.name = ?",
            self.name,
        )
        return (
            {k: json.loads(v) if k in {"told", "shown", "kernel", "inside"} else v for k, v in rows[0].items()}
            if rows
            else {}
        )

    def texts(self) -> dict[str, str]:
        return {file["path"]: file["text"] for file in self.found().get("told", [])}

    def show(self, *properties: str) -> str:
        return self.host.run(
            ["systemctl", "show", "systemd-nspawn@brown.service", "--value", "-p", ",".join(properties)]
        ).stdout.strip()


# Everything the guest has said on its console since its unit was started.
SAID = "journalctl --quiet --no-pager _SYSTEMD_INVOCATION_ID=$(systemctl show --value -p InvocationID systemd-nspawn@brown)"


def terminate(brown) -> None:
    """Once it has booted: the signal to end is lost on an init that has not begun to listen, and systemd then waits 90 s."""
    until(lambda: "multi-user.target" in brown.host.run(["sh", "-c", SAID]).stdout, 60)
    brown.host.run(["machinectl", "terminate", "brown"])
    brown.ada.sees("brown", "stopped", 20, brown.name)


def test_joining_changes_no_file_of_the_host(brown):
    brown.ada.sees("brown", "stopped", 20, brown.name)
    until(brown.texts, 20)
    assert brown.before
    assert everything(brown.host) == brown.before


def test_every_file_arrives_byte_for_byte_within_seconds(brown):
    brown.ada.sees("brown", "stopped", 20, brown.name)
    places = ["/etc/systemd/nspawn/brown.nspawn", "/run/systemd/nspawn/brown.nspawn", "/var/lib/machines/brown.nspawn"]
    for number, place in enumerate(places):
        brown.host.write(place, f"{NSPAWN}# {number}\n")
    until(lambda: {p: brown.texts().get(p) for p in places} == {p: f"{NSPAWN}# {n}\n" for n, p in enumerate(places)}, 5,
          lambda: str(brown.texts()))  # fmt: skip
    assert [f["path"] for f in brown.found()["told"] if f["kind"] == "nspawn"] == places
    brown.host.run(["rm", *places[1:]])
    until(lambda: [p for p in places if p in brown.texts()] == places[:1], 5)


def test_dropins_come_in_systemds_own_order(brown):
    unit = "systemd-nspawn@brown.service"
    brown.host.run(["systemctl", "set-property", unit, "MemoryMax=400M"])
    brown.host.run(["systemctl", "set-property", "--runtime", unit, "TasksMax=300"])
    brown.host.write(f"/etc/systemd/system/{unit}.d/40-early.conf", "[Service]\nCPUWeight=50\n")
    brown.host.write(f"/run/systemd/system/{unit}.d/60-late.conf", "[Service]\nCPUWeight=70\n")
    brown.host.write("/etc/systemd/system/systemd-nspawn@.service.d/55-all.conf", "[Service]\nCPUAccounting=yes\n")
    brown.host.run(["systemctl", "daemon-reload"])
    said = brown.show("DropInPaths").split()
    assert len(said) >= 5
    until(lambda: [f["path"] for f in brown.found()["told"] if f["kind"] == "dropin"] == said, 5,
          lambda: f"{said}\n{[f['path'] for f in brown.found()['told']]}")  # fmt: skip


def test_what_holds_is_read_back_from_systemd_the_group_and_the_process(brown):
    brown.host.run(["machinectl", "start", "brown"])
    brown.ada.sees("brown", "running", 20, brown.name)
    until(lambda: brown.found()["shown"].get("MemoryMax") == str(400 << 20), 10, lambda: str(brown.found()["shown"]))
    until(lambda: brown.found()["inside"].get("Files.TemporaryFileSystem"), 10, lambda: str(brown.found()["inside"]))
    found = brown.found()
    assert found["kernel"]["MemoryMax"] == str(400 << 20)
    assert found["kernel"]["TasksMax"] == "300"
    assert found["shown"]["CPUWeight"] == "70"
    assert found["inside"]["Files.TemporaryFileSystem"] == "/opt/scratch writable tmpfs"
    assert found["inside"]["Network.VirtualEthernet"] == "yes"
    assert found["inside"]["Exec.PrivateUsers"].endswith(":65536")


def test_a_limit_set_live_is_seen_within_seconds(brown):
    brown.host.run(["systemctl", "set-property", "systemd-nspawn@brown.service", "MemoryMax=200M"])
    until(lambda: brown.found()["kernel"].get("MemoryMax") == str(200 << 20), 5, lambda: str(brown.found()["kernel"]))


# What an example cannot be: a unit that does not exist here, or a key that says the same as two others.
ELSEWHERE = {"Requisite": "basic.target", "AllowedCPUs": "0-1"}
APART = {"TimeoutSec"}


def asked(systemd: int) -> dict[str, str]:
    """Each property that this systemd knows, as a revision may ask for it."""
    wanted = {}
    for key, prop in limits.PROPERTIES.items():
        if prop.since <= systemd and key not in APART:
            other = next((word for word in prop.words[::-1] if word != prop.default), "")
            wanted[key] = ELSEWHERE.get(key) or prop.example or other
    return wanted


def test_every_property_that_can_be_asked_for_is_read_back(brown):
    unit = "systemd-nspawn@brown.service"
    wanted = asked(int(brown.host.run(["systemctl", "--version"]).stdout.split()[1]))
    terminate(brown)
    brown.host.run(["sh", "-c", f"rm -r /etc/systemd/system.control/{unit}.d /run/systemd/system.control/{unit}.d"])
    brown.host.write(f"/etc/systemd/system/{unit}.d/50-nspawnpanel.conf", limits.dropin(wanted))
    others = (f"/run/systemd/system/{unit}.d/60-late.conf", "/etc/systemd/system/systemd-nspawn@.service.d/55-all.conf")
    brown.host.run(["rm", *others])
    brown.host.run(["systemctl", "daemon-reload"])
    brown.host.run(["machinectl", "start", "brown"])
    brown.ada.sees("brown", "running", 20, brown.name)
    until(lambda: brown.found()["shown"].get("TasksMax") == wanted["TasksMax"], 10, lambda: str(brown.found()["shown"]))
    shown = brown.found()["shown"]
    wrong = {
        key: (value, shown.get(key))
        for key, value in wanted.items()
        if compare_effective.holds(key, value, shown.get(key, ""), 1 << 40) is not True
    }
    assert not wrong


def test_a_machine_started_by_hand_is_flagged_with_the_cause(brown):
    terminate(brown)
    brown.host.run(["systemd-run", "--unit=by-hand", "systemd-nspawn", "--quiet", "--boot", "--machine=brown"])
    until(lambda: brown.ada.machine("brown", brown.name)["unit"] == "machine-brown.scope", 20,
          lambda: str(brown.ada.machine("brown", brown.name)))  # fmt: skip
    page = brown.ada.get(f"/hosts/{brown.name}/machines/brown/effective/")
    assert "It runs in machine-brown.scope, not in systemd-nspawn@brown.service" in page
    until(lambda: brown.ada.machine("brown", brown.name)["mismatches"], 10, lambda: str(brown.found()["shown"]))
    holds = f"/hosts/{brown.name}/machines/brown/effective/"
    until(lambda: "limits of systemd-nspawn@brown.service do not apply to it" in brown.ada.get(holds), 10)
