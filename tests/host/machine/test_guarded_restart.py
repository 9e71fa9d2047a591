"""A restart that systemd does not even begin is no restart."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.machine import guarded_restart
from machines.host.observe import unit_state
from machines.host.observe.unit_state import UnitState
from machines.host.system import journal
from machines.host.system.bus import BusError

BEFORE = UnitState(MachineName("web"), "systemd-nspawn@web.service", "active", "running", began=100.0, invocation=b"1")


class Machine:
    """One of which systemd says that it runs as before; the job for its restart has ended."""

    name = BEFORE.name
    task = SimpleNamespace(output=SimpleNamespace(line=lambda *_: None))

    def __init__(self, job: Future) -> None:
        bus = SimpleNamespace(unit_job=lambda *_: None, begin=lambda _: job, do=lambda work: work)
        self.host = SimpleNamespace(bus=bus)

    def state(self) -> UnitState:
        return BEFORE

    def comes_to(self, reached, *, within: float) -> bool:
        return reached(self.state())


def ended(result: str = "", error: Exception | None = None) -> Future:
    job: Future = Future()
    if error:
        job.set_exception(error)
    else:
        job.set_result(result)
    return job


def test_a_unit_that_is_masked_since_is_not_told_as_restarted():
    machine = Machine(ended(error=BusError("org.freedesktop.systemd1.UnitMasked", "Unit is masked.")))
    with pytest.raises(BusError, match="masked"):
        guarded_restart._anew(machine, BEFORE.began)


def test_one_whose_needs_fail_is_said_at_once_and_not_waited_for(monkeypatch):
    monkeypatch.setattr(unit_state, "of_template", lambda *_: BEFORE)
    monkeypatch.setattr(journal, "lines_of", lambda *_, **__: ["an old line"])
    with pytest.raises(Problem, match="a unit it needs failed") as raised:
        guarded_restart._anew(Machine(ended("dependency")), BEFORE.began)
    assert raised.value.code == "start-failed"


def test_a_new_run_is_left_to_come_up():
    guarded_restart._anew(Machine(ended("done")), BEFORE.began - 1)
