"""Apply a configuration: judge it, write it, make it live, and prove that it holds.

The order names the files its draft was based on; if the host's have changed meanwhile, nothing is written and the
found texts go back for a three-way view. Carried out twice it does the same: files that are as wanted already are no
change. A limit that does not hold afterwards takes both files back.
"""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from machines.contract import limits, orders
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host import inventory, kernel, lint, nspawn_file, systemctl
from machines.host.faults import ConfigChanged
from machines.host.host_fact import memory
from machines.host.nspawn_file import Files
from machines.host.paths import unit_of
from machines.host.this_host import Task, ThisHost


def apply(host: ThisHost, task: Task) -> dict[str, Any]:
    """The handler of an Apply order. Raises ConfigChanged, NotAllowed, or Problem config-refused or not-effective."""
    assert isinstance(task.order, orders.Apply)
    name, configuration = MachineName(task.order.name), task.order.configuration
    found, wanted = nspawn_file.read(host.paths, name), nspawn_file.wanted(configuration)
    check_unchanged(name, configuration, found, wanted)
    lint.check(host.paths, host.policy, name, wanted, found)
    task.check_stop()
    nspawn_file.keep_generation(host.paths, name, configuration.revision, found)
    write(host, task, name, found, wanted)
    try:
        live = make_live(host, task, name, limits.read(found.limits), limits.read(wanted.limits))
    except Problem:
        write(host, task, name, wanted, found)
        make_live(host, task, name, limits.read(wanted.limits), limits.read(found.limits), strict=False)
        raise
    return {
        "applied_at": time.time(),
        "live": live,
        "effective": effective(host, name),
        "nspawn_sha256": wanted.nspawn_sha256,
        "limits_sha256": wanted.limits_sha256,
    }


def check_unchanged(name: MachineName, configuration: orders.Configuration, found: Files, wanted: Files) -> None:
    """Raises ConfigChanged when a file is neither what the draft was based on nor already what it wants."""
    nspawn_ok = found.nspawn_sha256 in {configuration.replaces_nspawn, wanted.nspawn_sha256}
    limits_ok = found.limits_sha256 in {configuration.replaces_limits, wanted.limits_sha256}
    if not (nspawn_ok and limits_ok):
        raise ConfigChanged(name, found.nspawn, found.limits)


def write(host: ThisHost, task: Task, name: MachineName, found: Files, wanted: Files) -> None:
    """Write both files and let systemd read the drop-in. Raises OSError or CommandFailed."""
    for file, before, after in (
        (host.paths.nspawn_file(name), found.nspawn, wanted.nspawn),
        (host.paths.limits_file(name), found.limits, wanted.limits),
    ):
        if before != after:
            task.voice.line(f"{'Writing' if after else 'Removing'} {file}")
    nspawn_file.write(host.paths, name, wanted)
    if found.limits != wanted.limits:
        task.run(systemctl.daemon_reload())


def make_live(
    host: ThisHost,
    task: Task,
    name: MachineName,
    before: Mapping[str, str],
    after: Mapping[str, str],
    *,
    strict: bool = True,
) -> list[str]:
    """Bring a running unit to what its files say now, and prove it. The keys that took effect at once.

    systemd's values are right after the reload, also those of limits that were taken away; the kernel's may lag behind.
    Raises Problem not-effective when a limit does not hold, unless not `strict`.
    """
    shown = effective(host, name, kernel_too=False)
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    lagging = [key for key in sorted({*before, *after}) if not _holds(host, name, key, shown)]
    if lagging:
        task.run(systemctl.set_property(unit_of(name), [_assignment(key, shown) for key in lagging]))
        _forget_runtime(host, task, name, lagging)
    if strict:
        _prove(host, name, after)
    return changed if _group(host, name) else []


def _assignment(key: str, shown: Mapping[str, str]) -> str:
    """KEY=VALUE for set-property; nothing after the sign means the default."""
    value = shown.get(key, "")
    if key == "CPUQuota":
        value = "" if value in {"", "infinity"} else f"{int(value) / 10_000:g}%"
    elif key == "CPUWeight" and value == "0":
        value = "idle"
    return f"{key}={value}"


def _forget_runtime(host: ThisHost, task: Task, name: MachineName, keys: list[str]) -> None:
    """set-property leaves files below /run that would outrank later changes of people; ours says it all already."""
    folder = host.paths.control / f"{unit_of(name)}.d"
    for key in keys:
        (folder / f"50-{key}.conf").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # people's own set-property files stay
        folder.rmdir()
    task.run(systemctl.daemon_reload())


def _group(host: ThisHost, name: MachineName) -> str:
    """The control group of a running machine's unit, "" when it does not run."""
    return str(host.bus.do(host.bus.unit(unit_of(name), "Service")).get("ControlGroup", ""))


def _holds(host: ThisHost, name: MachineName, key: str, shown: Mapping[str, str]) -> bool:
    """Whether the kernel has what systemd shows; what cannot be read there is believed."""
    real = kernel.enforced(_group(host, name)).get(key)
    return real is None or kernel.same(key, real, shown.get(key, kernel.DEFAULTS.get(key, "infinity")))


def _prove(host: ThisHost, name: MachineName, wanted: Mapping[str, str]) -> None:
    found = effective(host, name)
    total = memory().get("MemTotal", 0)
    for key, value in wanted.items():
        due = limits.effective(key, value, total)
        if not kernel.same(key, due, found.get(key, "")):
            raise Problem(
                f"{key}={value} was written but does not hold: wanted {due}, found {found.get(key) or 'nothing'}.",
                code="not-effective",
                hint="Another drop-in of the unit may say otherwise (systemctl cat). Both files are as before.",
            )


def effective(host: ThisHost, name: MachineName, *, kernel_too: bool = True) -> dict[str, str]:
    """The limits of a machine's unit as systemd has them, corrected by what the kernel enforces."""
    properties = host.bus.do(host.bus.unit(unit_of(name), "Service"))
    shown = inventory.effective(properties)
    return inventory.corrected(shown, properties) if kernel_too else shown
