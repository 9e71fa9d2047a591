"""Pack an image into one file and bring it to the panel.

Of a machine that runs, a snapshot is packed, which takes btrfs: elsewhere its files would change meanwhile. The file grows
beside the machines, hidden by its leading dot, and goes at the end whatever happens; what a killed job leaves, the worker
removes.
"""

import os
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machines.contract import orders
from machines.contract.configuration import carried
from machines.contract.configuration import nspawn as contract_nspawn
from machines.contract.configuration.carried import Carried, Remark
from machines.contract.configuration.command_line import TRUSTED, CommandLine
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.contract.recipes import BuildSecrets
from machines.contract.reports import ObservedFile
from machines.host.context.host_context import HostContext, Task
from machines.host.files import files_on_disk
from machines.host.machine.lifecycle import Machine
from machines.host.observe import command_line
from machines.host.rootfs.steps.transfer import Panel
from machines.host.storage import btrfs, images, pool, uid_shift
from machines.host.storage.decompress import KEEP_FREE
from machines.host.storage.images import Location
from machines.host.system import tools
from machines.host.system.faults import CommandFailed, is_full, no_space
from machines.host.system.paths import unit_of
from machines.host.system.run import run
from machines.host.system.undo import Undo

COMPRESS = "zstd -T0 -3"  # one word to tar, which splits it; the same two for a disk image
RECORD = 10_240  # bytes tar counts in
CHECKPOINT = 500  # records between two words of tar on how far it is


def export(host: HostContext, task: Task, secrets: BuildSecrets) -> dict[str, Any]:
    """Carry out an Export order. Raises Problem or OSError; nothing of it is left on this host in any case."""
    order = task.order
    assert isinstance(order, orders.Export)
    with Undo() as undo:
        _enter(task, "check")
        source = _check(host, task, undo)
        file = host.paths.download(task.job)
        undo.push(file.unlink, True)
        _enter(task, "pack")
        settings = _settings(host, task, source.image)
        front = b"" if order.format == "raw" else carried.head(order.name, settings)
        limit, short = _limit(host, order)
        _pack(task, source, file, limit, front, short=short)
        size = file.stat().st_size
        task.output.line(f"Packed: {size / 1024**2:.1f} MiB.")
        _enter(task, "send")
        panel = Panel(order.url, secrets.token, task.deadline)
        sha256 = panel.bring(file, lambda sent: _progress(task, sent, size, "sent"))
        task.output.line(f"Uploaded to the panel: SHA-256 {sha256}.")
        first = uid_shift.first_id(source.path) if source.path.is_dir() else 0
    told = {"nspawn": settings.nspawn, "limits": settings.limits, "first_id": first}
    return {"sha256": sha256, "bytes": size} | {name: value for name, value in told.items() if value}


def _enter(task: Task, phase: str) -> None:
    steps = task.order.phases
    task.output.phase(phase, steps.index(phase) + 1, len(steps))


def _progress(task: Task, done: float, whole: float, verb: str) -> None:
    task.output.progress(min(1.0, done / max(1.0, whole)), f"{done / 1024**2:.0f} of {whole / 1024**2:.0f} MiB {verb}")


# --- check


@dataclass(frozen=True)
class Source:
    """What is packed: a tree or a disk image, and what is mounted inside, which is left out."""

    image: Location
    path: Path
    mounts: Sequence[Path] = ()


def _check(host: HostContext, task: Task, undo: Undo) -> Source:
    """What is to be packed: the image itself, or a snapshot of it. Raises Problem."""
    order = task.order
    assert isinstance(order, orders.Export)
    name = MachineName(order.name)
    tools.need("export")
    image = _find(host, name, order.format)
    images.say(task.output, image, "packed")
    running = not Machine(host, task, name).state().is_gone
    if image.is_disk or not pool.can_snapshot(image.real, host.paths.machines):
        if running:
            raise Problem(
                f"{name} is running, and its files would change while they are packed.", code="machine-running",
                hint="Power it off first; with images on btrfs, running machines can be exported too.",
            )  # fmt: skip
        return Source(image, image.real, () if image.is_disk else pool.inside(image.real, image.mounts))
    snapshot = host.paths.unfinished(task.job)
    undo.push(pool.clear, snapshot)
    pool.snapshot(task, image.real, snapshot)
    btrfs.snapshot_nested(image.real, snapshot)
    if running:
        task.output.line(f"{name} is running: the archive has its state of this moment, as after a power failure.")
    return Source(image, snapshot)


def _find(host: HostContext, name: MachineName, form: str) -> Location:
    image = images.find(host, name)
    if image.is_disk != (form == "raw"):
        what = "a disk image" if image.is_disk else "a tree"
        raise Problem(
            f"{image.path} is {what}, and another type was requested.",
            code="image-changed",
            hint="Refresh the list of machines and export it again.",
        )
    images.check_readable(host, image)
    return image


