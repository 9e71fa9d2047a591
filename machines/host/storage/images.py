"""Where a machine's image is, as machined says it, and what can be done with it there.

Facts, tried on 252 and 257: an image may lie in any of Paths.image_folders; of two with one name the folder that is searched first
counts, and in a folder the tree before NAME.raw: the other one is never listed. ListImages names no path, the image's
object does, and does not resolve a link. Below /usr machined calls every image read-only and refuses to change, rename
or remove it (EROFS); through a link it cannot change the mark either (ELOOP). 252 counts a folder's immutable mark as
read-only, 257 does not.
"""

import asyncio
import contextlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from machines.contract.names import MachineName, is_usable
from machines.contract.problems import Problem
from machines.host.context.host_context import HostContext, Image
from machines.host.context.job_output import JobOutput
from machines.host.storage import pool
from machines.host.system import guarded, tree
from machines.host.system.bus import MACHINED, BusError
from machines.host.system.faults import MachineMissing
from machines.host.system.paths import Paths

IMAGE_IFACE = f"{MACHINED}.Image"
INFINITE = 2**64 - 1
VENDOR = Path("/usr")
DISK = "raw"

# Why an image is read-only: a mark that can be taken off, its file system, or a place where machined changes nothing
ReadOnlyBy = Literal["", "mark", "mount", "vendor"]


@dataclass(frozen=True)
class Location:
    """One image. `path` is machined's own word, `real` where that leads when a link is on the way.

    `mounts` are mount points at its top or below; `hidden` other images of the name, which machined never lists.
    """

    name: MachineName
    path: Path
    real: Path
    type: str  # directory, subvolume, raw, block
    read_only: bool
    read_only_by: ReadOnlyBy
    in_pool: bool
    mounts: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()

    @property
    def is_link(self) -> bool:
        return self.path.is_symlink()

    @property
    def is_disk(self) -> bool:
        """Whether it is a disk image and no tree."""
        return self.type in {DISK, "block"}


def locate(host: HostContext, name: MachineName) -> Location | None:
    """The image of that name, None when machined knows none. Not in the bus loop: it looks at the disk.

    Raises BusError when machined does not answer, OSError when the image went away just now.
    """
    try:
        about = host.bus.do(_about(host, name))
    except BusError as error:
        if _is_missing(error):
            return None
        raise
    path = Path(str(about["Path"]))
    real = guarded.call(path, lambda: path.resolve(strict=True))
    return Location(
        name=name,
        path=path,
        real=real,
        type=str(about["Type"]),
        read_only=bool(about["ReadOnly"]),
        read_only_by=read_only_by(path) if about["ReadOnly"] else "",
        in_pool=path.parent == host.paths.machines,
        mounts=tuple(Path(point) for point in pool.mounts_below(real)),
        hidden=tuple(hidden(host.paths, name, path)),
    )


def find(host: HostContext, name: MachineName) -> Location:
    """The same for work that needs an image. Raises MachineMissing besides."""
    found = locate(host, name)
    if found is None:
        raise MachineMissing(
            f"machined knows no image named {name} on this host.", hint="Build it, or refresh the list of machines."
        )
    return found


async def _about(host: HostContext, name: str) -> dict[str, Any]:
    path = (await host.bus.machined("GetImage", "s", [name]))[0]
    return await host.bus.properties(MACHINED, path, IMAGE_IFACE)


def read_only_by(path: Path) -> ReadOnlyBy:
    """Why machined calls the image there read-only. Raises OSError."""
    if path.is_relative_to(VENDOR):
        return "vendor"
    return "mount" if guarded.call(path, lambda: os.statvfs(path)).f_flag & os.ST_RDONLY else "mark"


def hidden(paths: Paths, name: MachineName, shown: Path) -> list[Path]:
    """Images of the name that are never listed, because `shown` is found before them."""
    each = (folder / file for folder in paths.image_folders for file in (name, f"{name}.raw"))
    return [path for path in each if path != shown and _is_there(path)]


def _is_there(path: Path) -> bool:
    """Whether there is one, as far as can be told in time."""
    try:
        return guarded.is_there(path)
    except OSError:
        return False


def _is_missing(error: BusError) -> bool:
    return "NoSuchImage" in error.name or "UnknownObject" in error.name


def check_changeable(image: Location, *, to: str) -> None:
    """Raises Problem image-is-link or image-read-only, in the words of what was wanted (`to` = "be made writable")."""
    if image.is_link:
        raise Problem(
            f"{image.path} is only a symlink to {image.real}, and systemd does not change images through one.",
            code="image-is-link",
            hint="Do it on the host itself, at the target of the symlink.",
        )
    if image.read_only_by == "vendor":
        raise Problem(
            f"{image.path} cannot {to}: systemd does not change images below {VENDOR}.",
            code="image-read-only",
            hint="Clone it: the clone is in the pool, where it is writable.",
        )
    if image.read_only_by == "mount":
        raise Problem(
            f"{image.path} cannot {to}: its file system is mounted read-only.",
            code="image-read-only",
            hint="Remount it writable on the host, or clone the machine.",
        )


