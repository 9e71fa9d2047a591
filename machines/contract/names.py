"""The names that may be used, one rule and one parser each.

A name is checked here and nowhere else, in the form for kindness and on the host for safety. It then has a type of
its own, so that a raw string cannot slip into a command.
"""

import re
from typing import NewType

from machines.contract.problems import BadValue

MachineName = NewType("MachineName", str)
HostName = NewType("HostName", str)

# systemd's hostname_is_valid(): labels of letters, digits and dashes, no dash at either end, 64 characters at most.
# machinectl's manual still allows "_", systemd-nspawn 252 refuses it.
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_MACHINE = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NEW_MACHINE = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
# ".host" and "" mean the host itself to machinectl: its `shell` would open a root shell there.
_RESERVED = {"host", "localhost"}


def machine_name(text: str) -> MachineName:
    """The name of a machine that may exist already, by systemd's own rule.

    Raises BadValue.
    """
    if len(text) > 64 or not _MACHINE.fullmatch(text) or text.lower() in _RESERVED:
        raise BadValue(f"“{text[:80]}” is not a machine name that systemd accepts.", field="name")
    return MachineName(text)


def is_usable(name: str) -> bool:
    """Whether machined's image can be a machine: its names may hold spaces, quotes and more."""
    try:
        return bool(machine_name(name)) and not name.startswith(".")
    except BadValue:
        return False


def new_machine_name(text: str) -> MachineName:
    """The name of a machine about to be made: stricter, so that it is also a host name and a file name everywhere.

    Raises BadValue.
    """
    if not text:
        raise BadValue("Give the machine a name.", field="name")
    if text.lower() in _RESERVED:
        raise BadValue(f"“{text}” refers to the host itself in systemd; choose another name.", field="name")
    if len(text) > 63:
        raise BadValue(f"A machine name has at most 63 characters; this one has {len(text)}.", field="name")
    if not _NEW_MACHINE.fullmatch(text):
        raise BadValue(
            "Use lower-case letters, digits and dashes, with a letter or digit at both ends, such as web-1.",
            field="name",
        )
    return MachineName(text)


def host_name(text: str) -> HostName:
    """The panel's name for a host.

    Raises BadValue.
    """
    if not _HOST.fullmatch(text):
        raise BadValue("Use lower-case letters, digits, dots and dashes, such as alpha or rack2.example.", field="name")
    return HostName(text)


def unit_of(name: str) -> str:
    """The unit a machine runs in when machinectl starts it."""
    return f"systemd-nspawn@{name}.service"
