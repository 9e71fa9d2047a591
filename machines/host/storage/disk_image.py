"""Machines that are a disk image (NAME.raw) instead of a tree: mounted while they get their names and keys.

systemd-dissect(1) mounts them as systemd-nspawn does at their start, so what cannot be mounted here would not start
either. Jobs have mounts of their own: whatever happens to one, nothing stays mounted.
"""

from pathlib import Path

from machines.contract.problems import Problem
from machines.host.context.host_context import Task
from machines.host.system.faults import CommandFailed

LOOP = Path("/dev/loop-control")


def check_host() -> None:
    """Raises Problem loop-missing where no disk image can be used."""
    if not LOOP.exists():
        raise Problem(
            "A disk image needs loop devices, and this host has none (/dev/loop-control is missing).",
            code="loop-missing", hint="Load the kernel's loop module there, or use a tar archive.",
        )  # fmt: skip


def mount(task: Task, file: Path, tree: Path) -> None:
    """Show what is in the image below `tree`. Raises Problem image-unusable."""
    tree.mkdir(mode=0o700, exist_ok=True)
    try:
        task.run(["systemd-dissect", "--mount", "--", str(file), str(tree)], timeout=300)
    except CommandFailed as failed:
        raise Problem(
            "The disk image contains no usable system: it has neither a single file system nor a root partition.",
            code="image-unusable", details=failed.tail,
            hint="It needs a GPT partition table with a root partition of this host's architecture, or no table at all.",
        ) from failed  # fmt: skip
    if not _is_writable(tree):
        raise Problem(
            "The disk image is of a read-only type, so it cannot be given a hostname.", code="image-read-only",
            hint="Use an image with ext4, xfs or btrfs.",
        )  # fmt: skip


def _is_writable(tree: Path) -> bool:
    probe = tree / ".nspawnpanel-probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def unmount(task: Task, tree: Path) -> None:
    """Everything is written into the image then. Raises CommandFailed or OSError."""
    task.run(["umount", "--recursive", "--", str(tree)], timeout=600)
    tree.rmdir()
