"""The command that starts a job's unit."""

from pathlib import Path
from uuid import UUID

from machines.host import units
from machines.host.ledger import Row

JOB = UUID("12345678-1234-5678-1234-567812345678")


def row(**changed) -> Row:
    values = {
        "id": JOB, "op": "build", "name": "web", "wanted": {"op": "build", "name": "web"}, "sealed": "CANARY", "actor": "ada",
        "state": "accepted", "cancelled": False, "lines": 0, "cursor": 0, "taken": 1.0, "begun": None, "ended": None, "outcome": None,
    }  # fmt: skip
    return Row(**{**values, **changed})


def test_the_unit_is_named_after_its_job_and_capped():
    argv = units.argv(row(), Path("/var/lib/nspawnpanel"))
    assert f"--unit=nspawnpanel-job-{JOB}.service" in argv
    assert "--slice=nspawnpanel.slice" in argv
    for assignment in ("KillMode=control-group", "RuntimeMaxSec=3600", "CPUWeight=20", "TimeoutStopSec=4"):
        assert f"--property={assignment}" in argv
    assert argv[argv.index("--") + 1 :][1:] == ["-m", "machines.host.unit_job", str(JOB)]


def test_no_secret_is_in_it():
    assert "CANARY" not in str(units.argv(row(), Path("/s")))
