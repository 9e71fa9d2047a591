"""Packages kept for later builds, per tool, under STATE/cache: bounded, and every build works on links of its own.

A build gets a folder of hard links, which costs no copying and no lock, and what it has fetched besides is linked back.
What lies here is never trusted, only saved from fetching: dnf, zypper and pacman check every file against their signed
indexes. apt believes a file of the right name and size, so its packages are kept under their SHA-256, and only what is
still of that sum and stands in the signed lists of a build is lent to it under its name.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from machines.host.system.paths import Paths

GIB = 1024**3
ENDINGS = (".deb", ".rpm", ".pkg.tar.zst", ".pkg.tar.xz", ".pkg.tar.gz")
LENT, LISTS = "packages", "lists"  # the folders of links in a job's own folder


def folder(paths: Paths, tool: str) -> Path:
    """Where the packages of a tool are kept; made if need be. Raises OSError."""
    kept = paths.state / "cache" / tool
    kept.mkdir(parents=True, exist_ok=True, mode=0o700)
    return kept


def link_cached(paths: Paths, tool: str, into: Path, names: Mapping[str, str] | None = None) -> Path:
    """A new folder with a link to every package that is kept, for apt to each that `names` knows by its sum. Raises
    OSError."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True, mode=0o755)
    for package in _packages(folder(paths, tool)):
        name = package.name if names is None else names.get(package.stem)
        with contextlib.suppress(FileNotFoundError):  # trimmed meanwhile
            if name and names is not None and _sum(package) != package.stem:
                package.unlink()
            elif name:
                os.link(package, into / name)
    return into


def collect(paths: Paths, tool: str, lent: Path, gib: int, names: Mapping[str, str] | None = None) -> None:
    """Keep what a build has fetched besides, within the bound of all tools together; the folder of links goes."""
    kept = folder(paths, tool)
    for package in _packages(lent) if gib else []:
        if package.stat().st_nlink > 1:  # it was lent
            continue
        if name := _kept_as(package, names):
            with contextlib.suppress(FileExistsError):
                os.link(package, kept / name)
                os.utime(kept / name)
    shutil.rmtree(lent, ignore_errors=True)
    trim(paths, gib * GIB)


def _kept_as(package: Path, names: Mapping[str, str] | None) -> str:
    """Its name here; "" for one that is not what its name says."""
    if names is None:
        return package.name
    found = _sum(package)
    return f"{found}.deb" if names.get(found) == package.name else ""


def _sum(package: Path) -> str:
    with package.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
