"""A copy of a machine or template of the same host, with an identity of its own (firstboot.py does that part).

On btrfs it is a snapshot, those subvolumes included that lie inside: it costs nothing, and of a running machine it is what
that machine would find after a power cut. Elsewhere it is a full copy, which nobody may change while it is made.
"""

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.contract.recipes import CloneRecipe, FirstBoot
from machines.host.context.host_context import HostContext
from machines.host.machine.lifecycle import Machine
from machines.host.rootfs.steps.building import Building
from machines.host.storage import btrfs, disk_image, images, pool, uid_shift
from machines.host.system import tree

ADDRESS_FILES, ADDRESSES_SAID = 100, 20
# folder of a tree, names of files in it, and what in them is an address of the machine's own: networkd, ifupdown, NetworkManager
_ADDRESSES = (
    (
        "etc/systemd/network",
        (".network", ".netdev", ".link"),
        re.compile(r"(?im)^\s*(?:MAC)?Address\s*=\s*([^\n]{1,60})"),
    ),
    ("etc/network", ("interfaces",), re.compile(r"(?im)^\s*(?:hw)?address\s+([^\n]{1,60})")),
    (
        "etc/NetworkManager/system-connections",
        (".nmconnection",),
        re.compile(r"(?im)^(?:address[0-9]*|cloned-mac-address)\s*=\s*([^\n]{1,60})"),
    ),
)


@dataclass
class Original:
    """What is copied, and when it last began to run as far as known before the copy."""

    image: images.Location
    is_snapshot: bool
    began: float = 0.0


def extra_packages(_: CloneRecipe, __: FirstBoot) -> tuple[str, ...]:
    return ()


def is_instant(host: HostContext, recipe: CloneRecipe) -> bool:
    """Whether the clone is a snapshot with owners as they shall be; the worker cannot give a file its capabilities back.

    What stands in the way of a copy is said by the job itself.
    """
    try:
        image = images.locate(host, MachineName(recipe.source))
    except (Problem, OSError):
        return False
    if image is None or image.is_disk:
        return False
    return pool.can_snapshot(image.real, host.paths.machines) and uid_shift.first_id(image.real) == 0


def prepare(building: Building) -> None:
    """The original is there, and can be copied as it is now."""
    assert isinstance(building.recipe, CloneRecipe)
    host, output = building.host, building.task.output
    image = images.find(host, MachineName(building.recipe.source))
    images.check_readable(host, image)
    images.say(output, image, "copied")
    building.raw = image.is_disk
    if building.raw:
        disk_image.check_host()
    snapshot = not image.is_disk and pool.can_snapshot(image.real, host.paths.machines)
    original = building.state = Original(image, snapshot)
    state = Machine(host, building.task, image.name).state()
    if state.is_gone:
        original.began = state.began
    elif original.is_snapshot:
        output.line(f"{image.name} is running: the clone has its state of this moment, as after a power failure.")
    else:
        raise Problem(
            f"{image.name} is {state.state}, and a copy takes time here, so it would not be consistent.",
            code="machine-running",
            hint="Power it off first; with images on btrfs, a running machine can be cloned too.",
        )


def bootstrap(building: Building) -> None:
    """The copy itself."""
    original: Original = building.state
    real = original.image.real
    if building.raw:
        _copy_file(building, real)
    elif original.is_snapshot:
        _snapshot(building, real)
    else:
        pool.copy(building.task, real, building.tree, mounts=original.image.mounts)
    _check_still(building, original)
    if not building.raw and (count := uid_shift.reset(building.tree)):
        building.task.output.line(
            f"The original has a UID range of its own; {count} files of the clone are shifted back to 0."
        )


def _snapshot(building: Building, source: Path) -> None:
    pool.snapshot(building.task, source, building.tree)
    nested = btrfs.snapshot_nested(source, building.tree)
    building.read_only = nested.read_only
    if nested.paths:
        fixed = f", {len(nested.read_only)} of them read-only" if nested.read_only else ""
        building.task.output.line(f"{len(nested.paths)} subvolumes inside it are copied too{fixed}.")


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
    state = Machine(building.host, building.task, MachineName(building.recipe.source)).state()
    if not state.is_gone or state.began != original.began:
        raise Problem(
            f"{state.name} was started while it was being copied, so the copy is discarded.", code="machine-running",
            hint="Power it off and clone it again.", retryable=True,
        )  # fmt: skip


def packages(_: Building) -> None:
    """As many as the original has."""


def configure(building: Building) -> None:
    """A machine already. What of it would be on the network twice is said, and left to whoever knows the network."""
    for line in fixed_addresses(building.tree):
        building.task.output.line(f"{line}: the original and the clone would both have it. Change one of them.", "e")


def fixed_addresses(root: Path) -> list[str]:
    """Addresses that the tree's own files give it, whoever it is: "etc/network/interfaces gives 10.0.0.5"."""
    found = []
    for folder, endings, pattern in _ADDRESSES:
        for name in [each for each in tree.names(root, folder) if each.endswith(endings)][:ADDRESS_FILES]:
            text = tree.read_text(root, f"{folder}/{name}")
            found += [f"{folder}/{name} gives {said.group(1).strip()}" for said in pattern.finditer(text)]
    return found[:ADDRESSES_SAID]


def installed(_: Path) -> list[str]:
    return []
