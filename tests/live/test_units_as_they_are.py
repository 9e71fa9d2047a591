"""Machines as administrators run them: units that systemd starts again, slow starts, units of another name, another init.

What must hold: every verb ends in a state that lasts, what is going on is told while it goes on, and what cannot work is
said before it is tried.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from machines.contract import orders
from machines.contract.reports import MachineFact, Outcome
from nspawnpanel.sandbox import Sandbox
from tests.host.scratch_panel import SERVICE, ScratchPanel
from tests.person import until

NAME = "odd"
UNIT = f"systemd-nspawn@{NAME}.service"
TREE = f"/var/lib/machines/{NAME}"
DROPIN = f"/etc/systemd/system/{UNIT}.d/by-hand.conf"
SETTINGS = f"/etc/systemd/nspawn/{NAME}.nspawn"
SLOW = "[Unit]\nDescription=Slow\nBefore=multi-user.target\n[Service]\nType=oneshot\nTimeoutStartSec=900\nExecStart=/bin/sleep 900\n"
SCRIPT = '#!/bin/bash\ntrap "exit 0" USR2\nwhile :; do sleep 0.1; done\n'


@pytest.fixture(scope="module", params=["scratch", "later"])
def planted(request) -> Iterator[ScratchPanel]:
    panel = request.getfixturevalue(request.param)
    panel.sandbox.plant(NAME, "bookworm")
    seen(panel, lambda fact: fact.state == "stopped")
    yield panel
    panel.sandbox.run(["machinectl", "remove", NAME])
    panel.until(lambda report: report.kind == "observed" and NAME in report.gone)


@pytest.fixture
def panel(planted) -> Iterator[ScratchPanel]:
    yield planted
    host = planted.sandbox
    units = [UNIT, f"{NAME}-by-hand.service"]
    host.run(["rm", "-rf", f"/etc/systemd/system/{UNIT}.d", SETTINGS], check=False)
    host.run(["machinectl", "kill", "--kill-whom=leader", "--signal=SIGKILL", NAME], check=False)
    host.run(["systemctl", "kill", "--signal=SIGKILL", *units], check=False)
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "stop", *units], check=False)
    host.run(["systemctl", "reset-failed"])


def seen(panel: ScratchPanel, wanted: Callable[[MachineFact], bool], seconds: float = 20) -> MachineFact:
    """The machine once the host tells of it as wanted; only what is told from now on counts."""
    known = len(panel.reports)
    panel.order(orders.Refresh())

    def facts() -> Iterator[MachineFact]:
        for report in panel.reports[known:]:
            told = report.machines if report.kind in {"inventory", "observed"} else []
            told = [report.machine] if report.kind == "outcome" and report.machine else told
            yield from (fact for fact in told if fact.name == NAME and wanted(fact))

    panel.until(lambda _: any(True for _ in facts()), seconds)
    return next(facts())


def unit(host: Sandbox, text: str) -> None:
    host.write(DROPIN, text)
    host.run(["systemctl", "daemon-reload"])


def shows(host: Sandbox, *properties: str, of: str = UNIT) -> list[str]:
    """Properties of the unit, in the order asked for."""
    shown = host.run(["systemctl", "show", of, *(f"--property={key}" for key in properties)]).stdout
    values = dict(line.split("=", 1) for line in shown.splitlines())
    return [values[key] for key in properties]


def rests(host: Sandbox) -> bool:
    """Whether nothing runs and nothing will by itself."""
    active, job = shows(host, "ActiveState", "Job")
    return active == "inactive" and job in {"", "0"} and NAME not in host.run(["machinectl", "list"]).stdout


def is_up(host: Sandbox, unit: str = UNIT) -> None:
    """Wait until an init inside can be asked; what has only just begun hears nothing."""
    host.run(
        [
            "sh",
            "-c",
            f"until systemctl -M {NAME} is-system-running 2>&1 | grep -qE 'running|degraded'; do sleep 0.1; done",
        ]
    )


def succeeded(outcome: Outcome) -> Outcome:
    assert outcome.state == "succeeded", outcome.problem
    return outcome


# --- units that systemd starts again


def test_a_machine_that_systemd_starts_again_stays_off_once_it_is_powered_off(panel):
    unit(panel.sandbox, "[Service]\nRestart=always\nRestartSec=500ms\n")
    succeeded(panel.do(orders.Start(name=NAME)))
    job = panel.order(orders.Poweroff(name=NAME))
    assert succeeded(panel.outcome(job)).machine.state == "stopped"
    assert any("Restart=always" in line for line in panel.lines(job))
    assert rests(panel.sandbox)


def test_a_restarting_machine_is_told_as_that_with_how_often_and_why_and_can_be_stopped(panel):
    unit(panel.sandbox, "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=2\n")
    panel.sandbox.write(SETTINGS, "[Files]\nBind=/nowhere/odd\n")
    panel.sandbox.run(["systemctl", "start", "--no-block", UNIT])
    fact = seen(panel, lambda fact: fact.activity.next_start is not None and fact.activity.restarts >= 2)
    assert (fact.state, fact.activity.ended, fact.activity.policy) == ("restarting", "exit status 1", "always")
    assert abs(fact.activity.next_start - time.time()) < 30
    assert succeeded(panel.do(orders.Poweroff(name=NAME))).machine.state == "stopped"
    assert rests(panel.sandbox)


def test_a_machine_that_systemd_starts_again_stays_off_once_it_is_terminated(panel):
    unit(panel.sandbox, "[Service]\nRestart=always\nRestartSec=100ms\n")
    succeeded(panel.do(orders.Start(name=NAME)))
    assert succeeded(panel.do(orders.Terminate(name=NAME))).machine.state == "stopped"
    assert rests(panel.sandbox)


# --- slow starts


@pytest.fixture
def slow(panel) -> Iterator[ScratchPanel]:
    """Its boot waits for a quarter of an hour, and nothing limits that."""
    units = f"{TREE}/etc/systemd/system"
    panel.sandbox.write(f"{units}/slow.service", SLOW)
    panel.sandbox.run(["mkdir", "-p", f"{units}/multi-user.target.wants"])
    panel.sandbox.run(["ln", "-s", "../slow.service", f"{units}/multi-user.target.wants/"])
    panel.sandbox.write(SETTINGS, "[Exec]\nNotifyReady=yes\n")
    unit(panel.sandbox, "[Service]\nTimeoutStartSec=infinity\n")
    yield panel
    panel.sandbox.run(["rm", f"{units}/multi-user.target.wants/slow.service", f"{units}/slow.service"])


def test_a_slow_start_tells_what_it_waits_for_and_is_stopped_by_cancelling_it(slow):
    job = slow.order(orders.Start(name=NAME))
    fact = seen(slow, lambda fact: "slow.service" in fact.activity.says)
    assert (fact.state, fact.activity.start_limit) == ("starting", None)
    slow.until(lambda report: report.kind == "progress" and report.job == job and "slow.service" in report.note)
    slow.order(orders.Cancel(job=job))
    outcome = slow.outcome(job)
    assert (outcome.state, outcome.machine.state) == ("cancelled", "stopped")
    assert rests(slow.sandbox)


@pytest.mark.parametrize("order", [orders.Poweroff, orders.Terminate])
def test_a_start_under_way_by_hand_can_be_ended(slow, order):
    slow.sandbox.run(["systemctl", "start", "--no-block", UNIT])
    seen(slow, lambda fact: fact.state == "starting" and bool(fact.leader))
    assert succeeded(slow.do(order(name=NAME))).machine.state == "stopped"
    assert rests(slow.sandbox)


def test_a_start_takes_as_long_as_its_unit_lets_it_and_says_that_limit(slow):
    unit(slow.sandbox, "[Service]\nTimeoutStartSec=3\n")
    outcome = slow.do(orders.Start(name=NAME))
    assert (outcome.state, outcome.machine.state) == ("timed_out", "failed")
    assert "within 3 s" in outcome.problem["message"]


# --- units of another name


def by_hand(host: Sandbox, *options: str, properties: tuple[str, ...] = ()) -> str:
    """Started with systemd-run; the unit machined names."""
    host.run([
        "systemd-run", f"--unit={NAME}-by-hand", *properties, "systemd-nspawn", *options, "--boot", "--directory", TREE, "--machine", NAME,
    ])  # fmt: skip
    is_up(host)
    return host.run(["machinectl", "show", NAME, "--property=Unit", "--value"]).stdout.strip()


def leader(host: Sandbox) -> int:
    return int(host.run(["machinectl", "show", NAME, "--property=Leader", "--value"]).stdout)


def test_a_machine_in_a_scope_reboots_once_and_powers_off(panel):
    host = panel.sandbox
    scope = by_hand(host)
    assert seen(panel, lambda fact: fact.state == "running").unit == scope == f"machine-{NAME}.scope"
    before = leader(host)
    succeeded(panel.do(orders.Reboot(name=NAME)))
    assert leader(host) != before
    is_up(host)
    boots = host.run(
        ["journalctl", f"--unit={NAME}-by-hand", "--output=cat", "--grep=Reached target.*Multi-User"]
    ).stdout
    assert boots.count("Multi-User") == 2
    assert succeeded(panel.do(orders.Poweroff(name=NAME))).machine.state == "stopped"


SLOW_TO_BOOT = """[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo boot >>/var/boots; exec sleep 3'
[Install]
WantedBy=sysinit.target
"""


@pytest.fixture
def slow_to_boot(panel) -> Iterator[ScratchPanel]:
    """Its unit is active only when it has booted, which takes longer than a worker waits before it asks once more."""
    host, unit = panel.sandbox, f"{TREE}/etc/systemd/system/slow-to-boot.service"
    host.write(unit, SLOW_TO_BOOT)
    host.run(["systemctl", f"--root={TREE}", "enable", "slow-to-boot.service"])
    host.write(SETTINGS, "[Exec]\nNotifyReady=yes\n")
    host.run(["rm", "-f", f"{TREE}/var/boots"])
    succeeded(panel.do(orders.Start(name=NAME)))
    yield panel
    succeeded(panel.do(orders.Terminate(name=NAME)))
    host.run(["systemctl", f"--root={TREE}", "disable", "slow-to-boot.service"])
    host.run(["rm", unit])


def boots(panel: ScratchPanel) -> int:
    return panel.sandbox.read(f"{TREE}/var/boots").count("boot")


@pytest.mark.parametrize("worker", ["lives", "is killed while it comes up"])
def test_one_reboot_is_one_boot_however_long_it_takes(slow_to_boot, worker):
    panel = slow_to_boot
    job = panel.order(orders.Reboot(name=NAME))
    if worker != "lives":
        until(lambda: boots(panel) == 2, 20)
        panel.sandbox.run(["systemctl", "kill", "--signal=KILL", SERVICE])
    succeeded(panel.outcome(job))
    assert boots(panel) == 2


def test_where_nothing_starts_it_again_a_reboot_is_refused_beforehand_and_terminate_works(panel):
    by_hand(panel.sandbox, "--keep-unit")
    fact = seen(panel, lambda fact: fact.state == "running")
    assert fact.unit == f"{NAME}-by-hand.service"
    assert "RestartForceExitStatus=133" in fact.activity.cannot["reboot"]
    before = leader(panel.sandbox)
    outcome = panel.do(orders.Reboot(name=NAME))
    assert outcome.problem["code"] == "cannot-do"
    assert leader(panel.sandbox) == before
    assert succeeded(panel.do(orders.Terminate(name=NAME))).machine.state == "stopped"


def test_a_unit_of_another_name_that_starts_again_stays_off_too(panel):
    by_hand(panel.sandbox, "--keep-unit", properties=("--property=Restart=always", "--property=RestartSec=1"))
    assert succeeded(panel.do(orders.Poweroff(name=NAME))).machine.state == "stopped"
    active = panel.sandbox.run(["systemctl", "is-active", f"{NAME}-by-hand.service"], check=False).stdout.strip()
    assert active == "inactive"


def test_a_virtual_machine_of_its_name_is_told_as_one_and_left_alone(panel):
    host = panel.sandbox
    host.run(["systemd-run", f"--unit={NAME}-by-hand", "--property=Delegate=yes", "sleep", "600"])
    (pid,) = shows(host, "MainPID", of=f"{NAME}-by-hand.service")
    host.run([
        "busctl", "call", "org.freedesktop.machine1", "/org/freedesktop/machine1", "org.freedesktop.machine1.Manager", "RegisterMachine",
        "sayssus", NAME, "0", "someone", "vm", pid, "",
    ])  # fmt: skip
    fact = seen(panel, lambda fact: fact.state == "running")
    assert "virtual machine" in fact.activity.cannot["poweroff"]
    assert panel.do(orders.Start(name=NAME)).problem["code"] == "cannot-do"
    assert panel.do(orders.Terminate(name=NAME)).problem["code"] == "cannot-do"
    assert shows(host, "MainPID", of=f"{NAME}-by-hand.service") == [pid]


# --- another init than systemd


@pytest.fixture
def script(panel) -> Iterator[ScratchPanel]:
    panel.sandbox.write(f"{TREE}/init.sh", SCRIPT, 0o755)
    yield panel
    panel.sandbox.run(["rm", f"{TREE}/init.sh"])


@pytest.mark.parametrize("signal", ["KillSignal=SIGUSR2\n", ""])
def test_a_machine_without_systemd_powers_off_and_reboots(script, signal):
    script.sandbox.write(SETTINGS, f"[Exec]\nBoot=no\nParameters=/init.sh\n{signal}")
    fact = succeeded(script.do(orders.Start(name=NAME))).machine
    assert fact.activity.init == "bash"
    before = leader(script.sandbox)
    assert succeeded(script.do(orders.Reboot(name=NAME))).machine.state == "running"
    assert leader(script.sandbox) != before
    assert succeeded(script.do(orders.Poweroff(name=NAME))).machine.state == "stopped"
    assert rests(script.sandbox)


# --- the start limit


def test_after_the_start_limit_no_old_reason_is_given_and_reset_and_start_helps(panel):
    unit(panel.sandbox, "[Unit]\nStartLimitIntervalSec=600\nStartLimitBurst=2\n")
    panel.sandbox.write(SETTINGS, "[Files]\nBind=/nowhere/odd\n")
    for _ in range(2):
        failed = panel.do(orders.Start(name=NAME))
        assert "/nowhere/odd" in failed.problem["message"]
    panel.sandbox.run(["rm", SETTINGS])
    job = panel.order(orders.Start(name=NAME))
    refused = panel.outcome(job)
    assert refused.problem["code"] == "start-limit"
    assert "/nowhere" not in f"{refused.problem} {panel.lines(job)}"
    assert refused.machine.activity.refused
    assert succeeded(panel.do(orders.Start(name=NAME, reset=True))).machine.state == "running"


def test_a_machine_whose_systemd_nspawn_was_killed_starts_again(panel):
    """257 leaves a mount behind, with which no systemd-nspawn starts."""
    succeeded(panel.do(orders.Start(name=NAME)))
    panel.sandbox.run(["systemctl", "kill", "--signal=SIGKILL", UNIT])
    seen(panel, lambda fact: fact.state == "failed")
    assert succeeded(panel.do(orders.Start(name=NAME))).machine.state == "running"


# --- inside


def test_a_machine_with_failed_units_inside_is_degraded_until_they_are_forgotten(panel):
    host = panel.sandbox
    succeeded(panel.do(orders.Start(name=NAME)))
    is_up(host)
    host.run(["systemd-run", f"--machine={NAME}", "--unit=broken", "--wait", "false"], check=False)
    told = seen_again(panel, lambda fact: fact.state == "degraded")
    assert told.activity.failed == ["broken.service"]
    host.run(["systemctl", f"--machine={NAME}", "reset-failed"])
    assert seen_again(panel, lambda fact: fact.state == "running").activity.failed == []


def seen_again(panel: ScratchPanel, wanted: Callable[[MachineFact], bool]) -> MachineFact:
    """What nobody signals, at one of the next inventories; asked for more often than they come by themselves."""
    for _ in range(25):
        panel.order(orders.Refresh())
        known = len(panel.reports)
        inventory = panel.until(lambda report: report in panel.reports[known:] and report.kind == "inventory")  # noqa: B023
        if (fact := next(fact for fact in inventory.machines if fact.name == NAME)) and wanted(fact):
            return fact
        time.sleep(1)
    raise AssertionError("it was never told")
