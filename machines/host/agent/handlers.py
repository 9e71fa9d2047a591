"""The visible table: which function carries out which order.

Those of the worker may be carried out twice without harm and check the real state. Start goes over the open bus
connection, which saves a process; the other verbs are machinectl's own, as people type them.
"""

from collections.abc import Callable, Mapping

from machines.contract import envelope, orders
from machines.contract.names import MachineName
from machines.contract.orders import Order
from machines.contract.recipes import BuildSecrets
from machines.host.context import keys
from machines.host.context.host_context import HostContext, Task
from machines.host.doctor import diagnose
from machines.host.files import autostart
from machines.host.limits import limit_test
from machines.host.machine import apply, remove, remove_dropins
from machines.host.machine.lifecycle import (
    Result,
    check_gone,
    disable_machine,
    enable_machine,
    power_off_machine,
    reboot_machine,
    start_machine,
    terminate_machine,
)
from machines.host.observe import inventory
from machines.host.rootfs import btrfs_pool
from machines.host.rootfs import build as builds
from machines.host.rootfs import export as exports
from machines.host.storage import images
from machines.host.system import machinectl

Handler = Callable[[HostContext, Task], Result]


def _name(task: Task) -> MachineName:
    return MachineName(str(getattr(task.order, "name")))  # noqa: B009 - every converging order has one


def start(host: HostContext, task: Task) -> Result:
    """Start a machine and wait until systemd says it is up (with NotifyReady: until it has booted)."""
    assert isinstance(task.order, orders.Start)
    return start_machine(host, task, _name(task), reset=task.order.reset)


def poweroff(host: HostContext, task: Task) -> Result:
    """Ask the machine's init to power off and wait until the machine is gone for good. Never kills by itself."""
    return power_off_machine(host, task, _name(task))


def reboot(host: HostContext, task: Task) -> Result:
    """Ask the machine's init to reboot; the unit ends with status 133 and systemd starts it again."""
    return reboot_machine(host, task, _name(task))


def terminate(host: HostContext, task: Task) -> Result:
    """Kill the machine's processes without asking its init, and wait until nothing is left."""
    return terminate_machine(host, task, _name(task))


def enable(host: HostContext, task: Task) -> Result:
    """Start the machine when the host boots."""
    enable_machine(host, task, _name(task))
    return {}


def disable(host: HostContext, task: Task) -> Result:
    """No longer start the machine when the host boots."""
    disable_machine(host, task, _name(task))
    return {}


def set_read_only(host: HostContext, task: Task) -> Result:
    """Make an image read-only, which makes it a template, or writable again. Raises MachineMissing or Problem."""
    assert isinstance(task.order, orders.SetReadOnly)
    name, read_only = _name(task), task.order.read_only
    image = images.find(host, name)
    if image.read_only != read_only:
        images.check_changeable(image, to="be made read-only" if read_only else "be made writable")
        check_gone(host, task, name)
        task.run(machinectl.read_only(name, on=read_only))
        task.run(["sync", "--file-system", "--", str(image.path.parent)])
        host.bus.do(inventory.read_lists(host))  # what is known of images is now old
    if read_only and name in autostart.linked(host.paths):
        disable_machine(host, task, name)
        task.output.line(f"{name} no longer starts at boot: a template cannot be started.")
    return {}


def assign(_host: HostContext, task: Task) -> Result:
    """Say whose machine it is. The ledger writes that down with the end of the job (policy/owners.py)."""
    assert isinstance(task.order, orders.Assign)
    whose = f"team {task.order.team}" if task.order.team else "no team"
    task.output.line(f"On this host {task.order.name} belongs to {whose} from now on.")
    return {}


def build(host: HostContext, task: Task) -> Result:
    """Build a machine from a recipe."""
    return builds.build(host, task, _opened(host, task))


def export(host: HostContext, task: Task) -> Result:
    """Pack an image and send it to the panel."""
    return exports.export(host, task, _opened(host, task))


def _opened(host: HostContext, task: Task) -> BuildSecrets:
    """What is sealed in the order. Raises EnvelopeRefused."""
    if not task.sealed:
        return BuildSecrets()
    own = keys.load(host.paths.keys)
    return BuildSecrets.model_validate_json(envelope.unseal_secret(task.sealed, own.box))


# Control orders are not here: the executor carries them out itself.
TABLE: Mapping[type[Order], Handler] = {
    # in the worker
    orders.Start: start,
    orders.Poweroff: poweroff,
    orders.Reboot: reboot,
    orders.Terminate: terminate,
    orders.Enable: enable,
    orders.Disable: disable,
    orders.Apply: apply.apply,
    orders.RemoveDropins: remove_dropins.remove,
    orders.SetReadOnly: set_read_only,
    orders.Assign: assign,
    orders.Diagnose: diagnose.run,
    orders.Fix: diagnose.fix,
    # in a unit
    orders.Build: build,
    orders.BuildBase: builds.build_base,
    orders.RemoveBase: builds.remove_base,
    orders.Export: export,
    orders.Pool: btrfs_pool.make,
    orders.Remove: remove.remove,
    orders.LimitTest: limit_test.measure,
}


def deadline(order: Order, begun: float) -> float:
    """Until when an order's work may take, seconds since the epoch."""
    return begun + order.work_seconds()
