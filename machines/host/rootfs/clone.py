"""A copy of a machine or template of the same host, with an identity of its own (firstboot.py does that part).

On btrfs it is a snapshot, those subvolumes included that lie inside: it costs nothing, and of a running machine it is what
that machine would find after a power cut. Elsewhere it is a full copy, which nobody may change while it is made.
"""

import stat
from dataclasses import dataclass
from pathlib import Path

from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.contract.recipes import CloneRecipe, FirstBoot
from machines.host.faults import MachineMissing
from machines.host.paths import Paths
from machines.host.rootfs import btrfs, disk_image, owners, pool
from machines.host.rootfs.building import Building
from machines.host.running import Machine


@dataclass
class Original:
    """What is copied, and when it last began to run as far as known before the copy."""

    path: Path
    is_snapshot: bool
    began: float = 0.0


def also(_: CloneRecipe, __: FirstBoot) -> tuple[str, ...]:
    return ()


def is_swift(paths: Paths, recipe: CloneRecipe) -> bool:
    """Whether the clone is a snapshot with owners as they shall be; the worker cannot give a file its capabilities back."""
    source = paths.image(MachineName(recipe.source))
    return not source.is_symlink() and pool.is_subvolume(source) and owners.first_id(source) == 0


def prepare(building: Building) -> None:
    """The original is there, lies in the pool, and can be copied as it is now."""
    assert isinstance(building.recipe, CloneRecipe)
    name = MachineName(building.recipe.source)
    path = _find(building, name)
    building.raw = path.suffix == ".raw" and path.is_file()
    if building.raw:
        disk_image.check_host()
    original = building.state = Original(path, not building.raw and pool.is_subvolume(path))
    machine = Machine(building.host, building.task, name)
    if not machine.is_registered():
        original.began = machine.run_began()
    elif original.is_snapshot:
        building.task.voice.line(f"{name} is running: the clone is as it was at this moment, like after a power cut.")
    else:
        raise Problem(
            f"{name} is running, and here a copy takes time, so it would be neither its state of now nor of then.",
            code="machine-running",
            hint="Power it off first; where the images lie on btrfs a running machine can be cloned too.",
        )


def _find(building: Building, name: MachineName) -> Path:
    paths = building.host.paths
    tree, raw = paths.image(name), paths.raw_image(name)
    if tree.is_symlink() or raw.is_symlink():
        raise Problem(
            f"{name} is only a link to an image elsewhere.",
            code="image-is-link",
            hint="Clone what it leads to, on the host.",
        )
    if tree.is_dir():
        return tree
    if raw.is_file():
        return raw
    raise MachineMissing(
        f"There is no image named {name} in {paths.machines} of this host.", hint="Refresh the list of machines."
    )


def bootstrap(building: Building) -> None:
    """The copy itself."""
    original: Original = building.state
    if building.raw:
        _copy_file(building, original.path)
    elif original.is_snapshot:
        _snapshot(building, original.path)
    else:
        pool.copy(building.task, original.path, building.tree)
    _check_still(building, original)
    if not building.raw and (count := owners.reset(building.tree)):
        building.task.voice.line(f"The original has ids of its own; {count} files of the clone begin at 0 again.")


def _snapshot(building: Building, source: Path) -> None:
    pool.snapshot(building.task, source, building.tree)
    if count := btrfs.snapshot_nested(source, building.tree):
        building.task.voice.line(f"{count} subvolumes inside it are copied too.")


def _copy_file(building: Building, source: Path) -> None:
    file = building.raw_file
    argv = ["cp", "--reflink=auto", "--sparse=auto", "--no-target-directory", "--", str(source), str(file)]
    building.task.run(argv, timeout=building.seconds_left)
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)


def _check_still(building: Building, original: Original) -> None:
    """Raises Problem machine-running when the original was started while it was copied."""
    if original.is_snapshot:
        return
    assert isinstance(building.recipe, CloneRecipe)
    machine = Machine(building.host, building.task, MachineName(building.recipe.source))
    if machine.is_registered() or machine.run_began() != original.began:
        raise Problem(
            f"{machine.name} was started while it was being copied, so the copy is thrown away.", code="machine-running",
            hint="Power it off and clone it again.", passing=True,
        )  # fmt: skip


def packages(_: Building) -> None:
    """As many as the original has."""


def configure(_: Building) -> None:
    """A machine already."""


def installed(_: Path) -> list[str]:
    return []
