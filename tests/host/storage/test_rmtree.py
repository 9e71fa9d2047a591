"""Whatever is in a tree, it goes; what really cannot be removed is named, and all the rest goes."""

import os
import subprocess
import time

import pytest

from machines.host.storage import btrfs, pool, rmtree
from tests.host import disks

MANY = 20_000


@pytest.fixture(scope="module", params=["ext4", "btrfs"])
def disk(request, tmp_path_factory):
    with disks.mounted(tmp_path_factory.mktemp("disk"), request.param, 400) as where:
        yield where


@pytest.fixture
def tree(disk):
    tree = disk / "tree"
    tree.mkdir()
    yield tree
    assert os.listdir(disk) in ([], ["lost+found"]), "a test has left something"


def sh(folder, script: str) -> None:
    subprocess.run(["bash", "-ec", script], cwd=folder, check=True)


def test_what_is_marked_at_any_depth(tree):
    sh(
        tree,
        """
    mkdir -p a/b/c/d; echo x > a/b/c/d/file; echo x > a/b/c/log; ln -s /etc/passwd a/b/link; mkfifo a/b/fifo; ln a/b/c/log a/hard
    chattr +a a/b/c/log; chattr +i a/b/c/d/file; chattr +i a/b/c/d a/b; chattr +a a; chattr +i .
    """,
    )
    pool.clear(tree)
    assert os.path.exists("/etc/passwd")


def test_deeper_than_a_path_can_say(tree):
    """A machine's root makes such a tree in a second."""
    name, folder = "d" * 200, os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    pool.clear(tree)


def test_names_that_are_no_text(tree):
    folder = os.fsencode(tree) + b"/caf\xe9\n\\"
    os.mkdir(folder)
    for name in (b"\xff\xfe", b"-rf", b" ", b"\xed\xa0\x80"):
        os.mkdir(folder + b"/" + name)
        with open(folder + b"/" + name + b"/\xc3", "w"):
            pass
    pool.clear(tree)


def test_many_entries(tree):
    for number in range(MANY):
        os.mknod(tree / f"file-{number}")
    began = time.monotonic()
    pool.clear(tree)
    print(f"\n{MANY} files of one folder removed in {time.monotonic() - began:.2f} s")


def test_a_file_that_is_marked(tree):
    sh(tree, "rmdir ../tree; echo x > ../tree; chattr +i ../tree")
    pool.clear(tree)


def test_what_is_mounted_inside_is_not_touched_and_is_named(tree, tmp_path):
    """rmtree itself leaves mounts alone; pool.clear() takes them away first."""
    (tmp_path / "precious").touch()
    sh(tree, f"mkdir -p etc/inner usr; touch usr/file; mount --bind {tmp_path} etc/inner")
    with pytest.raises(rmtree.NotRemoved) as caught:
        rmtree.remove(tree)
    assert (caught.value.filename, caught.value.strerror) == (f"{tree}/etc/inner", "something is mounted there")
    assert os.listdir(tree) == ["etc"]
    pool.clear(tree)
    assert (tmp_path / "precious").exists()


def test_what_is_open_and_what_is_run_from_it(tree):
    sh(tree, "cp /bin/sleep sleep")
    with subprocess.Popen([tree / "sleep", "60"], cwd=tree) as busy, open(tree / "log", "w") as log:
        pool.clear(tree)
        log.write("still written")
        busy.kill()


def test_what_is_swap_stays_with_its_reason_and_goes_once_it_is_none(tree):
    sh(tree, "mkdir -p var etc; touch etc/file var/swap; chattr -f +C var/swap || true; chmod 600 var/swap")
    sh(tree, "dd if=/dev/zero of=var/swap bs=1M count=4 status=none; mkswap -q var/swap >/dev/null")
    if subprocess.run(["swapon", tree / "var/swap"], check=False, capture_output=True).returncode:
        pool.clear(tree)
        pytest.skip("nothing can be used as swap here")
    try:
        with pytest.raises(rmtree.NotRemoved) as caught:
            pool.clear(tree)
    finally:
        subprocess.run(["swapoff", tree / "var/swap"], check=True)
    assert caught.value.strerror == f"{tree}/var/swap is used as swap"
    assert os.listdir(tree) == ["var"]
    pool.clear(tree)


# --- subvolumes


@pytest.fixture(scope="module")
def btrfs_disk(tmp_path_factory):
    with disks.mounted(tmp_path_factory.mktemp("disk"), "btrfs", 400) as where:
        yield where


@pytest.fixture
def subvolume(btrfs_disk):
    sh(btrfs_disk, "btrfs -q subvolume create tree")
    yield btrfs_disk / "tree"
    assert os.listdir(btrfs_disk) == [], "a test has left something"


def test_subvolumes_that_are_marked_and_read_only_at_any_depth(subvolume):
    sh(
        subvolume,
        """
    mkdir -p var/lib srv/fixed
    btrfs -q subvolume create var/lib/machines; btrfs -q subvolume create var/lib/machines/deep; echo x > var/lib/machines/deep/file
    chattr +i var/lib/machines/deep/file var/lib/machines/deep
    btrfs -q subvolume create srv/fixed/data; btrfs -q subvolume create srv/fixed/data/ro
    btrfs property set srv/fixed/data/ro ro true; btrfs property set srv/fixed/data ro true
    chattr +i srv/fixed; chattr +a srv; chattr +i .; btrfs property set . ro true
    """,
    )
    pool.clear(subvolume)


def test_subvolumes_in_a_plain_folder_and_in_one_another(subvolume):
    tree = at = subvolume
    sh(tree, "btrfs -q subvolume delete ../tree >/dev/null; mkdir ../tree")
    for _ in range(60):
        sh(at, "btrfs -q subvolume create s; mkdir s/f; chattr +i s/f")
        at = at / "s"
    sh(tree, "chattr -R +i .")
    pool.clear(tree)


def test_a_subvolume_deeper_than_a_path_can_say(subvolume):
    script = "for n in $(seq 60); do mkdir $(printf %0200d 0); cd $(printf %0200d 0); done; btrfs -q subvolume create last; chattr +i last ."
    sh(subvolume, script)
    pool.clear(subvolume)


def test_a_snapshot_is_filled_also_where_the_folder_of_a_subvolume_is_marked(subvolume):
    sh(
        subvolume,
        "mkdir srv; btrfs -q subvolume create srv/data; echo x > srv/data/file; chattr +i srv/data/file srv/data srv",
    )
    copy = subvolume.with_name("copy")
    sh(subvolume, "btrfs -q subvolume snapshot . ../copy")
    assert btrfs.snapshot_nested(subvolume, copy).paths == ["srv/data"]
    assert (copy / "srv/data/file").read_text() == "x\n"
    assert pool.is_marked(copy / "srv")
    pool.clear(copy)
    pool.clear(subvolume)
