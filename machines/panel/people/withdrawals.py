"""Orders that wait while the rights of whoever gave them change: they are as much as that person is now."""

from machines.contract import orders
from machines.contract.problems import Problem
from machines.models import Job, User
from machines.panel.courier import completion
from machines.panel.orders import dispatch


def hold(person_id: int) -> User:
    """This row as a whole, before those of teams: an order that names it is through by now, or will find what changes
    (orders/dispatch.py)."""
    return User.objects.select_for_update().get(pk=person_id)


def follow_rights(person_id: int) -> None:
    """Withdraw the waiting orders that this person may not give any more; others go out with the role of now. In the
    transaction that has changed the rights. What a host has begun goes on."""
    person = hold(person_id)
    for job in Job.objects.waiting().filter(actor_id=person_id):
        if not _may_still(person, job):
            completion.withdraw(job, f"Withdrawn: {person.username} may not do this any more.")
            continue
        # One that was sent lies with its host as it is.
        Job.objects.filter(pk=job.pk, sends=0).update(**dispatch.carried(person, job.team_id))


def _may_still(person: User, job: Job) -> bool:
    try:
        needed = orders.from_wire(job.order).permissions()
    except Problem:  # of a version before, and no order of this one
        return False
    return all(person.may_in(permission, job.team_id) for permission in needed)
