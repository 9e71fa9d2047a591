"""Which tools of contract/tools.py this host has, and a refusal that names the package before work begins without one."""

import shutil
from functools import cache

from machines.contract import tools
from machines.contract.problems import Problem
from machines.host.system.run import environment, run

_MANAGERS = {"apt-get": "apt", "dnf": "dnf", "zypper": "zypper", "pacman": "pacman"}
_INSIDE = "/usr/lib/systemd:/lib/systemd"  # what systemd calls itself lies on no PATH


def which(tool: str) -> str | None:
    """Where a tool is."""
    return shutil.which(tool, path=f"{environment()['PATH']}:{_INSIDE}")


def manager() -> str:
    """This host's package manager, by the words of contract/tools.py."""
    return next((word for tool, word in _MANAGERS.items() if which(tool)), "apt")


def there() -> dict[str, str]:
    """Every tool of the table that is here → the version of its package, its path where dpkg does not know."""
    found = {tool: path for tool in tools.PACKAGES if (path := which(tool))}
    return {tool: _version(tools.package(tool)) or path for tool, path in found.items()}


@cache
def _version(package: str) -> str:
    try:
        return run(["dpkg-query", "--show", "--showformat=${Version}", "--", package], timeout=10).out.strip()
    except Problem:
        return ""


def missing() -> dict[str, str]:
    """The tools that every host should have and this one has not → the package that brings each."""
    groups = tools.lacking(tools.EXPECTED, _found())
    return {group[0]: tools.package(group[0], manager()) for group in groups}


def _found() -> set[str]:
    return {tool for tool in tools.PACKAGES if which(tool)}


def need(*works: str) -> None:
    """Raises Problem tool-missing, naming all packages, where this work could not be done to its end."""
    refuse_without(tools.lacking(works, _found()))


def refuse_without(groups: list[tuple[str, ...]]) -> None:
    """Raises Problem tool-missing for groups of tools of which none is here."""
    if not groups:
        return
    names = " and ".join(" or ".join(group) for group in groups)
    packages = " ".join(dict.fromkeys(tools.package(group[0], manager()) for group in groups))
    verb = "is" if len(groups) == 1 else "are"
    raise Problem(
        f"{names} {verb} not installed on this host.", code="tool-missing",
        hint=f"Install what is missing there: {tools.INSTALL[manager()]} {packages}",
    )  # fmt: skip
