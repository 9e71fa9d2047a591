"""What a host's files, mounts and services may do to whoever reads them, and what is said of it; on both systemds."""

from collections.abc import Iterator

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.reports import AnyReport, MachineFact, ObservedMachine
from tests.host.scratch_panel import ScratchPanel

NSPAWN = "/etc/systemd/nspawn"
# A FUSE file system whose server reads no request: whoever touches what is in it waits, as for an NFS server that is gone.
DEAD_MOUNT = """
import ctypes, os, time
if not os.path.exists("/dev/odd-fuse"):
    os.mknod("/dev/odd-fuse", 0o600 | 0o020000, os.makedev(10, 229))
fd = os.open("/dev/odd-fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"dead", b"/run/odd/dead", b"fuse", 0, options):
    raise SystemExit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
time.sleep(600)
"""
# How each odd machine's settings file is made, and what is said of it.
ODD = {
    "odd-fifo": ("mkfifo /run/odd/pipe; ln -s /run/odd/pipe {file}", "It is a FIFO"),
    "odd-zero": ("ln -s /dev/zero {file}", "It is a device"),
    "odd-long": ("truncate --size=5G {file}", "It is larger than"),
    "odd-loop": ("ln -s {name}.nspawn {file}", "Too many levels of symbolic links"),
    "odd-dead": ("ln -s /run/odd/dead/web.nspawn {file}", "does not respond"),
    "odd-dead2": ("ln -s /run/odd/dead/other.nspawn {file}", "does not respond"),
}


@pytest.fixture(params=["scratch", "later"])
def panel(request: pytest.FixtureRequest) -> ScratchPanel:
    return request.getfixturevalue(request.param)


def latest(panel: ScratchPanel, name: str) -> MachineFact | None:
    """What was said last of a machine's state."""
    for report in reversed(panel.reports):
        if report.kind in {"inventory", "observed"}:
            for machine in report.machines:
                if machine.name == name:
                    return machine
    return None


def files(panel: ScratchPanel, name: str) -> ObservedMachine | None:
    """What was said last of its files."""
    told = [each for r in panel.reports if r.kind == "observed_files" for each in r.machines if each.name == name]
    return told[-1] if told else None


@pytest.fixture
def odd(panel: ScratchPanel) -> Iterator[ScratchPanel]:
    """A host with machines whose settings files are nothing that can be read, one link leading into a dead mount."""
    host = panel.sandbox
    host.run(["mkdir", "-p", "/run/odd/dead", NSPAWN])
    server = host.popen(["python3", "-c", DEAD_MOUNT], stdout=-1)
    assert server.stdout.readline() == "mounted\n"
    for name, (make, _) in ODD.items():
        host.run(["sh", "-ec", make.format(name=name, file=f"{NSPAWN}/{name}.nspawn")])
        host.run(["mkdir", "-p", f"/var/lib/machines/{name}/usr"])
    host.run(["mkfifo", "/etc/systemd/system/systemd-nspawn@odd-fifo.service.d"])
    yield panel
    host.run(
        ["sh", "-c", f"rm -rf {NSPAWN}/odd-*.nspawn /var/lib/machines/odd-* /etc/systemd/system/systemd-nspawn@odd-*"]
    )
    host.run(["umount", "--lazy", "/run/odd/dead"], check=False)
    server.kill()
    server.wait()
    host.run(["rm", "-rf", "/run/odd", "/dev/odd-fuse"])
    panel.until(lambda _: latest(panel, "odd-dead") is None or "odd-dead" in gone(panel))


def gone(panel: ScratchPanel) -> set[str]:
    return {name for report in panel.reports if report.kind == "observed" for name in report.gone}


def test_a_settings_file_that_blocks_costs_its_own_machine_and_no_other(odd):
    panel = odd
    panel.until(lambda _: all(getattr(latest(panel, name), "unreadable", "") for name in ODD), 60)
    for name, (_, reason) in ODD.items():
        fact = latest(panel, name)
        assert reason in fact.unreadable
        assert (fact.state, fact.nspawn_sha256) == ("stopped", "unreadable")
    for verb in (orders.Start, orders.Poweroff):
        outcome = panel.do(verb(name="web"), seconds=30)
        assert outcome.state == "succeeded", outcome.problem
    panel.until(lambda _: all(files(panel, name) for name in ODD), 60)
    for name, (_, reason) in ODD.items():
        told = files(panel, name).files[0]
        assert told.form == "unreadable"
        assert reason in told.error
    refused = panel.do(
        orders.Apply(name="odd-fifo", configuration=orders.Configuration(revision=1, nspawn="", limits=""))
    )
    assert (refused.state, refused.problem["code"]) == ("failed", "unreadable")
    panel.sandbox.run(["rm", f"{NSPAWN}/odd-fifo.nspawn", f"{NSPAWN}/odd-dead.nspawn"])
    panel.until(lambda _: all(latest(panel, name).unreadable == "" for name in ("odd-fifo", "odd-dead")), 30)


