"""Packages kept for later builds, per tool, under STATE/cache: bounded, and every build works on links of its own.

A build gets a folder of hard links, which costs no copying and no lock, and what it has fetched besides is linked back.
The tools check every file against their signed indexes, so what lies here is never trusted, only saved from fetching.
"""

import contextlib
import os
import shutil
from pathlib import Path

from machines.host.paths import Paths

GIB = 1024**3
ENDINGS = (".deb", ".rpm", ".pkg.tar.zst", ".pkg.tar.xz", ".pkg.tar.gz")
LENT, LISTS = "packages", "lists"  # the folders of links in a job's own folder


def folder(paths: Paths, tool: str) -> Path:
    """Where the packages of a tool are kept; made if need be. Raises OSError."""
    kept = paths.state / "cache" / tool
    kept.mkdir(parents=True, exist_ok=True, mode=0o700)
    return kept


def lend(paths: Paths, tool: str, into: Path) -> Path:
    """A new folder with a link to every package that is kept. Raises OSError."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True, mode=0o755)
    for package in _packages(folder(paths, tool)):
        with contextlib.suppress(OSError):  # trimmed meanwhile
            os.link(package, into / package.name)
    return into


def take_back(paths: Paths, tool: str, lent: Path, gib: int) -> None:
    """Keep what a build has fetched besides, within the bound of all tools together; the folder of links goes."""
    kept = folder(paths, tool)
    for package in _packages(lent) if gib else []:
        with contextlib.suppress(FileExistsError):
            os.link(package, kept / package.name)
            os.utime(kept / package.name)
    shutil.rmtree(lent, ignore_errors=True)
    trim(paths, gib * GIB)


def forget(job: Path) -> None:
    """The links of a job that has ended."""
    for lent in (LENT, LISTS):
        shutil.rmtree(job / lent, ignore_errors=True)


def trim(paths: Paths, most: int) -> None:
    """Remove the packages kept longest until all together take at most so many bytes."""
    root = paths.state / "cache"
    found = sorted((stat.st_mtime, stat.st_size, file) for file in _packages(root, deep=True) if (stat := _stat(file)))
    excess = sum(size for _, size, _ in found) - most
    for _, size, file in found:
        if excess <= 0:
            return
        file.unlink(missing_ok=True)
        excess -= size


def _packages(where: Path, *, deep: bool = False) -> list[Path]:
    pattern = "**/*" if deep else "*"
    return [file for file in where.glob(pattern) if file.name.endswith(ENDINGS) and file.is_file()]


def _stat(file: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        return file.stat()
    return None
