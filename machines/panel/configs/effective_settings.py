"""What holds for a machine, setting by setting: wanted, on disk, in force, and where each comes from.

A difference is never shown without its cause, and with the command that mends it where one does.
"""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from django.db import transaction
from django.utils import timezone

from machines.contract import quantities
from machines.contract.configuration import command_line, compare_effective, limits, nspawn
from machines.contract.configuration.command_line import CommandLine
from machines.contract.configuration.setting import Group, Setting
from machines.contract.names import unit_of
from machines.contract.orders import ABSENT
from machines.models import Found, Host, Machine
from machines.models.found import ETC, RUN, File
from machines.models.machine import MachineQuerySet
from machines.panel.configs.diffs import Files

# The facts of a machine's row that the rows below are made of, beside its texts.
DEPENDS_ON = frozenset({"state", "since", "unit", "restart_needed", "applied", "nspawn_sha256", "limits_sha256"})
DEPENDS_ON_HOST = ("lacks", "memory_total")  # the same of its host's facts
CATCH_UP_SECONDS, CAUGHT_UP_AT_ONCE = 0.5, 200
UNKNOWN_AT_MOST = 100
RAISED = {"LimitNOFILE", "LimitMEMLOCK"}  # a systemd inside raises them for itself
NOTHING_ASKED = {"auto", "none", "no"}
LIMITS, UNIT = "Limits", "Unit"
OK, DIFFERS, WAITS, IGNORED = "", "differs", "waits", "ignored"
LOUD = {DIFFERS, IGNORED}


@dataclass(frozen=True)
class SettingRow:
    """One setting. `flag` is "" where it holds as asked, else differs, waits (for the next start) or ignored."""

    section: str
    key: str
    title: str
    wanted: list[str]
    disk: list[str]
    effective: list[str]
    source: str
    path: str = ""
    flag: str = OK
    cause: str = ""
    command: str = ""
    confirmed: bool = False  # somebody other than the file says that it holds
    by_unit: bool = False  # the command line of the unit says it, and the stock unit's does not

    @property
    def is_loud(self) -> bool:
        return self.flag in LOUD


@dataclass(frozen=True)
class Alarm:
    """Something about the machine as a whole."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Holds:
    sections: list[tuple[str, list[SettingRow]]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)

    @property
    def rows(self) -> Iterator[SettingRow]:
        for _, rows in self.sections:
            yield from rows

    @property
    def not_as_asked(self) -> int:
        return sum(row.is_loud for row in self.rows)

    @property
    def waiting(self) -> int:
        """How many settings act with the machine's next start only."""
        return sum(row.flag == WAITS for row in self.rows)


def read(machine: Machine, found: Found | None, *, everything: bool = False) -> Holds:
    """`everything` adds the settings that nobody has set."""
    if found is None:
        return Holds()
    rows = [*_nspawn_rows(machine, found), *_limit_rows(machine, found)]
    if is_arriving(machine, found):
        rows = [replace(row, flag=OK, cause="", command="") if row.is_loud else row for row in rows]
    kept = [row for row in rows if everything or row.wanted or row.disk or row.flag or row.by_unit]
    names = dict.fromkeys([*nspawn.SECTIONS, LIMITS, UNIT, *(row.section for row in rows)])
    sections = [(name, [row for row in kept if row.section == name]) for name in names]
    return Holds([(name, rows) for name, rows in sections if rows], list(_alarms(machine, found)))


def recount(number: int) -> None:
    """Keep in a machine's row how many of its settings are not in effect, as its page counts them. To be called in the
    transaction that changes what DEPENDS_ON names, or what its host has told of its files."""
    machine = Machine.objects.select_related("host", "applied").get(pk=number)
    _keep(machine, _count(machine, Found.objects.filter(machine=number).first()))


def _count(machine: Machine, found: Found | None) -> int:
    return min(read(machine, found).not_as_asked, 1000)


