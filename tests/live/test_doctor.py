"""The doctor and the proof of limits on real hosts with systemd 252 and 257: what is broken by hand is found, with the
command that mends it, and mended."""

import shlex
import time
from collections.abc import Callable, Iterator

import pytest

from machines.contract import limit_test, orders
from machines.contract.configuration import findings
from machines.contract.configuration.findings import Finding, FixWord, Level
from machines.contract.reports import Outcome
from tests.host.scratch_panel import ScratchPanel
from tests.person import until

NAME = "sick"
UNIT = f"systemd-nspawn@{NAME}.service"
NETWORKD = "systemd-networkd.service"
MIB = 1 << 20
LASTING = {"systemd-journal", "systemd-network", "systemd-resolve", "systemd-logind", "dbus-daemon"}


def fresh(made: ScratchPanel) -> Iterator[ScratchPanel]:
    """The host with its network in order and a fresh machine that runs; everything as it was afterwards."""
    made.sandbox.plant(NAME, "bookworm")
    start(made)
    yield made
    made.sandbox.run(["systemctl", "start", "systemd-networkd.socket", NETWORKD])
    made.do(orders.Terminate(name=NAME))
    made.sandbox.run(["machinectl", "remove", NAME])
    made.sandbox.run(["rm", "-rf", f"/run/systemd/system.control/{UNIT}.d"])
    made.sandbox.run(["systemctl", "daemon-reload"])


@pytest.fixture(params=["scratch", "later"])
def panel(request: pytest.FixtureRequest) -> Iterator[ScratchPanel]:
    """Each of both hosts in turn."""
    yield from fresh(request.getfixturevalue(request.param))


@pytest.fixture
def one(scratch: ScratchPanel) -> Iterator[ScratchPanel]:
    """For what cannot differ between them."""
    yield from fresh(scratch)


def start(panel: ScratchPanel) -> None:
    ended = panel.do(orders.Start(name=NAME))
    assert ended.state == "succeeded", ended.problem


def examine(panel: ScratchPanel, name: str = NAME) -> dict[str, Finding]:
    return told(panel.do(orders.Diagnose(name=name)))


def told(outcome: Outcome) -> dict[str, Finding]:
    """What was found, by its code."""
    assert outcome.state == "succeeded", outcome.problem
    found = findings.from_wire(outcome.result["findings"])
    assert len(found) == len(outcome.result["findings"])
    return {finding.code: finding for finding in found}


def mend(panel: ScratchPanel, what: FixWord, name: str = "") -> Outcome:
    return panel.do(orders.Fix(name=name, what=what))


def sees(panel: ScratchPanel, enough: Callable[[dict[str, Finding]], bool]) -> dict[str, Finding]:
    """What is found once it is this; a machine that has just started needs a moment for everything."""
    deadline = time.monotonic() + 40
    while not enough(found := examine(panel)):
        assert time.monotonic() < deadline, found.keys()
    return found


def addressed(panel: ScratchPanel) -> dict[str, Finding]:
    return sees(panel, lambda found: {"address-has", "lease-given"} <= found.keys())


def restarted(panel: ScratchPanel, *argv: str) -> None:
    """The machine anew, after this was done to its image."""
    panel.do(orders.Terminate(name=NAME))
    panel.sandbox.run(argv)
    start(panel)


def troubles(found: dict[str, Finding]) -> set[str]:
    return {code for code, finding in found.items() if findings.level(finding) == Level.PROBLEM}


def test_where_all_is_well_the_whole_chain_is_in_order(panel):
    found = sees(panel, lambda found: {"address-has", "lease-given", "resolve-ok"} <= found.keys())
    assert not troubles(found)
    assert {"network-own", "networkd-runs", "link-up", "dhcp-serves", "inside-networkd", "route-has", "forwarding-on",
            "masquerade-on", "unit-own", "memory-enough", "guest-fits"} <= found.keys()  # fmt: skip
    assert "check-failed" not in found
    host = examine(panel, "")
    assert not troubles(host)
    assert "check-failed" not in host
    old = panel.sandbox.suite == "bookworm"
    assert ("systemd-escape" in host) is old  # 252.39, and 257.13 in which it is mended


