"""Reading machines: pure parts."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from machines.contract import names
from machines.contract.reports import MachineFact
from machines.contract.states import MachineState
from machines.host.context.trouble import Trouble
from machines.host.network import addresses, links
from machines.host.observe import inventory, watch
from machines.host.system.bus import BusError

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


def test_a_link_may_have_any_name(tmp_path):
    """The kernel takes all but white space and slashes of ASCII, from whoever is root in the machine."""
    table = tmp_path / "if_inet6"
    lines = SIX.splitlines(keepends=True)
    table.write_bytes((lines[1] + lines[2]).encode().replace(b"host0", b"\xff\xfea\x1czz\xc2\x85zz"))
    text = addresses.beginning(str(table))
    assert addresses.parse_if_inet6(text) == ["fe80::1c5b:4eff:fe9d:3a61", "2001:db8::5"]
    odd = "a\x1czz\x85zz"
    assert links.parse_igmp(f"Idx\tDevice    : Count Querier\n2\t{odd}     :     1      V3\n") == [odd]
    assert links.parse_dev(f"\n\n{odd}: 1 2 3\n") == [odd]


def test_a_process_in_the_host_s_network_has_no_addresses_of_its_own():
    import os

    assert addresses.of_process(os.getpid()) == []
    assert addresses.of_process(2**22 + 1) == []


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
    assert names.is_usable(name)


@pytest.mark.parametrize(
    "name", [".host", ".#web.lck", ".nspawnpanel-x.tmp", "we b", "we'b", "-x", "ünicode", "a_b", ""]
)
def test_names_that_are_no_machines(name):
    assert not names.is_usable(name)


def test_addresses_without_end_are_read_in_time():
    """Root inside a machine may add as many as it likes; its host must not stand still over them."""
    many = "".join(f"|-- 10.{n >> 16}.{n >> 8 & 255}.{n & 255}\n/32 host LOCAL\n" for n in range(100_000))
    began = time.monotonic()
    assert len(addresses.parse_fib_trie(many)) == 100_000
    assert time.monotonic() - began < 5


def test_a_machine_that_cannot_be_read_costs_the_others_nothing(monkeypatch):
    async def fact(_host, _lists, name, _disk):
        return inventory.MachineFact(name=name, state=MachineState.RUNNING) if name == "good" else {}["missing"]

    monkeypatch.setattr(inventory, "_fact", fact)
    monkeypatch.setattr(inventory, "_on_disk", lambda _host, images: images)
    found = asyncio.run(inventory._facts(SimpleNamespace(paths=None), SimpleNamespace(images={}), ["bad", "good"]))
    assert {fact.name: fact.state for fact in found} == {"bad": MachineState.UNKNOWN, "good": MachineState.RUNNING}


def test_no_mistake_ends_the_watch(monkeypatch):
    """What it stumbles over may be there for an hour; then everything else is to be seen again."""
    looks: list[int] = []

    async def read_all(_host):
        looks.append(1)
        raise UnicodeDecodeError("utf-8", b"x", 0, 1, "a name of somebody's choice")

    async def look():
        watching = object.__new__(watch.Watch)
        watching._full, watching._lock = asyncio.Event(), asyncio.Lock()
        watching._host = SimpleNamespace(trouble=Trouble())
        task = asyncio.ensure_future(watching._inventories())
        while len(looks) < 2 and not task.done():
            await asyncio.sleep(0)
        task.cancel()

    pause = asyncio.sleep
    monkeypatch.setattr(watch.asyncio, "sleep", lambda _seconds: pause(0))
    monkeypatch.setattr(inventory, "read_all", read_all)
    asyncio.run(look())
    assert len(looks) == 2


def test_a_mask_of_every_other_cpu_of_a_large_host_spoils_no_report():
    mask = bytes([0b01010101] * 64)
    told = inventory.corrected(inventory.effective({"AllowedCPUs": mask}), {})
    assert (
        MachineFact(name="web", state=MachineState.RUNNING, effective=told).effective["AllowedCPUs"].startswith("0 2 4")
    )


def test_an_error_of_the_bus_about_machined_calls_it_by_its_name_and_says_where_to_look():
    told = BusError("org.freedesktop.DBus.Error.Failed", "Unit dbus-org.freedesktop.machine1.service failed to load")
    assert told.message == "Unit systemd-machined.service failed to load"
    assert told.hint == "Run on the host: systemctl status systemd-machined.service"
    assert (BusError("X", "").message, BusError("X", "No").hint) == ("X", "")