def _keep(machine: Machine, count: int) -> None:
    if count != machine.not_as_asked:
        Machine.objects.filter(pk=machine.pk).update(not_as_asked=count, changed_at=timezone.now())


def mark() -> int:
    """A new value of Found.stale: another than any before."""
    return time.monotonic_ns() // 1000 % 2**31 or 1


def put_off(machines: MachineQuerySet) -> None:
    """To be counted soon, by catch_up(): it takes milliseconds for each, in which nobody else could write in SQLite."""
    Found.objects.filter(machine__in=machines.values("pk")).update(stale=mark())


def catch_up(host: Host | None = None, seconds: float = CATCH_UP_SECONDS) -> None:
    """Count what was put off, of one host or of all, as far as the time goes; each in a short transaction of its own."""
    until = time.monotonic() + seconds
    waiting = Found.objects.filter(stale__gt=0, **({"machine__host": host} if host else {}))
    for number in list(waiting.values_list("pk", flat=True)[:CAUGHT_UP_AT_ONCE]):
        if time.monotonic() > until:
            return
        _catch_up(number)


def _catch_up(number: int) -> None:
    found = Found.objects.select_related("machine__host", "machine__applied").filter(pk=number).first()
    if found is None:
        return
    count = _count(found.machine, found)
    with transaction.atomic():
        _keep(found.machine, count)
        Found.objects.filter(pk=number, stale=found.stale).update(stale=0)  # else it was put off again meanwhile


def is_arriving(machine: Machine, found: Found) -> bool:
    """Whether our own files were just written and their texts are still on their way: their sums were told already."""
    applied, file, ours = machine.applied, found.counting, found.ours
    if applied is None or machine.differs or any(each and not each.is_plain for each in (file, ours)):
        return False
    in_place = file.sha256 if file and file.path == f"{ETC}{machine.name}.nspawn" else ABSENT
    return (in_place, ours.sha256 if ours else ABSENT) != (applied.nspawn_sha256, applied.limits_sha256)


def is_up(machine: Machine) -> bool:
    """Whether it was up when its host last spoke: the files told belong to that moment, even if it is silent since."""
    return machine.was_up


def is_by_hand(machine: Machine) -> bool:
    """Whether it runs in another unit than machinectl would start it in."""
    return is_up(machine) and machine.unit not in {"", unit_of(machine.name)}


# --- about the whole


