"""Small file systems in files, for what only a file system of its own can show: full ones, and btrfs beside ext4."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

MAKE = {
    "btrfs": ("mkfs.btrfs", "--quiet", "--metadata", "single"),
    "ext4": ("mkfs.ext4", "-q", "-m", "0"),
}


@contextlib.contextmanager
def mounted(folder: Path, kind: str, megabytes: int, more: Sequence[str] = ()) -> Iterator[Path]:
    """An empty file system of that kind and size, mounted in `folder` and gone afterwards."""
    if os.geteuid() != 0:
        pytest.skip("mounts are root's")
    file, where = folder / f"{kind}.disk", folder / kind
    with file.open("wb") as made:
        made.truncate(megabytes * 1024**2)
    where.mkdir()
    subprocess.run([*MAKE[kind], *more, str(file)], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", str(file), str(where)], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)
        file.unlink()
