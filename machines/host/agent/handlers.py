"""The visible table: which function carries out which converging order.

Each may be carried out twice without harm and checks the real state. Start goes over the open bus connection, which
saves a process; the other verbs are machinectl's own, as people type them.
"""

from collections.abc import Callable, Mapping

from machines.contract import orders
from machines.contract.names import MachineName
from machines.host.context.host_context import HostContext, Task
from machines.host.doctor import diagnose
from machines.host.files import autostart
from machines.host.machine import apply, remove_dropins
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
        task.output.line(f"{name} no longer starts with the host: a template is not started.")
    return {}


TABLE: Mapping[str, Handler] = {
    "start": start,
    "poweroff": poweroff,
    "reboot": reboot,
    "terminate": terminate,
    "enable": enable,
    "disable": disable,
    "apply": apply.apply,
    "remove_dropins": remove_dropins.remove,
    "set_read_only": set_read_only,
    "diagnose": diagnose.run,
    "fix": diagnose.fix,
}


def deadline(order: orders.Order, begun: float) -> float:
    """Until when an order's work may take, seconds since the epoch."""
    return begun + order.work_seconds()
