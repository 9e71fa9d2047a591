"""What is wanted and what is seen of it: the same in two languages, or not, or not to be compared."""

import pytest

from machines.contract.configuration import compare_effective, limits

GIB = 1 << 30


@pytest.mark.parametrize(
    ("key", "wanted", "seen", "holds"),
    [
        ("MemoryMax", "512M", str(512 << 20), True),
        ("MemoryMax", "512M", str(513 << 20), False),
        ("MemoryMax", "50%", str(GIB // 2), True),
        ("MemoryMax", "infinity", "infinity", True),
        ("MemoryMax", "infinity", str(2**64 - 1), True),
        ("MemoryMax", "512M", "infinity", False),
        ("TasksMax", "infinity", "[not set]", True),
        ("TasksMax", "100", str(2**64 - 1), False),
        ("MemoryMax", "512M", "", False),
        ("MemoryAccounting", "true", "yes", True),
        ("MemoryPressureWatch", "on", "yes", True),
        ("CPUQuota", "150%", "1500000", True),
        ("CPUQuota", "150%", "infinity", False),
        ("CPUWeight", "idle", "0", True),
        ("AllowedCPUs", "0-2,4", "0-2 4", True),
        ("AllowedCPUs", "0-2", "0-1", False),
        ("AllowedCPUs", "0-99999999", "0", None),
        ("CPUQuotaPeriodSec", "10ms", "10000", True),
        ("TimeoutStartSec", "5min 20s", "320000000", True),
        ("TimeoutStopSec", "infinity", "infinity", True),
        ("RestartSec", "5", "5000000", True),
        ("IOReadBandwidthMax", "/dev/sda 50M", "/dev/sda 50000000", True),
        ("IOReadIOPSMax", "/dev/sda 1K\n/dev/sdb 5", "/dev/sdb 5\n/dev/sda 1000", True),
        ("IOReadIOPSMax", "/dev/sda 1K", "/dev/sda 1024", False),
        ("IODeviceLatencyTargetSec", "/dev/sda 25ms", "/dev/sda 25000", True),
        ("DeviceAllow", "/dev/kvm rw", "/dev/fuse rwm\n/dev/kvm rw", True),
        ("DeviceAllow", "/dev/kvm", "/dev/kvm rw", False),
        ("IPAddressDeny", "any", "0.0.0.0/0\n::/0", True),
        ("IPAddressAllow", "10.0.0.1 localhost", "10.0.0.1/32\n127.0.0.0/8\n::1/128", True),
        ("IPAddressAllow", "10.0.0.0/8", "10.0.0.0/9", False),
        ("SocketBindAllow", "tcp:80", "tcp:80", True),
        ("RestrictNetworkInterfaces", "~eth0 eth1", "~eth1 eth0", True),
        ("RestrictNetworkInterfaces", "eth0", "~eth0", False),
        ("ManagedOOMMemoryPressureLimit", "50%", str(2**31 - 1), True),
        ("NFTSet", "cgroup:inet:filter:web", "3 1 filter web", True),
        ("After", "db.service", "basic.target db.service", True),
        ("Slice", "machine-a.slice", "machine.slice", False),
        ("DevicePolicy", "strict", "closed", False),
    ],
)
def test_wanted_and_seen(key, wanted, seen, holds):
    assert compare_effective.holds(key, wanted, seen, GIB) is holds


@pytest.mark.parametrize("key", limits.PROPERTIES)
def test_nothing_that_a_host_says_makes_it_fail(key):
    for seen in ("", "\n", "x y z", "-", "9" * 60, "~", "1:2:3", "²"):
        assert compare_effective.holds(key, limits.PROPERTIES[key].example or "yes", seen) in {True, False, None}


def test_every_property_has_a_name_on_the_bus():
    assert compare_effective.bus_name("CPUQuota") == "CPUQuotaPerSecUSec"
    assert compare_effective.bus_name("RestartSec") == "RestartUSec"
    assert compare_effective.bus_name("MemoryMax") == "MemoryMax"


@pytest.mark.parametrize(
    ("setting", "wanted", "seen", "holds"),
    [
        ("Exec.PrivateUsers", ["pick"], "524288:65536", True),
        ("Exec.PrivateUsers", ["pick"], "no", False),
        ("Exec.PrivateUsers", ["identity"], "0:65536", True),
        ("Exec.PrivateUsers", ["no"], "no", True),
        ("Exec.PrivateUsers", ["70000:65536"], "70000:65536", True),
        ("Exec.PrivateUsers", ["pick"], "", None),
        ("Exec.Capability", ["CAP_NET_ADMIN CAP_CHOWN"], "CAP_CHOWN CAP_NET_ADMIN", True),
        ("Exec.Capability", ["CAP_SYS_TIME"], "CAP_CHOWN", False),
        ("Exec.Environment", ["A=b c"], "A=b c", True),
        ("Exec.Environment", ["A=b"], "", False),
        ("Exec.LimitNOFILE", ["1024:2048"], "1024:2048", True),
        ("Exec.LimitCORE", ["0"], "infinity", False),
        ("Exec.LimitAS", ["1G"], "1073741824", None),
        ("Files.Volatile", ["yes"], "overlay", False),
        ("Files.Volatile", ["overlay"], "overlay", True),
        ("Files.BindReadOnly", ["/a"], "/a writable ext4", False),
        ("Files.BindReadOnly", ["/a"], "/a read-only ext4", True),
        ("Files.Bind", ["/a", "/b"], "/a writable ext4", False),
        ("Network.Zone", ["shop"], "shop", True),
        ("Network.Zone", ["shop"], "", False),
        ("Network.Interface", ["eth1:inside"], "host0 inside", True),
        ("Exec.KillSignal", ["SIGTERM"], "", None),
    ],
)
def test_a_setting_and_what_the_process_shows(setting, wanted, seen, holds):
    assert compare_effective.inside(setting, wanted, seen) is holds
