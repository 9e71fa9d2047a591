"""The command that starts a job's unit, and how whatever goes wrong in a job becomes its end."""

from pathlib import Path
from uuid import UUID

import pytest

from machines.contract import orders
from machines.contract.problems import Problem
from machines.contract.recipes import DebianRecipe, FirstBoot
from machines.host.agent import unit_job, unit_jobs
from machines.host.context.host_context import HostContext
from machines.host.reports.ledger import Row
from machines.host.rootfs import build
from machines.host.system.faults import Stopped, TookTooLong

JOB = UUID("12345678-1234-5678-1234-567812345678")


def row(**changed) -> Row:
    values = {
        "id": JOB, "op": "build", "name": "web", "wanted": {"op": "build", "name": "web"}, "sealed": "CANARY", "actor": "ada",
        "state": "accepted", "cancelled": False, "lines": 0, "cursor": 0, "taken": 1.0, "begun": None, "ended": None, "outcome": None,
    }  # fmt: skip
    return Row(**{**values, **changed})


def test_the_unit_is_named_after_its_job_and_capped():
    argv = unit_jobs.argv(row(), Path("/var/lib/nspawnpanel"))
    assert f"--unit=nspawnpanel-job-{JOB}.service" in argv
    assert "--slice=nspawnpanel.slice" in argv
    for assignment in ("KillMode=control-group", "RuntimeMaxSec=3600", "CPUWeight=20", "TimeoutStopSec=4"):
        assert f"--property={assignment}" in argv
    assert argv[argv.index("--") + 1 :][1:] == ["-m", "machines.host.agent.unit_job", str(JOB)]


@pytest.mark.parametrize("kind", ["archive", "pull"])
def test_one_that_only_unpacks_may_hold_less_memory(kind):
    argv = unit_jobs.argv(row(wanted={"op": "build", "recipe": {"kind": kind}}), Path("/s"))
    most = next(int(word.removeprefix("--property=MemoryMax=")) for word in argv if "MemoryMax=" in word)
    assert 0 < most <= unit_jobs.UNPACKING
    assert "--property=MemoryMax=75%" in unit_jobs.argv(row(), Path("/s"))


def test_proxies_reach_it_by_a_file_of_root_and_never_by_its_command(tmp_path):
    environ = {"https_proxy": 'http://ada:se"cr$et@proxy:3128', "NO_PROXY": "", "REDIS_PASSWORD": "x"}
    file = unit_jobs.write_environment_file(tmp_path / "job", environ)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == 'https_proxy="http://ada:se\\"cr\\$et@proxy:3128"\n'
    argv = unit_jobs.argv(row(), Path("/s"), file)
    assert f"--property=EnvironmentFile={file}" in argv
    assert argv.index(f"--property=EnvironmentFile={file}") < argv.index("--")
    assert "ada" not in str(argv)
    assert unit_jobs.write_environment_file(tmp_path / "none", {"REDIS_PASSWORD": "x"}) is None


def test_no_secret_is_in_it():
    assert "CANARY" not in str(unit_jobs.argv(row(), Path("/s")))


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (Problem("It is full.", code="no-space"), "failed", "It is full."),
        (Stopped("Enough."), "cancelled", "Enough."),
        (TookTooLong("Too long."), "timed_out", "Too long."),
        (OSError(5, "Input/output error"), "failed", "Input/output error"),
        (ZeroDivisionError("canary"), "failed", "Internal error on the host"),
    ],
)
def test_whatever_is_raised_in_a_job_the_panel_is_told(error, state, words):
    def fail() -> dict:
        raise error

    ended, problem, result = unit_job.attempt(fail, "journalctl")
    assert (ended, result) == (state, {})
    assert words in problem["message"]
    assert "canary" not in str(problem), "its trace stays on the host"


class Watch:
    """Stands where the watcher is."""

    def report_final(self, _: str, report, *, image_too: bool) -> None:
        report(None)

    def refresh(self) -> None:
        return


def taken_up(paths, spool, monkeypatch, error: Exception | None) -> None:
    """A job is taken up whose machine is there already; enabling and starting it raises what is given."""
    order = orders.Build(
        name="web", recipe=DebianRecipe(release="sid"), first_boot=FirstBoot(),
        configuration=orders.Configuration(revision=1, nspawn="", limits=""),
    )  # fmt: skip

    def run_as_ordered(*_: object) -> None:
        if error:
            raise error

    monkeypatch.setattr(build, "is_made_by", lambda *_: True)
    monkeypatch.setattr(build, "run_as_ordered", run_as_ordered)
    with spool.ledger.writing() as db:
        spool.ledger.take(db, JOB, orders.to_wire(order), "ada", "accepted")
    spool.ledger.begin(JOB)
    host = HostContext(paths, None, None)  # type: ignore[arg-type]
    made = unit_jobs.Units(host, spool.ledger, spool.reporter, Watch())  # type: ignore[arg-type]
    made._persist(spool.ledger.job(JOB), made._take_up)


def test_a_job_taken_up_after_its_machine_was_made_has_succeeded(paths, spool, monkeypatch):
    taken_up(paths, spool, monkeypatch, None)
    assert spool.wait_for("outcome")[0].state == "succeeded"


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), OSError(5, "Input/output error"), KeyError("x")])
def test_a_job_taken_up_ends_whatever_happens(error, paths, spool, monkeypatch):
    taken_up(paths, spool, monkeypatch, error)
    [outcome] = spool.wait_for("outcome")
    assert outcome.state == "failed"
    assert outcome.problem["message"]
