"""The named steps of every build, in order. Each half-made thing knows its way back (undo.py).

The tree grows under a name machined does not show and is renamed into place only when it is complete and on disk, so
that no half machine is ever listed.
"""

import ctypes
import errno
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machines.contract import apt_sources, nspawn, orders
from machines.contract.apt_sources import Source
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.contract.recipes import BuildSecrets
from machines.host import apply, handlers, inventory, lint, nspawn_file, running
from machines.host.bus import BusError
from machines.host.faults import CommandFailed, no_space
from machines.host.rootfs import debian, firstboot, pool, quick, tree
from machines.host.run import run
from machines.host.this_host import Task, ThisHost
from machines.host.undo import Undo

ROOM = 1024**3  # bytes that must be free before a build begins
HELPER = "/usr/lib/apt/apt-helper"  # fetches with the host's own apt settings: proxy, certificates
SAID = 200  # last lines of a tool kept for explaining its failure
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Building:
    """One build under way."""

    host: ThisHost
    task: Task
    order: orders.Build
    secrets: BuildSecrets
    undo: Undo
    sources: list[Source] = field(default_factory=list)
    applied_at: float = 0.0  # when its configuration was written

    @property
    def name(self) -> MachineName:
        return MachineName(self.order.name)

    @property
    def tree(self) -> Path:
        return self.host.paths.unfinished(self.task.job)


def build(host: ThisHost, task: Task, secrets: BuildSecrets) -> dict[str, Any]:
    """Carry out a Build order, step by step. Raises Problem or OSError; then nothing of it is left."""
    assert isinstance(task.order, orders.Build)
    with Undo() as undo:
        building = Building(host, task, task.order, secrets, undo)
        times: dict[str, float] = {}
        for number, step in enumerate(STEPS, 1):
            name = step.__name__.rstrip("_")
            task.voice.phase(name, number, len(STEPS))
            begun = time.monotonic()
            step(building)
            times[name] = round(time.monotonic() - begun, 2)
        undo.keep()
    return {"seconds": times, "applied_at": building.applied_at}


# --- prepare


def prepare(building: Building) -> None:
    """Everything that can be known before the long part: the name, the tool, the room, the mirror, the configuration."""
    order = building.order
    check_name_free(building.host, building.name)
    voice = building.task.voice
    voice.line(f"Building with {debian.tool()}.")
    check_room(building.host.paths.machines)
    building.sources = debian.sources_for(order.recipe)
    for source in building.sources:
        voice.line(f"Packages from {source.uri} {source.suite}")
    building.sources = [s for i, s in enumerate(building.sources) if check_mirror(building, s, needed=i == 0)]
    found = nspawn_file.read(building.host.paths, building.name)
    wanted = nspawn_file.wanted(order.configuration)
    lint.check(building.host.paths, building.host.policy, building.name, wanted, found)
    building.undo.push(pool.clear, building.tree)
    pool.make(building.tree)


def check_name_free(host: ThisHost, name: MachineName) -> None:
    """Raises Problem name-taken when an image, a running machine or a folder has the name."""
    taken = ""
    if host.bus.do(inventory.read_image(host, name)) is not None or os.path.lexists(host.paths.image(name)):
        taken = "an image"
    try:
        host.bus.do(host.bus.machined("GetMachine", "s", [name]))
        taken = "a running machine"
    except BusError as error:
        if "NoSuchMachine" not in error.name:
            raise
    if taken:
        raise Problem(
            f"There is {taken} named {name} on this host already.", code="name-taken", hint="Choose another name."
        )


