"""Where trees live: a btrfs file of our own, so that a copy of a whole Debian is a snapshot; plain folders elsewhere.

Facts: a subvolume's snapshot leaves nested subvolumes out; deleting one asks for its nested ones first; a subvolume
can be renamed like a folder. Every function looks at the file system itself, so both kinds of pool are one code path.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from nspawnpanel.sandbox.run import CommandFailed, SandboxError, run

BTRFS_TOP = 256  # inode of the top of every subvolume
SIZE = "20G"  # sparse: takes on disk what is used
Say = Callable[[str], None]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` alone, waiting for whoever holds it now."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_pool(cache: Path, say: Say) -> Path:
    """The pool's folder below `cache`: mounted, made where it was missing. Safe to call from many processes."""
    pool = cache / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    with locked(cache / "pool.lock"):
        if not pool.is_mount() and not is_btrfs(cache):
            _mount(cache / "pool.btrfs", pool, say)
        for folder in ("trees", "hosts"):
            (pool / folder).mkdir(exist_ok=True)
    return pool


def _mount(image: Path, pool: Path, say: Say) -> None:
    try:
        if not image.exists():
            _format(image)
        run(["mount", "-o", "loop,noatime,discard", "--", str(image), str(pool)])
    except (CommandFailed, FileNotFoundError) as error:
        say(f"no btrfs loop file here, so trees are copied instead of snapshotted: {error}")


def _format(image: Path) -> None:
    aside = image.with_suffix(".new")
    run(["truncate", "--size", SIZE, "--", str(aside)])
    run(["mkfs.btrfs", "--quiet", "--force", "--metadata", "single", "--", str(aside)])
    aside.rename(image)


def close_pool(cache: Path) -> None:
    """Unmount the pool, if it is mounted. Raises CommandFailed while a sandbox still runs from it."""
    with locked(cache / "pool.lock"):
        if (cache / "pool").is_mount():
            run(["umount", "--", str(cache / "pool")])


def is_btrfs(path: Path) -> bool:
    """Whether `path` lies on btrfs, where a copy is a snapshot."""
    return run(["stat", "--file-system", "--format=%T", "--", str(path)]).stdout.strip() == "btrfs"


def make(path: Path) -> None:
    """A new empty tree."""
    if is_btrfs(path.parent):
        run(["btrfs", "subvolume", "create", "--", str(path)])
    else:
        path.mkdir()


def copy(source: Path, path: Path) -> None:
    """A new tree with all that `source` holds: a snapshot where the pool is btrfs, else a real copy."""
    if is_btrfs(source):
        run(["btrfs", "subvolume", "snapshot", "--", str(source), str(path)])
    else:
        run(["cp", "--archive", "--reflink=auto", "--", str(source), str(path)], timeout=600)


def drop(path: Path) -> None:
    """Delete a tree and all subvolumes inside it; a tree that is not there is fine."""
    if not path.exists():
        return
    if _is_subvolume(path):
        found = [*_nested(path), path]
        for subvolume in reversed(found):
            _make_writable(subvolume)
        for subvolume in found:
            _delete(subvolume)
    else:
        run(["rm", "--recursive", "--force", "--one-file-system", "--", str(path)], timeout=600)


def flatten(path: Path) -> None:
    """Make plain empty folders of the subvolumes inside a tree: a snapshot holds a dead entry in their place."""
    if not _is_subvolume(path):
        return
    for nested in _nested(path):
        mode = nested.stat().st_mode & 0o7777
        _delete(nested)
        nested.mkdir(mode)


def _is_subvolume(path: Path) -> bool:
    return path.stat().st_ino == BTRFS_TOP and is_btrfs(path)


def _nested(path: Path) -> list[Path]:
    """Every subvolume inside `path`, innermost first. (`btrfs subvolume list` names them relative to this or that.)

    Whoever is root in a host gives them any name: no tool prints them here, for its output would have to be text.
    """
    inside = (Path(folder, name) for folder, names, _ in os.walk(path, topdown=False) for name in names)
    return [folder for folder in inside if not folder.is_symlink() and folder.stat().st_ino == BTRFS_TOP]


def _make_writable(path: Path) -> None:
    """Nothing goes out of a subvolume that is read-only, not even another subvolume."""
    run(["btrfs", "property", "set", "-ts", "--", str(path), "ro", "false"], check=False)


def _delete(path: Path) -> None:
    _make_writable(path)
    done = run(["btrfs", "subvolume", "delete", "--", str(path)], check=False)
    if done.returncode != 0:
        raise SandboxError(f"cannot delete {path}: {done.stderr.strip()}")