def test_networkd_that_was_stopped_is_found_and_mended(panel):
    restarted(panel, "systemctl", "stop", "systemd-networkd.socket", NETWORKD)
    found = sees(panel, lambda found: "inside-networkd" in found)
    assert troubles(found) == {"networkd-stopped", "link-down", "address-none"}
    assert findings.commands(found["networkd-stopped"]) == ["systemctl enable --now systemd-networkd.service"]
    assert found["networkd-stopped"].can_fix
    assert "networkd-runs" in told(mend(panel, "networkd"))
    assert not troubles(addressed(panel))


def test_networkd_that_lost_the_bus_is_found_and_mended(panel):
    """As after a restart of dbus.service: it serves on, but cannot be asked."""
    addressed(panel)
    restarted(panel, "systemctl", "restart", "dbus.service")
    try:
        _is_mended(panel)
    finally:
        panel.sandbox.run(["systemctl", "restart", NETWORKD, "systemd-logind.service"])


def _is_mended(panel: ScratchPanel) -> None:
    found = sees(panel, lambda found: "address-has" in found and not troubles(found))
    host = examine(panel, "")
    for seen in (found, host):
        assert not {"check-failed", "networkd-runs"} & seen.keys()
        assert not troubles(seen)
        assert findings.commands(seen["networkd-mute"]) == ["systemctl restart systemd-networkd.service"]
        assert seen["networkd-mute"].can_fix
    later = panel.sandbox.suite != "bookworm"
    assert ("logind-mute" in host) is later
    if later:
        panel.sandbox.run(shlex.split(*findings.commands(host["logind-mute"])))
    mended = told(mend(panel, "networkd-restart"))
    assert "networkd-runs" in mended
    assert not {"networkd-mute", "check-failed", "logind-mute"} & (mended.keys() | examine(panel, "").keys())
    assert not troubles(mended)
    refused = mend(panel, "networkd-restart")
    assert (refused.state, refused.problem["code"]) == ("failed", "not-safe")


def test_forwarding_that_was_switched_off_is_found_and_mended(one):
    addressed(one)
    switch = "/proc/sys/net/ipv4/ip_forward"
    one.sandbox.run(["sh", "-c", f"echo 0 > {switch}"])
    for found in (examine(one), examine(one, "")):
        assert troubles(found) == {"forwarding-off"}
        assert found["forwarding-off"].can_fix
    try:
        assert "forwarding-on" in told(mend(one, "forwarding"))
        assert one.sandbox.read(switch).strip() == "1"
        assert "net.ipv4.ip_forward = 1" in one.sandbox.read(findings.FORWARDING_FILE)
    finally:
        one.sandbox.run(["rm", "-f", findings.FORWARDING_FILE])


def test_networkd_masked_inside_is_the_reason_and_the_command_mends_it(one):
    restarted(one, "systemctl", f"--root=/var/lib/machines/{NAME}", "mask", NETWORKD)
    found = sees(one, lambda found: "resolve-ok" in found)
    assert troubles(found) == {"link-down-inside", "inside-masked", "address-none"}
    assert not found["inside-masked"].can_fix
    refused = mend(one, "guest-networkd", NAME)
    assert (refused.state, refused.problem["code"]) == ("failed", "not-safe")
    for command in findings.commands(found["inside-masked"]):
        one.sandbox.run(shlex.split(command))
    assert not troubles(addressed(one))


def test_networkd_not_enabled_inside_is_mended_through_the_machine_s_bus(panel):
    restarted(panel, "systemctl", f"--root=/var/lib/machines/{NAME}", "disable", NETWORKD)
    found = sees(panel, lambda found: "inside-off" in found and found["inside-off"].can_fix)
    assert troubles(found) == {"link-down-inside", "inside-off", "address-none"}
    assert "inside-networkd" in told(mend(panel, "guest-networkd", NAME))
    assert not troubles(addressed(panel))