def check_readable(host: HostContext, image: Location) -> None:
    """Before a copy is made or packed. Raises Problem image-unusable or OSError."""
    if host.paths.machines.is_relative_to(image.real):
        raise Problem(
            f"{image.path} points to {image.real}, which contains the pool itself.", code="image-unusable",
            hint="Move that machine's root filesystem to a directory of its own on the host.",
        )  # fmt: skip
    if image.type == "block":
        raise Problem(
            f"{image.path} is a block device; only directories and files can be copied.", code="image-unusable",
            hint="Copy it on the host, with the tools for that device.",
        )  # fmt: skip
    if not image.is_disk and not any(tree.exists(image.real, folder) for folder in ("usr", "etc")):
        raise Problem(
            f"{image.real} contains no system: it has neither /usr nor /etc.", code="image-unusable",
            hint="Check on the host what is there.",
        )  # fmt: skip


def say(output: JobOutput, image: Location, verb: str) -> None:
    """What of an image's place a person might not expect, in the log of the job that has it "copied" or "packed"."""
    if image.real != image.path:
        output.line(f"{image.path} is a symlink: {image.real} is {verb}.")
    elif not image.in_pool:
        output.line(f"The image is {image.path}.")
    for other in image.hidden:
        output.line(f"{other} has the same name and is not {verb}: systemd uses {image.path}.")
    for mount in image.mounts:
        if mount != image.real:
            output.line(f"What is mounted at {mount} is not {verb}.")


# --- all of them


async def listed(host: HostContext) -> dict[str, Image]:
    """Every image that can be a machine, by name. Raises BusError."""
    everything = (await host.bus.machined("ListImages"))[0]
    found = [image for image in everything if is_usable(image[0])]
    strange = [image[0] for image in everything if not is_usable(image[0]) and not image[0].startswith(".")]
    host.slow.unusable = {name: why_unusable(name) for name in strange}  # .host is the host itself
    known = await guarded.aside(_still_there, dict(host.slow.paths))
    paths = await asyncio.gather(*(_path(host, image[:4], image[6], known) for image in found))
    kept = set(paths)
    host.slow.paths = {key: path for key, path in host.slow.paths.items() if path in kept}
    return await guarded.aside(_images, host.paths, [*zip(found, paths, strict=True)])


def _still_there(known: Mapping[tuple[Any, ...], Path]) -> dict[tuple[Any, ...], Path]:
    """Those that are; one that does not answer is."""
    return {key: path for key, path in known.items() if guarded.seems_there(path)}


def _images(paths: Paths, found: Sequence[tuple[Sequence[Any], Path]]) -> dict[str, Image]:
    """Not for the bus's loop: an image may be a link to anywhere."""
    namesakes = _namesakes(paths)
    return {about[0]: _image(about, path, namesakes) for about, path in found if path != Path()}


async def _path(host: HostContext, about: Sequence[Any], image: str, still: Mapping[tuple[Any, ...], Path]) -> Path:
    """Where an image lies, asked once; Path() when it went away meanwhile.

    An image that comes to count instead of it was made at another time; where no such times are known, it is asked
    every time.
    """
    key = tuple(about)
    known = still.get(key)
    if known is not None and about[3] not in {0, INFINITE}:
        return known
    try:
        path = Path(str((await host.bus.properties(MACHINED, image, IMAGE_IFACE))["Path"]))
    except BusError as error:
        if _is_missing(error):
            return Path()
        raise
    host.slow.paths[key] = path
    return path


def _image(about: Sequence[Any], path: Path, namesakes: Mapping[str, Sequence[Path]]) -> Image:
    name, kind, read_only, created = about[:4]
    by: ReadOnlyBy = ""
    if read_only:
        with contextlib.suppress(OSError):
            by = read_only_by(path)
    hidden = tuple(each for each in namesakes.get(name, ()) if each != path)
    return Image(name, kind, read_only, image_id(path, created), path, by, hidden)


def _namesakes(paths: Paths) -> dict[str, list[Path]]:
    """Everything in the folders of images, by the name it would have as an image."""
    found: dict[str, list[Path]] = {}
    for folder in paths.image_folders:
        with contextlib.suppress(OSError):
            for file in guarded.names(folder):
                found.setdefault(file.removesuffix(".raw"), []).append(folder / file)
    return found


def image_id(path: Path, created: int) -> str:
    """Creation time in µs (0 when the file system does not know it) and inode of the image's top."""
    try:
        inode = guarded.state(path).st_ino
    except OSError:
        inode = 0
    return f"{0 if created in {0, INFINITE} else created}-{inode}"


def why_unusable(name: str) -> str:
    """Why an image that machined lists cannot be a machine, and what would make it one."""
    strange = sorted(set(re.sub(r"[A-Za-z0-9.-]", "", name)))
    if name.lower() in {"host", "localhost"}:
        why = "it refers to the host itself"
    elif strange:
        shown = " ".join("a space" if each == " " else each for each in strange[:10])
        why = f"its name contains {shown}; a machine name has letters, digits, dashes and dots"
    elif len(name) > 64:
        why = f"its name has {len(name)} characters; a machine name has 64 at most"
    else:
        why = "a label of its name is empty, or begins or ends with a dash"
    better = re.sub(r"[-.]*\.[-.]*", ".", re.sub(r"[^A-Za-z0-9.]+", "-", name)).strip("-.")[:60].rstrip("-.")
    better = f"my-{better}" if not is_usable(better) else better
    return (
        f"systemd-nspawn does not accept this machine name: {why}. Rename it: "
        f"{shlex.join(['machinectl', 'rename', name, better])}"
    )
