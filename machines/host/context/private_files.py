"""Files with secrets in them: written aside, readable by root alone from their first byte, synced, then renamed into place."""

import os
from pathlib import Path

MODE = 0o600


def write(file: Path, data: bytes) -> None:
    """The file with this content, whole, or as it was. Raises OSError."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        create(aside, data)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
    _sync_folder(file.parent)


def create(file: Path, data: bytes) -> None:
    """A new file, synced. Raises OSError, FileExistsError where there is one."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, MODE), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
