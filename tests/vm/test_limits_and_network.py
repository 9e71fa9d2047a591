"""Limits on a kernel of its own with control groups of version 2 alone, and the doctor where nothing is wrong."""

import json

import pytest

from machines.contract import limit_test
from machines.contract.configuration import findings, nspawn
from machines.contract.configuration.findings import Finding, Level
from tests.person import Person, until

MACHINE = "/hosts/alpha/machines/web/"
GROUP = "/sys/fs/cgroup/machine.slice/systemd-nspawn@web.service"
MIB = 1 << 20
SECONDS = 240  # a machine's boot and its address; emulated, beside other tests
BRIDGE = {
    "/etc/systemd/network/br0.netdev": "[NetDev]\nName=br0\nKind=bridge\n",
    "/etc/systemd/network/br0.network": (
        "[Match]\nName=br0\n\n[Network]\nAddress=192.168.77.1/24\nDHCPServer=yes\nIPMasquerade=ipv4\n"
        "ConfigureWithoutCarrier=yes\nLinkLocalAddressing=no\n"
    ),
}


@pytest.fixture(scope="module")
def web(ada, alpha_host) -> Person:
    """The machine of that name runs and has an address, and there is a bridge; who looks after them."""
    for path, text in BRIDGE.items():
        alpha_host.write(path, text)
    alpha_host.run(["networkctl", "reload"])
    ada.succeed(ada.press("start", "web"), SECONDS)
    has_address(ada)
    return ada


def has_address(ada: Person, beginning: str = "") -> None:
    there = lambda: any(a.startswith(beginning) and ":" not in a for a in json.loads(ada.machine("web")["addresses"]))  # noqa: E731
    until(there, SECONDS, lambda: str(ada.machine("web")))


def apply(ada: Person, settings: str, limits: str, then: str = "") -> None:
    """Both files as text, reviewed and applied."""
    page = f"{MACHINE}config/"
    ada.post(f"{page}raw/", {"nspawn": settings, "limits": limits, "then": "review", **ada.seen(f"{page}raw/")})
    before = ada.newest_job()
    ada.send(f"{page}apply/", {**ada.form_of(f"{page}review/"), **ada.seen(f"{page}review/"), "then": then})
    ada.succeed(ada.jobs_after(before)[0], SECONDS)


def ordered(ada: Person, page: str, button: str) -> dict:
    """What came of a job that a button of a page places."""
    before = ada.newest_job()
    ada.post(f"{page}{button}/", page=page)
    return ada.succeed(ada.jobs_after(before)[0], SECONDS)


def examine(ada: Person, of: str = MACHINE) -> dict[str, Finding]:
    found = findings.from_wire(json.loads(ordered(ada, f"{of}doctor/", "diagnose")["result"])["findings"])
    return {finding.code: finding for finding in found}


def alarms(found: dict[str, Finding]) -> list[Finding]:
    return [each for each in found.values() if findings.level(each) in {Level.PROBLEM, Level.WARNING, Level.UNKNOWN}]


LIMITS = "[Service]\nMemoryMax=128M\nCPUQuota=40%\nTasksMax=200\n"


def test_limits_stand_in_the_files_of_the_control_group(web, alpha_host):
    apply(web, "", LIMITS)
    assert alpha_host.read(f"{GROUP}/memory.max").strip() == str(128 * MIB)
    assert alpha_host.read(f"{GROUP}/cpu.max").split() == ["40000", "100000"]
    assert alpha_host.read(f"{GROUP}/pids.max").strip() == "200"


def test_the_limit_test_shows_that_both_caps_hold_and_the_machine_lives_on(web, alpha_host):
    told = limit_test.from_wire(json.loads(ordered(web, f"{MACHINE}limit-test/", "run")["result"]))
    trials = {trial.key: trial for trial in told.measurements}
    cpu, memory = trials["CPUQuota"], trials["MemoryMax"]
    assert (cpu.verdict, cpu.asked) == ("enforced", 40)
    assert cpu.measured < 45
    assert (memory.verdict, memory.asked, memory.others) == ("enforced", 128 * MIB, 0)
    assert 100 * MIB < memory.measured <= 129 * MIB
    events = dict(line.split() for line in alpha_host.read(f"{GROUP}/memory.events").splitlines())
    assert int(events["max"]) > 0, "the kernel was not asked for more than the cap"
    assert web.machine("web")["state"] == "running"
    apply(web, "", "")
    assert alpha_host.read(f"{GROUP}/memory.max").strip() == "max"


def test_a_limit_without_a_file_in_the_control_group_is_told_beforehand_and_is_not_in_force(web, alpha_host):
    has = set(alpha_host.run(["ls", GROUP]).stdout.split())
    lacks = json.loads(web.rows("SELECT facts FROM machines_host WHERE name = 'alpha'")[0]["facts"])["lacks"]
    files = {"MemoryMax": "memory.max", "MemoryHigh": "memory.high", "MemoryZSwapMax": "memory.zswap.max"}
    assert {key for key in files if key in lacks} == {key for key, file in files.items() if file not in has}
    assert lacks["ManagedOOMSwap"] == "systemd-oomd.service"
    raw = f"{MACHINE}config/raw/"
    limits = "[Service]\nManagedOOMSwap=kill\nMemoryZSwapMax=64M\n"
    web.post(raw, {"nspawn": "", "limits": limits, "then": "review", **web.seen(raw)})
    review = web.get(f"{MACHINE}config/review/")
    assert "ManagedOOMSwap=</code></a> will not be enforced" in review
    assert ("MemoryZSwapMax=</code></a> will not be enforced" in review) == ("memory.zswap.max" not in has)
    web.post(f"{MACHINE}config/discard/", page=f"{MACHINE}config/review/")


def test_the_doctor_raises_no_alarm_where_nothing_is_wrong(web):
    assert alarms(examine(web)) == []
    of_host = {each.code for each in alarms(examine(web, "/hosts/alpha/"))}
    assert of_host <= {"clock-loose"}  # there may be no time server that it can reach


@pytest.mark.parametrize(
    ("setting", "beginning"), [("Zone=front", "192.168."), ("Bridge=br0", "192.168.77.")], ids=["zone", "bridge"]
)
def test_nor_for_a_machine_in_a_zone_or_at_a_bridge(web, alpha_host, setting, beginning):
    apply(web, nspawn.mark(f"[Exec]\nNotifyReady=yes\n\n[Network]\n{setting}\n", 1), "", then="restart")
    has_address(web, beginning)
    assert alarms(examine(web)) == []


def test_few_inotify_instances_are_found_and_raised_with_the_button(ada, alpha_host):
    limit, file = "/proc/sys/fs/inotify/max_user_instances", findings.INOTIFY_FILE
    before = alpha_host.read(limit).strip()
    alpha_host.run(["sh", "-c", f"echo 25 > {limit}"])
    try:
        assert examine(ada, "/hosts/alpha/")["inotify-low"].can_fix
        told = json.loads(ordered(ada, "/hosts/alpha/doctor/", "fix/inotify")["result"])["findings"]
        assert "inotify-enough" in {each["code"] for each in told}
        assert alpha_host.read(limit).strip() == str(findings.INOTIFY_INSTANCES)
        assert f"fs.inotify.max_user_instances = {findings.INOTIFY_INSTANCES}" in alpha_host.read(file)
    finally:
        alpha_host.run(["sh", "-c", f"rm -f {file}; echo {before} > {limit}"])
