"""Every .nspawn setting as one table; a lossless reader and writer.

The table is read by forms, renderer, checks and help pages. Sources: systemd.nspawn(5) of systemd 252, 257 and 260.
The reader keeps comments, order, unknown keys and repeated keys word for word: text → Document → text is the same text.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from machines.contract import values
from machines.contract.problems import BadValue

EXEC, FILES, NETWORK = "Exec", "Files", "Network"
SECTIONS = (EXEC, FILES, NETWORK)


@dataclass(frozen=True)
class Setting:
    """One key: how it is checked, since which systemd it exists, and what it does. All need a restart of the machine."""

    section: str
    key: str
    check: values.Check
    help: str
    since: int = 226
    repeats: bool = False
    default: str = ""

    @property
    def id(self) -> str:
        return f"{self.section}.{self.key}"


def _table() -> Iterator[Setting]:
    v = values
    yield Setting(EXEC, "Boot", v.boolean, "Start the image's init as PID 1.", default="yes")
    yield Setting(EXEC, "Ephemeral", v.boolean, "Run on a copy that is thrown away at stop.", 240, default="no")
    yield Setting(EXEC, "ProcessTwo", v.boolean, "Run the command as PID 2 under a stub init.", 229)
    yield Setting(EXEC, "Parameters", v.words, "Arguments for init or for the command.")
    yield Setting(EXEC, "Environment", v.environment, "A variable for PID 1.", repeats=True)
    yield Setting(EXEC, "User", v.words, "User inside to run the command as (not when booting).")
    yield Setting(EXEC, "WorkingDirectory", v.absolute_path, "Directory inside to start in.", 229)
    yield Setting(EXEC, "PivotRoot", v.overlay, "Make another directory of the tree the root.", 233)
    yield Setting(EXEC, "Capability", v.capabilities, "Capabilities to keep besides the default set.", repeats=True)
    yield Setting(EXEC, "DropCapability", v.capabilities, "Capabilities to take away.", repeats=True)
    yield Setting(
        EXEC, "AmbientCapability", v.capabilities, "Ambient capabilities (not when booting).", 248, repeats=True
    )
    yield Setting(EXEC, "NoNewPrivileges", v.boolean, "No privileges by setuid programs; breaks sudo inside.", 239)
    yield Setting(EXEC, "KillSignal", v.signal_name, "Signal that asks PID 1 to end.", 230, default="SIGRTMIN+3")
    yield Setting(EXEC, "Personality", v.one_of("x86", "x86-64"), "Architecture that uname reports.")
    yield Setting(EXEC, "MachineID", v.machine_id, "Machine id, while the image has none of its own.")
    yield Setting(EXEC, "PrivateUsers", v.private_users, "User namespace of the machine.", 230, default="pick")
    yield Setting(EXEC, "PrivateUsersDelegate", v.whole_number(0, 16), "User ranges for nested machines.", 260)
    yield Setting(
        EXEC, "NotifyReady", v.boolean, "Count as started only when the machine's init says so.", 231, default="no"
    )
    yield Setting(EXEC, "SystemCallFilter", v.words, "System calls to allow, or with ~ to forbid.", 235, repeats=True)
    yield Setting(EXEC, "RestrictAddressFamilies", v.words, "Address families to allow, or with ~ to forbid.", 261)
    for name in [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NOFILE",
        "AS",
        "NPROC",
        "MEMLOCK",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ]:
        yield Setting(EXEC, f"Limit{name}", v.rlimit, f"RLIMIT_{name} of PID 1 (see setrlimit(2)).", 239)
    yield Setting(EXEC, "OOMScoreAdjust", v.whole_number(-1000, 1000), "Who is killed first when memory runs out.", 239)
    yield Setting(EXEC, "CPUAffinity", v.cpu_list, "CPUs to run on; AllowedCPUs can be changed live.", 239)
    yield Setting(EXEC, "Hostname", v.hostname, "Kernel host name inside; the machine's name by default.", 239)
    yield Setting(
        EXEC,
        "ResolvConf",
        v.one_of(
            "off", "delete", "auto", *(f"{how}-{what}" for how in ("copy", "replace", "bind") for what in ("host", "static", "uplink", "stub"))
        ),
        "How /etc/resolv.conf inside is made.",
        239,
        default="auto",
    )  # fmt: skip
    yield Setting(
        EXEC,
        "Timezone",
        v.one_of("off", "copy", "bind", "symlink", "delete", "auto"),
        "How the time zone comes in.",
        239,
    )
    yield Setting(
        EXEC, "LinkJournal", v.one_of("no", "host", "try-host", "guest", "try-guest", "auto"), "Where the journal is visible.", 239
    )  # fmt: skip
    yield Setting(EXEC, "SuppressSync", v.boolean, "Turn fsync inside into nothing: fast, unsafe.", 250)

    yield Setting(FILES, "ReadOnly", v.boolean, "Mount the root read-only.", default="no")
    yield Setting(
        FILES, "Volatile", v.boolean_or("state", "overlay"), "Forget changes at stop: all, /var only, or in an overlay.", default="no"
    )  # fmt: skip
    yield Setting(FILES, "Bind", v.bind, "A path of the host, writable inside.", repeats=True)
    yield Setting(FILES, "BindReadOnly", v.bind, "A path of the host, read-only inside.", repeats=True)
    yield Setting(FILES, "BindUser", v.words, "A user of the host to bring in.", 249, repeats=True)
    yield Setting(FILES, "BindUserShell", v.words, "Shell for those users.", 258)
    yield Setting(FILES, "TemporaryFileSystem", v.mount_point, "A tmpfs at this path.", repeats=True)
    yield Setting(FILES, "Inaccessible", v.absolute_path, "A path inside to hide.", 242, repeats=True)
    yield Setting(FILES, "Overlay", v.overlay, "An overlay of trees.", 233, repeats=True)
    yield Setting(FILES, "OverlayReadOnly", v.overlay, "A read-only overlay of trees.", 233, repeats=True)
    yield Setting(
        FILES, "PrivateUsersOwnership", v.one_of("off", "chown", "map", "auto", "foreign"), "How file owners fit the user namespace.", 249
    )  # fmt: skip

    yield Setting(NETWORK, "Private", v.boolean, "A network of its own.")
    yield Setting(NETWORK, "NamespacePath", v.absolute_path, "Join this network namespace.", 259)
    yield Setting(NETWORK, "VirtualEthernet", v.boolean, "A virtual cable to the host (host0 inside).")
    yield Setting(NETWORK, "VirtualEthernetExtra", v.interface_pair, "One more virtual cable.", 228, repeats=True)
    yield Setting(NETWORK, "Interface", v.interface_pair, "Move this interface of the host in.", repeats=True)
    yield Setting(NETWORK, "MACVLAN", v.interface_pair, "A MACVLAN of this interface.", repeats=True)
    yield Setting(NETWORK, "IPVLAN", v.interface_pair, "An IPVLAN of this interface.", repeats=True)
    yield Setting(NETWORK, "Bridge", v.interface, "Put the cable's host end into this bridge.")
    yield Setting(NETWORK, "Zone", v.zone, "Put the cable's host end into a bridge made for this zone.", 230)
    yield Setting(NETWORK, "Port", v.port, "Forward a port of the host.", repeats=True)


SETTINGS: dict[str, Setting] = {setting.id: setting for setting in _table()}


@dataclass(frozen=True)
class NetworkMode:
    """A way to be connected, with the keys that make it. The whole block is always written: what systemd does with part
    of it depends on the unit's command line."""

    word: str
    title: str
    help: str
    settings: tuple[tuple[str, str], ...]
    target: str = ""  # the key that takes a name
    target_title: str = ""
    private: bool = True


