"""Builds without waiting for the disk: the filter answers sync calls and lets everything else through."""

import os
import platform
import struct

import pytest

from machines.host.rootfs.steps import suppress_fsync
from machines.host.system.run import run

HERE = platform.machine() in suppress_fsync._CALLS


def test_the_program_jumps_to_its_end_for_each_call():
    code = suppress_fsync.program(0xC000003E, (1, 2, 3))
    instructions = [struct.unpack("HBBI", code[i : i + 8]) for i in range(0, len(code), 8)]
    assert len(instructions) == 9
    for index in (4, 5, 6):
        assert instructions[index + 1 + instructions[index][1]][3] == suppress_fsync._ANSWER_ZERO
    assert instructions[1 + 1 + instructions[1][1]][0] == 0x20, "our architecture goes on to the call's number"
    assert instructions[1 + 1 + instructions[1][2]][3] == suppress_fsync._ALLOW, "another one passes"


@pytest.mark.skipif(not HERE, reason="not written for this machine")
def test_in_the_child_fsync_answers_at_once(tmp_path):
    script = "import os,sys; f=os.open(sys.argv[1], os.O_CREAT|os.O_WRONLY); os.write(f, b'x'); os.fsync(f); print(os.fsync(0) if 0 else 'ok')"
    answer = run(["python3", "-c", script, str(tmp_path / "f")], prepare=suppress_fsync.without_sync())
    assert answer.out.strip() == "ok"
    assert (tmp_path / "f").read_text() == "x"


@pytest.mark.skipif(not HERE, reason="not written for this machine")
def test_a_bad_descriptor_would_fail_without_the_filter():
    script = "import os; os.fsync(99)"
    assert run(["python3", "-c", script], prepare=suppress_fsync.without_sync()).out == ""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fsync(99)
