"""What changes between two configurations: setting by setting, and line by line with the words that differ marked."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from machines.contract.configuration import limits, nspawn
from machines.models.revision import as_settings, changes

Part = tuple[str, bool]  # text, and whether it differs from the other side
CONTEXT = 3
LONGEST_MARKED = 500  # characters; marking words in longer lines costs more than it tells
WORDS_MARKED = 40_000  # pairs of words of two lines; the work of comparing them grows with that
PAIRS_MARKED = 100  # lines of one diff
COMPARED = 2000  # lines that differ, from the first to the last: files with more are shown as taken out and put in
SHOWN_LINES, SHOWN_CHARACTERS = 2000, 100_000  # of a diff
_WORD = re.compile(r"\w+|\s+|[^\w\s]")


GROUPS = {
    nspawn.NETWORK: "Network",
    nspawn.FILES: "Files and mounts",
    nspawn.EXEC: "Boot and security",
    "Limits": "Limits",
}


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

    @property
    def group(self) -> str:
        """The heading it stands below; the sections in the order of the form."""
        return GROUPS.get(self.section, self.section)


def settings(before: Files, after: Files) -> list[Change]:
    found = []
    for name, old, new in changes(as_settings(before.nspawn, before.limits), as_settings(after.nspawn, after.limits)):
        section, _, key = name.rpartition(".")
        prop = limits.PROPERTIES.get(name)
        found.append(
            Change(
                key=key,
                title=_title(name),
                section=section or "Limits",
                before=old.splitlines(),
                after=new.splitlines(),
                effect="live" if prop and prop.live else "restart",
            )
        )
    order = [*GROUPS, *(change.section for change in found)]
    return sorted(found, key=lambda change: order.index(change.section))


@dataclass(frozen=True)
class Three:
    """One setting that is not the same everywhere: as it was applied, on the host, in the draft. `changed` says who has
    moved away from what was applied: host, draft, both (to the same) or clash."""

    key: str
    title: str
    applied: list[str]
    there: list[str]
    draft: list[str]
    changed: str


def three_ways(applied: Files, there: Files, draft: Files) -> list[Three]:
    base, theirs, mine = (as_settings(each.nspawn, each.limits) for each in (applied, there, draft))
    rows = []
    for name in dict.fromkeys([*base, *theirs, *mine]):
        a, b, c = (each.get(name, "") for each in (base, theirs, mine))
        if a == b == c:
            continue
        changed = "draft" if a == b else "host" if a == c else "both" if b == c else "clash"
        key = name.rpartition(".")[2]
        rows.append(Three(key, _title(name), a.splitlines(), b.splitlines(), c.splitlines(), changed))
    return rows


def _title(name: str) -> str:
    prop, known = limits.PROPERTIES.get(name), nspawn.SETTINGS.get(name)
    return prop.title if prop else known.help if known else ""


@dataclass(frozen=True)
class DiffLine:
    """A line of a file diff; `sign` is + - or a space, @ for what was left out between."""

    sign: str
    parts: list[Part]


def unified(before: str, after: str) -> list[DiffLine]:
    """The lines that differ, with three of what surrounds them; [] when nothing does. A host may have sent files that
    would take minutes to compare: of these, and of what no page can show, the last line says how much is left out."""
    old, new = before.splitlines(), after.splitlines()
    lines: list[DiffLine] = []
    pairs = [PAIRS_MARKED]
    for group in _groups(old, new):
        if group[0][1] > 0 or group[0][3] > 0 or lines:
            lines.append(DiffLine("@", [(f"line {group[0][3] + 1}", False)]))
        for tag, a, b, c, d in group:
            lines += _block(tag, old[a:b], new[c:d], pairs)
    return _short(lines)


DiffGroup = list[tuple[str, int, int, int, int]]


def _groups(old: list[str], new: list[str]) -> Iterable[DiffGroup]:
    """As difflib tells them."""
    alike = _alike(old, new)
    at_end = _alike(old[alike:][::-1], new[alike:][::-1])
    a, b = len(old) - at_end, len(new) - at_end
    if a + b - 2 * alike <= COMPARED:
        return SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT)
    lead, tail = max(0, alike - CONTEXT), min(CONTEXT, at_end)
    return [[
        ("equal", lead, alike, lead, alike), ("replace", alike, a, alike, b), ("equal", a, a + tail, b, b + tail),
    ]]  # fmt: skip


def _alike(old: list[str], new: list[str]) -> int:
    """How many lines both begin with."""
    return next((place for place, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _short(lines: list[DiffLine]) -> list[DiffLine]:
    """As many as a page shows."""
    room = SHOWN_CHARACTERS
    for place, line in enumerate(lines):
        room -= sum(len(text) for text, _ in line.parts)
        if place == SHOWN_LINES or (room < 0 and place):
            return [*lines[:place], DiffLine("@", [(f"{len(lines) - place:,} more lines", False)])]
    return lines


def _block(tag: str, old: list[str], new: list[str], pairs: list[int]) -> Iterator[DiffLine]:
    """`pairs` holds how many pairs of lines may still have their words marked."""
    if tag == "equal":
        yield from (DiffLine(" ", [(text, False)]) for text in old)
        return
    marked = [words(a, b) for a, b in zip(old[: pairs[0]], new[: pairs[0]], strict=False)]
    pairs[0] -= len(marked)
    yield from (DiffLine("-", marked[i][0] if i < len(marked) else [(text, False)]) for i, text in enumerate(old))
    yield from (DiffLine("+", marked[i][1] if i < len(marked) else [(text, False)]) for i, text in enumerate(new))


def words(old: str, new: str) -> tuple[list[Part], list[Part]]:
    """Both lines in parts; nothing is marked where they have nothing in common."""
    if max(len(old), len(new)) > LONGEST_MARKED:
        return [(old, False)], [(new, False)]
    a, b = _WORD.findall(old), _WORD.findall(new)
    if len(a) * len(b) > WORDS_MARKED:
        return [(old, False)], [(new, False)]
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    if matcher.ratio() < 0.3:
        return [(old, False)], [(new, False)]
    left: list[Part] = []
    right: list[Part] = []
    for tag, i, j, k, m in matcher.get_opcodes():
        left += [("".join(a[i:j]), tag != "equal")] if j > i else []
        right += [("".join(b[k:m]), tag != "equal")] if m > k else []
    return left, right
