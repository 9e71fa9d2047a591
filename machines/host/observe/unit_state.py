"""What a machine's unit is doing, in one place: lists, verbs, a guarded restart, a removal and the doctor ask here.

Facts, tried on 252 and 257:
- A machine runs in the unit machined names: the template's, another service (systemd-run, --keep-unit), a scope that
  systemd-nspawn had made for it, or a login session's scope, which is not the machine's alone.
- With Restart= a unit that waits to be started again is “activating”, sub-state auto-restart. Nothing runs then and
  machined knows no machine, so a machine that is not registered is not yet stopped.
- A start that waits for another unit is only a job: ActiveState says inactive. `systemctl stop` takes the job back.
- A start that the start limit refuses leaves Result, InvocationID and the times of the run before as they were; Result
  is “start-limit-hit” only where the run before had ended well. Its line in the journal names that run (was_refused).
- Each ExecStartPre= has the start timeout to itself, and the main process has it once more.
- systemd-nspawn hands on what the init says of itself as StatusText, with NotifyReady=no too: “Container running: …”.
- What is unloaded has no properties worth reading: everything reads as never started.
"""

import asyncio
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from machines.contract.names import MachineName
from machines.contract.problems import printable
from machines.contract.reports import Activity
from machines.contract.states import MachineState
from machines.host.system.bus import MACHINED, MACHINED_PATH, SYSTEMD, Bus, BusError, escape
from machines.host.system.paths import unit_of

MACHINE_IFACE = f"{MACHINED}.Machine"
INFINITE = 2**64 - 1
UP = frozenset({"active", "activating", "deactivating", "reloading", "refreshing"})
# What a unit waits in between two runs; those beside the first are from 254 on.
WAITS = frozenset({"auto-restart", "auto-restart-queued", "dead-before-auto-restart", "failed-before-auto-restart"})
STARTING_JOBS = frozenset({"start", "restart", "try-restart", "reload-or-start"})
REBOOTED = 133  # systemd-nspawn's exit status when the init inside rebooted
REFUSED = "Start request repeated too quickly"
_RUNS = re.compile(r"\((\d[\dhdminsy ]*) / [^()]*\)(?:\.\.\.)?$")  # “(3s / 15min)...”, another one every moment
_WAITS_FOR = re.compile(r"(\(\d+ of \d+\) )?(\S+)/([a-z-]+) running")
_NSPAWN = "systemd-nspawn"
_CLD_EXITED, _CLD_KILLED, _CLD_DUMPED = 1, 2, 3

# Sub-state → which part of a start or a stop is under way, as unit files call it.
PARTS = {
    "condition": "ExecCondition",
    "start-pre": "ExecStartPre",
    "start": "ExecStart",
    "start-post": "ExecStartPost",
    "start-chown": "ExecStart",
    "reload": "ExecReload",
    "stop": "ExecStop",
    "stop-post": "ExecStopPost",
    "stop-watchdog": "watchdog",
    "stop-sigterm": "SIGTERM",
    "stop-sigkill": "SIGKILL",
    "final-watchdog": "watchdog",
    "final-sigterm": "SIGTERM",
    "final-sigkill": "SIGKILL",
    "cleaning": "cleaning",
}


