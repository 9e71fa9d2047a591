"""The named steps of every build, in order. Each half-made thing knows its way back (undo.py).

The tree grows under a name machined does not show and is renamed into place only when it is complete and on disk, so
that no half machine is ever listed. What a distribution's tools made is kept as a base first (storage/base_images.py), before the tree
becomes one machine: the next build of the recipe copies it.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.contract.recipes import WITH_BASE, AnyRecipe, BuildSecrets, CloneRecipe, FirstBoot, key_of, title_of
from machines.host.context.host_context import HostContext, Task
from machines.host.context.remnants import AGAIN
from machines.host.files import name_files, nspawn_file
from machines.host.machine import apply, lifecycle, lint
from machines.host.observe import command_line
from machines.host.rootfs import archive, clone, pull
from machines.host.rootfs.steps import boot_tuning, firstboot, tmpfs_build
from machines.host.rootfs.steps.building import Builder, Building
from machines.host.rootfs.systems import arch, debian, dnf, suse
from machines.host.storage import base_images, btrfs, disk_image, pool
from machines.host.storage.base_images import Base
from machines.host.system import tree
from machines.host.system.bus import BusError
from machines.host.system.faults import NameHasFiles, NoSpace, from_os_error, look, no_space
from machines.host.system.paths import Paths

Step = Callable[[Building], None]

BUILDERS: Mapping[str, Builder] = {
    "debian": debian, "dnf": dnf, "arch": arch, "suse": suse, "clone": clone, "pull": pull, "archive": archive,
}  # fmt: skip

ROOM = 1024**3  # bytes that must be free before a build begins
MARK = "trusted.nspawnpanel.job"  # on the top of a tree: the job that made it
PACKAGES_TOLD = 5000
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1

_libc = ctypes.CDLL(None, use_errno=True)


def build(host: HostContext, task: Task, secrets: BuildSecrets) -> dict[str, Any]:
    """Carry out a Build order, step by step. Raises Problem or OSError; then nothing of it is left."""
    order = task.order
    assert isinstance(order, orders.Build)
    building = Building(host, task, order.recipe, order.first_boot, secrets, MachineName(order.name))
    return _carry_out(building, fresh=order.fresh)


def build_base(host: HostContext, task: Task) -> dict[str, Any]:
    """Carry out a BuildBase order: a new base and nothing else."""
    order = task.order
    assert isinstance(order, orders.BuildBase)
    return _carry_out(Building(host, task, order.recipe, order.first_boot, BuildSecrets()), fresh=True)


def remove_base(host: HostContext, task: Task) -> dict[str, Any]:
    """Carry out a RemoveBase order."""
    assert isinstance(task.order, orders.RemoveBase)
    return {"removed": base_images.remove(host.paths, task.order.base)}


def _carry_out(building: Building, *, fresh: bool) -> dict[str, Any]:
    with building.undo, contextlib.ExitStack() as turn:
        for step in STEPS:
            phase = step.__name__.rstrip("_")
            if phase in building.task.order.phases:
                building.enter(phase)
                step(building)
            if step is prepare:
                find_base(building, turn, fresh=fresh)
        building.leave()
        building.undo.keep()
    return {"seconds": building.times, **building.found}


def builder_of(recipe: AnyRecipe) -> Builder:
    """Raises Problem builder-missing for a kind this host's worker is too old for."""
    if recipe.kind not in BUILDERS:
        raise Problem(
            f"This host's worker cannot build “{recipe.kind}” yet.", code="builder-missing", hint="Update it."
        )
    return BUILDERS[recipe.kind]


def recipe_key(recipe: AnyRecipe, answers: FirstBoot) -> str:
    """What a base of this recipe is found by."""
    return key_of(recipe, builder_of(recipe).extra_packages(recipe, answers))


def is_instant(host: HostContext, order: orders.Build) -> bool:
    """Whether a build is nothing but a snapshot; the tree's own tools, which may have to make a locale, are more."""
    if isinstance(order.recipe, CloneRecipe):
        return clone.is_instant(host, order.recipe)
    if order.fresh or order.recipe.kind not in WITH_BASE or order.recipe.kind not in BUILDERS:
        return False
    base = base_images.find(host.paths, recipe_key(order.recipe, order.first_boot))
    if base is None or not base_images.is_snapshot(host.paths, base):
        return False
    return is_of_region(base, order.first_boot) or not firstboot.needs_locales(order.first_boot.locale)


