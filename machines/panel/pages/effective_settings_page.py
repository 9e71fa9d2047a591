"""The effective settings of a machine as their page shows them: desired, on disk and active, and where each comes from.

A difference is never shown without its cause, and with the command that mends it where one does.
"""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from machines.contract import quantities
from machines.contract.configuration import command_line, compare_effective, limits, nspawn
from machines.contract.configuration.command_line import CommandLine
from machines.contract.configuration.setting import Group
from machines.contract.names import unit_of
from machines.models import Machine, ObservedFiles
from machines.models.found import ETC, RUN, File
from machines.panel.configs import diffs, drafts, drift, effective_settings, external_limits
from machines.panel.configs.effective_settings import (
    Flag,
    LimitCase,
    Reason,
    Said,
    SettingCase,
    flag_of,
    is_by_hand,
    is_trusted,
    is_up,
)
from machines.panel.pages import config_page

LIMITS, UNIT = "Limits", "Unit"
TEXTS_SHOWN = 100_000  # characters of all files of a machine together


@dataclass(frozen=True)
class SettingRow:
    """One setting."""

    section: str
    key: str
    title: str
    wanted: list[str]
    disk: list[str]
    effective: list[str]
    source: str
    path: str = ""
    flag: Flag = Flag.OK
    cause: str = ""
    command: str = ""
    confirmed: bool = False  # somebody other than the file says that it holds
    by_unit: bool = False  # the command line of the unit says it, and the stock unit's does not

    @property
    def is_loud(self) -> bool:
        return self.flag.is_loud


@dataclass(frozen=True)
class Alarm:
    """Something about the machine as a whole."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class EffectiveSettings:
    sections: list[tuple[str, list[SettingRow]]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)

    @property
    def rows(self) -> Iterator[SettingRow]:
        for _, rows in self.sections:
            yield from rows

    @property
    def mismatches(self) -> int:
        return sum(row.is_loud for row in self.rows)

    @property
    def waiting(self) -> int:
        """How many settings act with the machine's next start only."""
        return sum(row.flag == Flag.WAITS for row in self.rows)


def read(machine: Machine, found: ObservedFiles | None, *, everything: bool = False) -> EffectiveSettings:
    """`everything` adds the settings that nobody has set."""
    if found is None:
        return EffectiveSettings()
    rows = [
        *(_setting_row(case) for case in effective_settings.settings(machine, found)),
        *(_limit_row(case) for case in effective_settings.unit_limits(machine, found)),
    ]
    if effective_settings.is_arriving(machine, found):
        rows = [replace(row, flag=Flag.OK, cause="", command="") if row.is_loud else row for row in rows]
    kept = [row for row in rows if everything or row.wanted or row.disk or row.flag or row.by_unit]
    names = dict.fromkeys([*nspawn.SECTIONS, LIMITS, UNIT, *(row.section for row in rows)])
    sections = [(name, [row for row in kept if row.section == name]) for name in names]
    return EffectiveSettings([(name, rows) for name, rows in sections if rows], list(_alarms(machine, found)))


def context(machine: Machine, found: ObservedFiles | None, *, everything: bool) -> dict[str, Any]:
    """What the page says beside its frame."""
    there, applied = effective_settings.there(found), drafts.files(machine.applied)
    return {
        "found": found,
        "holds": read(machine, found, everything=everything),
        "links": config_page.links(machine, found),
        "is_up": is_up(machine),
        "files": list(_shown(found.files)) if found else [],
        "differs": machine.differs and machine.state != "missing",
        "has_arrived": found is not None and drift.has_arrived(machine, found),
        "diffs": config_page.file_diffs(machine, applied, there) if machine.applied else [],
        "changes": diffs.settings(applied, there) if machine.applied else [],
        "can_adopt": machine.applied is None
        and found is not None
        and any(file and file.target != os.devnull for file in (found.counting, found.ours)),
        "left_out": effective_settings.left_out(found.counting) if found and found.counting else [],
        "leftovers": external_limits.read(machine, found) if found else [],
        "fingerprint": machine.fingerprint,
    }


def _shown(files: Sequence[File]) -> Iterator[tuple[File, str, str]]:
    """Each file with its place and its text, as far as a page has room for all of them."""
    room = TEXTS_SHOWN
    for file in files:
        text, left = file.text[: max(room, 0)], max(len(file.text) - max(room, 0), 0)
        room -= len(file.text)
        yield file, place_of(file), f"{text}\n… {left:,} more characters" if left else text


