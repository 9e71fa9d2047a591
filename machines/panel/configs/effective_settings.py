"""What is in effect of a machine's settings, compared with what was asked: a verdict on every setting of its .nspawn file and
every limit of its unit, by what its host has told; and how many are not in effect, kept in the machine's row.

What a page makes of it is composed by pages/effective_settings_page.py.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from django.db import transaction
from django.utils import timezone

from machines.contract.configuration import command_line, compare_effective, limits, nspawn
from machines.contract.configuration.command_line import CommandLine
from machines.contract.configuration.setting import Setting
from machines.contract.names import unit_of
from machines.contract.orders import ABSENT
from machines.models import Host, Machine, ObservedFiles
from machines.models.found import ETC, File
from machines.models.machine import MachineQuerySet
from machines.panel.configs.diffs import Files

# The facts of a machine's row that a verdict is made of, beside its texts.
DEPENDS_ON = frozenset({"state", "since", "unit", "restart_needed", "applied", "nspawn_sha256", "limits_sha256"})
DEPENDS_ON_HOST = ("lacks", "memory_total")  # the same of its host's facts
CATCH_UP_SECONDS, CAUGHT_UP_AT_ONCE = 0.5, 200
UNKNOWN_AT_MOST = 100
MOST_COUNTED = 1000
RAISED = {"LimitNOFILE", "LimitMEMLOCK"}  # a systemd inside raises them for itself
NOTHING_ASKED = {"auto", "none", "no"}


class Flag(StrEnum):
    """Whether a setting is in effect as it was asked for."""

    OK = ""
    DIFFERS = "differs"
    WAITS = "waits"  # for the next start
    IGNORED = "ignored"

    @property
    def is_loud(self) -> bool:
        return self in {Flag.DIFFERS, Flag.IGNORED}


class Reason(StrEnum):
    """Why a setting is not in effect as it was asked for."""

    NO_SUCH_SETTING = "no-such-setting"
    NOT_READ = "not-read"  # no .nspawn file is
    OUTRANKED = "outranked"  # by the command line
    UNTRUSTED = "untrusted"  # the file that says it
    FILE_CHANGED = "file-changed"
    STARTED_BY_HAND = "started-by-hand"
    NEXT_START = "next-start"
    NO_PORT_RULE = "no-port-rule"
    NOT_INSIDE = "not-inside"
    UNENFORCED = "unenforced"
    DROPIN_GONE = "dropin-gone"
    DROPIN_CHANGED = "dropin-changed"
    OTHER_DROPIN = "other-dropin"  # is read after ours, or left by set-property
    OTHER_UNIT = "other-unit"  # it runs in another, started by hand
    SET_LIVE = "set-live"  # set-property set another value, which a drop-in outranks with the next reload
    NOT_RELOADED = "not-reloaded"
    KERNEL_DIFFERS = "kernel-differs"
    SET_ON_UNIT = "set-on-unit"

    @property
    def flag(self) -> Flag:
        if self in {Reason.NO_SUCH_SETTING, Reason.NOT_READ, Reason.OUTRANKED, Reason.UNTRUSTED}:
            return Flag.IGNORED
        return Flag.WAITS if self is Reason.NEXT_START else Flag.DIFFERS


def flag_of(reason: Reason | None) -> Flag:
    return reason.flag if reason else Flag.OK


# --- how many


def count(machine: Machine, found: ObservedFiles | None) -> int:
    """How many settings are not in effect, as the machine's page shows them."""
    if found is None or is_arriving(machine, found):
        return 0
    reasons = [
        *(case.reason for case in settings(machine, found)),
        *(case.reason for case in unit_limits(machine, found)),
    ]
    return min(sum(flag_of(reason).is_loud for reason in reasons), MOST_COUNTED)


def recount(number: int) -> None:
    """Keep in a machine's row how many of its settings are not in effect, as its page counts them. To be called in the
    transaction that changes what DEPENDS_ON names, or what its host has told of its files."""
    machine = Machine.objects.select_related("host", "applied").get(pk=number)
    _keep(machine, count(machine, ObservedFiles.objects.filter(machine=number).first()))


def _keep(machine: Machine, number: int) -> None:
    if number != machine.mismatches:
        Machine.objects.filter(pk=machine.pk).update(mismatches=number, changed_at=timezone.now())


def mark() -> int:
    """A new value of ObservedFiles.stale: another than any before."""
    return time.monotonic_ns() // 1000 % 2**31 or 1


def put_off(machines: MachineQuerySet) -> None:
    """To be counted soon, by catch_up(): it takes milliseconds for each, in which nobody else could write in SQLite."""
    ObservedFiles.objects.filter(machine__in=machines.values("pk")).update(stale=mark())


def catch_up(host: Host | None = None, seconds: float = CATCH_UP_SECONDS) -> None:
    """Count what was put off, of one host or of all, as far as the time goes; each in a short transaction of its own."""
    until = time.monotonic() + seconds
    waiting = ObservedFiles.objects.filter(stale__gt=0, **({"machine__host": host} if host else {}))
    for number in list(waiting.values_list("pk", flat=True)[:CAUGHT_UP_AT_ONCE]):
        if time.monotonic() > until:
            return
        _catch_up(number)


