"""The visible table: which function carries out which converging order.

Each may be carried out twice without harm and checks the real state. Start goes over the open bus connection, which
saves a process; the other verbs are machinectl's own, as people type them.
"""

from collections.abc import Callable, Mapping

from machines.contract import orders
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host import apply, autostart, host_fact, images, inventory, machinectl, systemctl, tidy
from machines.host.doctor import examine
from machines.host.faults import TookTooLong
from machines.host.paths import unit_of
from machines.host.running import Machine, Result, is_gone, reboot_machine, start_machine
from machines.host.this_host import Task, ThisHost

Handler = Callable[[ThisHost, Task], Result]


def _name(task: Task) -> MachineName:
    return MachineName(str(getattr(task.order, "name")))  # noqa: B009 - every converging order has one


def start(host: ThisHost, task: Task) -> Result:
    """Start a machine and wait until systemd says it is up (with NotifyReady: until it has booted)."""
    return start_machine(host, task, _name(task))


def poweroff(host: ThisHost, task: Task) -> Result:
    """Ask the machine's init to power off and wait until the machine is gone. Never escalates by itself."""
    machine = Machine(host, task, _name(task))
    if not machine.is_registered():
        return {"already": "stopped"}
    machine.ask(
        machinectl.poweroff(machine.name),
        is_gone,
        TookTooLong(
            f"{machine.name} was asked to power off and has not done so in time.",
            hint="It may still do so. “Terminate” ends it without asking.",
        ),
    )
    return {}


def reboot(host: ThisHost, task: Task) -> Result:
    """Ask the machine's init to reboot; the unit ends with status 133 and systemd starts it again."""
    return reboot_machine(host, task, _name(task))


def terminate(host: ThisHost, task: Task) -> Result:
    """Kill the machine's processes without asking its init, and wait until nothing is left."""
    machine = Machine(host, task, _name(task))
    if machine.is_registered():
        machine.tell(machinectl.terminate(machine.name))
    elif machine.unit_state() in {"active", "activating", "deactivating"}:
        task.run(systemctl.kill(unit_of(machine.name)))
    else:
        return {"already": "stopped"}
    # machined asks for a stop of the unit, which an init that has just begun does not hear
    if not machine.comes_to(is_gone, within=10) and not machine.kill():
        raise TookTooLong(f"{machine.name} was terminated but its unit is still there.", hint="Look at its log.")
    return {}


def enable(host: ThisHost, task: Task) -> Result:
    """Start the machine when the host boots."""
    enable_machine(host, task, _name(task))
    return {}


def enable_machine(host: ThisHost, task: Task, name: MachineName) -> None:
    """The same by name. Below systemd 253 machines.target must be enabled besides, else nothing starts."""
    task.run(machinectl.enable(name))
    if host_fact.systemd_version() < 253 and not autostart.has_target(host.paths):
        task.run(systemctl.enable("machines.target"))


def disable(_: ThisHost, task: Task) -> Result:
    """No longer start the machine when the host boots."""
    task.run(machinectl.disable(_name(task)))
    return {}


def mark(host: ThisHost, task: Task) -> Result:
    """Make an image read-only, which makes it a template, or writable again. Raises MachineMissing or Problem."""
    assert isinstance(task.order, orders.Mark)
    name, read_only = _name(task), task.order.read_only
    image = images.find(host, name)
    if image.read_only != read_only:
        images.check_changeable(image, to="be made read-only" if read_only else "be made writable")
        if not is_gone((machine := Machine(host, task, name)).unit_state(), machine.is_registered()):
            raise Problem(f"{name} is running.", code="machine-running", hint="Power it off first.")
        task.run(machinectl.read_only(name, on=read_only))
        host.bus.do(inventory.read_lists(host))  # what is known of images is now old
    if read_only and name in autostart.linked(host.paths):
        task.run(machinectl.disable(name))
        task.voice.line(f"{name} no longer starts with the host: a template is not started.")
    return {}


TABLE: Mapping[str, Handler] = {
    "start": start,
    "poweroff": poweroff,
    "reboot": reboot,
    "terminate": terminate,
    "enable": enable,
    "disable": disable,
    "apply": apply.apply,
    "tidy": tidy.tidy,
    "mark": mark,
    "examine": examine.examine,
    "mend": examine.mend_one,
}


def deadline(order: orders.AnyOrder, begun: float) -> float:
    """Until when an order's work may take, seconds since the epoch."""
    return begun + orders.time_limit(order)
