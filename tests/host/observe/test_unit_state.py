"""What a unit is doing, out of what systemd and machined say of it."""

import json
import os
import shutil
import socket
import subprocess

import pytest

from machines.contract.states import MachineState
from machines.host.observe import unit_state
from machines.host.observe.unit_state import INFINITE, UnitState
from machines.host.system import journal
from machines.host.system.run import Answer

TEMPLATE = "systemd-nspawn@web.service"
SERVICE = {
    "Result": "success", "NRestarts": 0, "Restart": "no", "RestartUSec": 100_000, "TimeoutStartUSec": 90_000_000,
    "TimeoutStopUSec": 90_000_000, "RestartForceExitStatus": ([133], []), "SuccessExitStatus": ([133], []),
}  # fmt: skip
REGISTERED = {"State": "running", "Class": "container", "Unit": TEMPLATE, "Leader": 0}


def state(
    active: str, sub: str = "", *, unit: str = TEMPLATE, job: str = "", registered: bool = False, **special: object
) -> UnitState:
    about = {"ActiveState": active, "SubState": sub, "StateChangeTimestamp": 100_000_000, "InvocationID": b"\1" * 16}
    return unit_state.of("web", unit, REGISTERED if registered else {}, about, SERVICE | special, job=job)


@pytest.mark.parametrize(
    ("registered", "active", "sub", "job", "word"),
    [
        (False, "", "", "", MachineState.STOPPED),
        (False, "inactive", "dead", "", MachineState.STOPPED),
        (False, "inactive", "dead", "start", MachineState.STARTING),
        (False, "inactive", "dead", "stop", MachineState.STOPPED),
        (False, "activating", "start-pre", "start", MachineState.STARTING),
        (True, "activating", "start", "start", MachineState.STARTING),
        (False, "activating", "auto-restart", "", MachineState.RESTARTING),
        (False, "activating", "auto-restart-queued", "start", MachineState.RESTARTING),
        (True, "active", "running", "", MachineState.RUNNING),
        (True, "deactivating", "stop-sigterm", "stop", MachineState.STOPPING),
        (False, "deactivating", "final-sigkill", "stop", MachineState.STOPPING),
        (False, "failed", "failed", "", MachineState.FAILED),
        (True, "failed", "failed", "", MachineState.RUNNING),
    ],
)
def test_one_word_for_every_state(registered, active, sub, job, word):
    found = state(active, sub, job=job, registered=registered)
    assert found.state is word
    assert found.is_gone == (word in {MachineState.STOPPED, MachineState.FAILED})


def test_a_unit_that_systemd_starts_again_is_not_gone_and_says_when_and_why():
    waits = state(
        "activating",
        "auto-restart",
        NRestarts=4,
        Restart="always",
        RestartUSec=2_000_000,
        ExecMainCode=1,
        ExecMainStatus=1,
    )
    told = unit_state.activity(waits)
    assert (told.restarts, told.next_start, told.ended, told.policy) == (4, 102.0, "exit status 1", "always")
    assert state("activating", "auto-restart", RestartUSecNext=9_000_000).next_start == 109.0
    assert state("activating", "auto-restart", RestartUSec=INFINITE).next_start == 0.0


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [(0, 0, ""), (1, 0, "exit status 0"), (1, 133, "exit status 133"), (2, 9, "killed by SIGKILL"), (3, 11, "killed by SIGSEGV"),
     (2, 99, "killed by signal 99")],
)  # fmt: skip
def test_how_a_run_ended(code, status, words):
    assert unit_state.how_it_ended(code, status) == words


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("", ""),
        ("Container running.", ""),
        ("Container running: Ready.", "Ready."),
        ("Container running: User job long.service/start running (3s / 15min)...", "waiting for long.service to start"),
        (
            "Container running: (1 of 2) User job long.service/start running (1min 4s / no limit)...",
            "waiting for long.service to start (1 of 2)",
        ),
        ("Terminating...", "Terminating..."),
    ],
)
def test_what_an_init_says_it_does_is_told_without_the_time_that_changes_every_second(status, words):
    assert unit_state.said(status) == words