def _catch_up(number: int) -> None:
    found = ObservedFiles.objects.select_related("machine__host", "machine__applied").filter(pk=number).first()
    if found is None:
        return
    counted = count(found.machine, found)
    with transaction.atomic():
        _keep(found.machine, counted)
        ObservedFiles.objects.filter(pk=number, stale=found.stale).update(
            stale=0
        )  # else it was put off again meanwhile


# --- of a machine as a whole


def is_arriving(machine: Machine, found: ObservedFiles) -> bool:
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


def is_trusted(line: CommandLine, file: File) -> bool:
    return file.is_trusted or line.reads == command_line.TRUSTED


def needs_trust(section: str, key: str) -> bool:
    """Whether systemd drops a setting from a file beside the image (merge_settings() of nspawn.c)."""
    setting = nspawn.SETTINGS.get(f"{section}.{key}")
    return section == nspawn.NETWORK or bool(setting and setting.trusted)


# --- settings of the .nspawn file


@dataclass(frozen=True)
class SettingCase:
    """One setting of a machine's .nspawn file: asked for by us, said in the file, held by the command line beside it and
    by that of the stock unit, and seen of the running process."""

    machine: Machine
    file: File | None
    place: tuple[str, str]  # section and key
    asked: list[str]
    said: list[str]
    held: list[str]
    usual: list[str]
    line: CommandLine
    seen: str

    @property
    def name(self) -> str:
        return ".".join(self.place)

    @property
    def setting(self) -> Setting | None:
        return nspawn.SETTINGS.get(self.name)

    @property
    def by_unit(self) -> bool:
        """Whether the command line of the unit says it, and the stock unit's does not."""
        return bool(self.held) and self.held != self.usual

    @cached_property
    def agrees(self) -> bool | None:
        """Whether the running process has it; None where that cannot be seen."""
        return compare_effective.inside(self.name, self.held or self.said, self.seen) if is_up(self.machine) else None

    @cached_property
    def reason(self) -> Reason | None:
        """Why it is not in effect as asked; None where it is, or nobody can say."""
        if self.said and self.setting is None:
            return Reason.NO_SUCH_SETTING
        if self.said and self.file and (reason := self._why_not_taken()) and not self._says_the_same():
            return reason
        if self.said and self.file and self.line.reads_files and self._lacks_trust(self.file):
            return Reason.UNTRUSTED
        if self.machine.applied and self.asked != self.said:
            return Reason.FILE_CHANGED
        return self._why_not_inside() if self.said and is_up(self.machine) else None

    def _why_not_taken(self) -> Reason | None:
        """Why the command line keeps systemd from taking this out of the file."""
        if not self.line.reads_files:
            return Reason.NOT_READ
        return Reason.OUTRANKED if self.name in self.line.outranked else None

    def _lacks_trust(self, file: File) -> bool:
        return not is_trusted(self.line, file) and needs_trust(*self.place)

    def _says_the_same(self) -> bool:
        """Whether what the command line says instead is the same, or what is seen of the process is."""
        setting = self.setting
        both = [[setting.normal(each) if setting else each for each in said] for said in (self.held, self.said)]
        return both[0] == both[1] or (not self.held and self.agrees is True)

    def _why_not_inside(self) -> Reason | None:
        """The same, for a machine that runs and whose file says the key."""
        if is_by_hand(self.machine):
            return None if self.agrees or self._takes_it() else Reason.STARTED_BY_HAND
        if self.file and self.agrees is not True and self._waits(self.file):
            return Reason.NEXT_START
        if self.agrees is not False:
            return None
        if self.name == "Network.Port":
            return Reason.NO_PORT_RULE
        return None if self.place[1] in RAISED else Reason.NOT_INSIDE

    def _takes_it(self) -> bool:
        """Whether a machine that was started by hand has it from the file: only where its command line is known."""
        return bool(self.machine.run_command) and self.line.is_known and not self.held

    def _waits(self, file: File) -> bool:
        """Whether the machine was started with another text than the file has now."""
        later = self.machine.since is not None and file.changed > self.machine.since.timestamp()
        return later and (self.machine.restart_needed or self.machine.applied is None)


def settings(machine: Machine, found: ObservedFiles) -> Iterator[SettingCase]:
    """Every setting there is, and those of the file that systemd does not know."""
    line, file = machine.command, found.counting
    disk = _by_key(file.text if file and file.is_plain else "")
    wanted = _by_key(nspawn.unmark(machine.applied.nspawn_text) if machine.applied else "")
    unknown = [place for place in disk if ".".join(place) not in nspawn.SETTINGS]
    counts = {".".join(place) for place, said in disk.items() if said and file and _counts(line, file, place)}
    held, usual = line.beside(counts), command_line.stock().said
    for place in [*((s.section, s.key) for s in nspawn.SETTINGS.values()), *unknown[:UNKNOWN_AT_MOST]]:
        name = ".".join(place)
        yield SettingCase(
            machine, file, place, asked=wanted.get(place, []), said=disk.get(place, []), held=held.get(name, []),
            usual=usual.get(name, []), line=line, seen=str(found.inside.get(name, "")),
        )  # fmt: skip


