"""The one door to other programs."""

import os
import threading
import time
from pathlib import Path

import pytest

from machines.host.system.faults import CommandFailed, Stopped, TookTooLong
from machines.host.system.run import LINE_LIMIT, environment, run

SH = "/bin/sh"


def test_a_name_arrives_as_one_word(programs):
    programs.says("machinectl", out="fine\n")
    assert run(["machinectl", "start", "--", "we; rm -rf /"]).out == "fine\n"
    assert programs.calls() == [["machinectl", "start", "--", "we; rm -rf /"]]


def test_lines_come_as_they_are_printed(tmp_path):
    heard: list[tuple[str, str]] = []
    answer = run([SH, "-c", "echo one; echo two >&2; printf 'three\\rfour'"], heard=lambda *said: heard.append(said))
    assert sorted(heard) == [("e", "two"), ("o", "four"), ("o", "one"), ("o", "three")]
    assert answer.out == "one\nthree\rfour"


def test_an_error_knows_command_status_and_tail():
    with pytest.raises(CommandFailed) as caught:
        run([SH, "-c", "echo bad luck >&2; exit 3"])
    assert (caught.value.status, caught.value.details) == (3, "bad luck")
    assert "bad luck" in caught.value.message
    assert caught.value.line.startswith("/bin/sh -c 'echo bad luck")


def test_death_by_signal_is_an_error_with_a_negative_status():
    with pytest.raises(CommandFailed) as caught:
        run([SH, "-c", "kill -9 $$"])
    assert caught.value.status == -9


def test_a_program_that_is_not_there_is_the_same_error():
    with pytest.raises(CommandFailed) as caught:
        run(["no-such-program-at-all"])
    assert caught.value.status == 127


def test_the_time_limit_ends_the_whole_process_group(tmp_path):
    note = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(TookTooLong):
        run([SH, "-c", f"sleep 60 & echo $! > {note}; trap '' TERM; sleep 60"], timeout=0.3)
    assert time.monotonic() - began < 5
    time.sleep(0.1)
    state = Path(f"/proc/{note.read_text().strip()}/status")
    assert not state.exists() or "Z (zombie)" in state.read_text()


def test_it_can_be_stopped(gate):
    threading.Timer(0.1, gate.set).start()
    with pytest.raises(Stopped):
        run([SH, "-c", "sleep 60"], stop=gate)


def test_standard_input_is_closed_or_given():
    assert run([SH, "-c", "cat"]).out == ""
    assert run([SH, "-c", "cat"], stdin=b"given").out == "given"


def test_the_environment_is_small_and_ours(monkeypatch):
    monkeypatch.setenv("SECRET_THING", "x")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    made = environment({"EXTRA": "y"})
    assert "SECRET_THING" not in made
    assert (made["LANG"], made["EXTRA"], made["https_proxy"]) == ("C.UTF-8", "y", "http://proxy:3128")


def test_a_line_without_end_is_cut():
    heard: list[str] = []
    run([SH, "-c", "head -c 100000 /dev/zero | tr '\\0' x"], heard=lambda _, text: heard.append(text))
    assert max(len(text) for text in heard) <= LINE_LIMIT


def test_listed_statuses_count_as_success():
    assert run([SH, "-c", "exit 32"], codes=(0, 32)).out == ""


def test_nothing_is_left_open():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        run([SH, "-c", "true"])
    # Earlier tests may still let go of theirs meanwhile; fifty calls that leak would show.
    assert len(os.listdir("/proc/self/fd")) <= before