def is_of_region(base: Base, answers: FirstBoot) -> bool:
    """Whether a base was made with this locale and time zone."""
    return (base.locale, base.timezone) == (answers.locale, answers.timezone)


def is_made_by(host: HostContext, order: orders.Build, job: UUID) -> bool:
    """Whether the image of that name is the one this very job has made."""
    name = MachineName(order.name)
    return any(is_complete(image, job) for image in (host.paths.image(name), host.paths.raw_image(name)))


def is_complete(image: Path, job: UUID) -> bool:
    """Whether a tree or disk image is one that this job has finished."""
    try:
        return os.getxattr(image, MARK) == str(job).encode()
    except OSError:
        return False


def clear(paths: Paths, job: UUID) -> None:
    """Remove everything half-made of a job. Raises OSError when something of it is left, and all the rest is gone."""
    errors = []
    for path in paths.machines.glob(f".nspawnpanel-{job}.*"):
        try:
            pool.clear(path)
        except OSError as error:
            errors.append(error)
    if errors:
        raise errors[0]


# --- prepare


def prepare(building: Building) -> None:
    """What can be known before anything is made: the name, the room, the configuration."""
    if building.name is not None:
        check_name_free(building.host, building.name)
    check_room(building.host.paths.machines)
    if isinstance(building.task.order, orders.Build) and building.name is not None:
        host, name, order = building.host, building.name, building.task.order
        building.leftovers = name_files.look(host.paths, order)
        wanted = name_files.to_write(host.paths, order, building.leftovers)
        found, unit_runs = nspawn_file.read(host.paths, name), partial(command_line.read, host.bus)
        lint.check(host.paths, host.policy, name, wanted, found, unit_runs=unit_runs)
    building.undo.push(clear, building.host.paths, building.task.job)


def find_base(building: Building, turn: contextlib.ExitStack, *, fresh: bool) -> None:
    """Whether the recipe was built here before. If not, or if it shall be built anew, the builder prepares.

    Builds of one recipe take turns until the end of the job, so that the second finds what the first has made.
    """
    recipe, paths, output = building.recipe, building.host.paths, building.task.output
    if recipe.kind in WITH_BASE:
        key = recipe_key(recipe, building.first_boot)
        known = base_images.find(paths, key)
        building.expected = known.bytes if known else 0
        building.base = None if fresh else known
        if building.base is None and turn.enter_context(base_images.one_at_a_time(paths, key)) and not fresh:
            building.base = base_images.find(paths, key)
    if building.base is None:
        builder_of(recipe).prepare(building)
        return
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(building.base.built))
    output.line(f"From base image {building.base.id}, built on {made} with {len(building.base.packages)} packages.")
    building.found |= _told(building.base, fresh=False)


def _told(base: Base, *, fresh: bool) -> dict[str, Any]:
    return {
        "base": {"id": base.id, "built": base.built, "fresh": fresh, "job": base.job},
        "bytes": base.bytes,
        "packages": base.packages[:PACKAGES_TOLD],
    }


def check_name_free(host: HostContext, name: MachineName) -> None:
    """Raises Problem name-taken when an image, a running machine or a folder has the name."""
    taken = ""
    for method, what in (("GetImage", "an image"), ("GetMachine", "a running machine")):
        try:
            host.bus.do(host.bus.machined(method, "s", [name]))
            taken = what
        except BusError as error:
            if "NoSuch" not in error.name:
                raise
    if any(map(os.path.lexists, (host.paths.image(name), host.paths.raw_image(name)))):
        taken = taken or "an image"
    if taken:
        raise Problem(
            f"There is already {taken} named {name} on this host.", code="name-taken", hint="Choose another name."
        )


