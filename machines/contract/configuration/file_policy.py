"""What a host's policy forbids in a machine's files, but for paths, which only the host can resolve.

The host judges by it before it writes, the panel by what the host has told of its rules before anybody presses a button.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from machines.contract.configuration import nspawn, values
from machines.contract.configuration.command_line import CommandLine
from machines.contract.configuration.nspawn import EXEC, FILES, NETWORK, Document

FIRST_ID = 65536  # below it are the ids of the host's own users
CARDS = ("Interface", "MACVLAN", "IPVLAN", "Bridge")
OWNERS = ("PrivateUsersOwnership", "PrivateUsersChown")
WRITABLE = ("Bind", "Overlay", "BindUser")  # what brings a folder of the host that can be written to


@dataclass(frozen=True)
class FileRules:
    """The rules of a host's policy.toml that concern files. None where a rule is not known: then it forbids nothing."""

    networks: Sequence[str] | None = None
    interfaces: Sequence[str] | None = None
    capabilities: Sequence[str] | None = None
    system_calls: Sequence[str] | None = None
    unit_settings: Sequence[str] | None = None
    private_users: str = "optional"
    privileged_binds: str = "allowed"
    lowest_port: int = 1


@dataclass(frozen=True)
class Refusal:
    """A line that a rule forbids. `settings` are those it is about, `value` the line's own."""

    rule: str
    message: str
    settings: tuple[str, ...]
    value: str = ""


def as_told(policy: Mapping[str, Any]) -> FileRules:
    """The rules as a host tells them, whose values may be anything."""
    lists = {
        name: [word for word in policy[name] if isinstance(word, str)]
        for name in ("networks", "interfaces", "capabilities", "system_calls", "unit_settings")
        if isinstance(policy.get(name), list | tuple)
    }
    users, lowest, binds = (policy.get(name) for name in ("private_users", "lowest_port", "privileged_binds"))
    return FileRules(
        **lists,
        private_users=users if isinstance(users, str) else "optional",
        privileged_binds=binds if isinstance(binds, str) else "allowed",
        lowest_port=lowest if isinstance(lowest, int) else 1,
    )


def refusals(
    rules: FileRules, wanted: Document, dropin: Document, whole: Document | None = None, *, users: str = ""
) -> Iterator[Refusal]:
    """Everything that these rules forbid in these lines of a .nspawn file and of a drop-in. `whole` is the file they are
    lines of, which makes the network's mode; `users` is the user namespace it makes (users_of())."""
    yield from _network(rules, wanted, whole or wanted)
    yield from _privileges(rules, wanted)
    if rules.privileged_binds == "never":
        yield from _privileged_binds(wanted, whole or wanted, users)
    for entry in dropin.settings():
        if rules.unit_settings is not None and entry.key not in rules.unit_settings:
            message = f"{entry.key}= in the drop-in of the machine's unit."
            yield Refusal("unit_settings", message, (entry.key,), entry.value)


def said(document: Document, section: str, key: str) -> list[str]:
    """Every value of a key, also those before an empty assignment: systemd-nspawn takes few of these as a reset."""
    return [e.value for e in document.settings() if (e.section, e.key) == (section, key) and e.value]


def _network(rules: FileRules, wanted: Document, whole: Document) -> Iterator[Refusal]:
    """The mode is that of the whole file, but only judged when one of its lines is asked about."""
    mode, _ = nspawn.network_mode(whole)
    modes = tuple(f"{NETWORK}.{key}" for key in nspawn.MODE_KEYS)
    if mode and any(entry.section == NETWORK for entry in wanted.settings()) and not _in(mode, rules.networks):
        yield Refusal("networks", f"the network mode “{mode}”.", modes)
    if said(wanted, NETWORK, "NamespacePath") and not _in("other", rules.networks):
        yield Refusal("networks", "NamespacePath=, which joins any network namespace.", (f"{NETWORK}.NamespacePath",))
    for key in CARDS:
        for value in said(wanted, NETWORK, key):
            for pair in value.split():
                if not _matches(pair.split(":")[0], rules.interfaces):
                    yield Refusal("interfaces", f"{key}={pair}.", (f"{NETWORK}.{key}",), value)
    for value in said(wanted, NETWORK, "Port"):
        port = _host_port(value)
        if port is not None and port < rules.lowest_port:
            message = f"the host's port {port}; the lowest is {rules.lowest_port}."
            yield Refusal("lowest_port", message, (f"{NETWORK}.Port",), value)


