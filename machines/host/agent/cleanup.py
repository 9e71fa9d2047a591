"""What a job leaves behind that had no time to undo it: killed, out of memory, or under a power cut.

Everything half-made has the job in its name, so it is found without any record. Only the files of a machine, which are
written before its image takes its name, need one: what they were before stands in the job's own folder.
"""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

from machines.contract import orders
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.context.remnants import Remnants
from machines.host.files import belongings, nspawn_file
from machines.host.files.nspawn_file import Files
from machines.host.machine import lint
from machines.host.reports import job_log
from machines.host.reports.ledger import Ledger, Row
from machines.host.rootfs import btrfs_pool, build
from machines.host.storage import base_images, pool
from machines.host.system import systemctl
from machines.host.system.paths import Paths
from machines.host.system.run import run

LOG = logging.getLogger(__name__)

_NAMED = re.compile(r"(?:\.#)?\.nspawnpanel-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\..+")
_BASE = ".nspawnpanel-base-"


def clear(paths: Paths, row: Row, *, succeeded: bool) -> None:
    """Remove everything half-made of a job that has ended. Raises Problem or OSError when something of it is left; then
    all the rest is gone."""
    cannot_go_back = os.path.lexists(paths.aside(row.id))
    steps = [
        partial(lint.forget_dead, paths),
        partial(build.clear, paths, row.id),
        partial(_forget_locks, paths, row.id),
    ]
    if not succeeded:
        steps += [partial(btrfs_pool.clear, paths, row.id), partial(_put_files_back, paths, row)]
        steps += [] if cannot_go_back else [partial(_link_again, paths, row)]
    with ExitStack() as every:  # whichever fails, the others are done, and one failure is told
        for step in reversed([*steps, partial(job_log.put_away, paths.job(row.id))]):
            every.callback(step)


def _forget_locks(paths: Paths, job: UUID) -> None:
    """systemd-nspawn's own, of a tree it had booted. Raises OSError."""
    for lock in paths.machines.glob(f".#.nspawnpanel-{job}.*"):
        lock.unlink(missing_ok=True)


def _put_files_back(paths: Paths, row: Row) -> None:
    """The files of a machine that never came to be, where they are what the job has written."""
    order = orders.from_wire(row.wanted)
    if not isinstance(order, orders.Build):
        return
    name, wanted = MachineName(order.name), nspawn_file.wanted(order.configuration)
    nspawn_file.forget_prepared(paths, name)
    if any(map(os.path.lexists, (paths.image(name), paths.raw_image(name)))):
        return
    before, found = nspawn_file.kept(paths.job(row.id)), nspawn_file.read(paths, name)
    if before is None:
        return
    wrote = found.nspawn == wanted.nspawn, found.limits == wanted.limits
    back = Files(before.nspawn if wrote[0] else found.nspawn, before.limits if wrote[1] else found.limits)
    changed = back != found and nspawn_file.write(paths, name, back)
    if belongings.put_back(paths.removed(name, row.id)) or changed:
        run(systemctl.daemon_reload(), timeout=60)


def _link_again(paths: Paths, row: Row) -> None:
    """What a removal has taken away that was ended while its machine was still there under its name."""
    order = orders.from_wire(row.wanted)
    if not isinstance(order, orders.Remove):
        return
    name = MachineName(order.name)
    is_there = any(map(os.path.lexists, (paths.image(name), paths.raw_image(name))))
    if is_there and belongings.put_back(paths.removed(name, row.id)):
        run(systemctl.daemon_reload(), timeout=60)


# --- at the worker's start, and every ten minutes


def sweep(paths: Paths, ledger: Ledger, is_alive: Callable[[UUID], bool], remnants: Remnants) -> bool:
    """What jobs have left that ended while nobody could clear up after them; what cannot be removed now is noted. Nothing is
    raised. Whether what is noted is other than before.

    A power cut may take back the last step of a build that was told as succeeded, the renaming of its tree, which was
    complete and on disk before: that step is done again.
    """
    sweeping = _Sweep(paths, ledger, is_alive, remnants)
    for step in (sweeping.trees, sweeping.pools, sweeping.folders, sweeping.logs, sweeping.bases):
        sweeping.attempt(paths.machines, step)
    sweeping.attempt(paths.scratch, partial(lint.forget_dead, paths))
    return remnants.keep_only(sweeping.left) or sweeping.is_news