# --- about the whole


def _alarms(machine: Machine, found: ObservedFiles) -> Iterator[Alarm]:
    unit = unit_of(machine.name)
    if is_by_hand(machine):
        yield Alarm(
            f"It runs in {machine.unit}, not in {unit}: systemd-nspawn was started by hand. Neither the unit's "
            "limits nor its options apply. Power it off and start it from here.",
            f"machinectl poweroff {shlex.quote(machine.name)}",
        )
    yield from _alarms_of_command(machine, found)
    if found.unit and found.unit.form == "masked":
        yield Alarm(
            f"{found.unit.path} masks the unit: nothing can start it.",
            f"systemctl unmask {shlex.quote(found.unit.path.rpartition('/')[2])}",
        )
    files = found.nspawn_files
    for hidden in files[1:]:
        yield Alarm(f"systemd does not read {hidden.path}: {files[0].path} takes precedence.")
    if files and not is_trusted(machine.command, files[0]) and machine.command.reads_files:
        yield Alarm(f"{files[0].path} is next to the image, so systemd ignores its privileged settings.")
    for file in found.files:
        if file.form in {"unreadable", "long"}:
            yield Alarm(f"{file.path} could not be read: {file.error or 'it is longer than 128 KiB'}.")
    if found.needs_reload and is_up(machine):
        yield Alarm(
            "systemd has not reloaded all of the unit's files since they were changed. Settings may change with the "
            "next reload.",
            "systemctl daemon-reload",
        )


def _alarms_of_command(machine: Machine, found: ObservedFiles) -> Iterator[Alarm]:
    """What its command line has to do with it, where it is not the stock unit's."""
    line = machine.command
    if not line.is_known:
        yield Alarm(
            f"{shlex.join(line.argv[:1])} starts it, not systemd-nspawn itself, so it is unknown which of these "
            "settings reach it."
        )
    elif line.deviates:
        yield Alarm(
            f"{_who_says(machine, found)} a different command line than systemd’s own unit: "
            f"{', '.join(line.deviations())}."
        )
    if not line.reads_files:
        yield Alarm("With --settings=no, systemd-nspawn reads no .nspawn file: no setting in one has any effect.")
    if line.machine and line.machine != machine.name:
        yield Alarm(
            f"It is started under the name {line.machine}: machined, its .nspawn file and its network interfaces use "
            "that name."
        )
    if line.has_variables:
        yield Alarm(
            "Its command line uses environment variables of the unit; their values are not known until it runs."
        )
    if is_up(machine) and not is_by_hand(machine) and machine.run_command and _differ(line, machine.next_command):
        yield Alarm("The unit’s command line has changed since it was started; that takes effect on the next start.")


def _who_says(machine: Machine, found: ObservedFiles) -> str:
    """The file that sets it, as far as one does."""
    if is_by_hand(machine):
        return "It was started with"
    files = [file.path for file in found.files if file.kind != "nspawn" and file.is_plain and _starts(file.text)]
    return f"{files[-1]} gives it" if files else "Its unit gives it"


def _starts(text: str) -> bool:
    return any((e.section, e.key) == ("Service", "ExecStart") and e.value for e in nspawn.parse(text).settings())


def _differ(one: CommandLine, other: CommandLine) -> bool:
    return not other.has_variables and (one.reads, one.said, one.strange) != (other.reads, other.said, other.strange)


@dataclass(frozen=True)
class Cause:
    """In words why something is not in effect, and the command that mends it, if one does."""

    text: str = ""
    command: str = ""


# --- the .nspawn file


def _setting_row(case: SettingCase) -> SettingRow:
    (section, key), setting, flag, cause = case.place, case.setting, flag_of(case.reason), _setting_cause(case)
    return SettingRow(
        section=section,
        key=key,
        title=setting.title if setting else "Not a setting of systemd’s",
        wanted=case.asked,
        disk=case.said,
        effective=_effective(case, ignored=flag is Flag.IGNORED),
        source=_source(case, ignored=flag is Flag.IGNORED),
        path=case.file.path if case.file and case.said else "",
        flag=flag,
        cause=cause.text,
        command=cause.command,
        confirmed=case.agrees is True,
        by_unit=case.by_unit,
    )


