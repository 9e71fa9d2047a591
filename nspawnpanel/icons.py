"""The sprite of the icons: `python -m nspawnpanel.icons hammer trash` adds these drawings of Bootstrap Icons to it.

It is kept in the repository, a drawing a line, for pages refer to it and tests read it; to take one out, delete its line.
The drawings themselves are fetched by `npm ci`.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

STATIC = Path(__file__).resolve().parent.parent / "static"
SPRITE = STATIC / "img" / "icons.svg"
DRAWINGS = STATIC / "node_modules" / "bootstrap-icons" / "icons"
SYMBOL = re.compile(r'<symbol id="([a-z0-9-]+)"')
HEAD = "<!-- Drawings of Bootstrap Icons, © The Bootstrap Authors, MIT licence. Written by nspawnpanel/icons.py. -->"


def names() -> set[str]:
    """What the sprite has now."""
    return set(SYMBOL.findall(SPRITE.read_text())) if SPRITE.is_file() else set()


def sprite(wanted: Iterable[str]) -> str:
    symbols = "\n".join(symbol(name) for name in sorted(wanted))
    return f'<svg xmlns="http://www.w3.org/2000/svg">\n{HEAD}\n{symbols}\n</svg>\n'


def symbol(name: str) -> str:
    """One drawing, 16 by 16, in the colour of the text it stands in. Raises FileNotFoundError where there is none."""
    drawing = (DRAWINGS / f"{name}.svg").read_text()
    strokes = " ".join(drawing.split(">", 1)[1].rsplit("</svg>", 1)[0].split())
    return f'<symbol id="{name}" viewBox="0 0 16 16">{strokes.replace("> <", "><")}</symbol>'


def main(added: list[str]) -> int:
    unknown = [name for name in added if not (DRAWINGS / f"{name}.svg").is_file()]
    if unknown:
        sys.stderr.write(f"No drawing in {DRAWINGS}: {', '.join(unknown)}\n")
        return 1
    SPRITE.write_text(sprite(names() | set(added)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
