"""What the kernel enforces, from either hierarchy."""

import pytest

from machines.host.observe import inventory
from machines.host.system import cgroup


def group(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_version_two(tmp_path):
    root = group(tmp_path, {
        "cgroup.controllers": "cpu memory", "m/u/memory.max": "134217728\n", "m/u/memory.high": "max\n",
        "m/u/cpu.max": "20000 100000\n", "m/u/cpu.weight": "50\n", "m/u/pids.max": "max\n", "m/u/io.weight": "default 30\n8:0 50\n",
    })  # fmt: skip
    assert cgroup.enforced("/m/u", root) == {
        "MemoryMax": "134217728", "MemoryHigh": "infinity", "CPUQuota": "200000", "CPUWeight": "50",
        "TasksMax": "infinity", "IOWeight": "30",
    }  # fmt: skip


def test_version_one(tmp_path):
    root = group(tmp_path, {
        "memory/m/u/memory.limit_in_bytes": "9223372036854771712\n", "cpu/m/u/cpu.cfs_quota_us": "-1\n",
        "cpu/m/u/cpu.cfs_period_us": "100000\n", "pids/m/u/pids.max": "200\n",
    })  # fmt: skip
    assert cgroup.enforced("/m/u", root) == {"MemoryMax": "infinity", "CPUQuota": "infinity", "TasksMax": "200"}


def test_limits_that_a_control_group_has_no_file_for_are_told(tmp_path):
    root = group(tmp_path, {
        "cgroup.controllers": "cpu memory io pids", "m/u/memory.max": "1", "m/u/pids.max": "2", "m/u/cpu.max": "max 100000",
        "m/u/io.bfq.weight": "100", "m/u/io.max": "",
    })  # fmt: skip
    told = cgroup.missing("/m/u", root)
    assert told["MemoryZSwapMax"] == "memory.zswap.max"
    assert told["IODeviceLatencyTargetSec"] == "io.latency"
    assert {"MemoryMax", "TasksMax", "CPUQuota", "IOWeight", "IOReadBandwidthMax"} & told.keys() == set()
    assert cgroup.missing("", root) == {}
    assert cgroup.missing("/gone", root) == {}


def test_version_one_knows_few_limits(tmp_path):
    root = group(tmp_path, {"memory/m/u/memory.limit_in_bytes": "1", "blkio/m/u/blkio.throttle.read_bps_device": ""})
    told = cgroup.missing("/m/u", root)
    assert "MemoryMax" not in told
    assert "IOReadBandwidthMax" not in told
    assert told["IOWeight"] == "blkio.weight"
    assert told["MemoryHigh"] == cgroup.VERSION_1


def test_what_a_host_lacks_is_known_before_anything_runs(tmp_path):
    root = group(tmp_path, {
        "cgroup.controllers": "cpuset memory io pids", "system.slice/cgroup.controllers": "memory pids",
        "system.slice/memory.max": "max", "system.slice/pids.max": "max",
    })  # fmt: skip
    told = cgroup.lacking(root)
    assert told["MemoryZSwapMax"] == "memory.zswap.max"
    assert told["CPUQuota"] == "cpu.max"  # the kernel has no such controller
    assert not {"MemoryMax", "TasksMax"} & told.keys()
    assert "IOWeight" not in told  # the controller is there and switched on nowhere, so nobody can tell


def test_what_a_host_with_version_one_lacks(tmp_path):
    told = cgroup.lacking(group(tmp_path, {"memory/memory.limit_in_bytes": "1", "cpu/system.slice/cpu.shares": "1024"}))
    assert told["MemoryLow"] == cgroup.VERSION_1
    assert told["TasksMax"] == "pids.max"
    assert not {"MemoryMax", "CPUWeight"} & told.keys()


def test_a_machine_that_does_not_run_has_none(tmp_path):
    assert cgroup.enforced("", tmp_path) == {}
    assert cgroup.enforced("/gone", tmp_path) == {}


@pytest.mark.parametrize(
    ("key", "one", "other", "alike"),
    [
        ("MemoryMax", "1000000", "999424", True),
        ("MemoryMax", "1000000", "infinity", False),
        ("MemoryMax", "134217728", "268435456", False),
        ("CPUQuota", "333333", "333330", True),
        ("AllowedCPUs", "0,1,2", "0-2", True),
        ("AllowedCPUs", "0-3", "0 2", False),
        ("TasksMax", "100", "101", False),
    ],
)
def test_values_that_mean_the_same(key, one, other, alike):
    assert cgroup.same(key, one, other) is alike


def test_systemd_s_word_is_corrected_by_the_kernel(tmp_path, monkeypatch):
    root = group(tmp_path, {"cgroup.controllers": "", "u/memory.max": "64\n", "u/pids.max": "5\n"})
    monkeypatch.setattr(cgroup, "ROOT", root)
    monkeypatch.setattr(cgroup.enforced, "__defaults__", (root,))
    shown = {"MemoryMax": "infinity", "TasksMax": "5"}
    assert inventory.corrected(shown, {"ControlGroup": "/u"}) == {"MemoryMax": "64", "TasksMax": "5"}
