"""A machine out of an archive that lies on the panel: fetched whole and compared with its sum before anything is made of it."""

import shutil
from pathlib import Path

from machines.contract.problems import Problem
from machines.contract.recipes import ArchiveRecipe, FirstBoot
from machines.host.rootfs.steps.building import Building
from machines.host.rootfs.steps.transfer import Panel
from machines.host.rootfs.systems import debian
from machines.host.storage import decompress, disk_image, pool, uid_shift, unpack
from machines.host.storage.decompress import KEEP_FREE, Limits
from machines.host.system.faults import no_space


def extra_packages(_: ArchiveRecipe, __: FirstBoot) -> tuple[str, ...]:
    return ()


def prepare(building: Building) -> None:
    """There is room for the archive besides what it becomes, and a way to it."""
    recipe = _recipe(building)
    building.raw = recipe.format == "raw"
    if building.raw:
        disk_image.check_host()
    if not building.secrets.token:
        raise Problem(
            "The request contains no token to fetch the archive.", code="panel-refused", hint="Request it again."
        )
    pool_folder = building.host.paths.machines
    free = shutil.disk_usage(pool_folder).free
    if free < 2 * recipe.size + KEEP_FREE:
        raise no_space(
            str(pool_folder), needs=f"An archive of {recipe.size // 1024**2:,} MiB needs more than twice that, and "
            f"{KEEP_FREE // 1024**2:,} MiB must stay free."
        )  # fmt: skip
    building.state = Panel(recipe.url, building.secrets.token, building.task.deadline)


def _recipe(building: Building) -> ArchiveRecipe:
    assert isinstance(building.recipe, ArchiveRecipe)
    return building.recipe


def bootstrap(building: Building) -> None:
    """Fetch it; a disk image is unpacked here too, for it is mounted when this step ends."""
    recipe, file = _recipe(building), building.host.paths.download(building.task.job)
    _fetch(building, recipe, file)
    if not building.raw:
        return
    limits = _limits(building)
    with decompress.opened(file, limits) as stream:
        size = decompress.unpack_raw(stream, building.raw_file, limits, building.task.output.progress)
    building.task.output.line(f"A disk image of {size // 1024**2} MiB.")
    file.unlink()


def _fetch(building: Building, recipe: ArchiveRecipe, file: Path) -> None:
    whole, output = recipe.size, building.task.output
    where = recipe.url.split("/transfer/")[0]
    output.line(f"Fetching {recipe.title or 'the archive'}, {whole / 1024**2:.1f} MiB, from {where}")

    def told(size: int) -> None:
        output.progress(size / whole, f"{size // 1024**2} of {whole // 1024**2} MiB fetched")

    building.state.fetch(file, whole, recipe.sha256, told)
    output.line(f"SHA-256 {recipe.sha256}, as requested.")


def _limits(building: Building) -> Limits:
    return Limits(_recipe(building).size, building.host.policy.max_archive_gib * 1024**3)


def packages(building: Building) -> None:
    """Unpack the tree; the file goes then, and so do owners that a machine's user namespace has left."""
    if building.raw:
        return
    file, limits = building.host.paths.download(building.task.job), _limits(building)
    pool.make(building.tree)
    with decompress.opened(file, limits) as stream:
        say(building, unpack.unpack(stream, building.tree, limits, building.task.output.progress))
    file.unlink()
    if count := uid_shift.reset(building.tree):
        building.task.output.line(
            f"The root filesystem had a UID range of its own; {count} files are shifted back to 0."
        )


def say(building: Building, tally: unpack.Tally) -> None:
    """What came out and what did not, in the job's log."""
    output = building.task.output
    output.line(f"{tally.entries} files, {tally.bytes / 1024**2:.1f} MiB.")
    if tally.settings:
        output.line(
            f"Not part of the root filesystem: {', '.join(tally.settings)}; the machine gets the settings of this "
            "request."
        )
    if tally.left_out:
        output.line(f"{tally.left_out} device nodes are skipped: systemd-nspawn gives every machine its own.")
    if tally.dropped:
        output.line(f"Skipped, as they belong to the original host: {', '.join(sorted(tally.dropped))}.")


def configure(_: Building) -> None:
    """A machine already, or what somebody wanted one to be."""


def installed(root: Path) -> list[str]:
    return debian.installed(root)