@pytest.mark.parametrize(
    ("sub", "active", "part"),
    [
        ("start-pre", "activating", "ExecStartPre"),
        ("start", "activating", "ExecStart"),
        ("stop-sigterm", "deactivating", "SIGTERM"),
        ("final-sigkill", "deactivating", "SIGKILL"),
        ("auto-restart", "activating", "waiting for the next start"),
        ("running", "active", ""),
    ],
)
def test_which_part_of_a_start_or_stop_is_under_way(sub, active, part):
    assert state(active, sub).part == part


def test_a_start_may_take_what_all_its_parts_may_take():
    assert state("activating", "start").start_limit == 90
    assert state("activating", "start-pre", ExecStartPre=[1, 2]).start_limit == 270
    assert state("activating", "start", TimeoutStartUSec=INFINITE).start_limit is None


@pytest.mark.parametrize(
    ("unit", "special", "comes_back"),
    [
        (TEMPLATE, {}, True),
        ("machine-web.scope", {}, True),
        ("session-3.scope", {}, False),
        ("run-1.service", {"RestartForceExitStatus": ([], [])}, False),
        ("run-1.service", {"RestartForceExitStatus": ([], []), "Restart": "always"}, True),
        ("run-1.service", {"RestartForceExitStatus": ([], []), "SuccessExitStatus": ([], []), "Restart": "on-failure"}, True),
        ("run-1.service", {"RestartForceExitStatus": ([], []), "Restart": "on-failure"}, False),
        ("run-1.service", {"RestartPreventExitStatus": ([133], [])}, False),
    ],
)  # fmt: skip
def test_a_reboot_cannot_work_where_nothing_starts_it_again(unit, special, comes_back):
    found = state("active", "running", unit=unit, registered=True, **special)
    assert found.survives_reboot is comes_back
    assert ("reboot" in found.cannot()) is not comes_back


def test_a_unit_shared_with_others_says_nothing_of_a_machine_that_has_left_it():
    assert state("active", "running", unit="session-3.scope").is_gone
    assert not state("active", "running", unit="session-3.scope", registered=True).is_gone
    assert not state("active", "running", unit="session-3.scope", registered=True).may_stop_unit
    assert state("activating", "auto-restart", unit="wrapper.service").may_stop_unit


def test_a_virtual_machine_of_the_name_is_not_ours_to_move():
    about = {"ActiveState": "active", "SubState": "running"}
    found = unit_state.of("web", "machine-qemu.scope", REGISTERED | {"Class": "vm"}, about, {})
    assert set(found.cannot()) == {"start", "poweroff", "reboot", "terminate"}


def test_a_refused_start_is_seen_in_the_last_lines():
    refused = ["Failed with result 'exit-code'.", "web: Start request repeated too quickly.", "Failed to start web."]
    assert unit_state.was_refused(refused)
    assert not unit_state.was_refused([*refused, *["something else"] * 10])


def test_a_run_s_own_words_are_there_once_what_was_sent_after_them_is(monkeypatch, tmp_path):
    """The journal reads its socket in order."""
    asked: list[str] = []
    answers = iter(
        ["", "Looking for why a unit failed.", f"{entry(1, 'Starting x')}\n{entry(2, 'Failed to stat /nowhere')}"]
    )
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    monkeypatch.setattr(journal, "LOOK_AGAIN", 0)
    monkeypatch.setattr(journal, "run", lambda argv, **_: (asked.append(argv[-1]), Answer(argv, next(answers), ""))[1])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(journal.SOCKET)
        assert journal.lines_of(b"1") == ["Starting x", "Failed to stat /nowhere"]
        sent = there.recv(4096).decode().splitlines()
    assert len(asked) == 3
    assert set(asked[:2]) <= set(sent)


def entry(at: int, message: str, **more: object) -> str:
    return json.dumps({"__REALTIME_TIMESTAMP": str(at), "MESSAGE": message, **more})


