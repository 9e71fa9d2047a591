"""What a unit logged in one of its runs, for explaining why it failed.

Facts: a unit's last words may reach the journal after the unit is gone, so the journal is asked to catch up first. When
the process is gone as well, they are kept without unit and invocation, under its number alone: of systemd-nspawn's own
reason for not starting that happens about one time in four (252 and 257).
"""

import time
from collections.abc import Sequence
from pathlib import Path

from machines.contract.problems import Problem
from machines.host.system.run import run

PAUSES = (0.1, 0.3, 0.6)  # seconds
SUMMARY = ("systemd-nspawn@", "Starting ", "Started ", "Stopped ", "Failed to start", "Stopping ")


def lines_of(invocation: bytes, limit: int = 60, *, pid: int = 0) -> list[str]:
    """The last lines of one run of a unit (its InvocationID), its manager's among them; [] when unreadable. `pid` is its
    main process, which need not run any more."""
    if not invocation:
        return []
    run_id = invocation.hex()
    orphans = ["+", f"_PID={pid}", f"_BOOT_ID={_boot()}", "SYSLOG_IDENTIFIER=systemd-nspawn"] if pid else []
    try:
        run(["journalctl", "--sync"], timeout=10)
        answer = run(
            ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={limit}",
             f"_SYSTEMD_INVOCATION_ID={run_id}", "+", f"INVOCATION_ID={run_id}", *orphans],
            timeout=10,
        )  # fmt: skip
    except Problem:
        return []
    return [line.rstrip() for line in answer.out.splitlines() if line.strip()]


def of_failure(invocation: bytes, limit: int = 60, *, pid: int = 0) -> list[str]:
    """The same of a run that failed, and again after a moment while systemd-nspawn's own words are not among them: on a
    busy host they come later than the sync."""
    for pause in PAUSES:
        if essence(lines := lines_of(invocation, limit, pid=pid)):
            return lines
        time.sleep(pause)
    return lines_of(invocation, limit, pid=pid)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def essence(lines: Sequence[str]) -> str:
    """The last line that is systemd-nspawn's own complaint rather than systemd's summary of it; "" when there is none."""
    own = [line for line in lines if not line.startswith(SUMMARY) and line.strip()]
    return own[-1][:300] if own else ""