def _privileges(rules: FileRules, wanted: Document) -> Iterator[Refusal]:
    for users in said(wanted, EXEC, "PrivateUsers"):
        if rules.private_users == "required" and are_the_hosts(users):
            yield Refusal("private_users", f"PrivateUsers={users}.", (f"{EXEC}.PrivateUsers",), users)
    for key in ("Capability", "AmbientCapability"):
        yield from _words("capabilities", key, said(wanted, EXEC, key), rules.capabilities)
    filters = [line for line in said(wanted, EXEC, "SystemCallFilter") if line[0] != "~"]
    yield from _words("system_calls", "SystemCallFilter", filters, rules.system_calls)


def _privileged_binds(wanted: Document, whole: Document, users: str) -> Iterator[Refusal]:
    """Writable binds through which ids of the host itself write: all of them once the namespace is given up. Where root inside
    is mapped to the folder's owner, that is who writes."""
    names = ("PrivateUsers", *OWNERS)
    gives_up = are_the_hosts(users) and any(entry.key in names for entry in wanted.settings())
    for key in WRITABLE:
        for value in said(whole if gives_up else wanted, FILES, key):
            if key == "Overlay" and not overlay_layers(value)[-1].startswith("/"):
                continue
            if key == "Bind" and not split(value)[0].startswith("/"):
                continue
            options = (*split(value), "", "")[2].split(",") if key == "Bind" else []
            if are_the_hosts(users) and not (users == "identity" and {"rootidmap", "owneridmap"} & set(options)):
                message = (
                    f"{key}={value} is writable, and root inside is root on this host there (PrivateUsers={users})."
                )
                yield Refusal("privileged_binds", message, (f"{FILES}.{key}", f"{EXEC}.PrivateUsers"), value)
            elif "idmap" in options:
                message = f"{key}={value} is writable, and with idmap root inside is root on this host there."
                yield Refusal("privileged_binds", message, (f"{FILES}.{key}",), value)


def split(value: str) -> list[str]:
    """The colon-separated parts of a value; a colon inside a part is written \\: there."""
    return [values.unescape_colons(part) for part in values.split_colons(value)]


def overlay_layers(value: str) -> list[str]:
    """The trees of an Overlay= value, the one that is written to last; "" stands for one in memory.

    Of two parts the second is a tree of the host, too, and its name the place inside (nspawn's overlay_mount_parse()).
    """
    parts = split(value)
    return parts[:-1] if len(parts) > 2 else parts


def users_of(document: Document, unit: CommandLine) -> str:
    """Which user namespace a machine gets by its file and the command line of its unit, "no" for none.

    Fact, tried on 252 and 257: a file that says only how the owners of files are mapped turns the namespace off, also
    where the command line says -U, for systemd takes both from one place.
    """
    said = document.last(EXEC, "PrivateUsers")
    by_unit = (unit.said.get(f"{EXEC}.PrivateUsers") or ["no"])[-1] if unit.is_known else "pick"
    if not unit.reads_files or f"{EXEC}.PrivateUsers" in unit.outranked:
        return by_unit
    if not said and any(document.last(FILES, key) for key in OWNERS):
        return "no"
    return said or by_unit


def _words(rule: str, key: str, lines: Sequence[str], allowed: Sequence[str] | None) -> Iterator[Refusal]:
    for line in lines:
        for word in line.split():
            if not _matches(word, allowed):
                yield Refusal(rule, f"{key}={word}.", (f"{EXEC}.{key}",), line)


def are_the_hosts(users: str) -> bool:
    """Whether ids inside are ids of this host's own users: its root, its services, its people."""
    first = users.partition(":")[0]
    if users == "identity" or users.lower() in {"no", "n", "false", "f", "off"}:
        return True
    return first.isdecimal() and users != "1" and int(first) < FIRST_ID


def _host_port(value: str) -> int | None:
    words = value.split(":")
    number = words[1] if words[0] in {"tcp", "udp"} and len(words) > 1 else words[0]
    return int(number) if number.isascii() and number.isdecimal() else None


def _in(word: str, allowed: Sequence[str] | None) -> bool:
    return allowed is None or word in allowed


def _matches(word: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatch.fnmatchcase(word, pattern) for pattern in patterns)