def check_room(folder: Path) -> None:
    """Raises NoSpace when a build has no chance."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        raise no_space(str(folder), f"{free // 1024**2} MiB are free; a build needs at least {ROOM // 1024**2} MiB.")


def check_mirror(building: Building, source: Source, *, needed: bool) -> bool:
    """Ask the mirror for the release, with the host's own apt settings. False for an optional suite it does not have.

    Raises Problem release-unknown or mirror-unreachable.
    """
    if not Path(HELPER).exists():
        return True
    folder = building.host.paths.job(building.task.job)
    folder.mkdir(parents=True, exist_ok=True)
    url = f"{source.uri}/dists/{source.suite}/Release"
    argv = [HELPER, "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15",
            "download-file", url, str(folder / "Release")]  # fmt: skip
    try:
        building.task.run(argv, timeout=60)
    except CommandFailed as failed:
        missing = (
            "404" in failed.tail
            or "403" in failed.tail
            or "not found" in failed.tail.lower()
            or ("No such file" in failed.tail)
        )
        if missing and not needed:
            building.task.voice.line(f"{source.uri} has no {source.suite}; going on without it.")
            return False
        if missing:
            raise Problem(
                f"{source.uri} has no release “{source.suite}”.", code="release-unknown", details=failed.tail,
                hint="Check its code name (bookworm, trixie …), or choose another mirror.",
            ) from failed  # fmt: skip
        raise Problem(
            f"The mirror {source.uri} does not answer.", code="mirror-unreachable", details=failed.tail, passing=True,
            hint="Look at the network, proxy and DNS of this host, or choose another mirror.",
        ) from failed  # fmt: skip
    return True


# --- bootstrap


def bootstrap(building: Building) -> None:
    """The long part: packages are fetched and installed into the tree."""
    order, voice = building.order, building.task.voice
    include = debian.packages(order.recipe, order.first_boot, building.sources)
    if debian.tool() == "mmdebstrap":
        argv = debian.mmdebstrap(order.recipe.release, building.tree, include, building.sources, _apt_options(building))
    else:
        argv = debian.debootstrap(order.recipe.release, building.tree, include, building.sources)
    said: deque[str] = deque(maxlen=SAID)
    progress = debian.Progress(voice.progress)

    def heard(source: str, text: str) -> None:
        said.append(text)
        progress.line(text)
        voice.heard(source, text)

    voice.command(argv)
    try:
        run(argv, timeout=max(60.0, building.task.deadline - time.time()), heard=heard, prepare=quick.without_sync())
    except CommandFailed as failed:
        raise debian.explain(failed, list(said), building.tree) from failed
    voice.progress(1.0, "all packages installed")


def _apt_options(building: Building) -> Path | None:
    """The host's way to the mirror (proxy, certificates) as a file of apt settings; a proxy's password stays out of
    argv."""
    dump = run(["apt-config", "dump"], timeout=20).out if shutil.which("apt-config") else ""
    text = apt_sources.carried(dump)
    if not text:
        return None
    file = building.host.paths.job(building.task.job) / "apt.conf"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(text)
    return file


# --- configure


def configure(building: Building) -> None:
    """What makes the tree this machine: its sources, its way to an address, its names and keys."""
    root, order = building.tree, building.order
    tree.unlink(root, debian.APT_OPTIONS)
    tree.write_text(root, "etc/apt/sources.list", debian.sources_list(building.sources))
    services = ["systemd-networkd.service", "systemd-resolved.service"]
    building.task.run(["systemctl", f"--root={root}", "enable", "--", *services])
    tree.symlink(root, "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    firstboot.set_up(root, building.name, order.first_boot, building.secrets.root_password_hash, building.task.run)
    if order.first_boot.timezone and nspawn.parse(order.configuration.nspawn).last(nspawn.EXEC, "Timezone") != "off":
        building.task.voice.line(
            "At every start systemd-nspawn gives the machine this host's time zone; Timezone=off keeps the recipe's."
        )


# --- finish


def finish(building: Building) -> None:
    """The tree is complete; now it is also on disk, and really a tree of root's."""
    tree.check_top(building.tree)
    if not tree.exists(building.tree, "usr/lib/systemd/systemd") and not tree.exists(
        building.tree, "lib/systemd/systemd"
    ):
        raise Problem("The tree has no systemd in it, so it would not boot.", code="bootstrap-failed")
    sync(building.tree)


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
    """The tree becomes a machine: renamed into place, its files written, enabled and started as ordered.

    From the rename on, a failing start leaves the machine there: it is complete, and its log says what is wrong.
    """
    host, task, name, order = building.host, building.task, building.name, building.order
    found, wanted = nspawn_file.read(host.paths, name), nspawn_file.wanted(order.configuration)
    building.undo.push(apply.write, host, task, name, wanted, found)
    apply.write(host, task, name, found, wanted)
    building.applied_at = time.time()
    rename_into_place(building.tree, host.paths.image(name))
    building.undo.keep()
    sync(host.paths.machines)
    task.voice.line(f"{name} is there.")
    if order.enable:
        handlers.enable_machine(host, task, name)
    if order.start:
        _start(building)


def rename_into_place(source: Path, target: Path) -> None:
    """renameat2(2) that never replaces anything. Raises Problem name-taken or OSError."""
    result = _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if result == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        raise Problem(
            f"{target.name} was made by somebody else meanwhile.", code="name-taken", hint="Choose another name."
        )
    raise OSError(number, os.strerror(number), str(target))


def _start(building: Building) -> None:
    try:
        running.start_machine(building.host, building.task, building.name)
    except Problem as problem:
        raise Problem(
            f"{building.name} was built, but it did not start: {problem.message}", code="start-failed",
            hint="The machine is there; change its configuration or look at its log, then start it.",
            details=problem.details,
        ) from problem  # fmt: skip


STEPS: tuple[Callable[[Building], None], ...] = (prepare, bootstrap, configure, finish, import_)
