"""What is wrong with a file as somebody typed it, line by line, and how typed text keeps the ends its lines had.

systemd drops most of this with a warning, some without a word. The host's own parsers have the last say.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from machines.contract.configuration import limits, nspawn, values
from machines.contract.configuration.nspawn import SETTINGS, Entry
from machines.contract.configuration.setting import Setting
from machines.contract.problems import BadValue

UNIT_SECTIONS = ("Unit", "Service", "Install")


@dataclass(frozen=True)
class Remark:
    """A word on one line. What is `fatal` is refused; the rest is kept as it is written."""

    line: int
    name: str
    text: str
    fatal: bool = True
    is_value: bool = False  # about the value of a known setting alone


def settings_file(text: str, before: str = "") -> list[Remark]:
    """Of a .nspawn file. A line that stands in `before` already may stay as it is."""
    return _read(text, before, SETTINGS, nspawn.SECTIONS)


def dropin(text: str, before: str = "") -> list[Remark]:
    """Of the drop-in of a machine's unit."""
    table = {f"{prop.section}.{prop.key}": prop for prop in limits.PROPERTIES.values()}
    return _read(text, before, table, UNIT_SECTIONS)


def _read(text: str, before: str, table: Mapping[str, Setting], sections: tuple[str, ...]) -> list[Remark]:
    known = {entry.raw.strip() for entry in nspawn.parse(before).entries}
    found, seen, number = [], dict[str, tuple[int, str]](), 1
    for entry in nspawn.parse(text).entries:
        name = f"{entry.section}.{entry.key}" if entry.key else ""
        setting, fresh = table.get(name), entry.raw.strip() not in known
        shape = list(_of_shape(entry, sections, is_known=setting is not None))
        found += [Remark(number, name, said, fatal and fresh) for said, fatal in shape]
        if setting and not shape:
            found += [Remark(number, name, said, fresh, is_value=True) for said in _of_value(setting, entry.value)]
        if setting and not setting.repeats and entry.value:
            if setting.id in seen:
                found.append(_twice(number, setting, entry, seen[setting.id], fatal=entry.raw.strip() not in known))
            seen[setting.id] = (number, entry.value)
        number += len(re.findall(r"\r\n|\n\r|[\n\r\0]", entry.raw))
    return found


def _twice(number: int, setting: Setting, entry: Entry, earlier: tuple[int, str], *, fatal: bool) -> Remark:
    """systemd takes the last one without a word."""
    line, value = earlier
    if setting.normal(value) == setting.normal(entry.value):
        return Remark(number, setting.id, f"{entry.key}= repeats line {line}.", fatal=False)
    return Remark(number, setting.id, f"{entry.key}= has another value in line {line}; keep the intended one.", fatal)


def _of_shape(entry: Entry, sections: tuple[str, ...], *, is_known: bool) -> Iterator[tuple[str, bool]]:
    """(sentence, whether it is refused) of one run of lines, as far as it is not about a value."""
    bare = entry.raw.strip()
    if not bare or bare[0] in "#;":
        return
    if any("\ud800" <= character <= "\udfff" for character in bare):
        yield "The line is not valid UTF-8; systemd rejects the whole file.", True
    elif "\n" in bare or bare.endswith("\\"):
        yield "The backslash at the end joins this line with the next; write it as one line.", True
    elif not entry.key:
        yield from _of_header(bare, sections)
    elif not entry.section:
        yield f"{entry.key}= is outside any section; systemd ignores it.", True
    elif not is_known:
        yield f"{entry.key}= of [{entry.section}] is not known here; systemd may ignore it.", False


def _of_value(setting: Setting, text: str) -> Iterator[str]:
    try:
        values.one_line(text)
        if text:
            setting.check(text)
    except BadValue as problem:
        yield problem.message


def _of_header(bare: str, sections: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    name = bare[1:-1] if bare.startswith("[") and bare.endswith("]") else ""
    if not name:
        yield f"“{bare[:60]}” is neither a setting (Key=value) nor a section header.", True
    elif name not in sections:
        yield (
            f"[{name}] is not a known section; systemd ignores everything in it. Known sections: "
            f"{', '.join(sections)}.",
            True,
        )


def is_left_out(remark: Remark) -> bool:
    """Whether systemd leaves out what the remark is about, whoever wrote it."""
    return remark.fatal and not remark.is_value


def without_left_out(text: str, sections: tuple[str, ...]) -> str:
    """The text without what systemd does not read: sections it does not know, lines before any section, lines that are
    neither a setting nor a head. Comments stay."""
    document = nspawn.parse(text)
    document.entries = [entry for entry in document.entries if not _is_unread(entry, sections)]
    return document.text()


def _is_unread(entry: Entry, sections: tuple[str, ...]) -> bool:
    bare = entry.raw.strip()
    if not bare or bare[0] in "#;" or "\n" in bare or bare.endswith("\\"):
        return False
    return entry.section not in sections or any(refused for _, refused in _of_header_of(entry, sections))


def _of_header_of(entry: Entry, sections: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    return iter(()) if entry.key else _of_header(entry.raw.strip(), sections)


def with_ends_of(before: str, typed: str) -> str:
    """Text from a browser, which ends every line with CR LF, with the line ends the file has; new lines end with LF."""
    plain = typed.replace("\r\n", "\n").replace("\r", "\n")
    pieces = nspawn.lines_of(before)
    old = [piece.rstrip("\n\r\0") for piece in pieces]
    if "\n".join(old) + ("\n" if pieces and pieces[-1] != old[-1] else "") == plain:
        return before
    new = re.findall(r"[^\n]*\n|[^\n]+", plain)
    made = list(new)
    for a, b, size in SequenceMatcher(
        None, old, [line.rstrip("\n") for line in new], autojunk=False
    ).get_matching_blocks():
        for i in range(size):
            if new[b + i].endswith("\n") and pieces[a + i] != old[a + i]:
                made[b + i] = pieces[a + i]
    return "".join(made)
