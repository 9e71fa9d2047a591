"""Remove a machine: its image, both its files, its generations, its autostart link."""

import os
import time
from typing import Any

from machines.contract import orders
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host import autostart, inventory, machinectl, nspawn_file, systemctl
from machines.host.faults import CommandFailed
from machines.host.paths import unit_of
from machines.host.rootfs import build, pool
from machines.host.run import run
from machines.host.running import Machine
from machines.host.this_host import Image, Task, ThisHost

# EPERM, as machinectl tells it when the kernel refuses, and when machined's own words are taken for it.
_MARKED = ("Operation not permitted", "Access denied")


def remove(host: ThisHost, task: Task) -> dict[str, Any]:
    """Carry out a Remove order. Carried out again after it was interrupted, it finishes the rest.

    Raises Problem machine-running or image-changed, or CommandFailed.
    """
    assert isinstance(task.order, orders.Remove)
    name = MachineName(task.order.name)
    task.voice.phase("check", 1, 3)
    image = host.bus.do(inventory.read_image(host, name))
    _check(host, task, name, image)
    task.voice.phase("image", 2, 3)
    if image is not None:
        _remove_image(host, task, name)
        build.sync(host.paths.machines)  # or a power cut would bring it back
    task.voice.phase("configuration", 3, 3)
    _forget(host, task, name)
    return {"removed": image is not None}


def _remove_image(host: ThisHost, task: Task, name: MachineName) -> None:
    """Files marked immutable or append-only stop machined half-way, where the image is no subvolume: then the marks are
    taken off and it is tried once more. Raises CommandFailed."""
    argv = machinectl.remove(name)
    try:
        task.run(argv, timeout=max(60.0, task.deadline - time.time()))
    except CommandFailed as failed:
        tree = host.paths.image(name)
        if not any(word in failed.tail for word in _MARKED) or tree.is_symlink() or not tree.is_dir():
            raise
        run(pool.unmark(tree), timeout=300, codes=(0, 1))
        task.run(argv, timeout=max(60.0, task.deadline - time.time()))


def _check(host: ThisHost, task: Task, name: MachineName, image: Image | None) -> None:
    assert isinstance(task.order, orders.Remove)
    image_id = task.order.image_id
    if Machine(host, task, name).is_registered():
        raise Problem(f"{name} is running.", code="machine-running", hint="Power it off first.")
    if os.path.islink(host.paths.image(name)):
        raise Problem(
            f"{name} is only a link to a tree elsewhere.",
            code="image-is-link",
            hint="Remove the link on the host itself.",
        )
    if image is not None and image_id and image.id != image_id:
        raise Problem(
            f"{name} is not the machine this order was about: it has been made anew since.", code="image-changed",
            hint="Look at it again; if it is to go, order it once more.",
        )  # fmt: skip


def _forget(host: ThisHost, task: Task, name: MachineName) -> None:
    if name in autostart.linked(host.paths):
        task.run(systemctl.disable(unit_of(name)))  # machinectl's asks for the image, which is gone
    found = nspawn_file.read(host.paths, name)
    nspawn_file.forget(host.paths, name)
    if found.nspawn:
        task.voice.line(f"Removing {host.paths.nspawn_file(name)}")
    if found.limits:
        task.voice.line(f"Removing {host.paths.limits_file(name)}")
        task.run(systemctl.daemon_reload())