def test_a_firewall_that_drops_is_named_with_the_rule_to_add(one):
    for line in (
        "add table inet mine",
        "add chain inet mine onward { type filter hook forward priority 0; policy drop; }",
    ):
        one.sandbox.run(["nft", line])
    try:
        found = examine(one)
        assert found["forward-drop"].facts["chain"] == "onward"
        for command in findings.commands(found["forward-drop"]):
            one.sandbox.run(shlex.split(command))
        assert "forward-open" in examine(one)
    finally:
        one.sandbox.run(["nft", "delete table inet mine"])


def test_a_machine_that_is_off_says_so_and_a_name_nobody_has_breaks_nothing(one):
    one.do(orders.Terminate(name=NAME))
    assert "not-running" in examine(one)
    assert "not-running" in examine(one, "nobody")
    outcome = one.do(orders.LimitTest(name=NAME))
    assert (outcome.state, outcome.problem["code"]) == ("failed", "machine-missing")


# --- limits


def limit(panel: ScratchPanel, *assignments: str) -> None:
    panel.sandbox.run(["systemctl", "set-property", "--runtime", UNIT, *assignments])


def services(panel: ScratchPanel) -> dict[str, str]:
    """The machine's lasting processes, name → number, whichever hierarchy systemd keeps them in."""
    script = (
        'for top in systemd unified .; do d=/sys/fs/cgroup/$top/machine.slice/"$1"; [ -d "$d" ] && '
        'for p in $(find "$d" -name cgroup.procs -exec cat {} +); do echo "$p $(cat /proc/$p/comm)"; done; done; true'
    )
    rows = [line.split(maxsplit=1) for line in panel.sandbox.run(["sh", "-c", script, "sh", UNIT]).stdout.splitlines()]
    return {row[1]: row[0] for row in rows if len(row) == 2 and row[1] in LASTING}


def loads(panel: ScratchPanel) -> str:
    return panel.sandbox.run(["pgrep", "--full", "machines/host/limits/load_generator.py"], check=False).stdout


def prove(panel: ScratchPanel) -> dict[str, limit_test.Measurement]:
    outcome = panel.do(orders.LimitTest(name=NAME), 90)
    assert outcome.state == "succeeded", outcome.problem
    return {trial.key: trial for trial in limit_test.from_wire(outcome.result).measurements}


def test_both_caps_hold_and_the_machine_loses_nothing(panel):
    limit(panel, "MemoryMax=128M", "CPUQuota=20%")
    sees(panel, lambda found: "address-has" in found and services(panel).keys() == LASTING)
    before = services(panel)
    trials = prove(panel)
    cpu, memory = trials["CPUQuota"], trials["MemoryMax"]
    assert (cpu.verdict, cpu.asked) == ("enforced", 20)
    assert 5 < cpu.measured < 23  # a busy machine may give it less than it is allowed
    assert cpu.throttled > 10
    assert len(cpu.samples) > 20
    assert (memory.verdict, memory.asked, memory.killed, memory.others) == ("enforced", 128 * MIB, True, 0)
    assert 100 * MIB < memory.measured <= 129 * MIB
    assert services(panel) == before
    assert loads(panel) == ""
    left = panel.sandbox.run(["find", "/sys/fs/cgroup", "-name", "nspawnpanel-proof"], check=False).stdout
    assert left == ""
    assert "memory-enough" in examine(panel)  # the load's end is not held against the machine


def test_without_limits_there_is_nothing_to_prove_and_a_cap_too_near_is_not_tried(one):
    assert {trial.verdict for trial in prove(one).values()} == {"no_limit"}
    limit(one, "MemoryMax=28M")
    trial = prove(one)["MemoryMax"]
    assert (trial.verdict, trial.why) == ("skipped", "too-near")
    assert "memory-enough" in examine(one)


def test_the_load_dies_with_its_job(one):
    limit(one, "CPUQuota=20%")
    job = one.order(orders.LimitTest(name=NAME))
    deadline = time.monotonic() + 20
    while not loads(one):
        assert time.monotonic() < deadline
    one.sandbox.run(["systemctl", "kill", "--signal=KILL", f"nspawnpanel-job-{job}.service"])
    assert one.outcome(job).state == "failed"
    # What a quota holds back dies when its next period begins, up to 100 ms later: by itself it would last ten seconds.
    until(lambda: not loads(one), 3)