def _effective(case: SettingCase, *, ignored: bool) -> list[str]:
    """What is in force: as the process shows it, else as the command line or the file says, for what leaves no trace."""
    asked = case.held or case.said or case.asked
    if not asked or not is_up(case.machine) or not case.line.is_known or (ignored and not case.held):
        return []
    if case.seen:
        return _seen(case.place[1], asked, case.seen)
    return case.held or _unseen(case.machine, case.file, case.asked, case.said)


def _seen(key: str, wanted: list[str], seen: str) -> list[str]:
    """What the process shows, of capabilities only those that are spoken of."""
    if key != "Capability":
        return [] if seen == compare_effective.NONE else seen.splitlines()
    return [word for value in wanted for word in value.split() if word in seen.split()]


def _unseen(machine: Machine, file: File | None, asked: list[str], said: list[str]) -> list[str]:
    """Of what leaves no trace: what the file said when the machine was started."""
    later = machine.since is not None and file is not None and file.changed > machine.since.timestamp()
    return asked if machine.applied and later else said


def _source(case: SettingCase, *, ignored: bool) -> str:
    if case.said and case.file and not (ignored and case.held):
        return place_of(case.file)
    return f"unit: {_words(case)}" if case.held else "systemd’s default"


def _setting_cause(case: SettingCase) -> Cause:
    return SETTING_CAUSES[case.reason](case) if case.reason else Cause()


def _who(case: SettingCase) -> str:
    return "It was started" if is_up(case.machine) else "Its unit starts it"


def _outranked(case: SettingCase) -> Cause:
    outranks = "without --settings=override the command line takes precedence over the file."
    return Cause(f"{_who(case)} with {_words(case)}, and {outranks}")


NO_RULE = "The kernel has no rule that forwards this port to the machine: the ruleset was flushed since it started."
SETTING_CAUSES: dict[Reason, Callable[[SettingCase], Cause]] = {
    Reason.NO_SUCH_SETTING: lambda _: Cause("systemd has no such setting and starts the machine without it."),
    Reason.NOT_READ: lambda case: Cause(f"{_who(case)} with --settings=no: no .nspawn file is read."),
    Reason.OUTRANKED: _outranked,
    Reason.UNTRUSTED: lambda _: Cause(
        f"systemd accepts this only from {ETC} or {RUN}, not from a file next to the image."
    ),
    Reason.FILE_CHANGED: lambda _: Cause("The file on the host was changed by hand."),
    Reason.STARTED_BY_HAND: lambda case: Cause(f"It was started by hand, in {case.machine.unit}."),
    Reason.NEXT_START: lambda _: Cause("Written after the machine was started: it takes effect on restart."),
    Reason.NO_PORT_RULE: lambda _: Cause(f"{NO_RULE} The doctor can restore it."),
    Reason.NOT_INSIDE: lambda case: Cause(
        "The machine runs without it. The unit’s log of the last start may say why.", _log(case.machine)
    ),
}


def _words(case: SettingCase) -> str:
    """What of the command line has to do with it: its own words, else those of the settings that go with it."""
    group = [case.name, *sorted(command_line.group_of(case.name) - {case.name})]
    return next((", ".join(case.line.words[each]) for each in group if each in case.line.words), "")


def _log(machine: Machine) -> str:
    return f"journalctl --boot --unit={shlex.quote(unit_of(machine.name))} --grep=nspawn"


# --- limits of the unit


def _limit_row(case: LimitCase) -> SettingRow:
    key, setting, last, cause = case.key, limits.PROPERTIES[case.key], case.last, _limit_cause(case)
    is_shown = bool(case.dropins or case.asked)
    real = "" if case.lacks else case.in_force
    return SettingRow(
        section=LIMITS if setting.group == Group.RESOURCES else UNIT,
        key=key,
        title=setting.title,
        wanted=case.asked.splitlines(),
        disk=_values(key, case.dropins or case.said) if is_shown else [],
        effective=[in_words(key, each) for each in real.splitlines()] if is_shown or case.reason else [],
        source=place_of(last.file) if last else "not set",
        path=last.file.path if last else "",
        flag=flag_of(case.reason),
        cause=cause.text,
        command=cause.command,
        confirmed=case.is_confirmed,
    )