def test_without_machined_nothing_is_claimed_that_only_machined_knows(panel):
    """Its unit is systemd's to tell; a machine without one may run in another, which machined alone would name."""
    host = panel.sandbox
    host.run(["mkdir", "-p", "/var/lib/machines/quiet/usr"])
    assert panel.do(orders.Start(name="web")).state == "succeeded"
    panel.until(lambda _: latest(panel, "quiet"))
    told = len(panel.reports)
    try:
        host.run(["systemctl", "mask", "--runtime", "--now", "systemd-machined.service"])
        host.run(["systemctl", "kill", "--signal=KILL", "systemd-nspawn@web.service"])
        panel.until(lambda r: r in panel.reports[told:] and is_partial(r) and state_in(r, "web") == "failed", 40)
        partial = next(r for r in reversed(panel.reports) if is_partial(r))
        assert "systemd-machined.service is masked" in partial.partial
        assert state_in(partial, "quiet") == "unknown"
        panel.until(lambda r: r.kind == "heartbeat" and "masked" in r.trouble.get("machines", ""))
    finally:
        host.run(["systemctl", "unmask", "--runtime", "systemd-machined.service"])
        host.run(["systemctl", "start", "systemd-machined.service"])
        host.run(["systemctl", "reset-failed"])
        host.run(["rm", "-r", "/var/lib/machines/quiet"])
    told = len(panel.reports)
    panel.order(orders.Refresh())
    panel.until(lambda r: r in panel.reports[told:] and r.kind == "inventory" and not r.partial)
    assert latest(panel, "web").state == "stopped"
    panel.until(lambda r: r in panel.reports[told:] and r.kind == "heartbeat" and not r.trouble)


def is_partial(report: AnyReport) -> bool:
    return report.kind == "inventory" and bool(report.partial)


def state_in(report: AnyReport, name: str) -> str:
    return next((machine.state.value for machine in report.machines if machine.name == name), "")


# --- what stood there stays

FOREIGN = "[Exec]\nBoot=yes\n[Resources]\nMemoryLimit=1G\n[Exec]\nNoSuchKey=1\n"


def changed(found: MachineFact, nspawn_text: str, limits: str) -> orders.Apply:
    configuration = orders.Configuration(
        revision=2, nspawn=nspawn.mark(nspawn_text, 2), limits=nspawn.mark(limits, 2),
        replaces_nspawn=found.nspawn_sha256, replaces_limits=found.limits_sha256,
    )  # fmt: skip
    return orders.Apply(name="grey", configuration=configuration)


def test_a_line_systemd_never_read_stops_no_limit_and_a_new_one_is_refused(panel):
    host = panel.sandbox
    host.write(f"{NSPAWN}/grey.nspawn", FOREIGN)
    host.run(["mkdir", "-p", "/var/lib/machines/grey/usr"])
    try:
        panel.until(lambda _: latest(panel, "grey") and latest(panel, "grey").nspawn_sha256 != "absent")
        found = latest(panel, "grey")
        refused = panel.do(changed(found, FOREIGN + "OtherKey=1\n", "[Service]\nMemoryMax=128M\n"))
        assert refused.problem["code"] == "config-refused"
        assert "OtherKey" in refused.problem["message"]
        assert "NoSuchKey" not in refused.problem["details"]
        job = panel.order(changed(found, FOREIGN, "[Service]\nMemoryMax=128M\n"))
        outcome = panel.outcome(job)
        assert outcome.state == "succeeded", outcome.problem
        assert host.read(f"{NSPAWN}/grey.nspawn").endswith(FOREIGN)
        said = "\n".join(panel.lines(job))
        assert "Unchanged: grey.nspawn:4: Unknown section 'Resources'" in said
    finally:
        host.run(["rm", "-rf", "/var/lib/machines/grey", f"{NSPAWN}/grey.nspawn"])
        host.run(["rm", "-rf", "/etc/systemd/system/systemd-nspawn@grey.service.d"])
        host.run(["systemctl", "daemon-reload"])


# --- what forms rely on


def test_a_new_bridge_is_told_at_once(panel):
    host, told = panel.sandbox, len(panel.reports)
    host.run(["ip", "link", "add", "br-new", "type", "bridge"])
    try:
        seen = panel.until(lambda r: r in panel.reports[told:] and r.kind == "observed" and bool(r.links), 10)
        assert "br-new" in seen.links.bridges
    finally:
        host.run(["ip", "link", "delete", "br-new"])
    panel.until(lambda r: r.kind == "observed" and r.links is not None and "br-new" not in r.links.bridges, 10)
