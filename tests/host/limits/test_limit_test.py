"""The proof's arithmetic, its meters on both versions of control groups, its refusals, and that its load ends by itself.
The kernel's part is in tests/live."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from machines.contract.limit_test import Measurement
from machines.host.limits import limit_test, load_group
from machines.host.limits.load_group import Group
from machines.host.observe import host_facts

MIB = 1 << 20
REPOSITORY = Path(limit_test.__file__).parents[3]


@pytest.mark.parametrize(
    ("asked", "measured", "throttled", "verdict"),
    [(20, 19.8, 100, "enforced"), (20, 20.9, 100, "enforced"), (20, 19.0, 0, "enforced"), (20, 3.0, 40, "enforced"),
     (20, 31.0, 100, "exceeded"), (150, 60.0, 0, "not_reached"), (20, 100.0, 0, "exceeded")],
)  # fmt: skip
def test_the_verdict_on_cpu_time(asked, measured, throttled, verdict):
    assert limit_test.cpu_verdict(asked, measured, throttled) == verdict


@pytest.mark.parametrize(
    ("peak", "killed", "verdict"),
    [(128 * MIB, True, "enforced"), (90 * MIB, True, "enforced"), (127 * MIB, False, "enforced"), (160 * MIB, False, "exceeded"),
     (160 * MIB, True, "exceeded"), (90 * MIB, False, "not_reached")],
)  # fmt: skip
def test_the_verdict_on_memory(peak, killed, verdict):
    assert limit_test.memory_verdict(128 * MIB, peak, killed=killed) == verdict


def test_rates_are_between_samples():
    assert limit_test.rates([(0.0, 5.0), (0.25, 5.05), (0.5, 5.05)]) == [(0.25, 20.0), (0.5, 0.0)]


# --- meters


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def v2(tmp_path: Path) -> Group:
    write(tmp_path, cgroup__controllers="cpu memory\n")
    write(
        tmp_path / "machine.slice/m.service", cpu__stat="usage_usec 2500000\nnr_throttled 7\n", memory__current="1048576\n",
        memory__stat="anon 4096\nfile 8192\n", memory__events="low 0\noom 3\noom_kill 2\n",
    )  # fmt: skip
    return Group("/machine.slice/m.service", tmp_path)


@pytest.fixture
def v1(tmp_path: Path) -> Group:
    """As the hybrid layout has it: CPU time is counted by the unified hierarchy, for there is no cpuacct group."""
    write(tmp_path / "unified/machine.slice/m.service", cpu__stat="usage_usec 2500000\n")
    write(tmp_path / "cpu/machine.slice/m.service", cpu__stat="nr_periods 9\nnr_throttled 7\n", cgroup__procs="")
    folder = tmp_path / "memory/machine.slice/m.service"
    write(
        folder,
        memory__usage_in_bytes="1048576\n",
        memory__stat="rss 1\ntotal_rss 4096\n",
        memory__oom_control="oom_kill 2\n",
    )
    return Group("/machine.slice/m.service", tmp_path)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_meters_read_the_same_on_both_versions(version, request):
    group = request.getfixturevalue(version)
    assert (group.cpu_seconds(), group.throttled(), group.memory(), group.memory_kept(), group.kills()) == (
        2.5,
        7,
        MIB,
        4096,
        2,
    )


def test_what_nothing_counts_is_none_and_not_zero(tmp_path):
    empty = Group("/machine.slice/m.service", tmp_path)
    assert empty.cpu_seconds() is None
    assert empty.memory() is None


def test_on_version_2_the_load_gets_a_leaf_of_its_own_which_goes_again(v2):
    with v2.place() as files:
        assert [file.parent.name for file in files] == [load_group.LEAF]
        assert files[0].parent.is_dir()
    assert not (v2.at("") / load_group.LEAF).exists()


def test_on_version_1_it_enters_every_controller_there_is(v1):
    with v1.place() as files:
        assert {file.relative_to(v1.root).parts[0] for file in files} == {"unified", "cpu", "memory"}


# --- refusals

PLENTY = {"MemAvailable": 8 << 30}


@pytest.mark.parametrize(
    ("unit", "cap", "own", "available", "why"),
    [
        ({}, 128 * MIB, 9 * MIB, 8 << 30, ""),
        ({}, 128 * MIB, 110 * MIB, 8 << 30, "too-near"),
        ({}, 16 * MIB, 1 * MIB, 8 << 30, "too-near"),
        ({}, 4 << 30, 9 * MIB, 8 << 30, "host-small"),
        ({}, 64 << 30, 9 * MIB, 1 << 40, "host-small"),
        ({"OOMPolicy": "stop"}, 128 * MIB, 9 * MIB, 8 << 30, "group-kill"),
        ({"OOMPolicy": "continue"}, 128 * MIB, 9 * MIB, 8 << 30, ""),
    ],
)
def test_what_would_hurt_is_not_tried(v2, monkeypatch, unit, cap, own, available, why):
    monkeypatch.setattr(host_facts, "memory", lambda: {"MemAvailable": available})
    assert limit_test.memory_refusal(v2, unit, cap, own) == why


def test_nor_where_the_kernel_ends_the_whole_group(v2, monkeypatch):
    monkeypatch.setattr(host_facts, "memory", lambda: PLENTY)
    write(v2.at("memory"), memory__oom__group="1\n")
    assert limit_test.memory_refusal(v2, {}, 128 * MIB, 9 * MIB) == "group-kill"


def test_a_quota_of_all_cpus_or_more_cannot_be_proved(v2, tmp_path):
    assert limit_test.cpu_refusal(v2, 200, 2) == "more-than-host"
    assert limit_test.cpu_refusal(v2, 199, 2) == ""
    assert limit_test.cpu_refusal(Group("/nowhere", tmp_path), 20, 2) == "no-meter"


def test_without_limits_nothing_is_loaded():
    infinite = {"CPUQuotaPerSecUSec": 2**64 - 1, "MemoryMax": 2**64 - 1}
    assert limit_test.cpu(None, None, infinite).verdict == "no_limit"
    assert limit_test.memory(None, None, infinite).verdict == "no_limit"


# --- the load

STARTER = """
import sys
from pathlib import Path
from machines.host.limits import load_group
from machines.host.system.run import run
print("ready", flush=True)
run([sys.executable, "-I", "-S", sys.argv[1], *sys.argv[3:]], timeout=60,
    prepare=load_group.entering([], cpu_seconds=int(sys.argv[2]), memory=1 << 30))
