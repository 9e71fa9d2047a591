"""What a conversion of the pool compares, and what becomes of one that was killed."""

import os
from pathlib import Path
from uuid import uuid4

import pytest

from machines.host.rootfs import btrfs_pool
from machines.host.system.paths import Paths
from tests.host.killed import dies_before


def image(folder: Path) -> Path:
    (folder / "usr").mkdir(parents=True)
    (folder / "usr/a").write_text("x")
    os.link(folder / "usr/a", folder / "usr/b")
    (folder / "link").symlink_to("/etc/passwd")
    for path in (folder / "usr/a", folder / "usr", folder):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    os.utime(folder / "link", (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "usr/a").chmod(0o4755),
        lambda tree: (tree / "usr/b").unlink(),
        lambda tree: os.setxattr(tree / "usr/a", "user.x", b"1"),
        lambda tree: os.utime(tree / "usr/a", (1, 1)),
        lambda tree: ((tree / "link").unlink(), (tree / "link").symlink_to("/etc/shadow")),
        lambda tree: (tree / "new").touch(),
    ],
    ids=["mode", "hard link", "attribute", "time", "link", "file"],
)
def test_a_copy_that_differs_in_anything_is_found(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    one, other = image(tmp_path / "one"), image(tmp_path / "other")
    assert btrfs_pool.tree_digest(one) == btrfs_pool.tree_digest(other)
    assert btrfs_pool.tree_digest(one)[0] == 5
    change(other)
    assert btrfs_pool.tree_digest(one) != btrfs_pool.tree_digest(other)


# --- killed in the middle


def marked(file: Path, job: object) -> None:
    try:
        os.setxattr(file, btrfs_pool.MARK, str(job).encode())
    except OSError:
        pytest.skip("trusted attributes need root")


def tops(paths: Paths) -> list[str]:
    return sorted(
        p.name for p in paths.machines.parent.iterdir() if "machines" in p.name or p.name.startswith(".nspawn")
    )


def test_before_the_switch_only_the_file_goes(paths: Paths) -> None:
    job = uuid4()
    (paths.machines / "web").mkdir()
    paths.new_pool(job).write_bytes(b"half")
    paths.before_pool.mkdir()  # made right before the switch; it would be in the way of the next
    btrfs_pool.clear(paths, job)
    assert tops(paths) == ["machines"]
    assert (paths.machines / "web").is_dir()


@pytest.mark.parametrize("exchanged", [False, True])
def test_within_the_switch_everything_goes_back(paths: Paths, exchanged: bool) -> None:
    job = uuid4()
    (paths.machines / "web").mkdir()
    paths.pool_file.write_bytes(b"whole")
    marked(paths.pool_file, job)
    paths.before_pool.mkdir()
    if exchanged:
        btrfs_pool.exchange(paths.machines, paths.before_pool)
        assert (paths.before_pool / "web").is_dir()
    btrfs_pool.clear(paths, job)
    assert tops(paths) == ["machines"]
    assert (paths.machines / "web").is_dir()


def test_it_goes_back_as_well_when_that_is_killed_between_any_two_steps(paths: Paths) -> None:
    """And at no moment would a boot mount the pool over images that are in their place."""
    job, change = uuid4(), 0
    (paths.machines / "web").mkdir()
    killed = True
    while killed:
        change += 1
        paths.pool_file.write_bytes(b"whole")
        marked(paths.pool_file, job)
        paths.before_pool.mkdir()
        btrfs_pool.exchange(paths.machines, paths.before_pool)
        killed = dies_before(change, lambda: btrfs_pool.clear(paths, job))
        assert not ((paths.machines / "web").exists() and paths.pool_file.exists()), change
        btrfs_pool.clear(paths, job)
        assert (tops(paths), os.listdir(paths.machines)) == (["machines"], ["web"]), change
    assert change > 4


def test_the_file_of_somebody_else_is_not_touched(paths: Paths) -> None:
    paths.pool_file.write_bytes(b"theirs")
    marked(paths.pool_file, uuid4())
    paths.before_pool.mkdir()
    btrfs_pool.clear(paths, uuid4())
    assert tops(paths) == ["machines", "machines.before-pool", "machines.raw"]