def check_room(folder: Path) -> None:
    """Raises NoSpace when a build has no chance."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        raise no_space(str(folder), needs=f"A build needs at least {ROOM // 1024**2:,} MiB.")
    free_space = look(str(folder))
    if free_space is not None and free_space.lacks_inodes:
        raise no_space(str(folder))


# --- bootstrap, packages


def bootstrap(building: Building) -> None:
    """The smallest system, or a copy of the base."""
    if building.base is not None:
        base_images.copy(building.host.paths, building.task, building.base, building.tree)
        return
    builder = builder_of(building.recipe)
    if building.recipe.kind in WITH_BASE and not tmpfs_build.use(building):
        pool.make(building.tree)
    _fill(building, builder.bootstrap)
    if building.raw:
        disk_image.mount(building.task, building.raw_file, building.tree)


def packages(building: Building) -> None:
    """What the recipe adds; in the base already, if there is one. Then the tree is as large as it gets."""
    if building.base is not None:
        return
    builder = builder_of(building.recipe)
    _fill(building, builder.packages, after=(builder.bootstrap,))
    if building.in_memory:
        tmpfs_build.settle(building)


def _fill(building: Building, step: Step, after: Sequence[Step] = ()) -> None:
    """A step of the builder's. A tree that does not fit into memory is begun again in the pool."""
    try:
        step(building)
    except (Problem, OSError) as error:
        problem = from_os_error(error) if isinstance(error, OSError) else error
        if not building.in_memory or not isinstance(problem, NoSpace):
            raise
        building.task.output.line("The image does not fit into that memory: building on disk instead.")
        tmpfs_build.leave(building)
        pool.make(building.tree)
        for again in (*after, step):
            again(building)


# --- configure


def configure(building: Building) -> None:
    """First a machine in general, which is kept as the base; then this machine, with its names and keys."""
    root, answers, run = building.tree, building.first_boot, building.task.run
    with_base = building.recipe.kind in WITH_BASE
    if building.base is None:
        builder_of(building.recipe).configure(building)
    if building.base is None or not is_of_region(building.base, answers):
        firstboot.set_region(root, answers, run, trusted=with_base)
    if building.base is None and with_base:
        keep_base(building)
    if building.name is not None:
        firstboot.set_up(root, building.name, answers, building.secrets, run)
        _say_of_timezone(building)


def _say_of_timezone(building: Building) -> None:
    order = building.task.order
    assert isinstance(order, orders.Build)
    if order.first_boot.timezone and nspawn.parse(order.configuration.nspawn).last(nspawn.EXEC, "Timezone") != "off":
        building.task.output.line(
            "At every start systemd-nspawn sets this host's time zone in the machine; Timezone=off keeps the recipe's."
        )


def keep_base(building: Building) -> None:
    """Put the tree aside as a base, without any identity; finish() publishes it once it is on disk."""
    paths, task, recipe = building.host.paths, building.task, building.recipe
    check_tree(building.tree)
    firstboot.forget_identity(building.tree)
    _polish(building)
    found = builder_of(recipe).installed(building.tree)
    key = recipe_key(recipe, building.first_boot)
    building.base = Base(
        id=base_images.id_of(key, found), key=key, title=_title(recipe), built=time.time(), bytes=pool.size(building.tree),
        packages=found, job=str(task.job), primed=getattr(recipe, "prime", False), trimmed=getattr(recipe, "trim", False),
        locale=building.first_boot.locale, timezone=building.first_boot.timezone,
    )  # fmt: skip
    aside = paths.unfinished_base(task.job)
    building.undo.push(base_images.forget_aside, aside)
    base_images.keep(task, building.tree, aside)
    building.found |= _told(building.base, fresh=True)


def _polish(building: Building) -> None:
    task, recipe = building.task, building.recipe
    if getattr(recipe, "trim", False):
        masked = boot_tuning.trim(building.tree)
        task.output.line(
            f"Slim: {len(masked)} units and generators are masked, logind waits for the first login: {' '.join(masked)}"
        )
    if getattr(recipe, "prime", False):
        boot_tuning.prime(task, building.tree)
        task.output.line("Pre-booted once; its identity has been reset.")


def _title(recipe: AnyRecipe) -> str:
    return " · ".join([title_of(recipe), " ".join(getattr(recipe, "packages", ()))]).removesuffix(" · ")


# --- finish


