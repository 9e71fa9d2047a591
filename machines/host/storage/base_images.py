"""Bases: trees of recipes built before on this host, from which the next machine is a copy and not a build.

A base lies beside the machines, hidden by its leading dot, under an id made of its recipe and of what was installed. It
is a read-only subvolume where the pool is btrfs, so that a copy is a snapshot; elsewhere a packed tree, which is smaller
and faster to write than a second one (a plain copy of 10,000 files took 11.8 s on ext4, unpacking them 9.7 s). What is
known of it stands in STATE/bases/ID.json, written last: a base without that file is no base. The time of that file is
when the base was last used.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from machines.contract.problems import Problem
from machines.contract.reports import BaseFact
from machines.host.context.host_context import Task
from machines.host.context.remnants import AGAIN, reason
from machines.host.files import nspawn_file
from machines.host.storage import btrfs, pool
from machines.host.system.paths import Paths
from machines.host.system.run import environment

PACKED = ".tar.zst"
GONE = ".gone"  # ends the name of one that is being deleted


@dataclass(frozen=True)
class Base:
    """One base. Times in seconds since the epoch, `bytes` on disk; `packages` as "name version"."""

    id: str
    key: str
    title: str
    built: float
    bytes: int
    packages: list[str]
    job: str
    primed: bool = False
    trimmed: bool = False
    locale: str = ""  # the answers it was made with
    timezone: str = ""

    def fact(self, used: float) -> BaseFact:
        """As the panel is told of it."""
        told = {**asdict(self), "packages": len(self.packages), "title": self.title[:300], "used": used}
        return BaseFact.model_validate({key: value for key, value in told.items() if key in BaseFact.model_fields})


def id_of(key: str, packages: Sequence[str]) -> str:
    """The name of a base: its recipe and every package with its version."""
    return hashlib.sha256("\n".join([key, *sorted(packages)]).encode()).hexdigest()[:16]


# --- which there are


def every(paths: Paths) -> Iterator[tuple[Base, float]]:
    """All bases of this host with the time each was last used, newest use first."""
    files = [(file, _mtime(file)) for file in paths.bases.glob("*.json")] if paths.bases.is_dir() else []
    for file, used in sorted(files, key=lambda pair: pair[1], reverse=True):
        with contextlib.suppress(OSError, ValueError, TypeError):
            base = Base(**json.loads(file.read_text()))
            if where(paths, base.id).exists():
                yield base, used


def named(paths: Paths) -> set[str]:
    """Ids of all bases of which something is written down, even where only a newer worker can read it."""
    found = set()
    for file in paths.bases.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):  # discarded meanwhile
            if file.stat().st_size:
                found.add(file.stem)
    return found


def _mtime(file: Path) -> float:
    with contextlib.suppress(OSError):
        return file.stat().st_mtime
    return 0.0


def find(paths: Paths, key: str) -> Base | None:
    """The base of a recipe, the newest if there are several."""
    return max((base for base, _ in every(paths) if base.key == key), key=lambda base: base.built, default=None)


def maker(paths: Paths, base: str) -> str:
    """The job that made a base; "" for one that is not there."""
    return next((each.job for each, _ in every(paths) if each.id == base), "")


def where(paths: Paths, base: str) -> Path:
    """The tree of a base, or the packed one."""
    tree = paths.base(base)
    packed = tree.with_name(tree.name + PACKED)
    return packed if packed.exists() else tree


def is_snapshot(paths: Paths, base: Base) -> bool:
    """Whether a copy of it costs nothing."""
    tree = paths.base(base.id)
    return tree.is_dir() and tree.stat().st_ino == btrfs.TOP


def facts(paths: Paths) -> list[BaseFact]:
    return [base.fact(used) for base, used in every(paths)][:200]


# --- making one


def keep(task: Task, tree: Path, aside: Path) -> None:
    """Put a copy of a finished tree aside; publish() gives it its name once it is on disk. Raises CommandFailed."""
    if pool.is_subvolume(tree):
        task.run(["btrfs", "subvolume", "snapshot", "-r", "--", str(tree), str(aside)])
    elif shutil.which("zstd", path=environment()["PATH"]):
        packed = aside.with_name(aside.name + PACKED)
        task.run([*pool.TAR, "--create", "--zstd", f"--file={packed}", f"--directory={tree}", "."], timeout=1800)
    else:
        pool.copy(task, tree, aside)


def forget_aside(aside: Path) -> None:
    """Remove what keep() made and nobody published."""
    pool.clear(aside)
    pool.clear(aside.with_name(aside.name + PACKED))


def publish(paths: Paths, base: Base, aside: Path) -> None:
    """The base under its name, and then what is known of it. One that is there already stays. Raises OSError."""
    ending = "" if aside.exists() else PACKED
    source, target = aside.with_name(aside.name + ending), paths.base(base.id)
    target = target.with_name(target.name + ending)
    if target.exists():
        pool.clear(source)
    else:
        source.rename(target)
    paths.bases.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = paths.bases / f"{base.id}.json"
    part = file.with_suffix(".new")
    try:
        part.write_text(json.dumps(asdict(base)))
        part.rename(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def trim(paths: Paths, newest: Base, most: int) -> list[tuple[Base, str]]:
    """Remove what `newest` replaces and what is over `most`, the longest unused first; those that were removed, each with why
    something of it is left, which must not fail what has made the newest one."""
    others = [base for base, _ in every(paths) if base.id != newest.id]
    old = [base for base in others if base.key == newest.key]
    rest = [base for base in others if base.key != newest.key]
    return [(base, _discarded(paths, base.id)) for base in [*old, *rest[max(0, most - 1) :]]]


def _discarded(paths: Paths, base: str) -> str:
    """Remove a base; why something of it is left."""
    try:
        remove(paths, base)
    except Problem as problem:
        return problem.message
    except OSError as error:
        return reason(error)
    return ""


def remove(paths: Paths, base: str) -> bool:
    """Remove a base. False when there is none. Raises Problem discard-unfinished or OSError.

    First it gets a name under which nothing finds it, on disk, and what is known of it goes; so that half a tree is never
    taken for a base, whatever happens while it is deleted. cleanup.sweep() deletes what is left then.
    """
    there, file = where(paths, base), paths.bases / f"{base}.json"
    for old in paths.machines.glob(paths.base(f"{base}-*{GONE}").name):
        with contextlib.suppress(OSError):  # tried again with all that should be gone
            pool.clear(old)
    gone = paths.base(f"{base}-{secrets.token_hex(4)}{GONE}")
    found = os.path.lexists(there)
    if found:
        there.rename(gone)
        nspawn_file.sync_folder(paths.machines)
    if file.exists():
        file.unlink(missing_ok=True)
        nspawn_file.sync_folder(paths.bases)
    try:
        pool.clear(gone)
    except OSError as error:
        raise Problem(
            f"The base image is removed, but not all of it could be deleted: {reason(error)}.",
            code="remove-base-unfinished",
            hint=AGAIN,
        ) from error
    return found


# --- making a machine from one


def copy(paths: Paths, task: Task, base: Base, tree: Path) -> None:
    """A new writable tree like the base. Raises Problem base-gone, CommandFailed or OSError."""
    source = where(paths, base.id)
    try:
        if pool.is_subvolume(source):
            pool.snapshot(task, source, tree)
        elif source.name.endswith(PACKED):
            pool.make(tree)
            task.run([*pool.TAR, "--extract", "--zstd", f"--file={source}", f"--directory={tree}"], timeout=1800)
        else:
            pool.copy(task, source, tree)
    except (Problem, OSError):
        if os.path.lexists(source):
            raise
        raise Problem(
            "The base image was removed while it was being copied.", code="base-gone", retryable=True,
            hint="Try again; the recipe then gets a fresh build.",
        ) from None  # fmt: skip
    with contextlib.suppress(OSError):
        os.utime(paths.bases / f"{base.id}.json")


@contextlib.contextmanager
def one_at_a_time(paths: Paths, key: str) -> Iterator[bool]:
    """Builds of one recipe on one host wait for each other: the second then finds the base of the first.

    Yields whether it had to wait.
    """
    paths.bases.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(paths.bases / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            waited = False
        except BlockingIOError:
            fcntl.flock(fd, fcntl.LOCK_EX)
            waited = True
        yield waited
    finally:
        os.close(fd)