def _counts(line: CommandLine, file: File, place: tuple[str, str]) -> bool:
    """Whether systemd-nspawn takes this setting from the file."""
    trusted = is_trusted(line, file) or not needs_trust(*place)
    return line.reads_files and trusted and ".".join(place) not in line.outranked


def _by_key(text: str) -> dict[tuple[str, str], list[str]]:
    """(section, key) → its values, in one pass: a host may send a file of ten thousand keys. An empty value resets."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in nspawn.parse(text).settings():
        values = found.setdefault((entry.section, entry.key), [])
        values.append(entry.value) if entry.value else values.clear()
    return found


# --- limits of the unit


@dataclass(frozen=True)
class Said:
    """What one file says of one property."""

    file: File
    value: str


@dataclass(frozen=True)
class LimitCase:
    """One property of a machine's unit: asked for by us, said by the unit's files in the order they are read, and in force."""

    machine: Machine
    found: ObservedFiles
    key: str
    asked: str
    said: list[Said]

    @property
    def dropins(self) -> list[Said]:
        return [each for each in self.said if each.file.kind == "dropin"]

    @property
    def last(self) -> Said | None:
        return self.said[-1] if self.said else None

    @property
    def due(self) -> str:
        return self.asked or (self.last.value if self.last else "")

    @property
    def shown(self) -> str:
        """What systemd has."""
        return str(self.found.shown.get(self.key, ""))

    @cached_property
    def in_force(self) -> str:
        """The kernel's word where it has one that differs, else systemd's."""
        real = str(self.found.kernel.get(self.key, ""))
        same = not real or compare_effective.holds(self.key, _bare(self.key, self.shown), real) in {True, None}
        return self.shown if same else real

    @property
    def lacks(self) -> str:
        """What is not there that would enforce it; "" where nothing is known to lack."""
        host = self.machine.host.facts.get("lacks") or {}
        by_host = host.get(self.key) if self.key not in self.found.kernel else ""
        return str(self.found.lacks.get(self.key) or by_host or "")

    @property
    def is_confirmed(self) -> bool:
        return not self.lacks and self.agrees(self.due) is True

    def agrees(self, wanted: str) -> bool | None:
        """Whether this is in force; None where that cannot be said."""
        if not wanted or not self.in_force or not is_up(self.machine):
            return None
        total = int(self.machine.host.facts.get("memory_total") or 0)
        return compare_effective.holds(self.key, wanted, self.in_force, total)

    @property
    def live(self) -> Said | None:
        """What set-property left and is in force."""
        return next((each for each in self.said if each.file.is_leftover and self.agrees(each.value)), None)

    @cached_property
    def reason(self) -> Reason | None:
        """Why it is not in effect as asked; None where it is, or nobody can say."""
        if self._is_unenforced():
            return Reason.UNENFORCED
        agrees, dropins = self.agrees(self.due), self.dropins
        if self.asked and (not dropins or (dropins[-1].value != self.asked and agrees is not True)):
            return self._why_overruled()
        return self._why_not_in_force() if agrees is False and (self.asked or dropins) else None

    def _is_unenforced(self) -> bool:
        """Whether a machine runs with a limit that nothing there enforces."""
        no_limit = {"", *compare_effective.UNLIMITED, *NOTHING_ASKED, limits.PROPERTIES[self.key].default}
        runs = is_up(self.machine) and not is_by_hand(self.machine)
        return runs and self.due not in no_limit and bool(self.lacks)

    def _why_overruled(self) -> Reason:
        """Why the files do not say what was asked for."""
        if not self.dropins:
            return Reason.DROPIN_GONE
        return Reason.DROPIN_CHANGED if self.dropins[-1].file.is_ours else Reason.OTHER_DROPIN

    def _why_not_in_force(self) -> Reason:
        """Why what the files say is not what is in force."""
        if is_by_hand(self.machine):
            return Reason.OTHER_UNIT
        if self.live:
            return Reason.SET_LIVE
        if self.found.needs_reload:
            return Reason.NOT_RELOADED
        return Reason.KERNEL_DIFFERS if self.in_force != self.shown else Reason.SET_ON_UNIT


def unit_limits(machine: Machine, found: ObservedFiles) -> Iterator[LimitCase]:
    """Every property there is."""
    asked = limits.read(machine.applied.limits_text) if machine.applied else {}
    files = [file for file in found.files if file.kind != "nspawn" and file.is_plain]
    texts = [(file, limits.read(file.text)) for file in files]
    for key in limits.PROPERTIES:
        said = [Said(file, text[key]) for file, text in texts if text.get(key)]
        yield LimitCase(machine, found, key, asked.get(key, ""), said)


def _bare(key: str, shown: str) -> str:
    """systemd's own figure as if somebody had asked for it."""
    return f"{int(shown) / 10_000:g}%" if key == "CPUQuota" and shown.isdigit() else shown


# --- before it is taken over


def there(found: ObservedFiles | None) -> Files:
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