def finish(building: Building) -> None:
    """The tree is complete; now it is also on disk, and really a tree of root's. So is its base, and its files beside."""
    check_tree(building.tree)
    made = building.raw_file if building.raw else building.tree
    if building.raw:
        disk_image.unmount(building.task, building.tree)
    os.setxattr(made, MARK, str(building.task.job).encode())
    btrfs.keep_read_only(building.tree, building.read_only)
    with ThreadPoolExecutor(1) as beside:  # two disks may sync at once, or one for both
        files = beside.submit(_prepare_files, building)
        sync(building.host.paths.machines)
        files.result()
    paths, base = building.host.paths, building.base
    if base is None or base.job != str(building.task.job):
        return
    base_images.publish(paths, base, paths.unfinished_base(building.task.job))
    for gone, left in base_images.trim(paths, base, building.host.policy.max_bases):
        building.task.output.line(
            f"Base image {gone.id} ({gone.title}) removed; machines made from it are not affected."
        )
        if left:
            building.task.output.line(f"Not all of it could be deleted: {left}. {AGAIN}", "e")
    if building.name is None:
        pool.clear(building.tree)


def _prepare_files(building: Building) -> None:
    order = building.task.order
    if building.name is not None and isinstance(order, orders.Build):
        wanted = name_files.to_write(building.host.paths, order, building.leftovers)
        found = name_files.to_replace(building.host.paths, order, building.leftovers)
        building.configuration = nspawn_file.Prepared(building.host.paths, building.name, wanted, found)
        building.undo.push(building.configuration.drop)


def check_tree(root: Path) -> None:
    """Raises Problem bootstrap-failed or OSError when this is no tree that can boot."""
    tree.check_top(root)
    if not any(tree.exists(root, path) for path in ("usr/lib/systemd/systemd", "lib/systemd/systemd")):
        raise Problem("The image contains no systemd, so it would not boot.", code="bootstrap-failed")


def sync(folder: Path) -> None:
    """syncfs(2): everything of the file system `folder` lies on. Raises OSError, also for a full disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(fd)


# --- import


def import_(building: Building) -> None:
    """The tree becomes a machine: its files written, renamed into place, enabled and started as ordered.

    From the rename on, a failing start leaves the machine there: it is complete, and its log says what is wrong.
    """
    host, task, name, order = building.host, building.task, building.name, building.task.order
    assert isinstance(order, orders.Build)
    assert name is not None
    _check_same_leftovers(building, order)
    wanted = name_files.to_write(host.paths, order, building.leftovers)
    found = name_files.to_replace(host.paths, order, building.leftovers)
    nspawn_file.keep(host.paths.job(task.job), found)
    building.undo.push(name_files.put_back, host.paths, order, task)
    name_files.settle(host, task, order, building.leftovers)
    building.undo.push(apply.write, host, task, name, wanted, found)
    apply.write(host, task, name, found, wanted, prepared=building.configuration)
    building.found["applied_at"] = time.time()
    if building.raw:
        rename_into_place(building.raw_file, host.paths.raw_image(name))
    else:
        rename_into_place(building.tree, host.paths.image(name))
    building.undo.keep()
    if building.base is None or building.base.job == str(task.job):
        sync(host.paths.machines)  # of a copy, which costs nothing, the file system's own next commit is soon enough
    task.output.line(f"{name} is ready.")
    run_as_ordered(host, task, name, order)


def _check_same_leftovers(building: Building, order: orders.Build) -> None:
    """Somebody may have written something while it was built. Raises NameHasFiles."""
    found = name_files.look(building.host.paths, order)
    if found != building.leftovers:
        raise NameHasFiles(order.name, name_files.told(found), changed=True)


def run_as_ordered(host: HostContext, task: Task, name: MachineName, order: orders.Build) -> None:
    """Enable and start a machine that is there. Twice does no harm."""
    if order.enable:
        lifecycle.enable_machine(host, task, name)
    if order.start:
        _start(host, task, name)


def rename_into_place(source: Path, target: Path) -> None:
    """renameat2(2) that never replaces anything. Raises Problem name-taken or OSError."""
    result = _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if result == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        raise Problem(
            f"{target.name} was created by someone else in the meantime.",
            code="name-taken",
            hint="Choose another name.",
        )
    raise OSError(number, os.strerror(number), str(target))


def _start(host: HostContext, task: Task, name: MachineName) -> None:
    try:
        lifecycle.start_machine(host, task, name)
    except Problem as problem:
        raise Problem(
            f"{name} was built, but did not start: {problem.message}", code="start-failed",
            hint="The machine exists; change its configuration or check its log, then start it.",
            details=problem.details,
        ) from problem  # fmt: skip


STEPS: tuple[Step, ...] = (prepare, bootstrap, packages, configure, finish, import_)