"""


def start(*words: str, cpu_seconds: int = 60) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", STARTER, str(limit_test.LOAD), str(cpu_seconds), *words]
    return subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def child_of(starter: subprocess.Popen[str], seconds: float = 10) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        listed = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()
        if listed and Path(f"/proc/{listed[0]}/cmdline").read_bytes().split(b"\0")[1:3] == [
            b"-I",
            b"-S",
        ]:  # not the fork
            return int(listed[0])
        time.sleep(0.02)
    raise AssertionError("no load was started")


def is_gone(pid: int, seconds: float = 5) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] in {"Z", "X"}:
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_it_dies_with_who_started_it():
    starter = start("cpu", "60")
    load = child_of(starter)
    assert Path(f"/proc/{load}/oom_score_adj").read_text().strip() == "1000"
    assert os.getpriority(os.PRIO_PROCESS, load) == 19
    starter.kill()
    starter.communicate()
    assert is_gone(load)


def test_it_ends_when_its_time_is_over():
    starter = start("cpu", "0.3")
    assert starter.communicate(timeout=20)[1] == ""
    assert starter.returncode == 0


def test_it_is_ended_by_its_own_bound_of_cpu_time():
    starter = start("cpu", "60", cpu_seconds=1)
    said = starter.communicate(timeout=30)[1]
    assert starter.returncode == 1
    assert "was killed by signal" in said


def test_it_fills_as_much_memory_as_it_was_told():
    starter = start("memory", str(64 * MIB), "0.5")
    load, most = child_of(starter), 0
    while not is_gone(load, 0.05):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ends by itself, also between two looks
            most = max(most, int(Path(f"/proc/{load}/statm").read_text().split()[1]) * 4096)
    starter.communicate(timeout=20)
    assert 64 * MIB <= most <= 96 * MIB


@pytest.mark.parametrize(
    ("trial", "words"),
    [(Measurement(key="CPUQuota", verdict="enforced", asked=20, measured=19.8), "CPUQuota: asked 20 %, measured 19.8 %: enforced"),
     (Measurement(key="MemoryMax", verdict="no_limit"), "MemoryMax: no such limit"),
     (Measurement(key="MemoryMax", verdict="skipped", why="too-near", asked=MIB), "MemoryMax: not tested (too-near)")],
)  # fmt: skip
def test_the_log_says_it_in_a_line(trial, words):
    assert limit_test.in_words(trial) == words
