"""What a unit logged in one of its runs, for explaining why it failed.

Facts, tried on 252 and 257: a unit's last words may reach the journal after the unit is gone, and the journal reads its
socket in order; `journalctl --sync` of 252 does not read what waits there. What a process said that is gone by then is
kept without its run, and without its unit too where it did not come by the unit's standard error. systemd-nspawn's reason
for not starting is often said by a child of the unit's main process, so on a busy host nothing tells of which unit it was.
It lies between the unit's start and its end, and is taken for this unit's where no other unit failed in that time.
"""

import contextlib
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from machines.contract.problems import Problem
from machines.host.system.run import run

SOCKET = "/run/systemd/journal/socket"
CATCH_UP, LOOK_AGAIN = 10.0, 0.2  # seconds
SUMMARY = ("systemd-nspawn@", "Starting ", "Started ", "Stopped ", "Failed to start", "Stopping ")
FIELDS = "MESSAGE,MESSAGE_ID,UNIT,SYSLOG_IDENTIFIER,_PID,_SYSTEMD_UNIT,_SYSTEMD_INVOCATION_ID"
EXITED = "98e322203f7a4ed290d09fe03c09fe15"  # SD_MESSAGE_UNIT_PROCESS_EXIT: a unit's main process ended with a failure
NEAR = 1_000_000  # microseconds around a run in which another unit's failure makes doubtful whose words are whose
MOST = 1_000  # entries of that time


@dataclass(frozen=True)
class _Entry:
    at: int  # microseconds since the epoch
    lines: tuple[str, ...]
    pid: int
    unit: str  # of which unit it is; "" where the journal does not know
    is_nobodys: bool  # said by systemd-nspawn, the journal does not know in which run
    about: str  # the unit of which its manager says this; "" where others say it of themselves
    is_exit: bool  # that its main process ended with a failure
    boot: str  # in which boot, as the journal counts them


def lines_of(invocation: bytes, limit: int = 60, *, pid: int = 0) -> list[str]:
    """The last lines of one run of a unit (its InvocationID), its manager's among them, with all that was sent to the
    journal before this moment; [] when unreadable. `pid` is its main process, which need not run any more."""
    if not invocation:
        return []
    run_id = invocation.hex()
    try:
        _catch_up()
        found = _read([f"--lines={limit}", f"_SYSTEMD_INVOCATION_ID={run_id}", "+", f"INVOCATION_ID={run_id}"])
        if pid and found and not essence(_lines(found)):
            found = sorted([*found, *_nobodys(found, pid)], key=lambda entry: entry.at)
    except Problem:
        return []
    return _lines(found)[-limit:]


def _lines(entries: Sequence[_Entry]) -> list[str]:
    return [line for entry in entries for line in entry.lines]


def _nobodys(of_run: Sequence[_Entry], pid: int) -> list[_Entry]:
    """What systemd-nspawn said while this run lasted and the journal knows no run of, if it can only have been this one.
    Raises Problem."""
    first, last, own = of_run[0].at, of_run[-1].at, {entry.about for entry in of_run}
    since, until = (first - NEAR) // 1_000_000, (last + NEAR) // 1_000_000 + 1
    words = [f"_BOOT_ID={of_run[-1].boot}", "SYSLOG_IDENTIFIER=systemd-nspawn", "+", f"MESSAGE_ID={EXITED}"]
    found = _read([f"--lines={MOST}", f"--since=@{since}", f"--until=@{until}", *words])
    # A mount's process is mount(8) or umount(8): 257 unmounts what an earlier run left, at that very moment.
    others = any(entry.is_exit and entry.about not in own and entry.about.endswith(".service") for entry in found)

    def is_of_run(entry: _Entry) -> bool:
        if not entry.unit:
            return first <= entry.at <= last and (entry.pid == pid or not others)
        # Standard error is read beside the socket, and may be ahead of it; processes of earlier runs had lower numbers.
        return entry.unit in own and entry.pid >= pid and first - NEAR <= entry.at <= last + NEAR

    return [entry for entry in found if entry.is_nobodys and is_of_run(entry)]


def _read(arguments: list[str]) -> list[_Entry]:
    """Entries, the oldest first. Raises Problem."""
    argv = ["journalctl", "--quiet", "--no-pager", "--output=json", f"--output-fields={FIELDS}", *arguments]
    return [_entry(json.loads(line)) for line in run(argv, timeout=10).out.splitlines() if line.startswith("{")]


def _entry(fields: dict[str, Any]) -> _Entry:
    text = fields.get("MESSAGE")
    if isinstance(text, list):  # bytes that are no UTF-8, as numbers
        text = bytes(text).decode(errors="replace")
    return _Entry(
        at=int(fields["__REALTIME_TIMESTAMP"]),
        lines=tuple(line.rstrip() for line in str(text or "").splitlines() if line.strip()),
        pid=int(fields.get("_PID") or 0),
        unit=str(fields.get("_SYSTEMD_UNIT") or ""),
        is_nobodys=fields.get("SYSLOG_IDENTIFIER") == "systemd-nspawn" and not fields.get("_SYSTEMD_INVOCATION_ID"),
        about=str(fields.get("UNIT") or ""),
        is_exit=fields.get("MESSAGE_ID") == EXITED,
        boot=str(fields.get("_BOOT_ID") or ""),
    )


def _catch_up() -> None:
    """Send the journal an entry, and wait until it is there: what others sent before is there, too. A journal that is away
    is not waited for."""
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


def essence(lines: Sequence[str]) -> str:
    """The last line that is systemd-nspawn's own complaint rather than systemd's summary of it; "" when there is none."""
    own = [line for line in lines if not line.startswith(SUMMARY) and line.strip()]
    return own[-1][:300] if own else ""
