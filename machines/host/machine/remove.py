"""Remove a machine: everything that belongs to its name, and its image.

The order of the steps is what makes it safe to be killed between any two. First everything is looked at and refused that
would stop it half-way. Then it is made impossible to start: its autostart links go and its image takes a hidden name that
no unit starts, both on disk before anything is deleted. Then its files go, and the image last. Carried out again after it
was interrupted, it finishes the rest.
"""

import os
from pathlib import Path
from typing import Any

from machines.contract import orders
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.context.host_context import HostContext, Task
from machines.host.context.remnants import AGAIN, reason
from machines.host.files import belongings, nspawn_file
from machines.host.files.belongings import Belonging
from machines.host.machine import removal_check
from machines.host.storage import pool, rmtree
from machines.host.system import systemctl
from machines.host.system.faults import CommandFailed
from machines.host.system.paths import Paths, unit_of
from machines.host.system.run import run
from machines.host.system.undo import Undo


def remove(host: HostContext, task: Task) -> dict[str, Any]:
    """Carry out a Remove order. Raises Problem of doomed.look(), CommandFailed or OSError; then nothing is removed, or
    the problem says what is."""
    assert isinstance(task.order, orders.Remove)
    name, aside = MachineName(task.order.name), host.paths.aside(task.job)
    task.output.phase("check", 1, 3)
    begun = os.path.lexists(aside)
    if begun:
        task.output.line(
            "An earlier removal was interrupted after the machine could no longer start; this completes it."
        )
    image = None if begun else removal_check.look(host, task, name)
    task.output.phase("configuration", 2, 3)
    if image is not None:
        _make_unstartable(host, task, name, image)
    if not begun or not _is_there(host.paths, name):  # somebody may have made another one of that name since
        _remove_files(host, task, name)
    task.output.phase("image", 3, 3)
    _delete(task, aside)
    return {"removed": image is not None or begun}


def _is_there(paths: Paths, name: MachineName) -> bool:
    return any(map(os.path.lexists, (paths.image(name), paths.raw_image(name))))


def _make_unstartable(host: HostContext, task: Task, name: MachineName, image: Path) -> None:
    """No link starts it, and what a unit of its name would start is not there. Raises CommandFailed or OSError; then it
    is as it was."""
    with removal_check.locked(image, name), Undo() as undo:
        links = [each for each in belongings.of(host.paths, name) if each.kind == "autostart"]
        for link in links:
            undo.push(_link_again, link)
        _take(host, task, name, links)
        pool.allow_rename(image)
        aside = host.paths.aside(task.job)
        task.output.line(f"Hiding {image} as {aside}, so that nothing can start it")
        image.rename(aside)
        undo.keep()
        nspawn_file.sync_folder(host.paths.machines)


def _link_again(link: Belonging) -> None:
    if not os.path.lexists(link.path):
        link.path.parent.mkdir(exist_ok=True)
        link.path.symlink_to(link.target)


def _remove_files(host: HostContext, task: Task, name: MachineName) -> None:
    """All that would act on the next machine of that name, and the generations kept of this one."""
    nspawn_file.forget_prepared(host.paths, name)
    _take(host, task, name, belongings.of(host.paths, name))
    _forget_generations(task, host.paths.generations(name))
    for image in (host.paths.image(name), host.paths.raw_image(name)):
        removal_check.lock_of(image).unlink(missing_ok=True)  # whoever is killed leaves it
    try:
        run(systemctl.reset_failed(unit_of(name)), timeout=20)
    except CommandFailed:
        return  # it never failed


def _forget_generations(task: Task, kept: Path) -> None:
    try:
        rmtree.remove(kept)
    except OSError as error:
        if os.path.lexists(kept):
            task.output.line(f"{kept} is left in place, with earlier configurations: {reason(error)}", "e")


def _take(host: HostContext, task: Task, name: MachineName, gone: list[Belonging]) -> None:
    if not gone:
        return
    for each in gone:
        task.output.line(f"Removing {each.said}")
    keep = host.paths.removed(name, task.job)
    if belongings.remove(gone, keep, image_too=True):
        task.output.line(f"Copies are kept in {keep}")
    task.run(systemctl.daemon_reload())


def _delete(task: Task, aside: Path) -> None:
    """Raises Problem remove-unfinished."""
    if not os.path.lexists(aside):
        return
    task.output.line(f"Deleting {aside}")
    try:
        pool.clear(aside)
    except (Problem, OSError) as error:
        raise Problem(
            f"The machine is removed, but not all of its image could be deleted: {reason(error)}", code="remove-unfinished",
            hint=f"The rest is in {aside} and cannot be started. {AGAIN}",
        ) from error  # fmt: skip
