"""What changes between two configurations: setting by setting, and line by line with the words that differ marked."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from machines.contract import limits, nspawn
from machines.models.revision import as_settings, changes

Part = tuple[str, bool]  # text, and whether it differs from the other side
CONTEXT = 3
LONGEST_MARKED = 500  # characters; marking words in longer lines costs more than it tells
_WORD = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True)
class Files:
    """Both files of a machine, without our first line."""

    nspawn: str = ""
    limits: str = ""


@dataclass(frozen=True)
class Change:
    """One setting that differs. `effect` is live for what acts at once and restart for what waits for the next start."""

    key: str
    title: str
    section: str
    before: list[str]
    after: list[str]
    effect: str


def settings(before: Files, after: Files) -> list[Change]:
    found = []
    for name, old, new in changes(as_settings(before.nspawn, before.limits), as_settings(after.nspawn, after.limits)):
        section, _, key = name.rpartition(".")
        prop = limits.PROPERTIES.get(name)
        known = nspawn.SETTINGS.get(name)
        found.append(
            Change(
                key=key,
                title=prop.title if prop else known.help if known else "",
                section=section or "Limits",
                before=old.splitlines(),
                after=new.splitlines(),
                effect="live" if prop and prop.live else "restart",
            )
        )
    return found


@dataclass(frozen=True)
class Line:
    """A line of a file diff; `sign` is + - or a space, @ for what was left out between."""

    sign: str
    parts: list[Part]


def unified(before: str, after: str) -> list[Line]:
    """The lines that differ, with three of what surrounds them; [] when nothing does."""
    old, new = before.splitlines(), after.splitlines()
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    lines: list[Line] = []
    for group in matcher.get_grouped_opcodes(CONTEXT):
        if group[0][1] > 0 or group[0][3] > 0 or lines:
            lines.append(Line("@", [(f"line {group[0][3] + 1}", False)]))
        for tag, a, b, c, d in group:
            lines += _block(tag, old[a:b], new[c:d])
    return lines


def _block(tag: str, old: list[str], new: list[str]) -> Iterator[Line]:
    if tag == "equal":
        yield from (Line(" ", [(text, False)]) for text in old)
        return
    pairs = [words(a, b) for a, b in zip(old, new, strict=False)]
    yield from (Line("-", pairs[i][0] if i < len(pairs) else [(text, False)]) for i, text in enumerate(old))
    yield from (Line("+", pairs[i][1] if i < len(pairs) else [(text, False)]) for i, text in enumerate(new))


def words(old: str, new: str) -> tuple[list[Part], list[Part]]:
    """Both lines in parts; nothing is marked where they have nothing in common."""
    if max(len(old), len(new)) > LONGEST_MARKED:
        return [(old, False)], [(new, False)]
    a, b = _WORD.findall(old), _WORD.findall(new)
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    if matcher.ratio() < 0.3:
        return [(old, False)], [(new, False)]
    left: list[Part] = []
    right: list[Part] = []
    for tag, i, j, k, m in matcher.get_opcodes():
        left += [("".join(a[i:j]), tag != "equal")] if j > i else []
        right += [("".join(b[k:m]), tag != "equal")] if m > k else []
    return left, right
