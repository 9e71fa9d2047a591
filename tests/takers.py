"""`python -m tests.takers streams|passwords|machine|host|history|…`: twenty threads of one web process that want the same at the same moment.

Says "ready", begins when a line comes in, and prints how many got it. With DATABASE_URL and SECRET_KEY in the environment.
"""

import itertools
import os
import sys
import threading
from collections.abc import Callable
from uuid import UUID, uuid4

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nspawnpanel.settings")
django.setup()

from django.db import connections  # noqa: E402  # needs the settings
from django.test import RequestFactory  # noqa: E402

from machines.contract import orders  # noqa: E402
from machines.contract.problems import Problem  # noqa: E402
from machines.models import Host, Job, User  # noqa: E402
from machines.panel.audit import entries, verify  # noqa: E402
from machines.panel.logs import log_stream  # noqa: E402
from machines.panel.orders import dispatch  # noqa: E402
from machines.panel.people import invitations, roster  # noqa: E402
from machines.panel.web import attempts  # noqa: E402

THREADS = 20
KEY = UUID("11111111-1111-4111-8111-111111111111")


def streams() -> bool:
    return log_stream.Lease.take(User.objects.get().pk) is not None


def passwords() -> bool:
    try:
        attempts.book(RequestFactory().post("/", REMOTE_ADDR="192.0.2.7"), "eve")
    except attempts.TooSoon:
        return False
    return True


def machine_press() -> bool:
    """Of one machine, whose jobs keep each other out as well."""
    return _press(orders.Start(name="web"))


def host_press() -> bool:
    return _press(orders.Diagnose())


def _press(order: orders.Order) -> bool:
    """Whether it led to the one job of the key."""
    by, on = User.objects.get(), Host.objects.get()
    job = dispatch.place_once(KEY, lambda key: dispatch.place(order, on=on, by=by, key=key))
    return job.pk == Job.objects.get().pk


def history() -> bool:
    """Three entries, and whether what is there by then is whole."""
    for number in range(3):
        entries.record("test", f"act {number}", by=f"person {threading.get_ident()}")
    return verify.verify().is_whole


def unmake() -> bool:
    return _against_each_other(roster.unmake_administrator)


def disable() -> bool:
    return _against_each_other(roster.disable)


def _against_each_other(act: Callable[..., object]) -> bool:
    """Half of all are the one of two administrators and half the other, and act on whom they are not."""
    by, person = User.objects.filter(username__in=["one", "two"]).order_by(
        "username" if next(TURNS) % 2 else "-username"
    )
    try:
        act(person, by=by)
    except Problem:
        return False
    return True


def invitation() -> bool:
    """All have the same link and choose different names."""
    given = {"username": f"guest-{uuid4()}", "name": "", "email": "", "password": "correct horse battery"}
    try:
        invitations.accept(os.environ["TOKEN"], given)
    except invitations.NotGood:
        return False
    return True


def code() -> bool:
    return attempts.is_first_use(User.objects.get(username="eve"), "123456")


TURNS = itertools.count()
TAKERS = {
    "streams": streams, "passwords": passwords, "machine": machine_press, "host": host_press, "history": history,
    "unmake": unmake, "disable": disable, "invitation": invitation, "code": code,
}  # fmt: skip


def main() -> None:
    take = TAKERS[sys.argv[1]]
    start, won = threading.Barrier(THREADS + 1), []

    def one() -> None:
        start.wait()
        won.append(take())
        connections.close_all()

    threads = [threading.Thread(target=one) for _ in range(THREADS)]
    for each in threads:
        each.start()
    print("ready", flush=True)
    sys.stdin.readline()
    start.wait()
    for each in threads:
        each.join()
    assert len(won) == THREADS, "a taker failed"
    print(sum(won), flush=True)


if __name__ == "__main__":
    main()