NETWORK_MODES: dict[str, NetworkMode] = {
    mode.word: mode
    for mode in (
        NetworkMode(
            "veth", "Private, NAT", "A virtual cable to the host, an address by the host's DHCP, NAT to the outside.",
            (("Private", "yes"), ("VirtualEthernet", "yes")),
        ),
        NetworkMode(
            "zone", "Zone", "As private, but machines of the same zone see each other.",
            (("Private", "yes"), ("VirtualEthernet", "yes")), target="Zone", target_title="Name of the zone",
        ),
        NetworkMode(
            "bridge", "Bridge", "Joins an existing bridge of the host; addresses come from that network.",
            (("Private", "yes"), ("VirtualEthernet", "yes")), target="Bridge", target_title="Bridge of the host",
        ),
        NetworkMode(
            "macvlan", "MACVLAN", "An own MAC address on a network card of the host; the host itself cannot reach it.",
            (("Private", "yes"), ("VirtualEthernet", "no")), target="MACVLAN", target_title="Network card of the host",
        ),
        NetworkMode(
            "ipvlan", "IPVLAN", "An own IP address on a network card of the host, sharing its MAC address.",
            (("Private", "yes"), ("VirtualEthernet", "no")), target="IPVLAN", target_title="Network card of the host",
        ),
        NetworkMode(
            "host", "Host network", "No isolation: the machine uses the host's interfaces and ports.",
            (("Private", "no"), ("VirtualEthernet", "no")), private=False,
        ),
        NetworkMode(
            "none", "Loopback only", "No network but its own loopback.",
            (("Private", "yes"), ("VirtualEthernet", "no")),
        ),
    )
}  # fmt: skip

