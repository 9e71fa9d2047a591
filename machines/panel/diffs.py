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


GROUPS = {
    nspawn.NETWORK: "Network",
    nspawn.FILES: "Files and mounts",
    nspawn.EXEC: "Start and rights",
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
