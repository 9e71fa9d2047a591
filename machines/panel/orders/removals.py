"""Removing a machine: the order, and what a person is told beforehand."""

from uuid import UUID

from machines.contract import orders, quantities
from machines.models import Job, Machine, ObservedFiles, User
from machines.models.machine import POOL
from machines.panel.orders import dispatch

NAMED = 6  # files, before the rest is only counted


def order(machine: Machine, image_id: str | None = None) -> orders.Remove:
    """The removal of this very image, and of its files as the panel knows them."""
    return orders.Remove(
        name=machine.name,
        image_id=machine.image_id if image_id is None else image_id,
        replaces_nspawn=machine.nspawn_sha256,
        replaces_limits=machine.limits_sha256,
    )


def place(machine: Machine, by: User, key: UUID | None) -> Job:
    """Raises NotAllowed, Busy."""
    return dispatch.place(order(machine), on=machine.host, by=by, key=key)


def obstacle(machine: Machine) -> str:
    """Why it cannot be removed from here, as far as is known; "" when it can."""
    if machine.shown_state.is_up:
        return f"{machine.name} is {machine.state}. Power it off first."
    if machine.image_is_elsewhere:
        return f"Its image is {machine.image_path}, outside {POOL.rstrip('/')}: remove it on the host itself."
    return ""


def again(job: Job, *, by: User, key: UUID | None = None) -> Job:
    """A new try to remove the same image, with its files as they are known now. Raises NotAllowed, Busy, BadValue."""
    machine = Machine.objects.filter(host=job.host, name=job.machine_name).first()
    wanted = order(machine, str(job.order.get("image_id", ""))) if machine else orders.from_wire(job.order)
    return dispatch.place(wanted, on=job.host, by=by, key=key, retry_of=job)


def what_goes(machine: Machine) -> list[str]:
    size = f", {quantities.size(machine.disk_bytes)}" if machine.disk_bytes else ""
    kind = machine.image_type or "image"
    path = machine.image_path or f"/var/lib/machines/{machine.name}"
    return [
        f"the {kind} {path} on {machine.host.name}{size}, with all data in it",
        f"{_files(machine)} (copies stay on {machine.host.name} in /var/lib/nspawnpanel/removed)",
        *(["its start at boot"] if machine.enabled else []),
        *(f"not {path}, which has the same name and counts from then on" for path in machine.hidden_images),
    ]


def _files(machine: Machine) -> str:
    found = ObservedFiles.objects.filter(machine=machine).first()
    own = f"systemd-nspawn@{machine.name}.service"
    files = found.files if found else []
    mine = [file for file in files if file.kind == "nspawn" or own in file.path]
    paths = [f"the link {file.path}, not {file.target}" if file.target else file.path for file in mine]
    if not paths:
        return "its .nspawn file and its limits, if it has any"
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more
