"""Lists of packages kept for later builds, under STATE/cache/lists: fetched by this host's own apt, so that no tree being
built ever had them in its hands.

apt asks the mirror whether its signed index is still the same and fetches what has changed; the apt of the new tree asks
once more and checks the signatures itself. Fetching and unpacking 50 MB of lists is a tenth of a small build.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from machines.host.context.host_context import Task
from machines.host.rootfs.steps import cache
from machines.host.system.faults import CommandFailed
from machines.host.system.paths import Paths
from machines.host.system.run import run

KEPT = 4  # sets of sources; the longest unused goes
_PACKAGE = re.compile(
    r"^Package: ([a-z0-9+.-]+)\n(?:.+\n)*?Version: ([A-Za-z0-9.+:~-]+)\n(?:.+\n)*?Architecture: ([a-z0-9-]+)\n"
    r"(?:.+\n)*?SHA256: ([0-9a-f]{64})$",
    re.M,
)


def link_cached(paths: Paths, task: Task, sources: Sequence[str], options: Path | None, job: Path) -> Path | None:
    """A folder with a link to each list of these sources (lines of sources.list(5)) as the mirrors have them now.

    `options` is a file of apt settings, `job` the job's own folder. None when apt cannot fetch every one of them: why, the
    caller finds out. Raises OSError or Stopped.
    """
    with _one_at_a_time(paths, sources) as kept:
        listed = job / "lists.list"
        listed.write_text("".join(f"{line}\n" for line in sources))
        argv = [
            "apt-get", "update", "--quiet", "--error-on=any",
            "-o", f"Dir::Etc::SourceList={listed}", "-o", "Dir::Etc::SourceParts=/dev/null",
            "-o", f"Dir::State::Lists={kept}", "-o", "pkgCacheFile::Generate=false", "-o", "APT::Sandbox::User=root",
            "-o", "Acquire::GzipIndexes=false", "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=1",
            "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15",
        ]  # fmt: skip
        task.output.command(argv)
        extra = {"APT_CONFIG": str(options)} if options else {}
        try:
            run(argv, timeout=180, heard=task.output.heard, stop=task.stop, extra=extra)
        except CommandFailed:
            return None
        return _links(kept, job / cache.LISTS)


def names(lists: Path) -> dict[str, str]:
    """What apt calls the file of every package in these lists, by its SHA-256."""
    return {
        digest: f"{package}_{version.replace(':', '%3a')}_{architecture}.deb"
        for file in lists.glob("*_Packages")
        for package, version, architecture, digest in _PACKAGE.findall(file.read_text(errors="replace"))
    }


@contextlib.contextmanager
def _one_at_a_time(paths: Paths, sources: Sequence[str]) -> Iterator[Path]:
    """The folder of these sources, which nobody else works on meanwhile."""
    root = paths.state / "cache" / "lists"
    kept = root / hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(kept, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.utime(kept)
        _trim(root)
        yield kept
    finally:
        os.close(fd)


def _trim(root: Path) -> None:
    found = sorted(root.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in found[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


def _links(kept: Path, into: Path) -> Path:
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(mode=0o755)
    for file in kept.iterdir():
        if file.is_file() and file.name != "lock":
            os.link(file, into / file.name)
    return into
