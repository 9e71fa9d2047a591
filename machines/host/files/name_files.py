"""What lies under the name of a machine that is to be made: an administrator's files written beforehand, or what an earlier
machine of that name has left. Nothing of it is replaced, or left to act on the new machine, that a person has not seen.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict

from machines.contract import orders
from machines.contract.names import MachineName
from machines.contract.problems import printable
from machines.contract.reports import Leftover, NameWithFiles
from machines.host.context.host_context import HostContext, Task
from machines.host.files import belongings, nspawn_file
from machines.host.files.belongings import Belonging
from machines.host.files.nspawn_file import Files
from machines.host.system import systemctl
from machines.host.system.faults import NameHasFiles
from machines.host.system.paths import Paths
from machines.host.system.run import run

LISTED = 50  # in a report


def look(paths: Paths, order: orders.Build) -> list[Belonging]:
    """What lies there besides what is to be written anyway. Raises NameHasFiles when something of it was not seen, or when
    nobody has decided what becomes of it."""
    there = [each for each in belongings.of(paths, MachineName(order.name)) if not _is_as_wanted(paths, order, each)]
    seen = {(file.path, file.sha256) for file in order.seen} if order.leftovers != "refuse" else set()
    if any((str(each.path), each.sha256) not in seen for each in there):
        raise NameHasFiles(order.name, told(there), changed=order.leftovers != "refuse")
    return there


def _is_as_wanted(paths: Paths, order: orders.Build, each: Belonging) -> bool:
    """A file that is to be replaced, and is the one that was seen, or that says already what it shall say."""
    wanted, name = nspawn_file.wanted(order.configuration), MachineName(order.name)
    expected = {
        paths.nspawn_file(name): {order.configuration.replaces_nspawn, wanted.nspawn_sha256},
        paths.limits_file(name): {order.configuration.replaces_limits, wanted.limits_sha256},
    }
    return not each.target and each.sha256 in expected.get(each.path, set()) - {orders.ABSENT, orders.UNREADABLE}


def told(there: Sequence[Belonging]) -> list[dict[str, object]]:
    """As a report has them, contract.reports.Leftover."""
    return [
        asdict(each) | {"path": printable(str(each.path))[:1000], "target": printable(each.target)[:1000]}
        for each in there[:LISTED]
    ]


def of_nobody(paths: Paths, machines: Collection[str]) -> list[NameWithFiles]:
    """Names that belong to none of these machines, and what lies under them."""
    return [
        NameWithFiles(name=name, files=[Leftover.model_validate(file) for file in told(files)])
        for name, files in belongings.of_nobody(paths, machines).items() if files
    ]  # fmt: skip


def to_write(paths: Paths, order: orders.Build, there: Sequence[Belonging]) -> Files:
    """Both files of the new machine: those that stay are as they are."""
    name, wanted = MachineName(order.name), nspawn_file.wanted(order.configuration)
    if order.leftovers != "keep":
        return wanted
    found, stay = nspawn_file.read(paths, name), {each.path for each in there}
    return Files(
        nspawn=found.nspawn if paths.nspawn_file(name) in stay else wanted.nspawn,
        limits=found.limits if paths.limits_file(name) in stay else wanted.limits,
    )


def to_replace(paths: Paths, order: orders.Build, there: Sequence[Belonging]) -> Files:
    """Both files as ours will replace them: without those that settle() takes away."""
    found, name = nspawn_file.read(paths, MachineName(order.name)), MachineName(order.name)
    gone = {each.path for each in there} if order.leftovers == "replace" else set()
    return Files(
        nspawn="" if paths.nspawn_file(name) in gone else found.nspawn,
        limits="" if paths.limits_file(name) in gone else found.limits,
    )


def settle(host: HostContext, task: Task, order: orders.Build, there: Sequence[Belonging]) -> None:
    """Do with them as was decided: they stay, or copies are kept and they go. Raises OSError or CommandFailed."""
    for each in there:
        task.output.line(f"{'Keeping' if order.leftovers == 'keep' else 'Removing'} {each.said}, which already existed")
    if order.leftovers == "keep" or not there:
        return
    keep = host.paths.removed(MachineName(order.name), task.job)
    belongings.remove(there, keep)
    task.output.line(f"Copies are kept in {keep}")
    task.run(systemctl.daemon_reload())


def put_back(paths: Paths, order: orders.Build, task: Task) -> None:
    """The way back of settle(), also when the job was cancelled. Raises OSError or CommandFailed."""
    if belongings.put_back(paths.removed(MachineName(order.name), task.job)):
        task.output.command(systemctl.daemon_reload())
        run(systemctl.daemon_reload(), timeout=60)
