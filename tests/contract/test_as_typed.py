"""Values as people type or paste them become what systemd takes, and stay as they are where nobody can tell."""

import pytest

from machines.contract.configuration import limits, nspawn
from machines.contract.problems import BadValue

EVERY = nspawn.SETTINGS | limits.PROPERTIES


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("CPUQuota", "50", "50%"),
        ("CPUQuota", "50 %", "50%"),
        ("CPUQuota", "CPUQuota=150", "150%"),
        ("ManagedOOMMemoryPressureLimit", "60", "60%"),
        ("MemoryMax", "512m", "512M"),
        ("MemoryMax", "512 MB", "512M"),
        ("MemoryMax", "1.5gib", "1.5G"),
        ("MemoryMax", "25 %", "25%"),
        ("MemoryMax", "MemoryMax=1g", "1G"),
        ("MemoryMax", " MemoryMax = 1G", "1G"),
        ("MemoryMax", "unlimited", "infinity"),
        ("MemorySwapMax", "0", "0"),
        ("TasksMax", "TasksMax=100", "100"),
        ("Exec.LimitSTACK", "8m:64mb", "8M:64M"),
        ("IOReadBandwidthMax", "/dev/sda 50 mb", "/dev/sda 50M"),
        ("IOReadBandwidthMax", "IOReadBandwidthMax=/dev/sda 50M", "/dev/sda 50M"),
        ("Exec.Capability", "net_admin, cap_bpf", "CAP_NET_ADMIN CAP_BPF"),
        ("Exec.Environment", "Environment=LANG=C.UTF-8", "LANG=C.UTF-8"),
        ("Exec.Hostname", "Hostname=web", "web"),
        ("Files.TemporaryFileSystem", "TemporaryFileSystem=/t:size=1M", "/t:size=1M"),
    ],
)
def test_it_becomes_what_systemd_takes(name, typed, value):
    setting = EVERY[name]
    assert setting.typed(typed) == value
    setting.check(value)


@pytest.mark.parametrize("typed", ["512", "lots", "5X", "-1", "TasksMax=5"])
def test_what_is_no_amount_of_memory_is_still_refused(typed):
    setting = EVERY["MemoryMax"]
    with pytest.raises(BadValue):
        setting.check(setting.typed(typed))


@pytest.mark.parametrize("name", [name for name, setting in EVERY.items() if setting.example or setting.default])
def test_what_systemd_takes_already_stays_as_it_is(name):
    setting = EVERY[name]
    for text in filter(None, (setting.example, setting.default)):
        assert setting.typed(text) == text
