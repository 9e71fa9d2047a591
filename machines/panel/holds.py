"""What holds for a machine, setting by setting: wanted, on disk, in force, and where each comes from.

A difference is never shown without its cause, and with the command that mends it where one does.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from machines.contract import limits, nspawn, readback
from machines.contract.names import unit_of
from machines.contract.table import Group
from machines.models import Found, Machine
from machines.models.found import ETC, RUN, File
from machines.panel.diffs import Files
from machines.templatetags import panel_tags

STOCK = {
    "Boot": "--boot",
    "LinkJournal": "--link-journal=try-guest",
    "VirtualEthernet": "--network-veth",
    "PrivateUsers": "-U",
}
UNKNOWN_AT_MOST = 100
RAISED = {"LimitNOFILE", "LimitMEMLOCK"}  # a systemd inside raises them for itself
UNLIMITED = {"infinity", "[not set]", str(2**64 - 1)}
LIMITS, UNIT = "Limits", "Unit"
OK, DIFFERS, WAITS, IGNORED = "", "differs", "waits", "ignored"
LOUD = {DIFFERS, IGNORED}


@dataclass(frozen=True)
class Row:
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
    sections: list[tuple[str, list[Row]]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)

    @property
    def rows(self) -> Iterator[Row]:
        for _, rows in self.sections:
            yield from rows

    @property
    def not_as_asked(self) -> int:
        return sum(row.is_loud for row in self.rows)


def read(machine: Machine, found: Found | None, *, everything: bool = False) -> Holds:
    """`everything` adds the settings that nobody has set."""
    if found is None:
        return Holds()
    rows = [*_nspawn_rows(machine, found), *_limit_rows(machine, found)]
    kept = [row for row in rows if everything or row.wanted or row.disk or row.flag]
    names = dict.fromkeys([*nspawn.SECTIONS, LIMITS, UNIT, *(row.section for row in rows)])
    sections = [(name, [row for row in kept if row.section == name]) for name in names]
    return Holds([(name, rows) for name, rows in sections if rows], list(_alarms(machine, found)))


def is_by_hand(machine: Machine) -> bool:
    """Whether it runs in another unit than machinectl would start it in."""
    return machine.shown_state.is_up and machine.unit not in {"", unit_of(machine.name)}


# --- about the whole


def _alarms(machine: Machine, found: Found) -> Iterator[Alarm]:
    unit = unit_of(machine.name)
    if is_by_hand(machine):
        yield Alarm(
            f"It runs in {machine.unit}, not in {unit}: somebody started systemd-nspawn by hand. The unit's limits do not "
            "apply to it, and neither do the unit's options. Power it off and start it from here.",
            f"machinectl poweroff {shlex.quote(machine.name)}",
        )
    files = found.nspawn_files
    for hidden in files[1:]:
        yield Alarm(f"systemd does not read {hidden.path}: {files[0].path} comes first.")
    if files and not files[0].is_trusted:
        yield Alarm(f"{files[0].path} lies beside the image, so systemd leaves out what would give it privileges.")
    for file in found.files:
        if file.form in {"unreadable", "long"}:
            yield Alarm(f"{file.path} could not be read: {file.error or 'it is longer than 128 KiB'}.")
    if found.needs_reload and machine.shown_state.is_up:
        yield Alarm(
            "systemd has not read all of the unit's files since they were changed. What it holds may change with the next "
            "reload.",
            "systemctl daemon-reload",
        )


# --- the .nspawn file


def _nspawn_rows(machine: Machine, found: Found) -> Iterator[Row]:
    file = found.counting
    disk = _by_key(file.text if file and file.is_plain else "")
    wanted = _by_key(nspawn.unmark(machine.applied.nspawn_text) if machine.applied else "")
    unknown = [place for place in disk if ".".join(place) not in nspawn.SETTINGS]
    places = [*((s.section, s.key) for s in nspawn.SETTINGS.values()), *unknown[:UNKNOWN_AT_MOST]]
    for section, key in places:
        asked, said = wanted.get((section, key), []), disk.get((section, key), [])
        seen = str(found.inside.get(f"{section}.{key}", ""))
        yield _nspawn_row(machine, file, (section, key), (asked, said), seen)


def _by_key(text: str) -> dict[tuple[str, str], list[str]]:
    """(section, key) → its values, in one pass: a host may send a file of ten thousand keys. An empty value resets."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in nspawn.parse(text).settings():
        values = found.setdefault((entry.section, entry.key), [])
        values.append(entry.value) if entry.value else values.clear()
    return found


def _nspawn_row(
    machine: Machine, file: File | None, place: tuple[str, str], values: tuple[list[str], list[str]], seen: str
) -> Row:
    (section, key), (asked, said) = place, values
    setting = nspawn.SETTINGS.get(f"{section}.{key}")
    agrees = readback.inside(f"{section}.{key}", said, seen) if machine.shown_state.is_up else None
    flag, cause, command = _why(machine, file, place, (asked, said), agrees)
    shown = _seen(key, said or asked, seen) if seen else _unseen(machine, file, asked, said)
    return Row(
        section=section,
        key=key,
        title=setting.title if setting else "Not a setting of systemd’s",
        wanted=asked,
        disk=said,
        effective=[] if flag == IGNORED and not agrees else shown if said or asked else [],
        source=_source(file, key, said),
        path=file.path if file and said else "",
        flag=flag,
        cause=cause,
        command=command,
        confirmed=agrees is True,
    )


