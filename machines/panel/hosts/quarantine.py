"""A host that is shut out because it took more of what all share than any needs (host_caps.py): nothing of it is read, its
orders wait and say why, and an administrator lets it in again."""

from datetime import datetime, timedelta

from django.utils import timezone

from machines.contract.problems import Problem
from machines.models import Host, Job, User
from machines.panel.audit import entries
from machines.panel.hosts import budgets

CODE = "host-quarantined"
PAUSE = timedelta(seconds=5)


def is_shut(quarantined_at: datetime | None, paused_until: datetime | None) -> bool:
    """Whether a host's Redis user is to be off, by these columns of its row. A pause that ends later than any can was
    begun before our clock was put right."""
    now = timezone.now()
    return quarantined_at is not None or (paused_until is not None and now < paused_until <= now + PAUSE)


def release(host: Host, *, by: User) -> bool:
    """Let a host in again; its orders leave as soon as it speaks. False when it is free already."""
    held = Host.objects.filter(pk=host.pk).exclude(quarantined_at=None)
    if not held.update(quarantined_at=None, quarantine_why="", paused_until=None):
        return False
    budgets.begin_anew(host)
    text = f"{by.username} released {host.name} from quarantine."
    entries.record("host-released", text, by=by, on=host)
    waiting = Job.objects.waiting().filter(host=host)
    waiting.filter(problem__code=CODE).update(problem=None)
    waiting.update(send_next_at=timezone.now())
    return True


def problem(host: Host) -> Problem:
    """Why the orders of a quarantined host wait."""
    return Problem(
        f"{host.name} is quarantined.", code=CODE,
        hint=f"{host.quarantine_why} Requests wait until an administrator releases it on its page.",
    )  # fmt: skip


def say_why_orders_wait(at_most: int) -> None:
    """Write it into the jobs of quarantined hosts."""
    waiting = Job.objects.waiting().exclude(host__quarantined_at=None)
    for job in waiting.exclude(problem__code=CODE).select_related("host")[:at_most]:
        Job.objects.waiting().filter(pk=job.pk).update(problem=problem(job.host).to_wire())
