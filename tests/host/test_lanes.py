"""One lane per name: in order within, at once between, and a fault stops nobody."""

import threading
import time

from machines.host.lanes import Lanes


def test_work_on_one_name_keeps_its_order(eventually):
    lanes, done = Lanes(8), []
    for number in range(50):
        lanes.put("web", lambda n=number: done.append(n))
    eventually(lambda: len(done) == 50)
    assert done == list(range(50))


def test_names_do_not_wait_for_each_other(eventually):
    lanes, both = Lanes(8), threading.Barrier(2)
    done = []
    for name in ("web", "db"):
        lanes.put(name, lambda n=name: (both.wait(2), done.append(n)))
    eventually(lambda: sorted(done) == ["db", "web"])


def test_a_fault_does_not_stop_the_lane(eventually):
    lanes, done = Lanes(2), []
    lanes.put("web", lambda: 1 / 0)
    lanes.put("web", lambda: done.append(1))
    eventually(lambda: done)
    time.sleep(0.02)
    assert lanes.waiting("web") == 0
