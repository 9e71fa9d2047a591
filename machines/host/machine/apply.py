"""Apply a configuration: judge it, write it, make it live, and prove that it holds.

The order names the files its draft was based on; if the host's have changed meanwhile, nothing is written and the
found texts go back for a three-way view. Carried out twice it does the same: files that are as wanted already are no
change. A limit that does not hold afterwards takes both files back; so does, when that was ordered, a machine that does
not come to life with them. What is put back then was kept before anything was written (generations.py).
"""

import contextlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from machines.contract import orders
from machines.contract.configuration import compare_effective, limits
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.context.host_context import HostContext, Task
from machines.host.files import generations, nspawn_file
from machines.host.files.generations import Record
from machines.host.files.nspawn_file import Files, Prepared
from machines.host.machine import guarded_restart, lint
from machines.host.machine.lifecycle import Machine
from machines.host.observe import command_line, inventory
from machines.host.observe.host_facts import memory
from machines.host.system import cgroup, systemctl
from machines.host.system.faults import ConfigChanged, RolledBack, Stopped
from machines.host.system.paths import unit_of


def apply(host: HostContext, task: Task) -> dict[str, Any]:
    """The handler of an Apply order. Raises ConfigChanged, NotAllowed, RolledBack, or Problem config-refused or
    not-effective."""
    assert isinstance(task.order, orders.Apply)
    name, configuration = MachineName(task.order.name), task.order.configuration
    found, wanted = nspawn_file.read(host.paths, name), nspawn_file.wanted(configuration)
    record = generations.of_job(host.paths, name, configuration.revision, task.job) if task.again else None
    prepared = None
    if record is None:
        record, prepared = judge_and_keep(host, task, name, found, wanted)
    if record.reason:
        raise roll_back(host, task, record)
    result = write_and_prove(host, task, name, record.files, wanted, prepared=prepared)
    if not task.order.restart:
        return result
    return result | restart(host, task, record)


def judge_and_keep(
    host: HostContext, task: Task, name: MachineName, found: Files, wanted: Files
) -> tuple[Record, Prepared]:
    """Everything before the first effect. The disk syncs the new files while systemd's parsers read them: either takes
    its time. Raises ConfigChanged, NotAllowed, Stopped or Problem config-refused; then nothing is left of it."""
    order = task.order
    assert isinstance(order, orders.Apply)
    check_unchanged(name, order.configuration, found, wanted)
    with ThreadPoolExecutor(1) as beside:
        lying_ready = beside.submit(prepare, host, name, wanted, found)
        try:
            runs = partial(command_line.read, host.bus)
            for word in lint.check(host.paths, host.policy, name, wanted, found, unit_runs=runs):
                task.output.line(f"Unchanged: {word}")
            task.check_stop()
            now = Record(job=str(task.job))
            if order.restart:
                now = guarded_restart.before(Machine(host, task, name), now.job)
            kept = generations.keep(host.paths, name, order.configuration.revision, found, now)
            return kept, lying_ready.result()
        except BaseException:
            with contextlib.suppress(OSError):
                lying_ready.result().drop()
            raise


def write_and_prove(
    host: HostContext, task: Task, name: MachineName, before: Files, wanted: Files, *, prepared: Prepared | None
) -> dict[str, Any]:
    """Write both files and make the limits live, or leave everything as it was. Raises Problem not-effective."""
    found = nspawn_file.read(host.paths, name)
    if found.nspawn not in {before.nspawn, wanted.nspawn} or found.limits not in {before.limits, wanted.limits}:
        raise ConfigChanged(name, found.nspawn, found.limits)
    write(host, task, name, found, wanted, prepared=prepared)
    applied_at = time.time()
    try:
        live, effective = make_live(host, task, name, limits.read(before.limits), limits.read(wanted.limits))
    except Problem:
        write(host, task, name, wanted, before)
        make_live(host, task, name, limits.read(wanted.limits), limits.read(before.limits), strict=False)
        raise
    return {
        "applied_at": applied_at,
        "live": live,
        "effective": effective,
        "nspawn_sha256": wanted.nspawn_sha256,
        "limits_sha256": wanted.limits_sha256,
    }