def _values(key: str, said: list[Said]) -> list[str]:
    if limits.PROPERTIES[key].repeats:
        return [line for each in said for line in each.value.splitlines()]
    return said[-1].value.splitlines() if said else []


def _limit_cause(case: LimitCase) -> Cause:
    return LIMIT_CAUSES[case.reason](case) if case.reason else Cause()


def _unenforced(case: LimitCase) -> Cause:
    return Cause(f"{limits.unenforced(case.lacks)} systemd accepts the value anyway.")


def _other_dropin(case: LimitCase) -> Cause:
    last = case.dropins[-1]
    word = f"{last.file.path} sets {case.key}={readable(case.key, last.value)}"
    if last.file.is_leftover:
        return Cause(f"{word}; “systemctl set-property” left it there.", _remove(last.file))
    is_shared = "@.service.d/" in last.file.path
    return Cause(f"{word} and is read after the panel's drop-in.", "" if is_shared else _remove(last.file))


def _other_unit(case: LimitCase) -> Cause:
    own = unit_of(case.machine.name)
    return Cause(f"It runs in {case.machine.unit}, started by hand: limits of {own} do not apply to it.")


def _set_live(case: LimitCase) -> Cause:
    key, live, last = case.key, case.live, case.last
    assert live
    assert last
    text = (
        f"“systemctl set-property” set {key}={readable(key, live.value)} on the running machine. {last.file.path} has "
        f"{readable(key, case.due)} and takes precedence again with the next reload."
    )
    return Cause(text, _remove(live.file))


def _kernel_differs(case: LimitCase) -> Cause:
    shown, real = in_words(case.key, case.shown), in_words(case.key, case.in_force)
    return Cause(f"systemd has {shown}, but the kernel enforces {real}.", _set(case))


LIMIT_CAUSES: dict[Reason, Callable[[LimitCase], Cause]] = {
    Reason.UNENFORCED: _unenforced,
    Reason.DROPIN_GONE: lambda _: Cause("The drop-in on the host no longer has this value: it was changed by hand."),
    Reason.DROPIN_CHANGED: lambda _: Cause("The panel's drop-in on the host was changed by hand."),
    Reason.OTHER_DROPIN: _other_dropin,
    Reason.OTHER_UNIT: _other_unit,
    Reason.SET_LIVE: _set_live,
    Reason.NOT_RELOADED: lambda _: Cause(
        "systemd has not reloaded the files since they were changed.", "systemctl daemon-reload"
    ),
    Reason.KERNEL_DIFFERS: _kernel_differs,
    Reason.SET_ON_UNIT: lambda case: Cause("No file sets this: it was set on the running unit.", _set(case)),
}


def readable(key: str, value: str) -> str:
    """systemd writes plain bytes into what set-property leaves."""
    return in_words(key, value) if key.startswith("Memory") and value.isdecimal() else value


def _remove(file: File) -> str:
    return f"rm {shlex.quote(file.path)} && systemctl daemon-reload"


def _set(case: LimitCase) -> str:
    unit, setting = unit_of(case.machine.name), f"{case.key}={case.due}"
    return f"systemctl set-property --runtime {shlex.quote(unit)} {shlex.quote(setting)}"


def place_of(file: File) -> str:
    """Where a value comes from, in a word or two."""
    if file.kind == "nspawn":
        return (
            ".nspawn file"
            if file.path.startswith(ETC)
            else "file in /run"
            if file.is_trusted
            else "file next to the image"
        )
    if file.kind == "unit":
        return "unit file"
    if file.is_ours:
        return "panel drop-in"
    if file.is_leftover:
        return "set-property, until reboot" if file.path.startswith("/run/") else "set-property"
    return "drop-in of all machines" if "@.service.d/" in file.path else "another drop-in"


def in_words(key: str, raw: str) -> str:
    """134217728 → 128 MiB, 200000 µs per second → 20 %."""
    if raw in compare_effective.UNLIMITED:
        return "no limit"
    if not raw.isdecimal():
        return raw
    if key.startswith("Memory"):
        return quantities.size(int(raw))
    if key == "ManagedOOMMemoryPressureLimit":
        return f"{int(raw) / (2**32 - 1) * 100:.0f}\u00a0%"
    if key.endswith("Sec") and int(raw) >= 1000:
        return f"{int(raw) / 1e6:g} s"
    return f"{int(raw) / 10_000:g}\u00a0%" if key == "CPUQuota" else raw