def _limit(host: HostContext, order: orders.Export) -> tuple[int, bool]:
    """Bytes the file may have, what the panel takes and what this disk can spare; and whether the disk is the less."""
    spare = shutil.disk_usage(host.paths.machines).free - KEEP_FREE
    if spare < 1024**2:
        raise no_space(
            str(host.paths.machines), needs=f"{KEEP_FREE // 1024**2:,} MiB are kept free for running machines."
        )
    taken = min(order.limit, host.policy.max_archive_gib * 1024**3)
    return min(taken, spare), spare < taken


# --- its settings


def _settings(host: HostContext, task: Task, image: Location) -> Carried:
    """Both files of the machine as they hold on this host, and in the log what is not among them."""
    nspawn, limits, name = "", "", image.name
    line = command_line.read(host.bus, name)
    files = files_on_disk.files(host.paths, name, (), files_on_disk.places(name, line, image.path.parent))
    for file in [file for file in files if file.kind == "nspawn"][:1]:
        nspawn = _what_counts(host, task, file, line)
    for file in files:
        if file.path == str(host.paths.limits_file(name)):
            limits = _text_of(task, file)
        elif file.kind == "dropin" and f"{unit_of(name)}.d/" in file.path:
            task.output.line(f"{file.path} is not included: only settings written by the panel go into the archive.")
    if nspawn or limits:
        task.output.line("The settings of the machine are included in the archive.")
    return Carried(contract_nspawn.unmark(nspawn), contract_nspawn.unmark(limits))


def _what_counts(host: HostContext, task: Task, file: ObservedFile, line: CommandLine) -> str:
    """Of a .nspawn file the text that has an effect."""
    if not line.reads_files:
        task.output.line(f"{file.path} is not included: the machine's unit reads no settings file.")
        return ""
    text, left_out = _text_of(task, file), list[Remark]()
    if Path(file.path).parent not in {host.paths.nspawn, host.paths.probes} and line.reads != TRUSTED:
        text, left_out = carried.trusted_part(text)
    for remark in left_out:
        task.output.line(f"{remark.line} of {file.path} is left out: {remark.why}.")
    return text


def _text_of(task: Task, file: ObservedFile) -> str:
    if file.form == "text":
        return file.text
    task.output.line(f"{file.path} cannot be included: {file.error or 'it is too long, or not a text file'}.", "e")
    return ""


# --- pack


def tar(source: Source) -> list[str]:
    """The command for a tree, to its standard output. What the machine's own /dev has is systemd-nspawn's; marks of this host stay here."""
    return [
        *pool.TAR,
        "--xattrs-exclude=trusted.*",
        "--create",
        f"--use-compress-program={COMPRESS}",
        f"--checkpoint={CHECKPOINT}",
        "--checkpoint-action=echo=%u",
        "--anchored",
        "--exclude=./dev/*",
        f"--exclude=./{carried.FOLDER}",  # of an archive that was unpacked by hand
        "--file=-",
        f"--directory={source.path}",
        ".",
    ]


def zstd(source: Path) -> list[str]:
    """The same for a disk image."""
    return [*COMPRESS.split(), "--quiet", "--no-progress", "--stdout", "--", str(source)]


def _pack(task: Task, source: Source, file: Path, limit: int, front: bytes = b"", *, short: bool = False) -> None:
    """With `short` it is the disk that takes no more than `limit` bytes. `front` stands first in the file. Raises Problem when the image changes meanwhile or the file becomes too large."""
    tree = source.path.is_dir()
    whole = pool.size(source.path) if tree else source.path.stat().st_size
    argv = tar(source) if tree else zstd(source.path)
    task.output.command(argv)
    bare = pool.without(source.mounts)

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if bare:
            bare()

    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0) as out:
            out.write(front)
            run(
                argv, timeout=max(60.0, task.deadline - time.time()), heard=_listener(task, whole), stop=task.stop,
                prepare=prepare, to=out,
            )  # fmt: skip
    except CommandFailed as failed:
        raise _explained(failed, file, limit, short=short) from failed


def _listener(task: Task, whole: int) -> Callable[[str, str], None]:
    def heard(source: str, text: str) -> None:
        word = text.removeprefix("tar: ")
        if word.isdecimal():
            _progress(task, min(whole, int(word) * RECORD), whole, "packed")
        else:
            task.output.heard(source, text)

    return heard


def _explained(failed: CommandFailed, file: Path, limit: int, *, short: bool) -> Problem:
    if is_full(failed.tail):
        return no_space(str(file.parent), failed.tail)
    if file.exists() and file.stat().st_size >= limit:
        if short:
            needs = f"The packed machine is larger than the {limit // 1024**2:,} MiB of available space."
            return no_space(str(file.parent), failed.tail, needs=needs)
        return Problem(
            f"The packed machine is larger than {limit // 1024**2} MiB, the limit of the panel.",
            code="archive-too-large", hint="Remove archives that are no longer needed, or files the machine does not need.",
        )  # fmt: skip
    if "file changed as we read it" in failed.tail or "File removed before" in failed.tail:
        return Problem(
            "Files of the machine changed while they were packed.", code="image-changed", retryable=True,
            details=failed.tail, hint="Make sure that nothing on the host writes to it, and try again.",
        )  # fmt: skip
    return failed
