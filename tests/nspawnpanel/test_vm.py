"""What is told of the virtual machine before it boots, and that it dies with whoever started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nspawnpanel.sandbox import SandboxError, VirtualMachine, vm
from tests.person import until

STARTS = """
import sys, time
from nspawnpanel.sandbox.run import popen
from nspawnpanel.sandbox.vm import WITH_US
print(popen([*WITH_US, "nice", "-n", "5", "sleep", "600"]).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def forget():
    yield
    vm.accelerator.cache_clear()


def test_another_processor_or_a_missing_tool_is_said(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(vm.platform, "machine", lambda: "aarch64")
    assert "aarch64" in vm.can_emulate()
    monkeypatch.setattr(vm.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(vm.shutil, "which", lambda tool, path: None if tool == "ssh" else f"/bin/{tool}")
    assert vm.can_emulate() == "a virtual machine needs ssh; `make setup` installs what is missing"


@pytest.mark.parametrize(
    ("status", "said", "trusted"),
    [(0, "Linux version 6.12", True), (0, "", False), (-6, "Linux version 6.12", False), (None, "", False)],
    ids=["boots", "silent", "aborts", "hangs"],
)
def test_kvm_is_trusted_where_a_kernel_boots_on_it(monkeypatch, status, said, trusted):
    def run(argv, **_):
        if status is None:
            raise SandboxError("it did not end")
        return subprocess.CompletedProcess(argv, status, said, "")

    monkeypatch.setattr(vm.os, "access", lambda *_: True)
    monkeypatch.setattr(vm, "run", run)
    assert ("kvm" in vm.accelerator(Path("/boot/vmlinuz"))) == trusted


def test_it_dies_with_the_process_that_started_it():
    with subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE, text=True) as starter:
        child = Path("/proc", starter.stdout.readline().strip(), "cmdline")
        until(lambda: child.read_bytes().startswith(b"sleep\0"), 10)  # not before setpriv has asked for the signal
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        until(lambda: not child.exists() or not child.read_bytes(), 10)


def test_it_is_not_there_before_it_is_started(tmp_path):
    machine = VirtualMachine("early", tmp_path)
    with pytest.raises(SandboxError, match="not running"):
        machine.run(["true"])
    with pytest.raises(SandboxError, match="not there"):
        machine.boot()
    with pytest.raises(SandboxError, match="cannot name"):
        VirtualMachine("Not a name", tmp_path)
