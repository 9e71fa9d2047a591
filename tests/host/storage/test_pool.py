"""Throwing trees away, whatever is mounted or marked inside them."""

import ctypes
import os
import shutil
import subprocess

import pytest

from machines.host.storage import pool

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts are root's")
def test_what_is_mounted_under_a_name_that_is_no_text_is_found(tmp_path):
    tree = tmp_path / "tree"
    point = os.fsencode(tree) + b"/caf\xe9 \\ x"
    os.makedirs(point)
    if _libc.mount(b"tmpfs", point, b"tmpfs", 0, None) != 0:
        pytest.skip("nothing can be mounted here")
    pool.clear(tree)
    assert not os.path.lexists(tree)


@pytest.fixture
def immutable(tmp_path):
    """A tree that is marked as machined marks a read-only one, with a file in it that is, too."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").touch()
    marked = [str(tree / "file"), str(tree)]
    if (
        os.geteuid() != 0
        or not shutil.which("chattr")
        or subprocess.run(["chattr", "+i", *marked], check=False).returncode
    ):
        pytest.skip("nothing can be marked here")
    yield tree
    subprocess.run(["chattr", "-R", "-f", "-i", str(tmp_path)], check=False)


def test_a_tree_that_is_marked_immutable_can_be_hidden_and_deleted(immutable):
    aside = immutable.with_name(".aside")
    with pytest.raises(PermissionError):
        immutable.rename(aside)
    pool.allow_rename(immutable)
    immutable.rename(aside)
    pool.clear(aside)
    assert os.listdir(aside.parent) == []


def test_a_tree_without_marks_and_a_disk_image_can_be_hidden_as_they_are(tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web.raw").touch()
    for path in (tmp_path / "web", tmp_path / "web.raw"):
        pool.allow_rename(path)
        path.rename(path.with_name(f".{path.name}"))
