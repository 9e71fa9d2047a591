"""Every .nspawn setting as one table; a lossless reader and writer.

The table is read by forms, renderer, checks and help. Sources: systemd.nspawn(5) of systemd 252, 257 and 260, and what
their parsers do.
The reader keeps comments, order, unknown keys and repeated keys word for word: text → Document → text is the same text.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from machines.contract.configuration import values
from machines.contract.configuration import values as v
from machines.contract.configuration.setting import Group, Setting
from machines.contract.problems import BadValue

EXEC, FILES, NETWORK = "Exec", "Files", "Network"
SECTIONS = (EXEC, FILES, NETWORK)


NET, PORTS, STORE, SECURE, BOOT, HOST, RESOURCES = (
    Group.NETWORK, Group.PORTS, Group.STORAGE, Group.SECURITY, Group.BOOT, Group.HOST, Group.RESOURCES,
)  # fmt: skip
RESOLV_CONF = ("off", "delete", "auto", *(f"{how}-{what}" for how in ("copy", "replace", "bind") for what in ("host", "static", "uplink", "stub")))  # fmt: skip
PAIR_LATER = ((".*:.*", 254),)
BIND_LATER = tuple((rf".*\b{option}\b[a-z,]*", since) for option, since in v.BIND_OPTIONS.items() if since)
# name → (what it bounds, check, an example)
RESOURCE_LIMITS = {
    "CPU": ("CPU time per process, in seconds", v.rlimit_count, "3600"),
    "FSIZE": ("File size", v.rlimit_size, "10G"),
    "DATA": ("Data segment per process", v.rlimit_size, "4G"),
    "STACK": ("Stack size per process", v.rlimit_size, "8M:64M"),
    "CORE": ("Core dump size", v.rlimit_size, "0"),
    "RSS": ("Resident memory per process (ignored by Linux)", v.rlimit_size, "1G"),
    "NOFILE": ("Open files per process", v.rlimit_count, "1024:524288"),
    "AS": ("Address space per process", v.rlimit_size, "8G"),
    "NPROC": ("Processes per user ID", v.rlimit_count, "4096"),
    "MEMLOCK": ("Locked memory per process", v.rlimit_size, "64M"),
    "LOCKS": ("File locks (ignored by Linux)", v.rlimit_count, "1024"),
    "SIGPENDING": ("Pending signals", v.rlimit_count, "4096"),
    "MSGQUEUE": ("Bytes in POSIX message queues", v.rlimit_size, "800K"),
    "NICE": ("Highest nice priority", v.rlimit_nice, "+5"),
    "RTPRIO": ("Highest real-time priority", v.rlimit_count, "10"),
    "RTTIME": ("Real-time CPU time without blocking, in µs", v.rlimit_count, "200000"),
}


# fmt: off
def _exec() -> Iterator[Setting]:
    s = partial(Setting, EXEC)
    yield s("Boot", v.boolean, "Boot the image's init", "If off, only the image's command runs, without services inside.", BOOT, default="yes")
    yield s("NotifyReady", v.boolean, "Wait for boot to finish", "The machine counts as started when its init reports ready, not when its first process runs.", BOOT, 231, default="no")
    yield s("Ephemeral", v.boolean, "Ephemeral", "Each start runs on a fresh copy of the image; all changes are discarded at stop. A snapshot on btrfs, a full copy elsewhere.", BOOT, 240, default="no", trusted=True)
    yield s("Hostname", v.hostname, "Hostname", "Hostname inside the machine; best left at the machine's name.", BOOT, 239, example="web")
    yield s("Environment", v.environment, "Environment of PID 1", "Variables set for init, or for the command.", BOOT, repeats=True, row=v.Row(("Name", "Value"), "=", quotes=True), example="LANG=C.UTF-8", rare=True)
    yield s("Parameters", v.quoted_words, "Arguments", "For init when booting; otherwise the command itself. Put words with spaces in quotes.", BOOT, example="systemd.unit=rescue.target", rare=True)
    yield s("ProcessTwo", v.boolean, "Run the command as PID 2", "Under a minimal init that reaps processes. Not together with Boot=.", BOOT, 229, default="no", rare=True)
    yield s("User", v.user, "Run the command as", "A user that exists inside. Not with Boot=; with an unknown name the machine does not start.", BOOT, example="www-data", rare=True)
    yield s("WorkingDirectory", v.absolute_path, "Working directory", "Directory inside in which the command starts.", BOOT, 229, example="/srv", rare=True)
    yield s("PivotRoot", v.pivot_root, "Pivot root", "A directory of the image that becomes the root, and after a colon where the old root is mounted.", BOOT, 233, example="/usr/share/new:/old", rare=True)
    yield s("KillSignal", v.signal_name, "Kill signal", "Sent to PID 1 inside to shut the machine down.", BOOT, 230, default="SIGRTMIN+3", example="SIGTERM", rare=True)
    yield s("Personality", v.one_of("x86", "x86-64"), "Architecture reported by uname", "For 32-bit systems on a 64-bit kernel.", BOOT, rare=True)
    yield s("MachineID", v.machine_id, "Machine ID", "Used only while the image has none of its own.", BOOT, example="0123456789abcdef0123456789abcdef", rare=True, trusted=True)
    yield s("SuppressSync", v.boolean, "Suppress fsync", "Faster, but recent writes are lost if the host crashes. Breaks Docker inside.", BOOT, 250, default="no", rare=True)

    yield s("PrivateUsers", v.private_users, "User namespace", "Root inside is an unprivileged user on the host. Leave it at automatic (pick) unless a bind needs known IDs.", SECURE, 230, default="pick", trusted=True, later=(("managed", 258),))
    yield s("PrivateUsersDelegate", v.whole_number(0, 16), "UID ranges for nested machines", "How many more ranges nested machines may use. Needs PrivateUsers=managed.", SECURE, 260, default="0", rare=True, trusted=True)
    yield s("Capability", v.capabilities, "Add capabilities", "In addition to the default set; one or more per line. Each weakens the isolation from the host.", SECURE, example="CAP_NET_ADMIN", repeats=True, trusted=True)
    yield s("DropCapability", v.capabilities, "Drop capabilities", "One or more per line.", SECURE, example="CAP_SYS_PTRACE", repeats=True, anchor="Capability=")
    yield s("AmbientCapability", v.ambient_capabilities, "Ambient capabilities", "Kept by commands that do not run as root. Not with Boot=: the machine would not start.", SECURE, 248, example="CAP_NET_BIND_SERVICE", repeats=True, rare=True, trusted=True)
    yield s("NoNewPrivileges", v.boolean, "No new privileges", "setuid programs gain nothing: sudo, su and some ping stop working inside.", SECURE, 239, default="no")
    yield s("SystemCallFilter", v.system_calls, "System call filter", "Names and @groups allowed in addition to the default; a line that begins with ~ denies. Docker inside needs @keyring.", SECURE, 235, example="@keyring", repeats=True, trusted=True)
    yield s("RestrictAddressFamilies", v.address_families, "Address families", "The only socket families allowed; with ~ in front, those denied; none denies all.", SECURE, 261, example="AF_INET AF_INET6 AF_UNIX", repeats=True)

    for name, (bounds, check, example) in RESOURCE_LIMITS.items():
        yield s(f"Limit{name}", check, bounds, f"RLIMIT_{name} of PID 1 and its children: a limit, or SOFT:HARD. A limit set on the unit does not reach inside.", RESOURCES, 239, example=example, rare=True, trusted=True, anchor="LimitCPU=")
    yield s("OOMScoreAdjust", v.whole_number(-1000, 1000), "OOM score adjustment", "The higher, the sooner it is killed when memory runs out: from -1000 (never) to 1000.", RESOURCES, 239, example="500", rare=True, trusted=True)
    yield s("CPUAffinity", v.cpu_list, "CPU affinity", "CPUs to run on. AllowedCPUs= does the same and can be changed while the machine runs.", RESOURCES, 239, example="0-3", rare=True, trusted=True)

    yield s("Timezone", v.one_of("off", "copy", "bind", "symlink", "delete", "auto"), "Time zone", "How the host's time zone is passed in; off keeps the image's own.", HOST, 239, default="auto")
    yield s("ResolvConf", v.one_of(*RESOLV_CONF), "DNS (resolv.conf)", "How the host's resolv.conf is passed in. With a private network, auto keeps the image's own.", HOST, 239, default="auto")
    yield s("LinkJournal", v.one_of("no", "host", "try-host", "guest", "try-guest", "auto"), "Journal", "Whether the host sees the machine's journal, and on whose disk it is stored.", HOST, 239, default="try-guest", trusted=True)


def _files() -> Iterator[Setting]:
    s = partial(Setting, FILES)
    yield s("ReadOnly", v.boolean, "Read-only root", "Nothing inside can change the image; most systems then need a writable bind for /var.", STORE, default="no")
    yield s("Volatile", v.boolean_or("state", "overlay"), "Volatile root", "The image is not changed; what the machine writes is kept in memory and lost at stop.", STORE, default="no", later=(("overlay", 242),))
    yield s("Bind", v.bind, "Bind mounts", "Host paths that are writable inside. Each must exist when the machine starts.", STORE, repeats=True, trusted=True, later=BIND_LATER)
    yield s("BindReadOnly", v.bind, "Bind mounts, read-only", "Host paths that are read-only inside.", STORE, repeats=True, trusted=True, later=BIND_LATER, anchor="Bind=")
    yield s("TemporaryFileSystem", v.mount_point, "tmpfs mounts", "Empty at every start; options such as size=10%,mode=1777.", STORE, example="/var/cache:size=10%,mode=1777", repeats=True, row=v.Row(("Directory inside", "Mount options"), ":"), rare=True, trusted=True)
    yield s("Overlay", v.overlay, "Overlay mounts", "Directory trees stacked on each other, lowest first; changes go to the last one. Separate them with colons; file owners are not mapped.", STORE, 233, example="/srv/base:/srv/top:/data", repeats=True, row=v.Row(("Layers, lowest first", "Directory inside"), ":", from_the_end=True), rare=True, trusted=True)
    yield s("OverlayReadOnly", v.overlay, "Overlay mounts, read-only", "As above, but read-only inside.", STORE, 233, example="/srv/a:/srv/b:/data", repeats=True, row=v.Row(("Layers, lowest first", "Directory inside"), ":", from_the_end=True), rare=True, trusted=True, anchor="Overlay=")
    yield s("Inaccessible", v.absolute_path, "Inaccessible paths", "Files or directories that nobody inside can access. Each must exist, or the machine does not start.", STORE, 242, example="/srv/secret", repeats=True, row=v.Row(("Path inside",)), rare=True, trusted=True)
    yield s("BindUser", v.user_names, "Host users", "Available inside with home directory, name and password hash. Needs systemd 249 inside.", STORE, 249, example="ada", repeats=True, row=v.Row(("User",)), rare=True, trusted=True)
    yield s("BindUserShell", v.shell, "Shell of host users", "yes uses the host's, no the image's default; or a path inside.", STORE, 258, default="no", example="/bin/bash", rare=True, trusted=True)
    yield s("PrivateUsersOwnership", v.one_of("off", "chown", "map", "auto", "foreign"), "File ownership mapping", "map leaves the image unchanged; chown rewrites the owner of every file at the first start, which takes long.", SECURE, 249, default="auto", trusted=True, later=(("foreign", 258),))
    yield s("PrivateUsersChown", v.boolean, "Change file ownership (deprecated)", "The old form of PrivateUsersOwnership=chown: the owner of every file is rewritten at the first start, which takes long.", SECURE, 230, default="no", rare=True, trusted=True, anchor="PrivateUsersOwnership=")


def _network() -> Iterator[Setting]:
    s = partial(Setting, NETWORK, group=NET, trusted=True)
    yield s("Private", v.boolean, "Private network", "On its own it leaves only the loopback.")
    yield s("VirtualEthernet", v.boolean, "Virtual Ethernet (veth)", "ve-NAME on the host, host0 inside.")
    yield s("Zone", v.zone, "Zone", "A bridge created for the machines of this zone.", since=230)
    yield s("Bridge", v.interface, "Host bridge", "The veth link is attached to this bridge, which must exist.")
    yield s("MACVLAN", v.interface_pairs, "MACVLAN", "Its own MAC address on a host NIC; the host itself cannot reach it.", later=PAIR_LATER)
    yield s("IPVLAN", v.interface_pairs, "IPVLAN", "Its own IP address on a host NIC.", later=PAIR_LATER, anchor="MACVLAN=")
    yield s("Interface", v.interface_pairs, "Host interfaces to move in", "The host loses them while the machine runs; NAME or NAME:NAME-INSIDE, which needs systemd 254.", example="eth1", repeats=True, rare=True, later=PAIR_LATER)
    yield s("VirtualEthernetExtra", v.interface_pair, "Extra veth links", "Each has a name on the host and one inside, and is attached to no bridge.", since=228, example="web-lan:lan", repeats=True, row=v.Row(("Name on the host", "Name inside"), ":"), rare=True)
    yield s("NamespacePath", v.absolute_path, "Join a network namespace", "Instead of any other network mode: choose “loopback only” with it.", since=259, example="/run/netns/blue", rare=True)
    yield replace(s("Port", v.port, "Port forwards", "Reached from outside through the host's address, not through its loopback.", repeats=True), group=PORTS)
# fmt: on


SETTINGS: dict[str, Setting] = {setting.id: setting for setting in (*_exec(), *_files(), *_network())}


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
            "veth", "Private, NAT",
            "Virtual Ethernet (veth) to the host, address from the host's DHCP server, NAT to the outside.",
            (("Private", "yes"), ("VirtualEthernet", "yes")),
        ),
        NetworkMode(
            "zone", "Zone", "Like private, but machines of the same zone reach each other.",
            (("Private", "yes"), ("VirtualEthernet", "yes")), target="Zone", target_title="Zone name",
        ),
        NetworkMode(
            "bridge", "Bridge", "Attached to an existing bridge of the host; addresses come from that network.",
            (("Private", "yes"), ("VirtualEthernet", "yes")), target="Bridge", target_title="Host bridge",
        ),
        NetworkMode(
            "macvlan", "MACVLAN", "Its own MAC address on a host NIC; the host itself cannot reach it.",
            (("Private", "yes"), ("VirtualEthernet", "no")), target="MACVLAN", target_title="Host NIC",
        ),
        NetworkMode(
            "ipvlan", "IPVLAN", "Its own IP address on a host NIC, sharing that NIC's MAC address.",
            (("Private", "yes"), ("VirtualEthernet", "no")), target="IPVLAN", target_title="Host NIC",
        ),
        NetworkMode(
            "host", "Host network", "No isolation: the machine uses the host's interfaces and ports.",
            (("Private", "no"), ("VirtualEthernet", "no")), private=False,
        ),
        NetworkMode(
            "none", "Loopback only", "No network except its own loopback.",
            (("Private", "yes"), ("VirtualEthernet", "no")),
        ),
    )
}  # fmt: skip

# What a file may say beside these: nothing (then the unit's command line decides), or a mixture that is no mode of ours.
UNSAID, OTHER = "unsaid", "other"
MODE_KEYS = ("Private", "VirtualEthernet", "Zone", "Bridge", "MACVLAN", "IPVLAN")


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

    def said(self, setting: Setting) -> str:
        """The value of a setting as forms hold it: the last one; of a key that repeats, each on its own line."""
        found = [setting.normal(text) for text in self.get(setting.section, setting.key)]
        return "\n".join(found if setting.repeats else found[-1:])

    def put_setting(self, setting: Setting, text: str) -> None:
        """Make that the value of a setting; where it is so already, in any spelling, not a byte changes."""
        if self.said(setting) == text:
            return
        wanted = text.split("\n") if text else []
        self.put(setting.section, setting.key, setting.spelt(wanted, self.get(setting.section, setting.key)))

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


def lines_of(text: str) -> list[str]:
    """The physical lines, each with its end, as systemd counts them."""
    return _LINE.findall(text)


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
    """(mode word, target name) as the file says; ("", "") when it says nothing, ("other", "") for a mixture.

    Facts: one key of the block is enough for systemd to take the whole block from the file. A zone, a bridge and a cable
    imply a private network, cards that are brought in do too; what is left out of the block counts as no.
    """
    got = {key: document.get(NETWORK, key) for key in MODE_KEYS}
    extra = any(document.get(NETWORK, key) for key in ("Interface", "VirtualEthernetExtra"))
    if not any(got.values()) and not extra:
        return "", ""
    private, cable = (_switch(got[key]) for key in ("Private", "VirtualEthernet"))
    named = [key for key in MODE_KEYS[2:] if got[key]]
    if len(named) > 1 or "?" in {private, cable} or any(len(got[key]) > 1 for key in named):
        return OTHER, ""
    if named:
        mode = next(mode for mode in NETWORK_MODES.values() if mode.target == named[0])
        fits = private != "no" and cable in {"", dict(mode.settings)["VirtualEthernet"]}
        return (mode.word, got[named[0]][0]) if fits else (OTHER, "")
    if cable == "yes":
        return ("veth", "") if private != "no" else (OTHER, "")
    if private == "no" and extra:
        return OTHER, ""
    return ("none" if private == "yes" or extra else "host"), ""


def _switch(said: Sequence[str]) -> str:
    """yes, no, "" where nothing is said, ? for what is neither or said more than once."""
    if not said:
        return ""
    try:
        values.boolean(said[0])
    except BadValue:
        return "?"
    return "?" if len(said) > 1 else "yes" if values.is_true(said[0]) else "no"


def _normal(block: dict[str, list[str]]) -> dict[str, list[str]]:
    booleans = {"Private", "VirtualEthernet"}
    return {k: [str(values.is_true(x)) for x in v] if k in booleans else v for k, v in block.items()}


def put_network(document: Document, mode: str, target: str = "") -> None:
    """Write the whole block of a mode; the keys of other modes go. What says so already keeps its own spelling."""
    if mode in {UNSAID, OTHER} or network_mode(document) == (mode, target):
        return
    chosen = NETWORK_MODES[mode]
    block = dict(chosen.settings) | ({chosen.target: target} if chosen.target else {})
    for key in MODE_KEYS:
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
