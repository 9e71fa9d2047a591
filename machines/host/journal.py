"""A unit's log lines, for explaining failures."""

import time

from machines.contract.problems import Problem
from machines.host.run import run


def lines_since(unit: str, since: float, limit: int = 60) -> list[str]:
    """What a unit and its manager logged since a moment (seconds since the epoch), oldest first; [] if unreadable."""
    try:
        answer = run(
            ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={limit}", f"--since=@{since:.3f}",
             f"--unit={unit}"],
            timeout=10,
        )  # fmt: skip
    except Problem:
        return []
    return answer.out.splitlines()


def last_lines(unit: str, limit: int = 12, within: float = 86400) -> list[str]:
    """The newest lines of a unit, of the last `within` seconds."""
    return lines_since(unit, time.time() - within, limit)
