"""The orders `diagnose` and `fix`: look at everything, and fix the few things that are safe to fix from afar."""

import logging
import time
from typing import Any

from machines.contract import orders
from machines.contract.configuration import findings
from machines.contract.configuration.findings import WORDS, Finding, FixWord
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.context.host_context import HostContext, Task
from machines.host.doctor import checks, fixes, host_checks
from machines.host.doctor.facts import Facts

LOG = logging.getLogger(__name__)

SETTLES = 15.0  # seconds what was fixed may take to show
PAUSE = 0.5
PASSING = {
    "address-none",
    "lease-none",
    "dhcp-silent",
    "link-down",
    "networkd-mute",
}  # what goes away by itself once the cause is fixed


def run(host: HostContext, task: Task) -> dict[str, Any]:
    """Look, change nothing."""
    assert isinstance(task.order, orders.Diagnose)
    return _told(look(host, task, task.order.name))


def _told(told: list[Finding]) -> dict[str, Any]:
    """What goes back; with the time on this host's clock, which the panel compares with its own."""
    return {"findings": findings.to_wire(told), "at": time.time()}


def look(host: HostContext, task: Task, name: str) -> list[Finding]:
    """Every check once; one that fails says so and does not keep the others from looking."""
    observed = Facts(host, task, MachineName(name) if name else None)
    told: list[Finding] = []
    for check in checks.OF_MACHINE if name else checks.OF_HOST:
        task.check_stop()
        try:
            for finding in check(observed):
                told += [] if finding in told else [finding]
        except (Problem, OSError, ValueError, LookupError, TypeError) as error:
            LOG.warning("The check %s failed", check.__name__, exc_info=error)
            told.append(host_checks.found("check-failed", what=check.__name__.replace("_", " "), why=error))
    return told


def fix(host: HostContext, task: Task) -> dict[str, Any]:
    """Fix what the order names, if that is still safe, and look again. Raises Problem not-safe."""
    assert isinstance(task.order, orders.Fix)
    order = task.order
    fixes.TABLE[order.what](Facts(host, task, MachineName(order.name) if order.name else None))
    until = min(time.time() + SETTLES, task.deadline - 5)
    while True:
        told = look(host, task, order.name)
        if (
            not any(finding.code in PASSING or _is_fixed_by(finding, order.what) for finding in told)
            or time.time() > until
        ):
            return _told(told)
        time.sleep(PAUSE)


def _is_fixed_by(finding: Finding, what: FixWord) -> bool:
    return finding.code in WORDS and WORDS[finding.code].fix == what
