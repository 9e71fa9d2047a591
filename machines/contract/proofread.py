"""What is wrong with a file as somebody typed it, line by line, and how typed text keeps the ends its lines had.

systemd drops most of this with a warning, some without a word. The host's own parsers have the last say.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from machines.contract import limits, nspawn, values
from machines.contract.nspawn import SETTINGS, Entry
from machines.contract.problems import BadValue
from machines.contract.table import Setting

UNIT_SECTIONS = ("Unit", "Service", "Install")


@dataclass(frozen=True)
class Remark:
    """A word on one line. What is `fatal` is refused; the rest is kept as it is written."""

    line: int
    name: str
    text: str
    fatal: bool = True


def settings_file(text: str, before: str = "") -> list[Remark]:
    """Of a .nspawn file. A line that stands in `before` already may stay as it is."""
    return _read(text, before, SETTINGS, nspawn.SECTIONS)


def dropin(text: str, before: str = "") -> list[Remark]:
    """Of the drop-in of a machine's unit."""
    table = {f"{prop.section}.{prop.key}": prop for prop in limits.PROPERTIES.values()}
    return _read(text, before, table, UNIT_SECTIONS)


def _read(text: str, before: str, table: Mapping[str, Setting], sections: tuple[str, ...]) -> list[Remark]:
    known = {entry.raw.strip() for entry in nspawn.parse(before).entries}
    found, seen, number = [], dict[str, int](), 1
    for entry in nspawn.parse(text).entries:
        for said, fatal in _of_entry(entry, table, sections):
            name = f"{entry.section}.{entry.key}" if entry.key else ""
            found.append(Remark(number, name, said, fatal and entry.raw.strip() not in known))
        setting = table.get(f"{entry.section}.{entry.key}")
        if setting and not setting.repeats and entry.value:
            if setting.id in seen:
                found.append(Remark(number, setting.id, f"{entry.key}= stands in line {seen[setting.id]} too; this one holds.", fatal=False))  # fmt: skip
            seen[setting.id] = number
        number += len(re.findall(r"\r\n|\n\r|[\n\r\0]", entry.raw))
    return found


def _of_entry(entry: Entry, table: Mapping[str, Setting], sections: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """(sentence, whether it is refused) of one run of lines."""
    bare = entry.raw.strip()
    if not bare or bare[0] in "#;":
        return
    if "\n" in bare or bare.endswith("\\"):
        yield "A backslash at the line's end swallows the next line; write it in one.", True
    elif not entry.key:
        yield from _of_header(bare, sections)
    elif not entry.section:
        yield f"{entry.key}= stands before any section; systemd ignores it.", True
    elif f"{entry.section}.{entry.key}" not in table:
        yield f"{entry.key}= of [{entry.section}] is not known here; systemd may ignore it.", False
    else:
        setting = table[f"{entry.section}.{entry.key}"]
        try:
            values.one_line(entry.value)
            if entry.value:
                setting.check(entry.value)
        except BadValue as problem:
            yield problem.message, True


def _of_header(bare: str, sections: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    name = bare[1:-1] if bare.startswith("[") and bare.endswith("]") else ""
    if not name:
        yield f"“{bare[:60]}” is neither a setting (Key=value) nor the head of a section.", True
    elif name not in sections:
        yield f"[{name}] is not a section; systemd ignores what stands below it. There are {', '.join(sections)}.", True


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
