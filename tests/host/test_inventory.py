"""Reading machines: pure parts."""

import time

import pytest

from machines.contract.states import MachineState
from machines.host import addresses, autostart, inventory

FIB = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 10.0.0.5
        /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
Local:
     |-- 10.0.0.5
        /32 host LOCAL
     |-- 169.254.3.4
        /32 host LOCAL
     |-- 10.0.0.255
        /32 link BROADCAST
"""
SIX = """\
00000000000000000000000000000001 01 80 10 80       lo
fe800000000000001c5b4efffe9d3a61 02 40 20 80    host0
20010db8000000000000000000000005 02 40 00 00    host0
"""


def test_addresses_come_from_proc():
    assert addresses.parse_fib_trie(FIB) == ["10.0.0.5", "169.254.3.4"]
    assert addresses.parse_if_inet6(SIX) == ["fe80::1c5b:4eff:fe9d:3a61", "2001:db8::5"]


def test_a_process_in_the_host_s_network_has_no_addresses_of_its_own():
    import os

    assert addresses.of_process(os.getpid()) == []
    assert addresses.of_process(2**22 + 1) == []


@pytest.mark.parametrize(
    ("machine", "active", "state"),
    [
        ("", "", MachineState.STOPPED),
        ("", "inactive", MachineState.STOPPED),
        ("", "activating", MachineState.STARTING),
        ("running", "activating", MachineState.STARTING),
        ("running", "active", MachineState.RUNNING),
        ("running", "", MachineState.RUNNING),
        ("closing", "active", MachineState.STOPPING),
        ("running", "deactivating", MachineState.STOPPING),
        ("", "failed", MachineState.FAILED),
    ],
)
def test_states(machine, active, state):
    assert inventory.state_of(machine, active) is state


def test_limits_read_as_the_contract_writes_them():
    infinite = 2**64 - 1
    properties = {
        "MemoryMax": 134217728, "MemoryHigh": infinite, "CPUQuotaPerSecUSec": 200000, "CPUWeight": infinite,
        "TasksMax": 16384, "AllowedCPUs": bytes([0b1011]),
    }  # fmt: skip
    assert inventory.effective(properties) == {
        "MemoryMax": "134217728", "MemoryHigh": "infinity", "CPUQuota": "200000", "TasksMax": "16384", "AllowedCPUs": "0-1 3",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["web", "Web-1", "a.b", "0x"])
def test_usable_names(name):
    assert inventory.is_usable(name)


@pytest.mark.parametrize(
    "name", [".host", ".#web.lck", ".nspawnpanel-x.tmp", "we b", "we'b", "-x", "ünicode", "a_b", ""]
)
def test_names_that_are_no_machines(name):
    assert not inventory.is_usable(name)


def test_autostart_counts_only_when_machines_target_is_enabled(paths):
    wants = paths.units / "machines.target.wants"
    wants.mkdir()
    (wants / "systemd-nspawn@web.service").symlink_to("/x")
    assert autostart.enabled(paths) == frozenset()
    assert autostart.linked(paths) == {"web"}
    (paths.units / "multi-user.target.wants").mkdir()
    (paths.units / "multi-user.target.wants/machines.target").symlink_to("/x")
    assert autostart.enabled(paths) == {"web"}


def test_addresses_without_end_are_read_in_time():
    """Root inside a machine may add as many as it likes; its host must not stand still over them."""
    many = "".join(f"|-- 10.{n >> 16}.{n >> 8 & 255}.{n & 255}\n/32 host LOCAL\n" for n in range(100_000))
    began = time.monotonic()
    assert len(addresses.parse_fib_trie(many)) == 100_000
    assert time.monotonic() - began < 5
