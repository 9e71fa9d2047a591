"""What every step of a build works on, and what a builder is."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.contract.recipes import AnyRecipe, BuildSecrets, FirstBoot
from machines.host.context.host_context import HostContext, Task
from machines.host.files.belongings import Belonging
from machines.host.files.nspawn_file import Prepared
from machines.host.rootfs.steps import suppress_fsync
from machines.host.storage.base_images import Base
from machines.host.system.faults import CommandFailed
from machines.host.system.run import run
from machines.host.system.undo import Undo

SAID = 200  # last lines of a tool kept for explaining its failure

Explain = Callable[[CommandFailed, Sequence[str]], Problem]


@dataclass
class Building:
    """One build under way. Without a `name` only the base is made; with a `base` nothing needs to be installed.

    `state` is whatever the builder found out in its first step and needs later; `found` goes into the outcome.
    `configuration` is its files lying ready, `leftovers` what lay under its name before; `expected` is the size in bytes that a tree of this recipe had before, 0 if there was none.
    With `raw` the result is a disk image, made by the builder's bootstrap in `raw_file`; `tree` is then where it is
    mounted until it is finished. `read_only` are subvolumes in the tree that are marked so when all is written.
    """

    host: HostContext
    task: Task
    recipe: AnyRecipe
    first_boot: FirstBoot
    secrets: BuildSecrets
    name: MachineName | None = None
    undo: Undo = field(default_factory=Undo)
    base: Base | None = None
    state: Any = None
    raw: bool = False
    read_only: list[str] = field(default_factory=list)
    in_memory: bool = False
    configuration: Prepared | None = None
    leftovers: list[Belonging] = field(default_factory=list)
    expected: int = 0
    found: dict[str, Any] = field(default_factory=dict)
    phase: str = ""
    times: dict[str, float] = field(default_factory=dict)
    _entered: float = 0.0

    @property
    def tree(self) -> Path:
        """Where it grows, under a name that machined does not show: in the pool, or for a while in memory."""
        paths, job = self.host.paths, self.task.job
        return paths.in_memory(job) if self.in_memory else paths.unfinished(job)

    @property
    def raw_file(self) -> Path:
        """The same for a disk image."""
        return self.host.paths.unfinished_raw(self.task.job)

    @property
    def folder(self) -> Path:
        """For files of this job alone, readable by root alone."""
        folder = self.host.paths.job(self.task.job)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def enter(self, phase: str) -> None:
        """The named step begins; a second time does nothing, so that a tool's own words may say it earlier."""
        steps = self.task.order.phases
        if phase == self.phase or (self.phase in steps and steps.index(phase) < steps.index(self.phase)):
            return
        self.leave()
        self.phase, self._entered = phase, time.monotonic()
        self.task.output.phase(phase, steps.index(phase) + 1, len(steps))

    def leave(self) -> None:
        """The step under way has ended; how long it took goes into the outcome."""
        if self.phase:
            self.times[self.phase] = round(time.monotonic() - self._entered, 3)

    def install(
        self,
        argv: Sequence[str],
        heard: Callable[[str], None],
        explain: Explain,
        *,
        extra: Mapping[str, str] | None = None,
        within: Callable[[], None] | None = None,
        codes: Sequence[int] = (0,),
        talks_on_errors: bool = False,
    ) -> None:
        """Run a tool that fills the tree, without waiting for the disk, until the job's deadline.

        `heard` gets every line; `extra` adds to the tool's environment; `within` runs in the child first, such as
        mounts.around(); exit statuses in `codes` count as success. One that `talks_on_errors` says everything on its error
        output; only its errors and warnings are logged as such. Raises what `explain` makes of a failure and the tool's
        last lines.
        """
        said: deque[str] = deque(maxlen=SAID)
        first = [step for step in (within, None if self.in_memory else suppress_fsync.without_sync()) if step]

        def prepare() -> None:
            for step in first:
                step()

        def listen(source: str, text: str) -> None:
            said.append(text)
            heard(text)
            if talks_on_errors and not text.startswith(("E:", "W:", "dpkg: error", "dpkg: warning")):
                source = "o"
            self.task.output.heard(source, text)

        self.task.output.command(argv)
        try:
            run(
                argv,
                timeout=self.seconds_left,
                heard=listen,
                prepare=prepare,
                stop=self.task.stop,
                extra=extra,
                codes=codes,
            )
        except CommandFailed as failed:
            raise explain(failed, list(said)) from failed

    @property
    def seconds_left(self) -> float:
        return max(60.0, self.task.deadline - time.time())


class Builder(Protocol):
    """One module for each kind of recipe, with the same steps. Every step may raise Problem or OSError.

    also        what besides the recipe decides which tree comes out, such as packages the locale needs
    prepare     everything that can be known before the long part: tools, addresses, keys
    bootstrap   the smallest system, in building.tree, which is there and empty; a builder without bases makes it itself
    packages    the recipe's own packages
    configure   what makes the tree a machine, but not yet which one: sources, network, resolver
    installed   "name version" of every package in a finished tree; [] where nobody counts them
    """

    def extra_packages(self, recipe: Any, first_boot: FirstBoot, /) -> tuple[str, ...]: ...
    def prepare(self, building: Building, /) -> None: ...
    def bootstrap(self, building: Building, /) -> None: ...
    def packages(self, building: Building, /) -> None: ...
    def configure(self, building: Building, /) -> None: ...
    def installed(self, tree: Path, /) -> list[str]: ...


NETWORK_SERVICES = ("systemd-networkd.service", "systemd-resolved.service")
