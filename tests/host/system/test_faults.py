"""A full disk, said as what it is."""

import errno
import os

import pytest

from machines.host.system import faults
from machines.host.system.undo import Undo
from tests.host import disks


def test_a_full_disk_is_said_with_its_figures_wherever_it_is_met(tmp_path):
    with disks.mounted(tmp_path, "btrfs", 120) as disk:
        tool = faults.CommandFailed(["cp"], 1, f"cp: error writing '{disk}/usr/x': No space left on device\n")
        for error in (tool, OSError(errno.ENOSPC, "No space left on device", str(disk / "usr/x"))):
            problem = faults.as_problem(error, "journalctl")
            assert problem.code == "no-space"
            assert problem.message == f"There is no space left in {disk}: {free(disk)} of 120 MiB are free."
        with_need = faults.no_space(str(disk), needs="A build needs 1,024 MiB.").message
        assert (
            with_need
            == f"There is not enough space in {disk}: {free(disk)} of 120 MiB are free. A build needs 1,024 MiB."
        )


def free(disk) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize // 1024**2


def test_a_disk_without_inodes_is_told_from_one_without_space(tmp_path):
    with disks.mounted(tmp_path, "ext4", 60, ["-N", "128"]) as disk:
        inodes = os.statvfs(disk)
        for number in range(inodes.f_favail):
            (disk / str(number)).touch()
        with pytest.raises(OSError, match="No space") as caught:
            (disk / "one more").touch()
        problem = faults.as_problem(caught.value, "journalctl")
        assert problem.message == f"There are no inodes left in {disk}: 0 of {inodes.f_files} are free."


def test_a_name_relative_to_an_open_folder_is_told_as_the_fullest_of_our_places():
    problem = faults.as_problem(OSError(errno.ENOSPC, "No space left on device", "etc/hostname"), "journalctl")
    assert "etc/hostname" not in problem.message
    assert problem.message.startswith("There is no space left in /")


def test_what_is_free_is_said_as_it_was_before_what_was_half_made_went(tmp_path):
    with disks.mounted(tmp_path, "ext4", 60, ["-N", "128"]) as disk:
        inodes = os.statvfs(disk)

        def forget() -> None:
            for file in disk.iterdir():
                file.is_dir() or file.unlink()

        def fill() -> None:
            with Undo() as undo:
                undo.push(forget)
                for number in range(1000):
                    (disk / str(number)).touch()

        with pytest.raises(OSError, match="No space") as caught:
            fill()
        assert os.statvfs(disk).f_favail == inodes.f_favail
        problem = faults.as_problem(caught.value, "journalctl")
        assert problem.message == f"There are no inodes left in {disk}: 0 of {inodes.f_files} are free."
