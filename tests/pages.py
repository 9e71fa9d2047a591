"""Pages as tests read them: how a template breaks its lines is no matter of theirs."""

import re
from typing import Any

VERBATIM = re.compile(r"(<(pre|textarea)\b.*?</\2>)", re.DOTALL)
SPACE = re.compile(r"[ \t\r\n]+")  # not the no-break space, which belongs to the words
OPENED = re.compile(r"(<[a-z][^<>]*>) |(?<=>) (?=<)")


def text(answer: Any) -> str:
    """The HTML of an answer in one line."""
    return one_line(answer.content.decode())


def one_line(html: str) -> str:
    """Without white space at the edges of elements; that of <pre> and <textarea> stays."""
    parts = VERBATIM.split(html)
    return "".join(part if at % 3 else _tight(part) for at, part in enumerate(parts) if at % 3 != 2)


def _tight(html: str) -> str:
    return OPENED.sub(r"\1", SPACE.sub(" ", html).replace(" </", "</").replace(" >", ">"))