_NETWORK_KEYS = ("Private", "VirtualEthernet", "Zone", "Bridge", "MACVLAN", "IPVLAN")


@dataclass
class Entry:
    """A run of physical lines: a section header, one setting (continuations included), a comment, or a blank."""

    raw: str
    section: str = ""
    key: str = ""
    value: str = ""


@dataclass
class Document:
    """A settings file as it stands. `text()` gives back what `parse()` was given."""

    entries: list[Entry] = field(default_factory=list)

    def text(self) -> str:
        return "".join(entry.raw for entry in self.entries)

    def settings(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.key]

    def get(self, section: str, key: str) -> list[str]:
        """All values in order; an empty assignment resets the list, as systemd does."""
        found: list[str] = []
        for entry in self.settings():
            if (entry.section, entry.key) == (section, key):
                found = [*found, entry.value] if entry.value else []
        return found

    def last(self, section: str, key: str) -> str:
        found = self.get(section, key)
        return found[-1] if found else ""

    def put(self, section: str, key: str, wanted: Sequence[str]) -> None:
        """Make these the values of a key, touching nothing else; nothing at all when they are so already."""
        if self.get(section, key) == list(wanted):
            return
        at = self._remove(section, key)
        at = self._end_of(section) if at is None else at
        self.entries[at:at] = [Entry(f"{key}={value}\n", section, key, value) for value in wanted]

    def drop_empty_sections(self) -> None:
        """Remove headers that have nothing but blanks below them (comments keep their section)."""
        kept: list[Entry] = []
        for index, entry in enumerate(self.entries):
            if _opens(entry) and not any(e.raw.strip(_BLANK) for e in self._body(index)):
                continue
            kept.append(entry)
        self.entries = kept

    def _body(self, index: int) -> Iterator[Entry]:
        for entry in self.entries[index + 1 :]:
            if _opens(entry):
                return
            yield entry

    def _close(self) -> None:
        """Give the last line an end of its own, so that one put after it is not swallowed."""
        if not self.entries:
            return
        last = self.entries[-1]
        last.raw += "" if last.raw[-1:] in _ENDS else "\n"
        last.raw += "\n" if _is_open(_LINE.findall(last.raw)) else ""

    def _remove(self, section: str, key: str) -> int | None:
        at = next((i for i, e in enumerate(self.entries) if e.key == key and e.section == section), None)
        self.entries = [e for e in self.entries if not (e.key == key and e.section == section)]
        return at

    def _end_of(self, section: str) -> int:
        self._close()
        inside = [i for i, e in enumerate(self.entries) if e.section == section]
        if inside:
            settled = [i for i in inside if self.entries[i].raw.strip(_BLANK)]
            return (settled or inside)[-1] + 1
        if self.entries and self.entries[-1].raw.strip(_BLANK):
            self.entries.append(Entry("\n", self.entries[-1].section))
        self.entries.append(Entry(f"[{section}]\n", section))
        return len(self.entries)


# Facts of systemd's config_parse(): a line ends at \n, \r or NUL, at none of the other ends that str.splitlines() knows. A
# backslash that no other one escapes continues a line; comment lines in between are skipped, a blank line ends it.
_LINE = re.compile(r"[^\n\r\0]*(?:\r\n|\n\r|[\n\r\0])|[^\n\r\0]+")
_ENDS = "\n\r\0"
_BLANK = " \t" + _ENDS


def _opens(entry: Entry) -> bool:
    """Whether an entry is the header of a section."""
    return not entry.key and not _is_comment(entry.raw) and bool(_header(_joined(_LINE.findall(entry.raw))))


