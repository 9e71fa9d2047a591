"""What a program wrote to a terminal, as HTML a browser may be given: colours as classes, everything else as text.

Only the "select graphic rendition" escapes survive; every other escape and control character is dropped, so a log can
neither move the cursor nor smuggle a link, a title or markup into the page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from django.utils.html import escape
from django.utils.safestring import SafeString

# One token per match; every branch is linear, also in lines that end in the middle of an escape.
TOKEN = re.compile(
    r"(?P<sgr>(?:\x1b\[|\x9b)(?P<codes>[0-9;:]*)m)"
    r"|(?P<drop>(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # other control sequences: cursor, erase, modes
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # strings: titles, hyperlinks, images
    r"|\x1b[ -/]*[0-~]?"
    # Control characters but tab and carriage return, and those that turn the reading direction round.
    r"|[\x00-\x08\n-\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])"
    r"|(?P<back>\r)"
    r"|(?P<text>[^\x00-\x08\n-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+)"
)
LINK = re.compile(r"https?://[^\s<>\"'`\\^{|}]+")
AFTER_LINK = ".,;:!?)]*_"

# What xterm shows for colours 0 to 15; 256 and true colours go to the nearest of them.
SIXTEEN = (
    (0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0), (0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229),
    (127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0), (92, 92, 255), (255, 0, 255), (0, 255, 255), (255, 255, 255),
)  # fmt: skip
CUBE = (0, 95, 135, 175, 215, 255)


@dataclass(frozen=True, slots=True)
class Style:
    bold: bool = False
    dim: bool = False
    underline: bool = False
    ink: int | None = None
    ground: int | None = None

    def classes(self) -> str:
        words = [f"sgr-{name}" for name in ("bold", "dim", "underline") if getattr(self, name)]
        if self.ink is not None:
            words.append(f"sgr-fg-{self.ink}")
        if self.ground is not None:
            words.append(f"sgr-bg-{self.ground}")
        return " ".join(words)


PLAIN = Style()


def render(line: str) -> SafeString:
    """One line of output as safe HTML; after a carriage return only what was written last remains."""
    return SafeString("".join(_html(style, text) for style, text in _joined(_runs(line))))


def plain(line: str) -> str:
    """The same line as bare text, for quoting it elsewhere."""
    return "".join(text for _, text in _runs(line))


def _runs(line: str) -> list[tuple[Style, str]]:
    style, runs, rewind = PLAIN, list[tuple[Style, str]](), False
    for token in TOKEN.finditer(line):
        if token["text"]:
            if rewind:
                runs, rewind = [], False
            runs.append((style, token["text"]))
        elif token["sgr"]:
            style = _styled(style, token["codes"])
        elif token["back"]:
            rewind = True
    return runs


def _joined(runs: list[tuple[Style, str]]) -> Iterator[tuple[Style, str]]:
    """Neighbours of one style as one run, so that a link is not cut by an escape that changes nothing."""
    held: tuple[Style, str] | None = None
    for style, text in runs:
        if held and held[0] == style:
            held = (style, held[1] + text)
            continue
        if held:
            yield held
        held = (style, text)
    if held:
        yield held


def _html(style: Style, text: str) -> str:
    inside = _linked(text)
    return f'<span class="{style.classes()}">{inside}</span>' if style != PLAIN else inside


def _linked(text: str) -> str:
    parts, done = [], 0
    for found in LINK.finditer(text):
        address = found[0].rstrip(AFTER_LINK)
        if len(address) <= len("https://"):
            continue
        target = escape(address)
        parts += [escape(text[done : found.start()]), f'<a href="{target}" rel="noopener noreferrer">{target}</a>']
        done = found.start() + len(address)
    return "".join([*parts, escape(text[done:])])


SWITCHES: dict[int, dict[str, bool | int | None]] = {
    1: {"bold": True},
    2: {"dim": True},
    4: {"underline": True},
    21: {"underline": True},
    22: {"bold": False, "dim": False},
    24: {"underline": False},
    39: {"ink": None},
    49: {"ground": None},
    **{30 + n: {"ink": n} for n in range(8)},
    **{90 + n: {"ink": 8 + n} for n in range(8)},
    **{40 + n: {"ground": n} for n in range(8)},
    **{100 + n: {"ground": 8 + n} for n in range(8)},
}


def _styled(style: Style, codes: str) -> Style:
    """The style after the escape `ESC [ codes m`."""
    groups = [[int(n[:5] or 0) for n in group.split(":")] for group in codes.split(";")]
    while groups:
        code, *details = groups.pop(0)
        if code in {38, 48, 58}:
            colour = _colour(details or _taken(groups))
            if colour is not None and code != 58:
                style = replace(style, ink=colour) if code == 38 else replace(style, ground=colour)
        elif code == 0:
            style = PLAIN
        elif code == 4 and details == [0]:
            style = replace(style, underline=False)
        else:
            style = replace(style, **SWITCHES.get(code, {}))  # type: ignore[arg-type]
    return style


def _taken(groups: list[list[int]]) -> list[int]:
    """38;5;n and 38;2;r;g;b spread their colour over the codes that follow; take these out."""
    if not groups:
        return []
    length = {5: 2, 2: 4}.get(groups[0][0], 1)
    taken = [group[0] for group in groups[:length]]
    del groups[:length]
    return taken


def _colour(details: list[int]) -> int | None:
    match details:
        case [5, n, *_] if n < 256:
            return n if n < 16 else _nearest(*_of_256(n))
        case [2, *rgb] if len(rgb) >= 3 and max(rgb[-3:]) < 256:
            return _nearest(*rgb[-3:])
    return None


def _of_256(n: int) -> tuple[int, int, int]:
    if n >= 232:
        grey = 8 + 10 * (n - 232)
        return grey, grey, grey
    n -= 16
    return CUBE[n // 36], CUBE[n // 6 % 6], CUBE[n % 6]


@cache
def _nearest_on_grid(red: int, green: int, blue: int) -> int:
    def distance(n: int) -> int:
        r, g, b = SIXTEEN[n]
        return (r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2

    return min(range(16), key=distance)


def _nearest(red: int, green: int, blue: int) -> int:
    """Sixteen steps per channel are plenty to choose one of sixteen, and bound the cache against a colourful log."""
    return _nearest_on_grid(red // 16 * 17, green // 16 * 17, blue // 16 * 17)
