"""What a machine's unit is doing, in words, out of what its host reported of it (reports.Activity)."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from machines.contract import quantities
from machines.contract.states import MachineState
from machines.panel.orders.operations import OPERATIONS

NOTE = 80  # characters beside the state in a list
SOON = 10  # seconds: nearer than that, when it starts next is not worth a word
STARTS = {MachineState.STARTING.value, MachineState.RESTARTING.value}
SYSTEMD = {"", "systemd", "systemd-nspawn"}  # the last one is the stub of ProcessTwo=, which knows the same signals


def nth(number: int) -> str:
    """1st, 2nd, 11th …"""
    ending = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def attempt(state: str, known: dict[str, Any]) -> int:
    """Which start by systemd itself is under way or comes next; 0 for a start that somebody ordered."""
    done = int(known.get("restarts", 0))
    return done + 1 if state == MachineState.RESTARTING else done


def note(state: str, known: dict[str, Any]) -> str:
    """A few words beside the state: “5th attempt: exit status 1”, “ExecStartPre”, “start limit hit”."""
    if state == MachineState.RESTARTING:
        ended = known.get("ended", "")
        return f"{nth(attempt(state, known))} attempt" + (f": {ended}" if ended else "")
    if state == MachineState.STARTING:
        return str(known.get("says") or _part(known))[:NOTE]
    if state == MachineState.FAILED and known.get("refused"):
        return "start limit hit"
    if state == MachineState.DEGRADED:
        return _failed(known)
    return _part(known) if state == MachineState.STOPPING else ""


def _failed(known: dict[str, Any]) -> str:
    units = known.get("failed", [])
    return f"{units[0]} failed" if len(units) == 1 else f"{len(units)} units failed" if units else ""


def _part(known: dict[str, Any]) -> str:
    part = str(known.get("part", ""))
    return "" if part == "ExecStart" else part


@dataclass(frozen=True)
class Told:
    """What the page says of it. `cannot` are the verbs that cannot work, with their reasons."""

    headline: str = ""
    details: str = ""
    next_start: datetime | None = None
    refused: bool = False
    init: str = ""  # where it is not systemd
    cannot: tuple[tuple[str, str], ...] = ()


def told(state: str, known: dict[str, Any], now: datetime) -> Told:
    """`known` is the stored Activity, `state` what may be claimed of the machine now."""
    if state == MachineState.UNKNOWN:
        return Told()
    init = str(known.get("init", ""))
    return Told(
        headline=_headline(state, known),
        details=_details(state, known),
        next_start=_next_start(known, now) if state == MachineState.RESTARTING else None,
        refused=state == MachineState.FAILED and bool(known.get("refused")),
        init="" if init in SYSTEMD else init,
        cannot=tuple((OPERATIONS[op].title, why) for op, why in known.get("cannot", {}).items() if op in OPERATIONS),
    )


def _headline(state: str, known: dict[str, Any]) -> str:
    number = attempt(state, known)
    if state == MachineState.RESTARTING:
        return f"Restarting, {nth(number)} attempt"
    if state == MachineState.STARTING:
        return f"Starting, {nth(number)} attempt" if number else "Starting"
    return "Degraded: units inside have failed" if state == MachineState.DEGRADED else ""


def _details(state: str, known: dict[str, Any]) -> str:
    if state == MachineState.RESTARTING:
        ended = f"Its last run ended with {known['ended']}. " if known.get("ended") else ""
        return f"{ended}Its unit has Restart={known.get('policy') or 'no'}, so systemd restarts it."
    if state == MachineState.DEGRADED:
        return f"{', '.join(known.get('failed', []))}."
    if state != MachineState.STARTING:
        return ""
    what = str(known.get("says") or _part(known))
    doing = f"{what[0].upper()}{what[1:].rstrip('.')}. " if what else ""
    limit = known.get("start_limit")
    if limit is None:
        return f"{doing}No start timeout (TimeoutStartSec=infinity)."
    return f"{doing}Start timeout: {quantities.duration(limit)}."


def _next_start(known: dict[str, Any], now: datetime) -> datetime | None:
    at = known.get("next_start")
    if not at:
        return None
    moment = datetime.fromtimestamp(at, UTC)
    return moment if (moment - now).total_seconds() > SOON else None
