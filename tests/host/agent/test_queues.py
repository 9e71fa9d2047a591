"""One queue per name: in order within, at once between, and a fault stops nobody."""

import threading

import pytest

from machines.host.agent.queues import Queues
from machines.host.system import guarded, threads


def test_work_on_one_name_keeps_its_order(eventually):
    queues, done = Queues(8), []
    for number in range(50):
        queues.put("web", lambda n=number: done.append(n))
    eventually(lambda: len(done) == 50)
    assert done == list(range(50))


def test_names_do_not_wait_for_each_other(eventually):
    queues, both = Queues(8), threading.Barrier(2)
    done = []
    for name in ("web", "db"):
        queues.put(name, lambda n=name: (both.wait(2), done.append(n)))
    eventually(lambda: sorted(done) == ["db", "web"])


def test_a_fault_does_not_stop_the_queue(eventually):
    queues, done = Queues(2), []
    queues.put("web", lambda: 1 / 0)
    queues.put("web", lambda: done.append(1))
    eventually(lambda: done and not queues._queues)


# --- a host that has no thread left


@pytest.fixture
def no_threads(monkeypatch) -> tuple[Queues, list[str]]:
    """Lanes, and the names of the threads that were asked for in vain; none begins until that list is emptied."""
    asked, start = ["on"], threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if asked:
            asked.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    queues = Queues(8)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(threads, "AGAIN_SECONDS", 0.01)
    return queues, asked


def test_work_goes_on_when_no_new_thread_can_be_had(no_threads, eventually):
    queues, _ = no_threads
    done: list[int] = []
    for number in range(40):
        queues.put(f"web{number}", lambda n=number: done.append(n))
        queues.put("db", lambda n=number: done.append(n))
    eventually(lambda: len(done) == 80)


def test_a_thread_begins_as_soon_as_there_is_room_again(no_threads, eventually):
    queues, asked = no_threads
    done = threading.Event()
    queues.put("room", lambda: (eventually(lambda: len(asked) > 3), asked.clear()))
    threads.begin(done.set, "late")
    assert done.wait(5)


def test_a_read_without_a_thread_is_told_and_keeps_no_place(no_threads, monkeypatch, tmp_path):
    _, asked = no_threads
    monkeypatch.setattr(guarded, "_idle", [])
    for _ in range(guarded.THREADS + 1):
        with pytest.raises(OSError, match="no thread left"):
            guarded.call(tmp_path, lambda: 1)
    asked.clear()
    assert guarded.call(tmp_path, lambda: 1) == 1