# --- with a restart


def restart(host: HostContext, task: Task, record: Record) -> dict[str, Any]:
    """Restart a machine that ran, and watch it if that was asked for. Raises RolledBack, Problem start-failed …"""
    order = task.order
    assert isinstance(order, orders.Apply)
    name = MachineName(order.name)
    machine = Machine(host, task, name)
    if not record.was_up:
        task.output.line(
            f"{name} was not running in its unit, so nothing was restarted: all changes take effect on the next start."
        )
        return {"restarted": False}
    try:
        guarded_restart.restart(machine, record)
        if order.rollback_after:
            guarded_restart.watch(machine, order, record)
            _prove(read_limits(host, name).effective(), limits.read(order.configuration.limits))
        else:
            guarded_restart.come_up(machine, record)
    except Problem as problem:
        if not order.rollback_after:
            raise
        reason = problem.message.rstrip(".")
        record = generations.note(host.paths, name, order.configuration.revision, record, reason=reason)
        undone = roll_back(host, task, record)
        raise Stopped(undone.message) if isinstance(problem, Stopped) else undone from problem
    return {"restarted": True, "effective": read_limits(host, name).effective()}


def roll_back(host: HostContext, task: Task, record: Record) -> RolledBack:
    """Both files as they were, and a run with them; as the problem that tells of it. May be done twice.

    Files that somebody changed meanwhile are left alone.
    """
    assert isinstance(task.order, orders.Apply)
    name, revision = MachineName(task.order.name), task.order.configuration.revision
    wanted, before = nspawn_file.wanted(task.order.configuration), record.files
    found = nspawn_file.read(host.paths, name)
    if found.nspawn not in {wanted.nspawn, before.nspawn} or found.limits not in {wanted.limits, before.limits}:
        return RolledBack(
            name, record.reason, "its files were changed by hand in the meantime, so nothing was rolled back."
        )
    task.output.line(f"{record.reason}: rolling back to the previous configuration.")
    write(host, task, name, found, before)
    make_live(host, task, name, limits.read(wanted.limits), limits.read(before.limits), strict=False)
    if not record.back_at:
        record = generations.note(host.paths, name, revision, record, back_at=time.time())
    trouble = guarded_restart.run_as_before(Machine(host, task, name), record)
    if trouble:
        return RolledBack(name, record.reason, f"the previous configuration was restored, but {trouble}")
    return RolledBack(
        name, record.reason, "the previous configuration was restored and the machine is running with it."
    )


# --- files


def check_unchanged(name: MachineName, configuration: orders.Configuration, found: Files, wanted: Files) -> None:
    """Raises ConfigChanged when a file is neither what the draft was based on nor already what it wants."""
    nspawn_ok = found.nspawn_sha256 in {configuration.replaces_nspawn, wanted.nspawn_sha256}
    limits_ok = found.limits_sha256 in {configuration.replaces_limits, wanted.limits_sha256}
    if not (nspawn_ok and limits_ok):
        raise ConfigChanged(name, found.nspawn, found.limits)


def prepare(host: HostContext, name: MachineName, wanted: Files, found: Files) -> Prepared:
    """Raises OSError or Problem file-is-link."""
    return Prepared(host.paths, name, wanted, found, follow=host.policy.linked_files == "follow")


def write(
    host: HostContext, task: Task, name: MachineName, found: Files, wanted: Files, *, prepared: Prepared | None = None
) -> None:
    """Write both files in place of `found` and let systemd read the drop-in. Raises OSError, CommandFailed, or Problem
    files-changed or file-is-link."""
    for file, before, after in (
        (host.paths.nspawn_file(name), found.nspawn, wanted.nspawn),
        (host.paths.limits_file(name), found.limits, wanted.limits),
    ):
        if before != after:
            task.output.line(f"{'Writing' if after else 'Removing'} {file}")
    prepared = prepared or prepare(host, name, wanted, found)
    prepared.put()
    with ThreadPoolExecutor(1) as beside:
        synced = beside.submit(prepared.sync)
        if prepared.changes_unit:
            reload(host, task)
        synced.result()


