"""The sprite of the icons: `python -m nspawnpanel.icons` draws those that static/icons.txt names, a name a line.

The drawings are those of Bootstrap Icons, which `npm ci` fetches; set-up makes the sprite of them, and the repository has none.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

STATIC = Path(__file__).resolve().parent.parent / "static"
NAMES = STATIC / "icons.txt"
SPRITE = STATIC / "img" / "icons.svg"
DRAWINGS = STATIC / "node_modules" / "bootstrap-icons" / "icons"
HEAD = "<!-- Drawings of Bootstrap Icons, © The Bootstrap Authors, MIT licence. -->"


def names() -> set[str]:
    return set(NAMES.read_text().split())


def sprite(wanted: Iterable[str]) -> str:
    """Raises FileNotFoundError for an icon that nobody drew."""
    symbols = "\n".join(symbol(name) for name in sorted(wanted))
    return f'<svg xmlns="http://www.w3.org/2000/svg">\n{HEAD}\n{symbols}\n</svg>\n'


def symbol(name: str) -> str:
    """One drawing, 16 by 16, in the colour of the text it stands in. Raises FileNotFoundError where there is none."""
    drawing = (DRAWINGS / f"{name}.svg").read_text()
    strokes = " ".join(drawing.split(">", 1)[1].rsplit("</svg>", 1)[0].split())
    return f'<symbol id="{name}" viewBox="0 0 16 16">{strokes.replace("> <", "><")}</symbol>'


def main() -> int:
    unknown = sorted(name for name in names() if not (DRAWINGS / f"{name}.svg").is_file())
    if unknown:
        sys.stderr.write(f"No drawing in {DRAWINGS}: {', '.join(unknown)}\n")
        return 1
    SPRITE.write_text(sprite(names()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
