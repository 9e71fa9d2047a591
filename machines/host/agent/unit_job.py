"""`python -m machines.host.agent.unit_job JOB`: what runs inside nspawnpanel-job-<id>.service.

It reads its order from the ledger, opens what is sealed in it with the host's key, works, and writes what it does and
how it ends into its own log (job_log.py). The worker may die, restart or be upgraded meanwhile; it never matters here.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from machines.contract import orders
from machines.host.agent import handlers
from machines.host.context import settings
from machines.host.context.host_context import HostContext, Task
from machines.host.context.job_output import Entry, JobOutput
from machines.host.policy import policy
from machines.host.reports import ledger
from machines.host.reports.job_log import JobLog
from machines.host.reports.ledger import Row
from machines.host.system.bus import Bus
from machines.host.system.faults import Stopped, TookTooLong, as_problem
from machines.host.system.paths import Paths

LOG = logging.getLogger(__name__)


Ended = tuple[str, dict[str, Any] | None, dict[str, Any]]  # state, problem, result


def work(host: HostContext, task: Task, log: str) -> Ended:
    """Do the job; nothing is raised. The command `log` shows what went wrong inside."""
    return attempt(lambda: handlers.TABLE[type(task.order)](host, task), log)


def attempt(do: Callable[[], dict[str, Any]], log: str) -> Ended:
    """Do it and say how it ended; nothing is raised."""
    try:
        return "succeeded", None, do()
    except Exception as error:  # whatever it is, the panel shall be told
        found = as_problem(error, log)
        return (
            {Stopped: "cancelled", TookTooLong: "timed_out"}.get(type(found), "failed"),
            found.to_wire(),
            getattr(found, "result", {}),
        )


def carry_out(paths: Paths, row: Row, log: JobLog) -> None:
    """Do the job and write its result; nothing is raised but what the log itself raises."""
    where = f"journalctl -u nspawnpanel-job-{row.id}"
    try:
        host = HostContext(paths, Bus(), policy.read(paths.policy).of(row.team))
        order = orders.from_wire(row.wanted)
    except Exception as error:
        log.result("failed", as_problem(error, where).to_wire(), {})
        return
    begun = time.time()
    task = Task(
        row.id,
        order,
        JobOutput(lambda entry: _tell(log, entry)),
        begun,
        handlers.deadline(order, begun),
        sealed=row.sealed,
    )
    log.result(*work(host, task, where))


def _tell(log: JobLog, entry: Entry) -> None:
    """Into the job's own log; our own words also into the journal, for whoever reads that.

    What tools print stays out of it: twice the work, and the journal might drop some of it.
    """
    log.tell(entry)
    if entry["k"] == "line" and entry["s"] == "p":
        sys.stdout.write(f"{entry['t']}\n")


def main() -> int:
    """Carry out the job named on the command line; 0 even when it failed, for the result says so."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    job = UUID(sys.argv[1])
    paths = Paths(state=settings.state())
    row = ledger.read_job(paths.ledger, job)
    if row is None or row.ended is not None:
        LOG.error("The ledger knows no open job %s", job)
        return 1
    carry_out(paths, row, JobLog(paths.job(job)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
