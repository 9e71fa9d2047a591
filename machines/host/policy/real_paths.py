"""What a path of this host really reaches: which file system, and where in it. Two paths that reach the same are the same,
however they are called: through links, `..`, bind mounts, other mounts of one file system (subvolumes), overlays, or file
systems that show another folder (bindfs, mergerfs, ecryptfs).

Facts, tried on 252 and 257 with btrfs, ext4 and overlayfs: each line of mountinfo(5) names the file system (major:minor) and
the folder of it that is mounted; for a btrfs that folder counts from its top, subvolumes included. A file descriptor
opened with O_PATH pins what was found, and /proc/self/fdinfo names its mount.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from machines.contract.configuration import file_policy, values
from machines.contract.configuration.protected import is_in
from machines.host.system import guarded

LOOPS = Path("/sys/block")
DEEPEST = 8  # file systems below one another
MOST_MOUNTS = 20_000
SHOW_OTHERS = ("fuse", "ecryptfs", "aufs", "unionfs")  # kinds whose source may name the folders that show through


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: `root` is the folder of the file system `device` that is to be seen at `point`."""

    number: int
    device: str
    root: str
    point: str
    kind: str
    source: str
    options: str  # as the kernel writes them


@dataclass(frozen=True)
class Spot:
    """A place in a file system: what lies at `path`, counted from its top."""

    device: str
    path: str

    def holds(self, other: "Spot") -> bool:
        """Whether the other one is this or lies below it."""
        return self.device == other.device and is_in(other.path, self.path)

    def meets(self, other: "Spot") -> bool:
        return self.holds(other) or other.holds(self)


@dataclass(frozen=True)
class Reached:
    """Where a path ends: `path` is its real name in this mount namespace, `spots` are everywhere a write to it arrives, and
    `state` is what fstat(2) says."""

    path: str
    spots: tuple[Spot, ...]
    state: os.stat_result

    @property
    def is_device(self) -> bool:
        return stat.S_ISBLK(self.state.st_mode) or stat.S_ISCHR(self.state.st_mode)


@dataclass(frozen=True)
class Mounts:
    """All mounts of this mount namespace, read once."""

    every: tuple[Mount, ...]

    @cached_property
    def by_number(self) -> dict[int, Mount]:
        return {mount.number: mount for mount in self.every}

    def reach(self, path: str, deep: int = 0) -> Reached:
        """Where a path leads. Raises OSError: FileNotFoundError when nothing is there, Unreadable when it hangs."""
        real, number, state = guarded.call(path, lambda: _opened(path))
        mount = self.by_number.get(number)
        if mount is None or not is_in(real, mount.point):
            raise guarded.Unreadable(0, "It is in a mount that cannot be identified.", path)
        inner = real.removeprefix(mount.point.rstrip("/")).strip("/")
        return Reached(real, tuple(self._spots(mount, inner, deep)), state)

    def below(self, folder: str) -> Iterator[tuple[str, tuple[Spot, ...]]]:
        """What is mounted below a folder: (mount point, where it really lies). A recursive bind takes all of it along."""
        for mount in self.every:
            if mount.point != folder and is_in(mount.point, folder):
                yield mount.point, tuple(self._spots(mount, "", 0))

    def files_of(self, device: str) -> Iterator[str]:
        """The files that a file system lies in, where it lies in one (a loop device)."""
        for mount in self.every:
            name = os.path.basename(mount.source)
            if mount.device == device and mount.source.startswith("/dev/loop"):
                loop = name if (LOOPS / name).exists() else name.rpartition("p")[0]
                file = LOOPS / loop / "loop" / "backing_file"
                yield from _lines(file)[:1]
                return

    def _spots(self, mount: Mount, inner: str, deep: int) -> Iterator[Spot]:
        yield Spot(mount.device, _join(mount.root, inner))
        for folder in _shown(mount) if deep < DEEPEST else ():
            try:
                yield from self.reach(_join(folder, _join(mount.root, inner).lstrip("/")), deep + 1).spots
            except OSError:
                yield from self._of_folder(folder, _join(mount.root, inner).lstrip("/"), deep)

    def _of_folder(self, folder: str, inner: str, deep: int) -> Iterator[Spot]:
        """What would be there: it need not exist in every layer."""
        try:
            for spot in self.reach(folder, deep + 1).spots:
                yield Spot(spot.device, _join(spot.path, inner))
        except OSError:  # of another mount namespace, or gone
            return


def _opened(path: str) -> tuple[str, int, os.stat_result]:
    """(real path, number of its mount, state) of what a path leads to now."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        number = next(int(line.split()[1]) for line in info.splitlines() if line.startswith("mnt_id:"))
        return os.readlink(f"/proc/self/fd/{fd}"), number, os.fstat(fd)
    finally:
        os.close(fd)


def _join(root: str, inner: str) -> str:
    return f"{root.rstrip('/')}/{inner}" if inner else root.rstrip("/") or "/"


def _shown(mount: Mount) -> list[str]:
    """Folders of other file systems that show through a mount."""
    if mount.kind == "overlay":
        return [folder for folder in _layers(mount.options) if folder.startswith("/")]
    if mount.kind.startswith(SHOW_OTHERS) and mount.source.startswith("/"):
        return [folder for folder in mount.source.split(":") if folder.startswith("/")]
    return []


def _layers(options: str) -> Iterator[str]:
    """Facts, tried on 6.18: a comma in a name is written as an octal number, so it is split before that is undone. `upperdir`
    and `lowerdir` are shown as they were given, with backslashes before commas and colons in a name; `lowerdir+`, once for
    each layer, is the name itself."""
    for word in options.split(","):
        key, _, value = word.partition("=")
        text = guarded.unescaped(value)
        if key in {"upperdir", "lowerdir"}:
            yield from file_policy.split(text) if key == "lowerdir" else [values.unescape_colons(text)]
        elif key in {"lowerdir+", "datadir+"}:
            yield text


def read() -> Mounts:
    """The mounts of this process's namespace, in one read."""
    lines = guarded.MOUNTS.read_bytes().decode(errors="surrogateescape").splitlines()
    return Mounts(tuple(_mount(line) for line in lines[:MOST_MOUNTS]))


def _mount(line: str) -> Mount:
    head, _, tail = line.partition(" - ")
    number, _, device, root, point = head.split(" ")[:5]
    kind, source, options = (*tail.split(" "), "", "")[:3]
    return Mount(
        int(number), device, guarded.unescaped(root), guarded.unescaped(point), kind, guarded.unescaped(source), options,
    )  # fmt: skip


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