@dataclass
class _Sweep:
    """One look through everything. `left` is what could not be removed."""

    paths: Paths
    ledger: Ledger
    is_alive: Callable[[UUID], bool]
    remnants: Remnants
    left: set[str] = field(default_factory=set)
    is_news: bool = False

    def attempt(self, path: Path, work: Callable[[], object]) -> None:
        """What cannot be done for one thing is done for the others."""
        try:
            work()
        except (Problem, OSError) as error:
            LOG.warning("%s could not be removed: %s", path, error)
            self.left.add(str(path))
            self.is_news |= self.remnants.note(path, error)

    def is_over(self, job: UUID, *, known: bool = False) -> bool:
        """Whether nobody works on what has this job's name; `known` where only the ledger's jobs count."""
        row = self.ledger.job(job)
        return (row.ended is not None if row else not known) and not self.is_alive(job)

    def trees(self) -> None:
        for job, path in _left(self.paths.machines):
            if self.is_over(job):
                self.attempt(path, partial(self._tree, job, path))

    def _tree(self, job: UUID, path: Path) -> None:
        row = self.ledger.job(job)
        if row is None or row.state != "succeeded" or not _rename_again(self.paths, row, path):
            LOG.warning("Removing what job %s has left: %s", job, path)
            pool.clear(path)

    def pools(self) -> None:
        for job, path in _left(self.paths.machines.parent):
            if path == self.paths.new_pool(job) and self.is_over(job):
                LOG.warning("Removing what job %s has left: %s", job, path)
                self.attempt(path, partial(btrfs_pool.clear, self.paths, job))

    def folders(self) -> None:
        for job, folder in _folders(self.paths):
            if self.is_over(job, known=True):
                self.attempt(folder, partial(job_log.put_away, folder))

    def logs(self) -> None:
        job_log.keep_last(self.paths.jobs, [row.id for row in self.ledger.unfinished()])

    def bases(self) -> None:
        for name in _nameless(self.paths):
            if (
                name.endswith(base_images.GONE) or not self.ledger.unfinished()
            ):  # one that is just being made has its name first
                path = self.paths.machines / name
                LOG.warning("Removing a base of which nothing is known: %s", name)
                self.attempt(path, partial(pool.clear, path))


def _left(folder: Path) -> Iterator[tuple[UUID, Path]]:
    for name in os.listdir(folder) if folder.is_dir() else ():
        if found := _NAMED.fullmatch(name):
            yield UUID(found[1]), folder / name


def _folders(paths: Paths) -> Iterator[tuple[UUID, Path]]:
    """Those of jobs, where more than a log is in them: a power cut brings back what was removed right before it."""
    for folder in paths.jobs.iterdir() if paths.jobs.is_dir() else ():
        with contextlib.suppress(ValueError, OSError):
            if any(entry.name != job_log.FILE for entry in folder.iterdir()):
                yield UUID(folder.name), folder


def _rename_again(paths: Paths, row: Row, path: Path) -> bool:
    order = orders.from_wire(row.wanted)
    if not isinstance(order, orders.Build) or path not in {paths.unfinished(row.id), paths.unfinished_raw(row.id)}:
        return False
    name = MachineName(order.name)
    target = paths.image(name) if path == paths.unfinished(row.id) else paths.raw_image(name)
    if not build.is_complete(path, row.id) or os.path.lexists(target):
        return False
    build.rename_into_place(path, target)
    LOG.warning("%s is there again: a power cut had taken back its name", target)
    return True


def _nameless(paths: Paths) -> list[str]:
    """Trees of bases of which nothing is known: what died or lost its power came before that was written, or after."""
    names = os.listdir(paths.machines) if paths.machines.is_dir() else []
    known = base_images.named(paths)
    trees = [name for name in names if name.startswith(_BASE)]
    return [name for name in trees if name.removeprefix(_BASE).removesuffix(base_images.PACKED) not in known]
