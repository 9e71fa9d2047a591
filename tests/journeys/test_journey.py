"""Build a Debian machine on a real host, configure it, start it, see what happened: panel to machined and back."""

import errno
import json

import pytest

from nspawnpanel.sandbox import Sandbox
from tests.person import Person, until

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3bWpxQ1dSWkR0bXJ0bXJ0bXJ0bXJ0bXJ0bXJ0bXJ0 ada@example"
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def built(ada: Person, alpha_host: Sandbox) -> dict:
    """The machine `first`, built and started through the form; the job that did it."""
    alpha_host.run(["mkdir", "-p", "/srv/data"])
    job = ada.build(
        "first",
        packages="less",
        root_password=PASSWORD,
        ssh_keys=KEY,
        hostname="first-host",
        memory_max="256M",
        cpu_quota="150%",
        enable="on",
        **{
            "binds-TOTAL_FORMS": 1,
            "binds-0-source": "/srv/data",
            "binds-0-target": "/data",
            "binds-0-ownership": "rootidmap",
            "binds-0-ORDER": 1,
        },
    )
    return ada.succeed(job, 240)


def inside(host: Sandbox, machine: str, *argv: str) -> str:
    leader = host.run(["machinectl", "show", machine, "--property=Leader", "--value"]).stdout.strip()
    return host.run(["nsenter", "--target", leader, "--all", "--", *argv]).stdout


def answers(host: Sandbox, address: str) -> bool:
    """A connection to a closed port is refused by a machine that is there; ping is not installed."""
    knock = "import socket, sys; sys.exit(socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET).connect_ex((sys.argv[1], 9)))"
    return host.run(["/opt/nspawnpanel/bin/python", "-c", knock, address], check=False).returncode == errno.ECONNREFUSED


def test_the_machine_is_listed_running_and_gets_an_address(built, ada, alpha_host):
    machine = ada.sees("first", "running", 20)
    until(lambda: json.loads(ada.machine("first")["addresses"]), 20, lambda: "no address came")
    address = json.loads(ada.machine("first")["addresses"])[0]
    assert answers(alpha_host, address)
    assert machine["enabled"]
    assert not machine["restart_needed"]
    assert machine["os"].startswith("Debian GNU/Linux 12")


def test_the_job_shows_phases_commands_and_the_whole_log(built, ada):
    phases = [phase["name"] for phase in json.loads(built["phases"])]
    assert phases[0] == "prepare"
    assert len(phases) >= 4
    commands = json.loads(built["commands"])
    assert any(argv[0] in {"mmdebstrap", "debootstrap"} for argv in commands), commands
    log = ada.log(built["id"])
    assert len(log) == built["line_count"] > 50


def test_what_was_asked_for_the_first_boot_holds_inside(built, ada, alpha_host):
    ada.sees("first", "running", 20)
    assert inside(alpha_host, "first", "cat", "/etc/hostname").strip() == "first-host"
    assert KEY in inside(alpha_host, "first", "cat", "/root/.ssh/authorized_keys")
    assert inside(alpha_host, "first", "grep", "^root:", "/etc/shadow").startswith(("root:$y$", "root:$6$"))
    assert "less" in inside(alpha_host, "first", "dpkg-query", "--show", "--showformat=${Package}", "less")
    inside(alpha_host, "first", "touch", "/data/from-inside")
    assert alpha_host.run(["stat", "--format=%U", "/srv/data/from-inside"]).stdout.strip() == "root"


def test_no_secret_is_left_in_database_queue_log_or_command(built, ada, alpha_host, panel):
    shadow = inside(alpha_host, "first", "grep", "^root:", "/etc/shadow").split(":")[1]
    places = {
        "database": b"".join(f.read_bytes() for f in panel.data.glob("panel.sqlite3*")),
        "panel logs": b"".join(f.read_bytes() for f in (panel.data / "log").glob("*")),
        "host journal": alpha_host.run(["journalctl", "--no-pager"]).stdout.encode(),
        "host state": alpha_host.run(["grep", "-r", "--text", "-F", "-h", shadow, "/var/lib/nspawnpanel"], check=False).stdout.encode(),
    }  # fmt: skip
    for place, text in places.items():
        assert PASSWORD.encode() not in text, place
        assert shadow.encode() not in text, place


def test_limits_hold_in_the_kernel(built, alpha_host):
    shown = alpha_host.run(["systemctl", "show", "systemd-nspawn@first.service", "-p", "MemoryMax,CPUQuotaPerSecUSec"])
    assert "MemoryMax=268435456" in shown.stdout
    assert "CPUQuotaPerSecUSec=1.5" in shown.stdout


@pytest.mark.parametrize(
    ("verb", "state"), [("reboot", "running"), ("poweroff", "stopped"), ("start", "running"), ("terminate", "stopped")]
)
def test_each_verb_ends_in_the_state_the_host_reports(built, ada, alpha_host, verb, state):
    ada.succeed(ada.press(verb, "first"))
    ada.sees("first", state, 10)
    listed = alpha_host.run(["machinectl", "list", "--no-legend"]).stdout
    assert ("first" in listed) == (state == "running")


def test_a_machine_started_and_stopped_by_hand_shows_within_three_seconds(built, ada, alpha_host):
    alpha_host.run(["machinectl", "start", "first"])
    ada.sees("first", "running", 3)
    alpha_host.run(["machinectl", "terminate", "first"])
    ada.sees("first", "stopped", 3)


def test_disable_and_enable(built, ada, alpha_host):
    for verb, word in (("disable", "disabled"), ("enable", "enabled")):
        ada.succeed(ada.press(verb, "first"))
        shown = alpha_host.run(["systemctl", "is-enabled", "systemd-nspawn@first.service"], check=False).stdout
        assert shown.strip() == word


def test_a_bad_start_says_the_units_own_words(built, ada, alpha_host):
    alpha_host.run(["mv", "/srv/data", "/srv/gone"])
    try:
        ended = ada.end_of(ada.press("start", "first"))
    finally:
        alpha_host.run(["mv", "/srv/gone", "/srv/data"])
    problem = json.loads(ended["problem"])
    assert ended["state"] == "failed"
    assert "/srv/data" in problem["message"] + problem["details"]


def test_a_machine_is_not_removed_without_its_name_typed(built, ada):
    before = ada.newest_job()
    ada.post("/hosts/alpha/machines/first/remove/", {"confirm": "other"})
    assert ada.jobs_after(before) == []


def test_removing_takes_image_and_configuration(ada, alpha_host):
    alpha_host.plant("doomed")
    ada.sees("doomed", "stopped", 15)
    before = ada.newest_job()
    ada.post("/hosts/alpha/machines/doomed/remove/", {"confirm": "doomed"})
    [job] = ada.jobs_after(before)
    ada.succeed(job)
    until(lambda: not ada.machine("doomed"), 5)
    assert "doomed" not in alpha_host.run(["ls", "-A", "/var/lib/machines", "/etc/systemd/nspawn"]).stdout