def _seen(key: str, wanted: list[str], seen: str) -> list[str]:
    """What the process shows, of capabilities only those that are spoken of."""
    if key != "Capability":
        return seen.splitlines()
    return [word for value in wanted for word in value.split() if word in seen.split()]


def _unseen(machine: Machine, file: File | None, asked: list[str], said: list[str]) -> list[str]:
    """Of what leaves no trace: what the file said when the machine was started."""
    if not machine.shown_state.is_up:
        return []
    later = machine.since is not None and file is not None and file.changed > machine.since.timestamp()
    return asked if machine.applied and later else said


def _source(file: File | None, key: str, said: list[str]) -> str:
    if said and file:
        return place_of(file)
    return f"unit: {STOCK[key]}" if key in STOCK else "systemd’s default"


def _why(
    machine: Machine,
    file: File | None,
    place: tuple[str, str],
    values: tuple[list[str], list[str]],
    agrees: bool | None,
) -> tuple[str, str, str]:
    (section, key), (asked, said) = place, values
    setting = nspawn.SETTINGS.get(f"{section}.{key}")
    if said and setting is None:
        return IGNORED, "systemd knows no such setting and starts the machine without it.", ""
    if said and file and not file.is_trusted and needs_trust(section, key):
        return IGNORED, f"systemd takes this only from {ETC} or {RUN}, not from a file beside the image.", ""
    if machine.applied and asked != said:
        return DIFFERS, "Somebody changed the file on the host by hand.", ""
    return _why_not_inside(machine, file, key, agrees) if said and machine.shown_state.is_up else (OK, "", "")


def _why_not_inside(machine: Machine, file: File | None, key: str, agrees: bool | None) -> tuple[str, str, str]:
    """The same, for a machine that runs and whose file says the key."""
    if is_by_hand(machine):
        return (OK, "", "") if agrees else (DIFFERS, f"It was started by hand, in {machine.unit}.", "")
    if file and agrees is not True and _waits(machine, file):
        return WAITS, "Written after the machine was started: it acts with the next start.", ""
    if agrees is False and key not in RAISED:
        return DIFFERS, "The machine runs without it. Its unit’s log of the last start may say why.", _log(machine)
    return OK, "", ""


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


def _limit_rows(machine: Machine, found: Found) -> Iterator[Row]:
    asked = limits.read(machine.applied.limits_text) if machine.applied else {}
    files = [file for file in found.files if file.kind != "nspawn" and file.is_plain]
    texts = [(file, limits.read(file.text)) for file in files]
    for key in limits.PROPERTIES:
        said = [Said(file, text[key]) for file, text in texts if text.get(key)]
        yield _limit_row(machine, found, key, asked.get(key, ""), said)


def _limit_row(machine: Machine, found: Found, key: str, asked: str, said: list[Said]) -> Row:
    setting, last = limits.PROPERTIES[key], said[-1] if said else None
    real = in_force(found, key)
    flag, cause, command = _limit_why(machine, found, key, asked, said)
    others = [each for each in said if each.file.kind == "dropin"]
    return Row(
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
    return shown if not real or readback.holds(key, _bare(key, shown), real) in {True, None} else real


def _bare(key: str, shown: str) -> str:
    """systemd's own figure as if somebody had asked for it."""
    return f"{int(shown) / 10_000:g}%" if key == "CPUQuota" and shown.isdigit() else shown


def _agrees(machine: Machine, key: str, wanted: str, real: str) -> bool | None:
    if not wanted or not real or not machine.shown_state.is_up:
        return None
    return readback.holds(key, wanted, real, int(machine.host.facts.get("memory_total") or 0))


def _limit_why(machine: Machine, found: Found, key: str, asked: str, said: list[Said]) -> tuple[str, str, str]:
    """(flag, cause, command) of one property."""
    due = asked or (said[-1].value if said else "")
    agrees = _agrees(machine, key, due, in_force(found, key))
    dropins = [each for each in said if each.file.kind == "dropin"]
    if asked and (not dropins or (dropins[-1].value != asked and agrees is not True)):
        return (DIFFERS, *_overruled(key, dropins[-1].file if dropins else None, dropins))
    if agrees is not False or not (asked or dropins):
        return OK, "", ""
    return (DIFFERS, *_not_in_force(machine, found, key, due, said))


def _overruled(key: str, file: File | None, dropins: list[Said]) -> tuple[str, str]:
    """Why the files do not say what was asked for, and what mends it."""
    if file is None:
        return "The drop-in on the host does not say so any more: somebody changed it by hand.", ""
    if file.is_ours:
        return "Somebody changed our drop-in on the host by hand.", ""
    word = f"{file.path} sets {key}={_readable(key, dropins[-1].value)}"
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
            f"“systemctl set-property” set {key}={_readable(key, live.value)} on the running machine. {said[-1].file.path} "
            f"says {_readable(key, due)} and wins again with the next reload."
        ), _remove(live.file)  # fmt: skip
    if found.needs_reload:
        return "systemd has not read the files since they were changed.", "systemctl daemon-reload"
    if real != shown:
        held = in_words(key, shown)
        return f"systemd holds {held}, but the kernel enforces {in_words(key, real)}.", _set(machine, key, due)
    return "No file says so: it was set on the running unit.", _set(machine, key, due)


def _readable(key: str, value: str) -> str:
    """systemd writes plain bytes into what set-property leaves."""
    return in_words(key, value) if key.startswith("Memory") else value


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
    if raw in UNLIMITED:
        return "no limit"
    if not raw.isdecimal():
        return raw
    if key.startswith("Memory"):
        return panel_tags.size(int(raw))
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
