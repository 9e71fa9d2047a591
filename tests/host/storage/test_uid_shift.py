"""Owners inside a tree that a user namespace has had."""

import os
import struct
from pathlib import Path

import pytest

from machines.host.storage import uid_shift

FIRST = 7 * uid_shift.RANGE
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def shifted(root: Path) -> Path:
    tool, link, other = root / "bin/tool", root / "link", root / "mine"
    tool.parent.mkdir(parents=True)
    tool.write_text("x")
    link.symlink_to("/etc/passwd")
    other.write_text("x")
    for path, owner in ((root, 0), (tool.parent, 0), (tool, 33), (link, 1000)):
        os.chown(path, FIRST + owner, FIRST + owner, follow_symlinks=False)
    tool.chmod(0o4755)
    return root


def test_every_owner_comes_back_and_nothing_outside_is_touched(tmp_path: Path) -> None:
    before = os.stat("/etc/passwd")
    tree = shifted(tmp_path / "tree")
    assert uid_shift.first_id(tree) == FIRST
    assert uid_shift.reset(tree) == 5
    tool = (tree / "bin/tool").stat()
    assert (tool.st_uid, tool.st_gid, tool.st_mode & 0o7777) == (33, 33, 0o4755)
    assert (tree / "link").lstat().st_uid == 1000
    assert (tree / "mine").stat().st_uid == 0
    assert os.stat("/etc/passwd") == before
    assert uid_shift.reset(tree) == 0


def test_a_capability_of_the_namespace_becomes_a_plain_one(tmp_path: Path) -> None:
    tree = shifted(tmp_path / "tree")
    body = struct.pack("<IIII", 1 << 13, 0, 0, 0)
    name = "security.capability"
    os.setxattr(tree / "bin/tool", name, struct.pack("<I", 0x03000001) + body + struct.pack("<I", FIRST))
    uid_shift.reset(tree)
    assert os.getxattr(tree / "bin/tool", name) == struct.pack("<I", 0x02000001) + body
