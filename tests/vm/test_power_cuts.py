"""The power of a whole host goes at the worst moment, and comes back: every job is decided, nothing half-made is there,
nothing half-deleted starts, and what was told as done is done."""

import time

from machines.contract.states import JobState
from nspawnpanel.sandbox import VirtualMachine, kill_group
from nspawnpanel.stack import Stack
from tests.person import Person, until

SECONDS = 300  # emulated, beside other tests
UNSYNCED = "/root/unsynced"
COPYING = "compgen -G '/var/lib/machines/.nspawnpanel-*/usr/bin' >/dev/null"
# The first of these is gone; `set --` counts those that are left.
DELETING = """{ set -- /var/lib/machines/.nspawnpanel-*.removed/; [ -d "$1" ]; } && {
    cd "$1"; left=$(compgen -G '{etc/passwd,etc/fstab,usr/bin/env,usr/bin/tar,usr/lib/os-release,usr/sbin/init,var/lib/dpkg/status}' | wc -l)
    cd /; [ $left -lt 6 ]; }"""
CONTENT = "cd /var/lib/machines/{0} && find usr/bin usr/lib/systemd -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum"


def on_the_host(host: VirtualMachine, script: str) -> str:
    return host.run(["bash", "-ec", script], timeout=SECONDS).stdout


def cut_when(host: VirtualMachine, condition: str) -> None:
    """The power goes as soon as this holds on the host, with everything done by then on its disk and nothing after it."""
    late = f"[ $SECONDS -lt {SECONDS} ] || {{ echo too late; exit; }}"
    watch = host.popen(["bash", "-c", f"until {condition}; do {late}; done; sync; echo lost >{UNSYNCED}; echo now"])
    assert watch.stdout
    assert watch.stdout.readline() == "now\n"
    host.cut_power()
    kill_group(watch)
    watch.wait()


def comes_back(host: VirtualMachine, panel: Stack) -> None:
    since = time.time()
    host.boot()
    panel.wait_for_host("alpha", since, SECONDS)


def decided(ada: Person, host: VirtualMachine, job: dict) -> dict:
    """The job, once every job has its end; nothing of any is left on the host."""
    for row in ada.rows("SELECT id FROM machines_job"):
        ada.end_of(row["id"], SECONDS)
    assert on_the_host(host, "ls -A /var/lib/machines | grep '^.nspawnpanel-' || true") == ""
    return ada.job(job["id"])


def images(host: VirtualMachine) -> list[str]:
    return on_the_host(host, "ls /var/lib/machines").split()


def clone(ada: Person) -> dict:
    return ada.build("copy", source="clone", clone="web", release=None, start=None)


def test_in_the_middle_of_a_clone(ada, alpha_host, panel):
    ada.succeed(ada.press("poweroff", "web"), SECONDS)
    job = clone(ada)
    cut_when(alpha_host, COPYING)
    comes_back(alpha_host, panel)
    assert alpha_host.run(["cat", UNSYNCED], check=False).stdout == "", "that was no cut of power"
    assert alpha_host.failed() == []
    ended = decided(ada, alpha_host, job)
    assert ("copy" in images(alpha_host)) == (ended["state"] == JobState.SUCCEEDED)


def test_right_after_a_clone_and_its_autostart_were_told_as_done(ada, alpha_host, panel):
    if not ada.machine("copy"):
        ada.succeed(clone(ada), SECONDS)
    ada.succeed(ada.press("enable", "copy"), SECONDS)
    alpha_host.cut_power()
    comes_back(alpha_host, panel)
    ada.sees("copy", "running", SECONDS)
    assert on_the_host(alpha_host, CONTENT.format("copy")) == on_the_host(alpha_host, CONTENT.format("web"))
    assert ada.machine("copy")["enabled"]


def test_in_the_middle_of_removing_a_machine_that_starts_with_the_host(ada, alpha_host, panel):
    ada.succeed(ada.press("poweroff", "copy"), SECONDS)
    before = ada.newest_job()
    ada.post("/hosts/alpha/machines/copy/remove/", {"confirm": "copy"})
    [job] = ada.jobs_after(before)
    cut_when(alpha_host, DELETING)
    comes_back(alpha_host, panel)
    ended = decided(ada, alpha_host, job)
    assert ended["state"] == JobState.SUCCEEDED, ended["problem"]
    assert images(alpha_host) == ["web"]
    starts = on_the_host(alpha_host, "journalctl --boot --unit=systemd-nspawn@copy.service --output=cat --no-pager")
    assert "Start" not in starts
    assert "copy" not in on_the_host(alpha_host, "find /etc/systemd /etc/nspawnpanel -name '*copy*'")
    until(lambda: not ada.machine("copy"), SECONDS)
    events = ada.rows("SELECT text FROM machines_event WHERE kind = 'host-rebooted'")
    assert any("alpha has booted again" in event["text"] for event in events)
