"""Values of the bus as text, and reports within their bounds."""

import asyncio

import pytest

from machines.contract.reports import ObservedFile, ObservedMachine
from machines.host.observe import effective_settings, inventory
from machines.host.observe.inventory import Lists
from machines.host.system.bus import BusError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"), (2**64 - 1, "infinity"), (512, "512"), ("closed", "closed"), (None, ""), (b"", ""),
        (bytes([0b1011]), "0-1 3"), ([["/dev/sda", 1000], ["/dev/sdb", 2]], "/dev/sda 1000\n/dev/sdb 2"),
        ([["/dev/fuse", "rwm"]], "/dev/fuse rwm"), ([[2, bytes([10, 0, 0, 0]), 8]], "10.0.0.0/8"),
        ([[10, bytes(16), 0]], "::/0"), ([[2, 6, 1, 80]], "ipv4:tcp:80"), ([[0, 17, 11, 90]], "udp:90-100"),
        ([[0, 0, 0, 0]], "any"), ([True, ["eth0", "lo"]], "eth0 lo"), ([False, ["eth0"]], "~eth0"), ([False, []], ""),
        (["a", "b"], "a\nb"),
    ],
)  # fmt: skip
def test_values_of_the_bus_as_text(value, text):
    assert effective_settings.text(value) == text


def test_reports_keep_their_bounds():
    file = ObservedFile(path="/x", kind="nspawn", text="y" * 100_000)
    made = list(effective_settings.reports(ObservedMachine(name=f"m{n}", files=[file] * 4) for n in range(8)))
    assert [len(report.machines) for report in made] == [2, 2, 2, 2]
    assert [len(r.machines) for r in effective_settings.reports(ObservedMachine(name=f"m{n}") for n in range(60))] == [
        50,
        10,
    ]


@pytest.mark.parametrize("error", [ValueError("no text"), ProcessLookupError(3, "gone"), KeyError("Id")])
def test_one_odd_machine_does_not_keep_the_others_from_being_told(monkeypatch, error):
    async def lists(_host):
        return Lists({name: f"/{name}" for name in ("odd", "silent", "web")}, {}, {})

    async def one(_host, _lists, name):
        if name in {"odd", "silent"}:
            raise error if name == "odd" else BusError("NoReply", "it went away")
        return ObservedMachine(name=name)

    monkeypatch.setattr(inventory, "read_what_answers", lists)
    monkeypatch.setattr(effective_settings, "_one", one)
    told, odd = asyncio.run(effective_settings.read(None, ["odd", "silent", "web", "gone"]))
    assert ([each.name for each in told], odd) == (["web"], ["odd"])
