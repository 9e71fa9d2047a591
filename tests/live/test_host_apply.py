"""An apply with a restart, on real hosts with systemd 252 and 257: what works stays, what does not goes back by itself."""

import time
from uuid import UUID

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from tests.host.scratch_panel import SERVICE, ScratchPanel

FILE = "/etc/systemd/nspawn/web.nspawn"
VETH = "[Network]\nPrivate=yes\nVirtualEthernet=yes\n"
ZONE = f"{VETH}Zone=shop\n"
ALONE = "[Network]\nPrivate=yes\nVirtualEthernet=no\n"  # no cable, so never an address


@pytest.fixture(params=["scratch", "later"])
def panel(request: pytest.FixtureRequest) -> ScratchPanel:
    """The host with web running on its own, addressed cable."""
    made: ScratchPanel = request.getfixturevalue(request.param)
    put(made, VETH)
    made.do(orders.Start(name="web"))
    return made


def put(panel: ScratchPanel, text: str) -> None:
    """The file by hand, with nothing of ours."""
    panel.do(orders.Terminate(name="web"))
    panel.sandbox.write(FILE, text)
    panel.sandbox.run(["rm", "-rf", "/etc/systemd/system/systemd-nspawn@web.service.d"])
    panel.sandbox.run(["systemctl", "daemon-reload"])


def change(panel: ScratchPanel, text: str, **more: object) -> orders.Apply:
    """An Apply on the file that is there."""
    found = panel.sandbox.run(["sha256sum", FILE]).stdout.split()[0]
    configuration = orders.Configuration(
        revision=7, nspawn=nspawn.mark(text, 7), limits="", replaces_nspawn=found, replaces_limits=orders.ABSENT
    )
    return orders.Apply(name="web", configuration=configuration, restart=True, **more)


def run_of(panel: ScratchPanel) -> str:
    """What names the run of web's unit."""
    unit = "systemd-nspawn@web.service"
    return panel.sandbox.run(["systemctl", "show", "--property=InvocationID", "--value", unit]).stdout.strip()


def watched(panel: ScratchPanel, job: UUID) -> None:
    """Until the host says that it waits for the machine."""
    panel.until(lambda r: r.kind == "lines" and r.job == job and "Waiting up to" in str(r.lines), 60)


def test_what_works_stays(panel):
    before = run_of(panel)
    outcome = panel.do(change(panel, ZONE, rollback_after=60, expects="address"), 120)
    assert (outcome.state, outcome.result["restarted"]) == ("succeeded", True), outcome.problem
    assert run_of(panel) != before
    assert "Zone=shop" in panel.sandbox.read(FILE)
    assert outcome.machine.state == "running"
    assert [a for a in outcome.machine.addresses if not a.address.startswith("169.254.")]
    assert outcome.machine.since > outcome.result["applied_at"]


def test_a_machine_without_an_address_goes_back_to_what_it_had(panel):
    outcome = panel.do(change(panel, ALONE, rollback_after=5, expects="address"), 120)
    assert (outcome.state, outcome.problem["code"]) == ("failed", "rolled-back"), outcome.problem
    assert "web had no address 5 s after its restart" in outcome.problem["message"]
    assert panel.sandbox.read(FILE) == VETH
    assert outcome.machine.state == "running"


def test_a_machine_that_does_not_start_goes_back_at_once(panel):
    began = time.monotonic()
    text = "[Exec]\nBoot=no\nParameters=/bin/false\n"
    outcome = panel.do(change(panel, text, rollback_after=90), 120)
    assert outcome.problem["code"] == "rolled-back", outcome
    assert time.monotonic() - began < 60
    assert panel.sandbox.read(FILE) == VETH
    assert outcome.machine.state == "running"


def test_a_killed_worker_still_goes_back(panel):
    job = panel.order(change(panel, ALONE, rollback_after=8, expects="address"))
    watched(panel, job)
    panel.sandbox.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", SERVICE])
    outcome = panel.outcome(job, 120)
    assert outcome.problem["code"] == "rolled-back", outcome
    assert panel.sandbox.read(FILE) == VETH
    assert outcome.machine.state == "running"


def test_who_cancels_while_it_is_watched_gets_back_what_was_there(panel):
    job = panel.order(change(panel, ALONE, rollback_after=300, expects="address"))
    watched(panel, job)
    panel.order(orders.Cancel(job=job))
    outcome = panel.outcome(job, 60)
    assert outcome.state == "cancelled"
    assert "previous configuration was restored" in outcome.problem["message"]
    assert panel.sandbox.read(FILE) == VETH
    assert outcome.machine.state == "running"


def test_a_machine_that_does_not_run_is_not_started(panel):
    panel.do(orders.Terminate(name="web"))
    outcome = panel.do(change(panel, ZONE, rollback_after=5, expects="address"))
    assert (outcome.state, outcome.result["restarted"], outcome.machine.state) == ("succeeded", False, "stopped")
    assert panel.do(orders.Start(name="web")).machine.state == "running"
