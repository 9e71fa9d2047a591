"""What a unit logged in one of its runs, for explaining why it failed.

Facts: a unit's last words may reach the journal after the unit is gone, so the journal is asked to catch up first. When
the process is gone as well, they are kept without unit and invocation, under its number alone: of systemd-nspawn's own
reason for not starting that happens about one time in four (252 and 257). On 252 `journalctl --sync` writes out what was
read and does not read what waits in the socket, so on a busy host that reason comes later than the sync; the socket is read
in order (sd_journal_sendv(3), tried on 252 and 257).
"""

import contextlib
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from machines.contract.problems import Problem
from machines.host.system.run import run

SOCKET = "/run/systemd/journal/socket"
CATCH_UP, LOOK_AGAIN = 10.0, 0.2  # seconds
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
    """The same of a run that failed; where systemd-nspawn's own words are not among them, once everything is in the journal
    that was sent to it before this moment."""
    lines = lines_of(invocation, limit, pid=pid)
    if essence(lines):
        return lines
    _catch_up()
    return lines_of(invocation, limit, pid=pid)


def _catch_up() -> None:
    """Send the journal an entry, and wait until it is there: what others sent before is there, too."""
    mark = uuid4().hex
    entry = (
        f"MESSAGE=Looking for why a unit failed.\nPRIORITY=7\nSYSLOG_IDENTIFIER=nspawnpanel\nNSPAWNPANEL_MARK={mark}\n"
    )
    deadline = time.monotonic() + CATCH_UP
    with contextlib.suppress(Problem, OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(CATCH_UP)
        sender.sendto(entry.encode(), SOCKET)
        while time.monotonic() < deadline:
            found = run(["journalctl", "--quiet", "--output=cat", "--lines=1", f"NSPAWNPANEL_MARK={mark}"], timeout=10)
            if found.out.strip():
                return
            time.sleep(LOOK_AGAIN)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def essence(lines: Sequence[str]) -> str:
    """The last line that is systemd-nspawn's own complaint rather than systemd's summary of it; "" when there is none."""
    own = [line for line in lines if not line.startswith(SUMMARY) and line.strip()]
    return own[-1][:300] if own else ""
