"""Take away drop-ins that people left on a machine's unit: what `systemctl set-property` wrote, or a file of their own.

`systemctl revert` would take ours too, and whatever else there is. This takes only the files an order names, each only
while it still is what the person saw; a copy stays in STATE/generations/NAME/dropins.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from machines.contract import orders
from machines.contract.configuration import limits
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.context.host_context import HostContext, Task
from machines.host.files import nspawn_file
from machines.host.machine import apply
from machines.host.system import guarded, systemctl
from machines.host.system.paths import BINDS_DROPIN, DROPIN, Paths, unit_of


def remove(host: HostContext, task: Task) -> dict[str, Any]:
    """The handler of a RemoveDropins order; a file that is gone already is fine. Raises Problem dropin-refused, dropin-changed."""
    assert isinstance(task.order, orders.RemoveDropins)
    name = MachineName(task.order.name)
    there = [(file, text) for old in task.order.files if (text := _read(file := _check(host.paths, name, old), old))]
    held = {key: value for _, text in there for key, value in limits.read(text).items()}
    for file, text in there:
        _keep(host.paths, name, file, text)
        task.output.line(f"Removing {file}")
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others lie in there
            file.parent.rmdir()
    for folder in {folder for file, _ in there for folder in file.parents[:2]}:
        nspawn_file.sync_folder(folder)
    if there:
        task.run(systemctl.daemon_reload())
        ours = limits.read(nspawn_file.read(host.paths, name).limits)
        apply.make_live(host, task, name, held, ours, strict=False)
    return {"removed": [str(file) for file, _ in there]}


def _check(paths: Paths, name: MachineName, old: orders.OldDropin) -> Path:
    """The file, if it is a drop-in of this machine's unit that people write, and not ours."""
    file = Path(old.path)
    folders = [folder / f"{unit_of(name)}.d" for folder in (paths.lasting_control, paths.control, paths.units)]
    named = file.suffix == ".conf" and file.name not in {DROPIN, BINDS_DROPIN, ".conf"}
    if str(file) != old.path or file.parent not in folders or not named:
        raise Problem(f"{old.path} may not be removed for {name}.", code="dropin-refused")
    return file


def _read(file: Path, old: orders.OldDropin) -> str:
    """Its text; "" when it is gone. Raises Problem when it is not the one that was named."""
    try:
        data = guarded.whole(file, follow=False)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Problem(f"{file} cannot be read: {error.strerror}.", code="dropin-refused") from error
    if hashlib.sha256(data).hexdigest() != old.sha256:
        raise Problem(
            f"{file} has been changed since it was checked; nothing was removed.",
            code="dropin-changed",
            hint="Review it again, then decide.",
        )
    return data.decode(errors="surrogateescape")


def _keep(paths: Paths, name: MachineName, file: Path, text: str) -> None:
    """A copy under the name of its folder and its own, so that it can be put back by hand."""
    folder = paths.generations(name) / "dropins" / file.parent.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    nspawn_file.write_one(folder / file.name, text)