OWN = {"UNIT": "systemd-nspawn@web.service"}
RUN = [
    entry(5_000_000, "Starting web", **OWN),
    entry(6_000_000, "systemd-nspawn@web.service: Main process exited", **OWN),
]
CHILD = {"SYSLOG_IDENTIFIER": "systemd-nspawn", "_PID": "43"}
OF_UNIT = {**CHILD, "_SYSTEMD_UNIT": OWN["UNIT"]}
OTHER = {"UNIT": "systemd-nspawn@db.service", "MESSAGE_ID": journal.EXITED}
MOUNT = {"UNIT": r"run-systemd-nspawn-unix\x2dexport-web.mount", "MESSAGE_ID": journal.EXITED}


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        ([entry(5_500_000, "Failed to stat /nowhere", **CHILD)], "Failed to stat /nowhere"),
        ([entry(5_500_000, [70, 195], **CHILD)], "F\ufffd"),
        ([entry(4_900_000, "of somebody before it", **CHILD)], ""),
        ([entry(5_500_000, "whose?", **CHILD), entry(6_500_000, "exited", **OTHER)], ""),
        ([entry(5_500_000, "not umount", **CHILD), entry(5_600_000, "Mount process exited", **MOUNT)], "not umount"),
        ([entry(5_500_000, "its main process", **CHILD | {"_PID": "42"}), entry(5_600_000, "exited", **OTHER)], "its main process"),
        ([entry(4_900_000, "read ahead", **OF_UNIT), entry(5_600_000, "exited", **OTHER)], "read ahead"),
        ([entry(4_900_000, "of the run before", **OF_UNIT | {"_PID": "41"})], ""),
        ([entry(5_500_000, "of db", **CHILD | {"_SYSTEMD_UNIT": OTHER["UNIT"]})], ""),
        ([entry(5_500_000, "of another run", **CHILD | {"_SYSTEMD_INVOCATION_ID": "ff"})], ""),
    ],
)  # fmt: skip
def test_what_a_child_of_the_unit_said_is_a_reason_where_it_can_only_be_its(monkeypatch, there, reason):
    answers = iter(["\n".join(RUN), "\n".join(there)])
    monkeypatch.setattr(journal, "SOCKET", "/nowhere")
    monkeypatch.setattr(journal, "run", lambda argv, **_: Answer(argv, next(answers), ""))
    assert journal.essence(journal.lines_of(b"1", pid=42)) == reason


def test_the_boot_looked_in_is_the_journal_s_own(monkeypatch):
    """In a container /proc/sys/kernel/random/boot_id may be the kernel's, where a mount over it is not seen."""
    asked: list[list[str]] = []
    found = "\n".join([entry(5_000_000, "Starting web", _BOOT_ID="f00d"), entry(6_000_000, "Failed", _BOOT_ID="f00d")])
    monkeypatch.setattr(journal, "SOCKET", "/nowhere")
    monkeypatch.setattr(journal, "SUMMARY", ("Starting", "Failed"))
    monkeypatch.setattr(journal, "run", lambda argv, **_: (asked.append(argv), Answer(argv, found, ""))[1])
    journal.lines_of(b"1", pid=42)
    assert [[word for word in argv if word.startswith("_BOOT_ID=")] for argv in asked] == [[], ["_BOOT_ID=f00d"]]


def test_a_journal_that_is_away_leaves_what_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr(journal, "run", lambda argv, **_: Answer(argv, entry(1, "Starting x"), ""))
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "none"))
    assert journal.lines_of(b"1") == ["Starting x"]


def test_an_init_of_any_name_can_be_told(tmp_path):
    program = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "60"]) as running:
        now = UnitState(
            "web", "hand.scope", "active", "running", machine="running", init=unit_state.program_of(running.pid)
        )
        running.kill()
    assert now.init == "caf�"
    assert "caf�" in unit_state.activity(now).cannot["reboot"]
