"""A job's log as the log view shows it: numbered lines as HTML, gathered under the phases that wrote them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString

from machines.contract.states import JobState
from machines.panel.logs import ansi

BLOCK = 500  # lines the browser may skip drawing together
LINE_SHOWN = 4000  # characters of one line; the download has all of it
GROWS = 6  # how many characters one of a line may become; a line of colours alone is shown without them
LogRow = tuple[int, float, str, str]  # number, the host's clock, source (o, e, p), text
ERROR_MARK = SafeString('<b title="error output">!</b>')


@dataclass(frozen=True)
class LogGroup:
    """A phase and those of its lines that the page holds; the lines before the first phase have no name."""

    name: str
    state: str  # running, or the outcome
    first: int
    seconds: float | None
    since: datetime
    blocks: list[SafeString]

    @property
    def is_open(self) -> bool:
        return self.state != JobState.SUCCEEDED


def line(number: int, at: float, source: str, text: str, began: float) -> SafeString:
    """One line. panel.css draws it, log.js knows it by its id."""
    return format_html(
        '<p id="L{0}" class="ll-{1}"><a href="#L{0}" tabindex="-1">{0}</a><time>{2}</time>{3}<span>{4}</span></p>',
        number,
        source,
        f"{at - began:.1f}",
        ERROR_MARK if source == "e" else "",
        _inside(text),
    )


def _inside(text: str) -> SafeString:
    shown = text[:LINE_SHOWN]
    html = ansi.render(shown)
    if len(html) > GROWS * len(shown) + 200:
        html = conditional_escape(ansi.plain(shown))
    if len(text) == len(shown):
        return html
    return format_html("{} <i>… {} more characters in the download</i>", html, f"{len(text) - len(shown):,}")


def lines(rows: Iterable[LogRow], began: float) -> SafeString:
    """Lines to append, without a newline between them, so that they fit in one event of a stream."""
    return SafeString("".join(line(number, at, source, text, began) for number, at, source, text in rows))


def groups(
    rows: Sequence[LogRow], phases: Sequence[Mapping[str, Any]], *, state: str, began: float, ended: float | None
) -> list[LogGroup]:
    """The rows under their phases, as Job.phases tells them; a phase is over when the next one begins."""
    marks = [{"name": "", "line": 0, "at": began}, *phases]
    found = []
    for place, mark in enumerate(marks):
        after = marks[place + 1] if place + 1 < len(marks) else None
        mine = [row for row in rows if mark["line"] <= row[0] and (after is None or row[0] < after["line"])]
        end = after["at"] if after else ended
        found.append(
            LogGroup(
                name=mark["name"],
                state=JobState.SUCCEEDED if after else state,
                first=mark["line"],
                seconds=end - mark["at"] if end is not None else None,
                since=datetime.fromtimestamp(mark["at"], UTC),
                blocks=[lines(mine[start : start + BLOCK], began) for start in range(0, len(mine), BLOCK)],
            )
        )
    return found
