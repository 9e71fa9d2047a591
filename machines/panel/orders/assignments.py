"""What hosts are told of whose machines are: each keeps it in its own ledger, and refuses a team what is not its (host/policy/owners.py).

A machine that a person moves is moved there too. One that its host calls nobody's and that a team has here (it was built, or claimed
by a rule, before its host kept that) is assigned by the courier; one that its host calls another team's is never moved by itself: its
page says so, and an administrator decides.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef

from machines.contract import orders
from machines.contract.permissions import Role
from machines.contract.states import MachineState
from machines.models import Host, Job, Machine, User
from machines.models.machine import MachineQuerySet
from machines.panel.orders import dispatch, job_entries

COURIER = "courier"
AGAIN = timedelta(hours=1)  # after an attempt that came to nothing


def place(machines: Iterable[Machine], *, by: User) -> list[Job]:
    """Tell the hosts of these machines whose they are now. Hosts whose workers keep no such thing are not asked. Raises Busy,
    NotAllowed."""
    return [dispatch.place(order(each), on=each.host, by=by) for each in machines if each.host_team is not None]


def order(machine: Machine) -> orders.Assign:
    """Costs a query unless `team` is loaded."""
    return orders.Assign(name=machine.name, team=machine.team.slug if machine.team else "")


def place_due(now: datetime, at_most: int) -> int:
    """Tell hosts of machines that they call nobody's and that a team has here. Returns how many jobs were placed."""
    jobs = Job.objects.filter(host=OuterRef("host"), machine_name=OuterRef("name"))
    tried = jobs.of(orders.Assign).filter(created_at__gt=now - AGAIN)
    due = Machine.objects.listed().filter(host_team="", team__isnull=False, host__in=Host.objects.awake(now))
    due = due.exclude(state=MachineState.MISSING).exclude(Exists(jobs.unfinished())).exclude(Exists(tried))
    return sum(_place(machine) for machine in due.select_related("host", "team").order_by("pk")[:at_most])


def _place(machine: Machine) -> bool:
    wanted = order(machine)
    try:
        with transaction.atomic():
            job = Job.objects.create(
                host=machine.host, machine_name=machine.name, op=wanted.op, order=orders.to_wire(wanted),
                actor_name=COURIER, actor_role=Role.ADMINISTRATOR, team=machine.team,
            )  # fmt: skip
            job_entries.requested(job)
    except IntegrityError:  # somebody was faster with another job
        return False
    return True


def strange() -> MachineQuerySet:
    """Machines that their hosts call another team's than they are here."""
    known = Machine.objects.listed().exclude(host_team=None).exclude(host_team="")
    return known.exclude(team__slug=F("host_team")).select_related("host", "team")
