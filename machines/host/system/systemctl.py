"""Verbs of systemctl(1) this room needs, as argv."""

from collections.abc import Sequence


def daemon_reload() -> list[str]:
    return ["systemctl", "daemon-reload"]


def enable(unit: str) -> list[str]:
    return ["systemctl", "enable", "--", unit]


def disable(unit: str) -> list[str]:
    return ["systemctl", "disable", "--", unit]


def stop(unit: str, *, wait: bool = True) -> list[str]:
    """Stop a unit and take back a start that waits or goes on, one by Restart= too."""
    return ["systemctl", "stop", *([] if wait else ["--no-block"]), "--", unit]


def restart(unit: str) -> list[str]:
    return ["systemctl", "restart", "--", unit]


def kill(unit: str) -> list[str]:
    return ["systemctl", "kill", "--signal=SIGKILL", "--", unit]


def reset_failed(unit: str) -> list[str]:
    return ["systemctl", "reset-failed", "--", unit]


def failed(pattern: str) -> list[str]:
    """List loaded units that match and have failed; the first word of each line is the unit's name."""
    return ["systemctl", "list-units", "--failed", "--full", "--plain", "--no-legend", "--", pattern]


def set_property(unit: str, assignments: Sequence[str]) -> list[str]:
    """Change resource properties of a loaded unit until the next boot."""
    return ["systemctl", "set-property", "--runtime", "--", unit, *assignments]


def verify(unit_file: str) -> list[str]:
    """systemd's own reading of a unit. Without --recursive-errors=no the status is 0 even when lines are ignored."""
    return ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", "--", unit_file]