def _header(text: str) -> str:
    return text[1:-1] if text.startswith("[") and text.endswith("]") else ""


def _is_comment(line: str) -> bool:
    return line.lstrip(_BLANK)[:1] in {"#", ";"}


def _continues(line: str) -> bool:
    text = line.rstrip(_ENDS)
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _is_open(lines: Sequence[str]) -> bool:
    """Whether these physical lines of one entry still wait for another."""
    spoken = [line for line in lines if not _is_comment(line)]
    return bool(spoken) and not _is_comment(lines[0]) and _continues(spoken[-1])


def _joined(lines: Sequence[str]) -> str:
    """The one logical line that systemd makes of physical ones."""
    spoken = [line.rstrip(_ENDS) for line in lines if not _is_comment(line)]
    return "".join(f"{line[:-1]} " if _continues(line) else line for line in spoken).lstrip("\ufeff").strip(_BLANK)


def parse(text: str) -> Document:
    """Read a settings file without losing anything. Never raises: what is not understood stays as it is."""
    document, section, lines = Document(), "", deque(_LINE.findall(text))
    while lines:
        run = [lines.popleft()]
        more = _is_open(run)
        while lines and more:
            run.append(lines.popleft())
            more = _is_comment(run[-1]) or _continues(run[-1])
        raw, logical = "".join(run), _joined(run)
        key, equals, value = logical.partition("=")
        section = _header(logical) or section
        if not equals or _header(logical):
            document.entries.append(Entry(raw, section))
        else:
            document.entries.append(Entry(raw, section, key.strip(_BLANK), value.strip(_BLANK)))
    return document


def check(document: Document) -> list[tuple[str, BadValue]]:
    """What systemd would ignore or we refuse, as (setting id, problem). The host's own parser has the last word."""
    problems: list[tuple[str, BadValue]] = []
    for entry in document.settings():
        name = f"{entry.section}.{entry.key}"
        setting = SETTINGS.get(name)
        try:
            values.one_line(entry.value)
            if setting is None:
                raise BadValue(f"{entry.key}= is not a setting of [{entry.section or 'no section'}].", field=name)
            if entry.value:
                setting.check(entry.value)
        except BadValue as problem:
            problems.append((name, problem))
    return problems


def network_mode(document: Document) -> tuple[str, str]:
    """(mode word, target name) as the file says; ("", "") when it says nothing, ("other", "") for a mixture."""
    got = {key: document.get(NETWORK, key) for key in _NETWORK_KEYS}
    if not any(got.values()):
        return "", ""
    for mode in NETWORK_MODES.values():
        expected: dict[str, list[str]] = {key: [] for key in _NETWORK_KEYS}
        expected |= {key: [value] for key, value in mode.settings}
        if mode.target:
            expected[mode.target] = got[mode.target]
            if len(got[mode.target]) != 1:
                continue
        if _normal(got) == _normal(expected):
            return mode.word, got[mode.target][0] if mode.target else ""
    return "other", ""


def _normal(block: dict[str, list[str]]) -> dict[str, list[str]]:
    booleans = {"Private", "VirtualEthernet"}
    return {k: [str(values.is_true(x)) for x in v] if k in booleans else v for k, v in block.items()}


def put_network(document: Document, mode: str, target: str = "") -> None:
    """Write the whole block of a mode; the keys of other modes go. What says so already keeps its own spelling."""
    chosen = NETWORK_MODES[mode]
    block = dict(chosen.settings) | ({chosen.target: target} if chosen.target else {})
    for key in _NETWORK_KEYS:
        wanted = [block[key]] if key in block else []
        if _normal({key: document.get(NETWORK, key)}) != _normal({key: wanted}):
            document.put(NETWORK, key, wanted)


MANAGED = "# Written by nspawnpanel, revision "


def mark(text: str, revision: int) -> str:
    """The text with our first line, which says who wrote it and when to expect it changed."""
    return f"{MANAGED}{revision}. A change by hand is kept and shown as drift.\n{unmark(text)}"


def unmark(text: str) -> str:
    return text.split("\n", 1)[1] if text.startswith(MANAGED) and "\n" in text else text


def revision_of(text: str) -> int | None:
    """The revision a file of ours was written as; None for a file of somebody else."""
    match = re.match(re.escape(MANAGED) + r"(\d+)\.", text)
    return int(match[1]) if match else None
