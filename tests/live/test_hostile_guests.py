"""What root inside a machine can do to the host's worker from there: lie to systemd, log without end, fork without end."""

import time
from uuid import uuid4

import pytest

from machines.contract import orders
from machines.contract.reports import AnyReport, MachineFact
from tests.host.scratch_panel import SERVICE, ScratchPanel

PERL = """#!/usr/bin/perl
use Socket;
$ENV{PATH} = "/usr/bin:/bin";
$SIG{CHLD} = "IGNORE";
socket(my $link, AF_UNIX, SOCK_DGRAM, 0);
my $to = pack_sockaddr_un($ENV{NOTIFY_SOCKET});
sub note { send($link, $_[0], 0, $to) }
"""
LIES = """
note("READY=1\\nSTATUS=<b>All fine</b>\\e[31m " . ("x" x 3000));
note($_) for "MAINPID=1", "WATCHDOG=trigger", "WATCHDOG_USEC=1", "ERRNO=5", "BUSERROR=x", "RELOADING=1", "FDSTORE=1",
    "EXTEND_TIMEOUT_USEC=99999999999", "EXIT_STATUS=0", "STATUS=\\xff\\xfe\\x00";
while (1) { note("READY=1\\nSTATUS=turn $_") for 1 .. 500; sleep 1 }
"""
TALKS = """
print "x" x 1000000, "\\n" for 1 .. 60;
print "not a reason \\e[31m<script>\\n";
exit 1;
"""
FORKS = "[Service]\nExecStart=/usr/bin/perl -e 'while (1) { fork // sleep 1 }'\n"


def plant(panel: ScratchPanel, init: str = "") -> str:
    """A machine of its own, perhaps with a first process of its own."""
    name = f"guest-{uuid4().hex[:6]}"
    panel.sandbox.plant(name, "bookworm")
    if init:
        systemd = f"/var/lib/machines/{name}/usr/lib/systemd/systemd"
        panel.sandbox.run(["mv", systemd, f"{systemd}.real"])
        panel.sandbox.write(systemd, PERL + init, 0o755)
        panel.sandbox.write(f"/etc/systemd/nspawn/{name}.nspawn", "[Exec]\nNotifyReady=yes\n")
    return name


def remove(panel: ScratchPanel, name: str) -> None:
    panel.do(orders.Terminate(name=name))
    drop_in = f"/etc/systemd/system/systemd-nspawn@{name}.service.d"
    panel.sandbox.run(["rm", "-rf", f"/etc/systemd/nspawn/{name}.nspawn", f"/var/lib/machines/{name}", drop_in])
    panel.sandbox.run(["systemctl", "daemon-reload"])
    panel.until(lambda report: report.kind == "observed" and name in report.gone)


def worker(panel: ScratchPanel) -> tuple[str, int]:
    """Its process, and the bytes it holds."""
    pid = panel.sandbox.run(["systemctl", "show", "--property=MainPID", "--value", SERVICE]).stdout.strip()
    status = panel.sandbox.read(f"/proc/{pid}/status").splitlines()
    return pid, int(next(line for line in status if line.startswith("VmRSS")).split()[1]) * 1024


def facts(reports: list[AnyReport], name: str) -> list[MachineFact]:
    return [fact for report in reports if report.kind == "observed" for fact in report.machines if fact.name == name]


def unit(panel: ScratchPanel, name: str, key: str) -> str:
    shown = panel.sandbox.run(["systemctl", "show", f"--property={key}", "--value", f"systemd-nspawn@{name}.service"])
    return shown.stdout.strip()


@pytest.mark.parametrize("which", ["scratch", "later"])
def test_what_a_guest_tells_systemd_moves_nothing_but_its_own_status(which, request):
    """With NotifyReady=yes the machine is up when its first process says so: that is its own affair. All else that
    sd_notify(3) knows stays in systemd-nspawn, and 500 words a second are not 500 reports."""
    panel = request.getfixturevalue(which)
    name = plant(panel, LIES)
    told = len(panel.reports)
    try:
        outcome = panel.do(orders.Start(name=name))
        assert (outcome.state, outcome.machine.state) == ("succeeded", "running"), outcome.problem
        time.sleep(3)
        panel.read()
        assert len(facts(panel.reports[told:], name)) < 10
        assert all(len(fact.activity.says) <= 300 for fact in facts(panel.reports[told:], name))
        main = unit(panel, name, "MainPID")
        assert panel.sandbox.read(f"/proc/{main}/comm").strip() == "systemd-nspawn"
        assert unit(panel, name, "NFileDescriptorStore") == "0"
        assert unit(panel, name, "Result") == "success"
        assert panel.do(orders.Terminate(name=name)).machine.state == "stopped"
    finally:
        remove(panel, name)


def test_a_guest_that_logs_without_end_costs_the_worker_nothing(scratch):
    """60 lines of a megabyte each on its console, which is the unit's journal; then it fails, and its last words are told."""
    name = plant(scratch, TALKS)
    try:
        pid, before = worker(scratch)
        outcome = scratch.do(orders.Start(name=name), 120)
        assert outcome.problem["code"] == "start-failed"
        assert len(outcome.problem["message"]) < 600
        assert len(outcome.problem["details"]) <= 4000
        after = worker(scratch)
        assert after[0] == pid
        assert after[1] - before < 40_000_000
    finally:
        remove(scratch, name)


@pytest.mark.parametrize("which", ["scratch", "later"])
def test_a_guest_without_a_process_left_can_still_be_ended(which, request):
    panel = request.getfixturevalue(which)
    name = plant(panel)
    tree = f"/var/lib/machines/{name}/etc/systemd/system"
    panel.sandbox.write(f"{tree}/bomb.service", FORKS)
    panel.sandbox.run(["mkdir", "-p", f"{tree}/multi-user.target.wants"])
    panel.sandbox.run(["ln", "-s", "../bomb.service", f"{tree}/multi-user.target.wants/bomb.service"])
    panel.sandbox.run(["mkdir", "-p", f"/etc/systemd/system/systemd-nspawn@{name}.service.d"])
    panel.sandbox.write(f"/etc/systemd/system/systemd-nspawn@{name}.service.d/x.conf", "[Service]\nTasksMax=60\n")
    panel.sandbox.run(["systemctl", "daemon-reload"])
    try:
        assert panel.do(orders.Start(name=name)).state == "succeeded"
        deadline = time.monotonic() + 20
        while "tasks-full" not in (found := str(panel.do(orders.Diagnose(name=name)).result)):
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
        assert int(unit(panel, name, "TasksCurrent")) <= 60
        outcome = panel.do(orders.Poweroff(name=name), 120)
        assert (outcome.state, outcome.machine.state) == ("succeeded", "stopped"), outcome.problem
    finally:
        remove(panel, name)