def reload(host: HostContext, task: Task) -> None:
    """Over the open connection, which saves a process. Raises CommandFailed."""
    try:
        task.output.command(systemctl.daemon_reload())
        host.bus.do(host.bus.systemd("Reload"))
    except Problem:  # a large host may take longer than a call
        task.run(systemctl.daemon_reload())


@dataclass(frozen=True)
class Limits:
    """The limits of a machine's unit, read once: as systemd has them, as the kernel has them, and whether it runs."""

    shown: Mapping[str, str]
    real: Mapping[str, str]
    runs: bool

    def lags(self, key: str) -> bool:
        """Whether the kernel has not what systemd shows; what cannot be read there is believed."""
        real = self.real.get(key)
        expected = self.shown.get(key, cgroup.DEFAULTS.get(key, "infinity"))
        return real is not None and not cgroup.same(key, real, expected)

    def effective(self) -> dict[str, str]:
        return {
            key: self.real[key] if key in self.real and self.lags(key) else value for key, value in self.shown.items()
        }


def read_limits(host: HostContext, name: MachineName) -> Limits:
    properties = host.bus.do(host.bus.unit(unit_of(name), "Service"))
    group = str(properties.get("ControlGroup", ""))
    return Limits(inventory.effective(properties), cgroup.enforced(group), runs=bool(group))


def make_live(
    host: HostContext,
    task: Task,
    name: MachineName,
    before: Mapping[str, str],
    after: Mapping[str, str],
    *,
    strict: bool = True,
) -> tuple[list[str], dict[str, str]]:
    """Bring a running unit to what its files say now, and prove it. The keys that took effect at once, and what is
    effective now.

    systemd's values are right after the reload, also those of limits that were taken away; the kernel's may lag behind.
    Raises Problem not-effective when a limit does not hold, unless not `strict`.
    """
    now = read_limits(host, name)
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    lagging = [key for key in sorted({*before, *after}) if now.lags(key)]
    if lagging:
        task.run(systemctl.set_property(unit_of(name), [_assignment(key, now.shown) for key in lagging]))
        _forget_runtime(host, task, name, lagging)
        now = read_limits(host, name)
    if strict:
        _prove(now.effective(), after)
    return [key for key in changed if limits.PROPERTIES[key].live] if now.runs else [], now.effective()


def _assignment(key: str, shown: Mapping[str, str]) -> str:
    """KEY=VALUE for set-property; nothing after the sign means the default."""
    value = shown.get(key, "")
    if key == "CPUQuota":
        value = "" if value in {"", "infinity"} else f"{int(value) / 10_000:g}%"
    elif key == "CPUWeight" and value == "0":
        value = "idle"
    return f"{key}={value}"


def _forget_runtime(host: HostContext, task: Task, name: MachineName, keys: list[str]) -> None:
    """set-property leaves files below /run that would outrank later changes of people; ours says it all already."""
    folder = host.paths.control / f"{unit_of(name)}.d"
    for key in keys:
        (folder / f"50-{key}.conf").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # people's own set-property files stay
        folder.rmdir()
    reload(host, task)


def _prove(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    total = memory().get("MemTotal", 0)
    for key, value in wanted.items():
        if key not in limits.PROVEN:
            continue
        if compare_effective.holds(key, value, found.get(key, ""), total) is not True:
            due = limits.effective(key, value, total)
            raise Problem(
                f"{key}={value} was written but is not in effect: expected {due}, found {found.get(key) or 'nothing'}.",
                code="not-effective",
                hint="Another drop-in of the unit may override it (systemctl cat). Both files are unchanged.",
            )
