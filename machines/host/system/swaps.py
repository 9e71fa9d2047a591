"""Files that the kernel swaps to: they hold memory of the host, and cannot be removed while they do."""

from pathlib import Path

from machines.host.system import guarded

SWAPS = Path("/proc/swaps")


def files() -> list[str]:
    """Their paths; [] when that cannot be told."""
    try:
        lines = SWAPS.read_text(errors="surrogateescape").splitlines()[1:]
    except OSError:
        return []
    return [guarded.unescaped(words[0]) for line in lines if (words := line.split())[1:2] == ["file"]]