def _alarms(machine: Machine, found: Found) -> Iterator[Alarm]:
    unit = unit_of(machine.name)
    if is_by_hand(machine):
        yield Alarm(
            f"It runs in {machine.unit}, not in {unit}: somebody started systemd-nspawn by hand. The unit's limits do not "
            "apply to it, and neither do the unit's options. Power it off and start it from here.",
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
        yield Alarm(f"systemd does not read {hidden.path}: {files[0].path} comes first.")
    if files and not _is_trusted(machine.command, files[0]) and machine.command.reads_files:
        yield Alarm(f"{files[0].path} lies beside the image, so systemd leaves out what would give it privileges.")
    for file in found.files:
        if file.form in {"unreadable", "long"}:
            yield Alarm(f"{file.path} could not be read: {file.error or 'it is longer than 128 KiB'}.")
    if found.needs_reload and is_up(machine):
        yield Alarm(
            "systemd has not read all of the unit's files since they were changed. What it holds may change with the next "
            "reload.",
            "systemctl daemon-reload",
        )


def _alarms_of_command(machine: Machine, found: Found) -> Iterator[Alarm]:
    """What its command line has to do with it, where it is not the stock unit's."""
    line = machine.command
    if not line.is_known:
        yield Alarm(
            f"{shlex.join(line.argv[:1])} starts it, not systemd-nspawn itself, so nobody here knows which of these settings "
            "reach it."
        )
    elif line.deviates:
        yield Alarm(
            f"{_who_says(machine, found)} another command line than systemd’s own unit: {', '.join(line.deviations())}."
        )
    if not line.reads_files:
        yield Alarm("With --settings=no, systemd-nspawn reads no .nspawn file: no setting in one has any effect.")
    if line.machine and line.machine != machine.name:
        yield Alarm(
            f"It is started under the name {line.machine}: machined, its .nspawn file and its links have that name."
        )
    if line.has_variables:
        yield Alarm(
            "Its command line has variables of the unit’s environment; what they stand for is not known before it runs."
        )
    if is_up(machine) and not is_by_hand(machine) and machine.run_command and _differ(line, machine.next_command):
        yield Alarm("The unit’s command line is another since it was started; that acts with its next start.")


def _who_says(machine: Machine, found: Found) -> str:
    """The file that sets it, as far as one does."""
    if is_by_hand(machine):
        return "It was started with"
    files = [file.path for file in found.files if file.kind != "nspawn" and file.is_plain and _starts(file.text)]
    return f"{files[-1]} gives it" if files else "Its unit gives it"


def _starts(text: str) -> bool:
    return any((e.section, e.key) == ("Service", "ExecStart") and e.value for e in nspawn.parse(text).settings())


def _differ(one: CommandLine, other: CommandLine) -> bool:
    return not other.has_variables and (one.reads, one.said, one.strange) != (other.reads, other.said, other.strange)


def _is_trusted(line: CommandLine, file: File) -> bool:
    return file.is_trusted or line.reads == command_line.TRUSTED


# --- the .nspawn file


def _nspawn_rows(machine: Machine, found: Found) -> Iterator[SettingRow]:
    line, file = machine.command, found.counting
    disk = _by_key(file.text if file and file.is_plain else "")
    wanted = _by_key(nspawn.unmark(machine.applied.nspawn_text) if machine.applied else "")
    unknown = [place for place in disk if ".".join(place) not in nspawn.SETTINGS]
    places = [*((s.section, s.key) for s in nspawn.SETTINGS.values()), *unknown[:UNKNOWN_AT_MOST]]
    counts = {".".join(place) for place, said in disk.items() if said and file and _counts(line, file, place)}
    held, usual = line.beside(counts), command_line.stock().said
    for place in places:
        name = ".".join(place)
        case = Case(
            machine, file, place, wanted.get(place, []), disk.get(place, []), held.get(name, []), line,
            str(found.inside.get(name, "")),
        )  # fmt: skip
        yield _nspawn_row(case, by_unit=bool(case.held) and case.held != usual.get(name))


@dataclass(frozen=True)
class Case:
    """One setting of a machine's .nspawn file: asked for by us, said in the file, held by the command line beside it, and
    seen of the running process."""

    machine: Machine
    file: File | None
    place: tuple[str, str]
    asked: list[str]
    said: list[str]
    held: list[str]
    line: CommandLine
    seen: str

    @property
    def name(self) -> str:
        return ".".join(self.place)

    @property
    def setting(self) -> Setting | None:
        return nspawn.SETTINGS.get(self.name)

    @property
    def words(self) -> str:
        """What of the command line has to do with it: its own words, else those of the settings that go with it."""
        group = [self.name, *sorted(command_line.group_of(self.name) - {self.name})]
        return next((", ".join(self.line.words[each]) for each in group if each in self.line.words), "")


def _counts(line: CommandLine, file: File, place: tuple[str, str]) -> bool:
    """Whether systemd-nspawn takes this setting from the file."""
    trusted = _is_trusted(line, file) or not needs_trust(*place)
    return line.reads_files and trusted and ".".join(place) not in line.outranked


def _by_key(text: str) -> dict[tuple[str, str], list[str]]:
    """(section, key) → its values, in one pass: a host may send a file of ten thousand keys. An empty value resets."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in nspawn.parse(text).settings():
        values = found.setdefault((entry.section, entry.key), [])
        values.append(entry.value) if entry.value else values.clear()
    return found


def _nspawn_row(case: Case, *, by_unit: bool) -> SettingRow:
    (section, key), setting, file = case.place, case.setting, case.file
    due = case.held or case.said
    agrees = compare_effective.inside(case.name, due, case.seen) if is_up(case.machine) else None
    why = _why(case, agrees)
    return SettingRow(
        section=section,
        key=key,
        title=setting.title if setting else "Not a setting of systemd’s",
        wanted=case.asked,
        disk=case.said,
        effective=_effective(case, ignored=why.flag == IGNORED),
        source=_source(case, ignored=why.flag == IGNORED),
        path=file.path if file and case.said else "",
        flag=why.flag,
        cause=why.cause,
        command=why.command,
        confirmed=agrees is True,
        by_unit=by_unit,
    )


def _effective(case: Case, *, ignored: bool) -> list[str]:
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


def _source(case: Case, *, ignored: bool) -> str:
    if case.said and case.file and not (ignored and case.held):
        return place_of(case.file)
    return f"unit: {case.words}" if case.held else "systemd’s default"


NO_RULE = "The kernel has no rule that leads this port to the machine: the rule set was emptied since it started."


@dataclass(frozen=True)
class Why:
    """Whether something holds; if not, for which reason, and what mends it."""

    flag: str = OK
    cause: str = ""
    command: str = ""


def _why(case: Case, agrees: bool | None) -> Why:
    (section, key), file, line = case.place, case.file, case.line
    if case.said and case.setting is None:
        return Why(IGNORED, "systemd knows no such setting and starts the machine without it.")
    if case.said and file and (cause := _why_not_taken(case)) and not _says_the_same(case, agrees):
        return Why(IGNORED, cause)
    if case.said and file and line.reads_files and not _is_trusted(line, file) and needs_trust(section, key):
        return Why(IGNORED, f"systemd takes this only from {ETC} or {RUN}, not from a file beside the image.")
    if case.machine.applied and case.asked != case.said:
        return Why(DIFFERS, "Somebody changed the file on the host by hand.")
    return _why_not_inside(case, agrees) if case.said and is_up(case.machine) else Why()


def _why_not_taken(case: Case) -> str:
    """Why the command line keeps systemd from taking this out of the file; "" where it does not."""
    who = "It was started" if is_up(case.machine) else "Its unit starts it"
    if not case.line.reads_files:
        return f"{who} with --settings=no: no .nspawn file is read."
    if case.name in case.line.outranked:
        return f"{who} with {case.words}, and without --settings=override the command line comes before the file."
    return ""


def _says_the_same(case: Case, agrees: bool | None) -> bool:
    """Whether what the command line says instead is the same, or what is seen of the process is."""
    setting = case.setting
    both = [[setting.normal(each) if setting else each for each in said] for said in (case.held, case.said)]
    return both[0] == both[1] or (not case.held and agrees is True)


def _why_not_inside(case: Case, agrees: bool | None) -> Why:
    """The same, for a machine that runs and whose file says the key."""
    machine, file = case.machine, case.file
    if is_by_hand(machine):
        return Why() if agrees or _takes_it(case) else Why(DIFFERS, f"It was started by hand, in {machine.unit}.")
    if file and agrees is not True and _waits(machine, file):
        return Why(WAITS, "Written after the machine was started: it acts with the next start.")
    if agrees is False and case.name == "Network.Port":
        return Why(DIFFERS, f"{NO_RULE} The doctor can restore it.")
    if agrees is False and case.place[1] not in RAISED:
        said = "The machine runs without it. Its unit’s log of the last start may say why."
        return Why(DIFFERS, said, _log(machine))
    return Why()


def _takes_it(case: Case) -> bool:
    """Whether a machine that was started by hand has it from the file: only where its command line is known."""
    return bool(case.machine.run_command) and case.line.is_known and not case.held


def _waits(machine: Machine, file: File) -> bool:
    """Whether the machine was started with another text than the file has now."""
    later = machine.since is not None and file.changed > machine.since.timestamp()
    return later and (machine.restart_needed or machine.applied is None)


def _log(machine: Machine) -> str:
    return f"journalctl --boot --unit={shlex.quote(unit_of(machine.name))} --grep=nspawn"


def needs_trust(section: str, key: str) -> bool:
    """Whether systemd drops a setting from a file beside the image (merge_settings() of nspawn.c)."""
    setting = nspawn.SETTINGS.get(f"{section}.{key}")
    return section == nspawn.NETWORK or bool(setting and setting.trusted)


# --- limits of the unit


@dataclass(frozen=True)
class Said:
    """What one file says of one property."""

    file: File
    value: str


def _limit_rows(machine: Machine, found: Found) -> Iterator[SettingRow]:
    asked = limits.read(machine.applied.limits_text) if machine.applied else {}
    files = [file for file in found.files if file.kind != "nspawn" and file.is_plain]
    texts = [(file, limits.read(file.text)) for file in files]
    for key in limits.PROPERTIES:
        said = [Said(file, text[key]) for file, text in texts if text.get(key)]
        yield _limit_row(machine, found, key, asked.get(key, ""), said)


def _limit_row(machine: Machine, found: Found, key: str, asked: str, said: list[Said]) -> SettingRow:
    setting, last = limits.PROPERTIES[key], said[-1] if said else None
    real = "" if _lacks(machine, found, key) else in_force(found, key)
    flag, cause, command = _limit_why(machine, found, key, asked, said)
    others = [each for each in said if each.file.kind == "dropin"]
    return SettingRow(
        section=LIMITS if setting.group == Group.RESOURCES else UNIT,
        key=key,
        title=setting.title,
        wanted=asked.splitlines(),
        disk=_values(key, others or said) if others or asked else [],
        effective=[in_words(key, each) for each in real.splitlines()] if others or asked or flag else [],
        source=place_of(last.file) if last else "nobody sets it",
        path=last.file.path if last else "",
        flag=flag,
        cause=cause,
        command=command,
        confirmed=_agrees(machine, key, asked or (last.value if last else ""), real) is True,
    )


def _values(key: str, said: list[Said]) -> list[str]:
    if limits.PROPERTIES[key].repeats:
        return [line for each in said for line in each.value.splitlines()]
    return said[-1].value.splitlines() if said else []


def in_force(found: Found, key: str) -> str:
    """The kernel's word where it has one that differs, else systemd's."""
    shown, real = str(found.shown.get(key, "")), str(found.kernel.get(key, ""))
    return shown if not real or compare_effective.holds(key, _bare(key, shown), real) in {True, None} else real


def _bare(key: str, shown: str) -> str:
    """systemd's own figure as if somebody had asked for it."""
    return f"{int(shown) / 10_000:g}%" if key == "CPUQuota" and shown.isdigit() else shown


def _agrees(machine: Machine, key: str, wanted: str, real: str) -> bool | None:
    if not wanted or not real or not is_up(machine):
        return None
    return compare_effective.holds(key, wanted, real, int(machine.host.facts.get("memory_total") or 0))


def _limit_why(machine: Machine, found: Found, key: str, asked: str, said: list[Said]) -> tuple[str, str, str]:
    """(flag, cause, command) of one property."""
    due = asked or (said[-1].value if said else "")
    if _is_unenforced(machine, found, key, due):
        return DIFFERS, f"{limits.unenforced(_lacks(machine, found, key))} systemd takes the value all the same.", ""
    agrees = _agrees(machine, key, due, in_force(found, key))
    dropins = [each for each in said if each.file.kind == "dropin"]
    if asked and (not dropins or (dropins[-1].value != asked and agrees is not True)):
        return (DIFFERS, *_overruled(key, dropins[-1].file if dropins else None, dropins))
    if agrees is not False or not (asked or dropins):
        return OK, "", ""
    return (DIFFERS, *_not_in_force(machine, found, key, due, said))


def _lacks(machine: Machine, found: Found, key: str) -> str:
    """What is not there that would enforce a limit; "" where nothing is known to lack."""
    host = machine.host.facts.get("lacks") or {}
    return str(found.lacks.get(key) or (host.get(key) if key not in found.kernel else "") or "")


def _is_unenforced(machine: Machine, found: Found, key: str, due: str) -> bool:
    """Whether a machine runs with a limit that nothing there enforces."""
    no_limit = {"", *compare_effective.UNLIMITED, *NOTHING_ASKED, limits.PROPERTIES[key].default}
    return is_up(machine) and not is_by_hand(machine) and due not in no_limit and bool(_lacks(machine, found, key))


def _overruled(key: str, file: File | None, dropins: list[Said]) -> tuple[str, str]:
    """Why the files do not say what was asked for, and what mends it."""
    if file is None:
        return "The drop-in on the host does not say so any more: somebody changed it by hand.", ""
    if file.is_ours:
        return "Somebody changed our drop-in on the host by hand.", ""
    word = f"{file.path} sets {key}={readable(key, dropins[-1].value)}"
    if file.is_leftover:
        return f"{word}; “systemctl set-property” left it there.", _remove(file)
    return f"{word} and is read after ours.", "" if "@.service.d/" in file.path else _remove(file)


def _not_in_force(machine: Machine, found: Found, key: str, due: str, said: list[Said]) -> tuple[str, str]:
    """Why what the files say is not what holds, and what mends it."""
    real, shown = in_force(found, key), str(found.shown.get(key, ""))
    if is_by_hand(machine):
        return f"It runs in {machine.unit}, started by hand: limits of {unit_of(machine.name)} do not reach it.", ""
    live = next((each for each in said if each.file.is_leftover and _agrees(machine, key, each.value, real)), None)
    if live:
        return (
            f"“systemctl set-property” set {key}={readable(key, live.value)} on the running machine. {said[-1].file.path} "
            f"says {readable(key, due)} and wins again with the next reload."
        ), _remove(live.file)  # fmt: skip
    if found.needs_reload:
        return "systemd has not read the files since they were changed.", "systemctl daemon-reload"
    if real != shown:
        held = in_words(key, shown)
        return f"systemd holds {held}, but the kernel enforces {in_words(key, real)}.", _set(machine, key, due)
    return "No file says so: it was set on the running unit.", _set(machine, key, due)


def readable(key: str, value: str) -> str:
    """systemd writes plain bytes into what set-property leaves."""
    return in_words(key, value) if key.startswith("Memory") and value.isdecimal() else value


def _remove(file: File) -> str:
    return f"rm {shlex.quote(file.path)} && systemctl daemon-reload"


def _set(machine: Machine, key: str, value: str) -> str:
    return f"systemctl set-property --runtime {shlex.quote(unit_of(machine.name))} {shlex.quote(f'{key}={value}')}"


def place_of(file: File) -> str:
    """Where a value comes from, in a word or two."""
    if file.kind == "nspawn":
        return (
            ".nspawn file"
            if file.path.startswith(ETC)
            else "file in /run"
            if file.is_trusted
            else "file beside the image"
        )
    if file.kind == "unit":
        return "unit file"
    if file.is_ours:
        return "our drop-in"
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


# --- before it is taken over


def there(found: Found | None) -> Files:
    """Both files as they are on the host, without our first line."""
    file, ours = (found.counting, found.ours) if found else (None, None)
    return Files(nspawn.unmark(file.text) if file else "", nspawn.unmark(ours.text) if ours else "")


def left_out(file: File) -> list[str]:
    """The lines of a file beside the image that systemd has left out so far, and would follow from /etc."""
    if file.is_trusted or not file.is_plain:
        return []
    return [
        f"{e.key}={e.value}" for e in nspawn.parse(file.text).settings() if e.value and needs_trust(e.section, e.key)
    ]
