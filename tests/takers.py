"""`python -m tests.takers streams|passwords`: twenty threads of one web process that want the same at the same moment.

Says "ready", begins when a line comes in, and prints how many got it. With DATABASE_URL and SECRET_KEY in the environment.
"""

import os
import sys
import threading

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nspawnpanel.settings")
django.setup()

from django.db import connections  # noqa: E402  # needs the settings
from django.test import RequestFactory  # noqa: E402

from machines.models import User  # noqa: E402
from machines.panel.logs import log_stream  # noqa: E402
from machines.panel.web import attempts  # noqa: E402

THREADS = 20


def streams() -> bool:
    return log_stream.Lease.take(User.objects.get().pk) is not None


def passwords() -> bool:
    try:
        attempts.book(RequestFactory().post("/", REMOTE_ADDR="192.0.2.7"), "eve")
    except attempts.TooSoon:
        return False
    return True


def main() -> None:
    take = {"streams": streams, "passwords": passwords}[sys.argv[1]]
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
