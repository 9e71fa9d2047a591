"""Throwing trees away, whatever is mounted or marked inside them."""

import ctypes
import os
from types import SimpleNamespace
from typing import Any

import pytest

from machines.contract.names import MachineName
from machines.host import remove
from machines.host.faults import CommandFailed
from machines.host.rootfs import pool

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


class Task:
    """Refuses its first command as machined does where a file is immutable."""

    deadline = 0.0

    def __init__(self, tail: str) -> None:
        self.tail, self.ran = tail, 0

    def run(self, argv: list[str], **_: Any) -> None:
        self.ran += 1
        if self.ran == 1:
            raise CommandFailed(argv, 1, self.tail)


def removing(paths, task) -> None:
    paths.image(MachineName("web")).mkdir(parents=True)
    remove._remove_image(SimpleNamespace(paths=paths), task, MachineName("web"))


@pytest.mark.parametrize("why", ["Operation not permitted", "Access denied"])
def test_marks_that_stop_a_removal_are_taken_off_once(paths, why):
    task = Task(f"Could not remove image: {why}")
    removing(paths, task)
    assert task.ran == 2


def test_what_else_stops_one_is_told(paths):
    with pytest.raises(CommandFailed):
        removing(paths, Task("Could not remove image: Device or resource busy"))
