"""Whether a machine can be removed to the end: looked at before the first byte of it goes.

Facts, tried on 252 and 257: while systemd-nspawn or machined work on an image they hold a lock on .#IMAGE.lck beside it
(an open file description lock, also with --register=no and whatever name the machine was given). A directory marked
immutable, which is what machined does to make it read-only, cannot be renamed; a read-only subvolume can.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from machines.contract import orders
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.context.host_context import HostContext, Task
from machines.host.files import belongings
from machines.host.machine.lifecycle import Machine
from machines.host.observe import inventory
from machines.host.storage import images, pool
from machines.host.storage.images import Location
from machines.host.system import guarded

SHOWN = 5  # of many, in a sentence


def look(host: HostContext, task: Task, name: MachineName) -> Path | None:
    """The image, when nothing stands in the way of removing it and all that belongs to its name; None when there is none.

    Raises Problem with what stands in the way; then nothing was changed. A unit that only waits to start its machine
    again is stopped, as the last thing.
    """
    order = task.order
    assert isinstance(order, orders.Remove)
    waits = _check_stopped(host, task, name)
    image = images.locate(host, name)
    if image is not None:
        _check_image(host, order, image)
    _check_files(host, order)
    if waits and not Machine(host, task, name).within(120).stop():
        raise Problem(f"{name} does not stop. Nothing was removed.", code="machine-running", hint="Use “Terminate”.")
    for other in image.hidden if image else ():
        task.output.line(f"{other} has the same name and is used from now on.")
    return image.path if image else None


@contextlib.contextmanager
def locked(image: Path, name: str) -> Iterator[None]:
    """Nobody starts, copies or renames the image meanwhile. Raises Problem image-busy or OSError."""
    lock = lock_of(image)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        yield
        lock.unlink(missing_ok=True)
    except BlockingIOError as error:
        raise Problem(
            f"The image of {name} is in use: systemd-nspawn or machined is using it, under any name.",
            code="image-busy", retryable=True, hint=f"See what is using it: fuser -v {lock}",
        ) from error  # fmt: skip
    finally:
        os.close(fd)


def lock_of(image: Path) -> Path:
    """The file on which systemd's tools lock an image."""
    return image.with_name(f".#{image.name}.lck")


# --- does it run


def _check_stopped(host: HostContext, task: Task, name: MachineName) -> bool:
    """Whether its unit waits for its next try to start it. Raises Problem machine-running."""
    state = Machine(host, task, name).state()
    if state.is_gone:
        return False
    if state.will_start and not state.is_registered and state.may_stop_unit:
        return True
    raise Problem(
        f"{name} is {state.state}, in {state.unit}. Nothing was removed.", code="machine-running", hint="Power it off first.",
    )  # fmt: skip


# --- its image


def _check_image(host: HostContext, order: orders.Remove, image: Location) -> None:
    """Raises Problem with the first thing that stands in the way."""
    name = order.name
    if image.is_link:
        raise Problem(
            f"{image.path} is only a symlink to {image.real}.", code="image-is-link",
            hint="Remove the symlink on the host itself.",
        )  # fmt: skip
    if not image.in_pool:
        raise Problem(
            f"The image of {name} is {image.path}, outside {host.paths.machines}.", code="image-elsewhere",
            hint="Only images in that directory can be removed here; remove this one on the host itself.",
        )  # fmt: skip
    known = host.bus.do(inventory.read_image(host, image.name))
    if known is not None and order.image_id and known.id != order.image_id:
        raise Problem(
            f"{name} is not the machine this request was for: it has been recreated since.", code="image-changed",
            hint="Check it again; to remove it, request the removal again.",
        )  # fmt: skip
    if image.mounts:
        raise Problem(
            f"Something is mounted in the image of {name}: {_some(image.mounts)}.", code="image-mounted",
            hint="Unmount it on the host first, so that nothing in it is deleted.",
        )  # fmt: skip
    _check_unused(image)


def _check_unused(image: Location) -> None:
    if users := _rooted(image.path):
        raise Problem(
            f"Processes of this host are using the image of {image.name}: {_some(users)}.", code="image-busy",
            retryable=True, hint="End them first, or wait until they finish.",
        )  # fmt: skip
    if links := _links_to(image.path):
        raise Problem(
            f"Other names are symlinks to the image of {image.name}: {_some(links)}.", code="image-linked",
            hint="Remove these symlinks on the host first.",
        )  # fmt: skip
    _check_writable(image.path.parent, image.name)
    with locked(image.path, image.name):
        return


def _rooted(image: Path) -> list[str]:
    """Processes whose root directory is in the tree, as “name (pid)”."""
    users = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            root = os.readlink(f"/proc/{entry.name}/root")
            if root == str(image) or root.startswith(f"{image}/"):
                comm = Path(f"/proc/{entry.name}/comm").read_text(errors="replace").strip()
                users.append(f"{comm} ({entry.name})")
    return users


def _links_to(image: Path) -> list[str]:
    with os.scandir(image.parent) as entries:
        links = [entry.path for entry in entries if entry.is_symlink()]
    real = guarded.resolved(image)
    return [link for link in links if guarded.resolved(Path(link)) == real]


# --- its files


def _check_files(host: HostContext, order: orders.Remove) -> None:
    """Raises Problem files-changed when they are not what the person saw, or read-only."""
    name = MachineName(order.name)
    for each in belongings.of(host.paths, name):
        _check_writable(each.path.parent, name)
        _check_unmarked(each.path, name)
    for was, file in (
        (order.replaces_nspawn, host.paths.nspawn_file(name)),
        (order.replaces_limits, host.paths.limits_file(name)),
    ):
        if was and was != inventory.sha256(file)[0]:
            raise Problem(
                f"{file} was changed on the host since it was last checked. Nothing was removed.", code="files-changed",
                hint="Check what is there now; to remove it, request the removal again.",
            )  # fmt: skip


def _check_unmarked(path: Path, name: str) -> None:
    """Raises Unreadable for what does not answer."""
    for each in (path, path.parent):
        if guarded.call(each, partial(pool.is_marked, each)):
            raise Problem(
                f"{each} is marked immutable. Nothing of {name} was removed.", code="read-only",
                hint=f"To remove it, clear the attribute on the host: chattr -i -a {each}",
            )  # fmt: skip


def _check_writable(folder: Path, name: str) -> None:
    """root may write everywhere but on a read-only file system. Raises Unreadable for one that does not answer."""
    if not guarded.call(folder, lambda: os.access(folder, os.W_OK)):
        raise Problem(
            f"{folder} is read-only. Nothing of {name} was removed.", code="read-only",
            hint="Make that file system writable on the host, then request the removal again.",
        )  # fmt: skip


def _some(things: Sequence[object]) -> str:
    found = [str(thing) for thing in things]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more