@dataclass(frozen=True)
class UnitState:
    """One machine's unit and what machined says of the machine. Times in seconds since the epoch, 0.0 for never;
    time limits in seconds, None where there is none."""

    name: MachineName
    unit: str  # as machined says, or the template's
    active: str = ""  # ActiveState; "" for a unit that is not loaded
    sub: str = ""  # SubState
    job: str = ""  # type of the job systemd has for it: start, stop, restart …
    result: str = ""  # how the last run ended, in systemd's word: success, exit-code, signal, timeout …
    machine: str = ""  # machined's State, "" for a machine that is not registered
    kind: str = ""  # machined's Class: container or vm
    leader: int = 0  # process id of its init as the host sees it
    init: str = ""  # what that process runs: systemd, bash …; "" when it cannot be told
    main_pid: int = 0
    last_pid: int = 0  # the same of the newest run, ended or not
    restarts: int = 0  # how often systemd has started it again by itself
    policy: str = "no"  # Restart=
    next_start: float = 0.0  # when systemd starts it again by itself
    changed: float = 0.0  # when its state last changed
    since: float = 0.0  # when it last became active
    began: float = 0.0  # when its newest run began, up yet or not
    invocation: bytes = b""
    ended: str = ""  # how the last run ended: “exit status 1”, “killed by SIGKILL”
    status: str = ""  # StatusText without systemd-nspawn's own words and without times
    start_limit: float | None = None  # of one whole start
    stop_limit: float | None = None
    survives_reboot: bool = False  # systemd starts it again when its init has rebooted
    transient: bool = False  # made by systemd-run or machined: gone when it has ended

    @property
    def is_registered(self) -> bool:
        return bool(self.machine)

    @property
    def is_template(self) -> bool:
        """Whether it runs in the unit that machinectl start uses."""
        return self.unit == unit_of(self.name)

    @property
    def is_scope(self) -> bool:
        return self.unit.endswith(".scope")

    @property
    def will_start(self) -> bool:
        """Whether systemd is going to start it without being asked once more."""
        return self.sub in WAITS or self.job in STARTING_JOBS

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it runs and nothing will, if nobody starts it."""
        return not self.is_registered and not self.is_up and not self.will_start

    @property
    def is_up(self) -> bool:
        """Whether its unit does anything: runs, comes, goes, or waits for its next start. What a unit that it shares
        with others does says something of the machine only while that is in it, or starts anew."""
        return self.active in UP and (self.is_registered or self.is_own or self.active == "activating")

    @property
    def run(self) -> tuple[str, bytes, int]:
        """Names one run of the machine; a reboot is another, also within one scope."""
        return self.unit, self.invocation, self.leader

    @property
    def part(self) -> str:
        """Which part of a start or stop is under way, "" when none is."""
        if self.sub in WAITS:
            return "waiting for the next start"
        if self.active not in UP and self.will_start:
            return "waiting for other units"
        return PARTS.get(self.sub, "") if self.active in {"activating", "deactivating"} else ""

    @property
    def has_systemd(self) -> bool:
        """Whether its init understands machinectl poweroff and reboot: systemd, or systemd-nspawn's own stub of
        ProcessTwo=. Of one that cannot be looked at it is assumed."""
        return self.init in {"", "systemd", _NSPAWN}

    @property
    def is_own(self) -> bool:
        """Whether the unit is the machine's alone, so that stopping it stops nothing else. A login session's scope is
        not, nor a service whose main process is something else than systemd-nspawn."""
        if self.is_template:
            return True
        if self.is_scope:
            return self.unit.startswith("machine-")
        return program_of(self.main_pid) == _NSPAWN

    @property
    def may_stop_unit(self) -> bool:
        """Whether stopping it stops nothing else; between two runs nothing else is in a service."""
        return self.is_own or (self.active == "activating" and not self.is_registered)

    def cannot(self) -> dict[str, str]:
        """Verbs that cannot work on it as it runs, each with the reason; the page says so before, and so does a refusal."""
        if self.kind == "vm":
            said = f"{self.name} is a virtual machine here ({self.unit}), not run by systemd-nspawn."
            return dict.fromkeys(("start", "poweroff", "reboot", "terminate"), said)
        if not self.is_registered:
            return {}
        found = {}
        if not self.has_systemd and not (self.is_own and not self.is_scope):
            found["poweroff"] = f"Its init is {self.init}, which cannot be asked, and {self.unit} is not its own unit."
        if not self.has_systemd and (self.is_scope or self.transient or not self.is_own):
            found["reboot"] = f"Its init is {self.init}, and systemd cannot restart {self.unit}."
        elif self.has_systemd and not self.survives_reboot:
            found["reboot"] = f"Nothing would restart {self.unit}: it has no RestartForceExitStatus=133."
        return found

    @property
    def state(self) -> MachineState:
        """All of it in one word."""
        if self.sub in WAITS:
            return MachineState.RESTARTING
        if self.active == "activating" or (not self.is_up and not self.machine and self.will_start):
            return MachineState.STARTING
        if self.active == "deactivating" or self.machine == "closing":
            return MachineState.STOPPING
        if self.active == "failed" and not self.machine:
            return MachineState.FAILED
        if self.is_up or self.machine in {"running", "opening"}:
            return MachineState.RUNNING
        return MachineState.STOPPED


def of(
    name: MachineName,
    unit: str,
    registered: Mapping[str, Any],
    about: Mapping[str, Any],
    special: Mapping[str, Any],
    *,
    job: str = "",
) -> UnitState:
    """From what machined says of the machine, and systemd of its unit: properties of Unit, and of Service or Scope."""
    leader = int(registered.get("Leader", 0))
    return UnitState(
        name=name,
        unit=unit,
        active=str(about.get("ActiveState", "")),
        sub=str(about.get("SubState", "")),
        job=job,
        result=str(special.get("Result", "")),
        machine=str(registered.get("State", "")),
        kind=str(registered.get("Class", "")),
        leader=leader,
        init=init_of(leader),
        main_pid=int(special.get("MainPID", 0)),
        last_pid=int(special.get("ExecMainPID", 0)),
        restarts=int(special.get("NRestarts", 0)),
        policy=str(special.get("Restart", "no")),
        next_start=_next_start(about, special),
        changed=_moment(about, "StateChangeTimestamp"),
        since=_moment(about, "ActiveEnterTimestamp"),
        began=_moment(special, "ExecMainStartTimestamp"),
        invocation=bytes(about.get("InvocationID", b"")),
        ended=how_it_ended(int(special.get("ExecMainCode", 0)), int(special.get("ExecMainStatus", 0))),
        status=said(str(special.get("StatusText", ""))),
        start_limit=_start_limit(special),
        stop_limit=_seconds(special.get("TimeoutStopUSec")),
        survives_reboot=_survives_reboot(unit, special),
        transient=bool(about.get("Transient", False)),
    )


def activity(now: UnitState, *, refused: bool = False, failed: Sequence[str] = ()) -> Activity:
    """The same for a report. `refused`: systemd has refused another start since (was_refused). `failed`: units that have
    failed inside."""
    starts = now.state in {MachineState.STARTING, MachineState.RESTARTING}
    return Activity(
        sub=now.sub if now.is_up or now.active == "failed" else "",
        part=now.part,
        restarts=now.restarts if now.is_up or now.active == "failed" else 0,
        next_start=now.next_start or None,
        ended=now.ended if starts or now.active == "failed" else "",
        policy=now.policy if now.policy != "no" else "",
        says=printable(now.status) if now.is_up else "",
        start_limit=now.start_limit if starts else None,
        refused=refused or now.result == "start-limit-hit",
        init=now.init,
        failed=[printable(unit) for unit in failed],
        cannot={verb: why[:300] for verb, why in now.cannot().items()},
    )


async def read(bus: Bus, name: MachineName, unit: str = "") -> UnitState:
    """As it is now. `unit` is where it ran last, which counts while machined does not know it. Raises BusError."""
    guess = unit or unit_of(name)
    registered, known = await asyncio.gather(registration(bus, name), properties(bus, guess))
    named = str(registered.get("Unit") or guess)
    if named != guess:
        known = await properties(bus, named)
    about, special = known
    return of(name, named, registered, about, special, job=await job_type(bus, about))


async def of_template(bus: Bus, name: MachineName) -> UnitState:
    """The template's unit alone, wherever the machine runs."""
    about, special = await properties(bus, unit_of(name))
    return of(name, unit_of(name), {}, about, special, job=await job_type(bus, about))


