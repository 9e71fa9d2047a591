"""Filling a tree in memory: how much, and what becomes of it. The mounts are real."""

import os
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from machines.contract import orders
from machines.contract.problems import Problem
from machines.contract.recipes import BuildSecrets, DebianRecipe, FirstBoot
from machines.host.context.host_context import HostContext, Task
from machines.host.context.job_output import JobOutput
from machines.host.policy.policy import Policy
from machines.host.rootfs import build
from machines.host.rootfs.steps import tmpfs_build
from machines.host.rootfs.steps.building import Building

MIB = 1 << 20


class Filler:
    """A builder that writes so many bytes in its first step and as many in its second."""

    def __init__(self, first: int, second: int) -> None:
        self.first, self.second, self.where = first, second, []

    def bootstrap(self, building: Building) -> None:
        self.where.append(building.tree.name.rpartition(".")[2])
        (building.tree / "first").write_bytes(bytes(self.first))
        os.setxattr(building.tree / "first", "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
        os.link(building.tree / "first", building.tree / "again")

    def packages(self, building: Building) -> None:
        (building.tree / "second").write_bytes(bytes(self.second))


@pytest.fixture
def building(paths):
    paths.machines.mkdir(parents=True, exist_ok=True)
    recipe = DebianRecipe(release="bookworm")
    order = orders.BuildBase(recipe=recipe, first_boot=FirstBoot())
    task = Task(uuid4(), order, JobOutput(lambda _: None), time.time(), time.time() + 60)
    host = HostContext(paths, None, Policy())  # type: ignore[arg-type]
    made = Building(host, task, recipe, FirstBoot(), BuildSecrets())
    yield made
    build.clear(paths, task.job)


def fill(building: Building, filler: Filler, monkeypatch, free_space: int) -> Filler:
    monkeypatch.setattr(tmpfs_build, "free_space", lambda _: free_space)
    monkeypatch.setattr(build, "builder_of", lambda _: filler)
    build.bootstrap(building)
    build.packages(building)
    return filler


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize(
    ("first", "second", "where"),
    [(MIB, MIB, ["memory"]), (9 * MIB, MIB, ["memory", "tmp"]), (MIB, 9 * MIB, ["memory", "tmp"])],
    ids=["fits", "too little at first", "too little in the end"],
)
def test_a_tree_ends_in_the_pool_whether_it_fits_or_not(building, monkeypatch, first, second, where):
    filler = fill(building, Filler(first, second), monkeypatch, 8 * MIB)
    assert filler.where == where
    tree = building.host.paths.unfinished(building.task.job)
    assert building.tree == tree
    assert not os.path.ismount(tree)
    assert (tree / "first").stat().st_size == first
    assert (tree / "first").stat().st_ino == (tree / "again").stat().st_ino
    assert os.getxattr(tree / "first", "security.capability")
    assert (tree / "second").stat().st_size == second
    assert [path.name for path in tree.parent.iterdir()] == [tree.name], "the memory is given back"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_failure_in_memory_leaves_nothing(building, monkeypatch):
    def broken(_: Building) -> None:
        raise Problem("no such package")

    filler = Filler(MIB, 0)
    filler.packages = broken  # type: ignore[method-assign]
    with pytest.raises(Problem, match="no such package"):
        fill(building, filler, monkeypatch, 8 * MIB)
    paths = building.host.paths
    assert os.path.ismount(paths.in_memory(building.task.job))
    build.clear(paths, building.task.job)
    assert list(paths.machines.iterdir()) == []


def test_a_tree_known_to_be_too_large_is_not_begun_in_memory(building, monkeypatch):
    building.expected = 6 * MIB
    assert fill(building, Filler(1, 1), monkeypatch, 8 * MIB).where == ["tmp"]


def test_a_host_may_forbid_it(building, monkeypatch):
    building.host = replace(building.host, policy=Policy(builds_in_memory=False))
    assert fill(building, Filler(1, 1), monkeypatch, 8 * MIB).where == ["tmp"]


@pytest.mark.parametrize(
    ("available", "at_once", "free_space"),
    [(16, 2, 4), (8, 2, 2), (7, 2, 0), (7, 1, 3.5), (1, 1, 0)],
)
def test_one_build_gets_its_share_of_half_of_what_is_available(tmp_path, available, at_once, free_space):
    meminfo: Path = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:  64000000 kB\nMemAvailable: {available * 1024**2} kB\nHugePages_Total: 0\n")
    assert tmpfs_build.free_space(at_once, meminfo) == free_space * 1024**3