async def registration(bus: Bus, name: str) -> dict[str, Any]:
    """What machined says of a machine; {} when none of that name is registered."""
    try:
        return await bus.properties(MACHINED, f"{MACHINED_PATH}/machine/{escape(name)}", MACHINE_IFACE)
    except BusError as error:
        if "UnknownObject" in error.name or "NoSuchMachine" in error.name:
            return {}
        raise


async def properties(bus: Bus, unit: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(properties of Unit, those of Service or Scope); a machine that was started by hand may live in a scope."""
    if not unit:
        return {}, {}
    kind = "Scope" if unit.endswith(".scope") else "Service"
    about, special = await asyncio.gather(bus.unit(unit), bus.unit(unit, kind))
    return about, special


async def job_type(bus: Bus, about: Mapping[str, Any]) -> str:
    """What systemd has to do for a unit: start, stop, restart …; "" for nothing, which costs no call."""
    number, path = about.get("Job") or (0, "/")
    if not number:
        return ""
    try:
        return str((await bus.properties(SYSTEMD, path, f"{SYSTEMD}.Job")).get("JobType", ""))
    except BusError:  # done meanwhile
        return ""


def program_of(pid: int) -> str:
    """The name of the file a process runs; "" when it cannot be told. Only for what concerns that machine alone: whoever
    is root inside chooses it."""
    if not pid:
        return ""
    try:
        return printable(os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)"))
    except OSError:
        return ""


def init_of(leader: int) -> str:
    """The program of a machine's first process; "" also for the moment before systemd-nspawn's child becomes it."""
    program = program_of(leader)
    if program != _NSPAWN:
        return program
    try:
        with open(f"/proc/{leader}/comm", "rb") as comm:
            return program if comm.read(20).strip() == b"(sd-stubinit)" else ""
    except OSError:
        return ""


def how_it_ended(code: int, status: int) -> str:
    """ExecMainCode (CLD_EXITED …) and ExecMainStatus in words; "" while it runs or before it ever did."""
    if code == _CLD_EXITED:
        return f"exit status {status}"
    if code not in {_CLD_KILLED, _CLD_DUMPED}:
        return ""
    try:
        return f"killed by {signal.Signals(status).name}"
    except ValueError:
        return f"killed by signal {status}"


def said(status: str) -> str:
    """What an init says it is doing, without the time it has taken, which is another one every second."""
    text = status.removeprefix("Container running: ").removeprefix("Container running.")
    text = _RUNS.sub("", text.replace("User job ", "")).strip()
    if not (waits := _WAITS_FOR.fullmatch(text)):
        return text[:300]
    number, unit, verb = waits.groups(default="")
    return f"waiting for {unit} to {verb} {number}".strip()[:300]


def was_refused(lines: list[str]) -> bool:
    """Whether a run's lines end with systemd refusing another start: the start limit was hit."""
    return any(REFUSED in line for line in lines[-8:])


def _moment(properties: Mapping[str, Any], key: str) -> float:
    return int(properties.get(key, 0)) / 1e6


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None or microseconds == INFINITE else microseconds / 1e6


def _next_start(about: Mapping[str, Any], special: Mapping[str, Any]) -> float:
    pause = special.get("RestartUSecNext", special.get("RestartUSec", INFINITE))  # the first one from 254 on
    if str(about.get("SubState", "")) != "auto-restart" or pause == INFINITE:
        return 0.0
    return _moment(about, "StateChangeTimestamp") + int(pause) / 1e6


def _start_limit(special: Mapping[str, Any]) -> float | None:
    once = _seconds(special.get("TimeoutStartUSec"))
    parts = ("ExecCondition", "ExecStartPre", "ExecStartPost")
    return None if once is None else once * (1 + sum(len(special.get(part, ())) for part in parts))


def _survives_reboot(unit: str, special: Mapping[str, Any]) -> bool:
    """In a scope of its own systemd-nspawn begins anew by itself; in a service it ends with status 133 and somebody has
    to start the unit again."""
    if unit.endswith(".scope"):
        return unit.startswith("machine-")
    if REBOOTED in _statuses(special, "RestartPreventExitStatus"):
        return False
    if REBOOTED in _statuses(special, "RestartForceExitStatus"):
        return True
    good = {"always", "on-success"} if REBOOTED in _statuses(special, "SuccessExitStatus") else {"always", "on-failure"}
    return str(special.get("Restart", "no")) in good


def _statuses(special: Mapping[str, Any], key: str) -> list[int]:
    """Exit statuses out of a property of type (aiai): statuses and signals."""
    return list(special.get(key, ([], []))[0])
