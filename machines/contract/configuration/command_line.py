"""What a command line of systemd-nspawn says, in the words of the settings table, and which of it and the file counts.

Sources: systemd-nspawn(1), parse_argv() and merge_settings() of nspawn.c, systemd 252 to 257. Facts, tried on 252 and 257:
- `--settings=override` (the stock unit): what the file says counts, a whole group at a time: one mount in the file takes
  every mount of the command line away, one key of the network its whole network.
- Without it, or with `yes` or `trusted`: what the command line says counts, again by whole groups.
- `--settings=no`: no file is read at all.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import PurePosixPath

from machines.contract.configuration import nspawn, values
from machines.contract.problems import BadValue

PROGRAM = "systemd-nspawn"
OVERRIDE, FIRST, TRUSTED, NEVER = "override", "yes", "trusted", "no"
# The stock unit (systemd-nspawn@.service), without what names the machine.
STOCK = ("--boot", "--link-journal=try-guest", "--network-veth", "-U", "--settings=override")
STOCK_ARGV = (PROGRAM, *STOCK)
LISTED_AT_MOST = 200  # words of a command line


@dataclass(frozen=True)
class Option:
    """A long option. `setting` is what it says; without `value` it says yes; `optional` values follow an equals sign."""

    setting: str = ""
    value: bool = True
    optional: bool = False
    lone: str = "yes"  # what it says without a value
    also: tuple[tuple[str, str], ...] = ()  # what it says besides


def _flag(setting: str = "", *also: tuple[str, str], says: str = "yes") -> Option:
    return Option(setting, value=False, lone=says, also=also)


_PRIVATE, _CABLE = ("Network.Private", "yes"), ("Network.VirtualEthernet", "yes")
_OWNERS = "Files.PrivateUsersOwnership"
OPTIONS: Mapping[str, Option] = {
    "boot": _flag("Exec.Boot"), "as-pid2": _flag("Exec.ProcessTwo"), "chdir": Option("Exec.WorkingDirectory"),
    "setenv": Option("Exec.Environment"), "user": Option("Exec.User"), "uid": Option("Exec.User"),
    "kill-signal": Option("Exec.KillSignal"), "notify-ready": Option("Exec.NotifyReady"),
    "suppress-sync": Option("Exec.SuppressSync"), "hostname": Option("Exec.Hostname"), "uuid": Option("Exec.MachineID"),
    "pivot-root": Option("Exec.PivotRoot"), "personality": Option("Exec.Personality"), "ephemeral": _flag("Exec.Ephemeral"),
    "private-users": Option("Exec.PrivateUsers", optional=True), "private-users-ownership": Option(_OWNERS),
    "private-users-chown": _flag(_OWNERS, says="chown"), "private-users-delegate": Option("Exec.PrivateUsersDelegate"),
    "capability": Option("Exec.Capability"), "drop-capability": Option("Exec.DropCapability"),
    "ambient-capability": Option("Exec.AmbientCapability"), "no-new-privileges": Option("Exec.NoNewPrivileges"),
    "system-call-filter": Option("Exec.SystemCallFilter"),
    "restrict-address-families": Option("Exec.RestrictAddressFamilies"), "rlimit": Option("Exec.Limit"),
    "oom-score-adjust": Option("Exec.OOMScoreAdjust"), "cpu-affinity": Option("Exec.CPUAffinity"),
    "resolv-conf": Option("Exec.ResolvConf"), "timezone": Option("Exec.Timezone"),
    "link-journal": Option("Exec.LinkJournal"),
    "read-only": _flag("Files.ReadOnly"), "volatile": Option("Files.Volatile", optional=True),
    "bind": Option("Files.Bind"), "bind-ro": Option("Files.BindReadOnly"), "tmpfs": Option("Files.TemporaryFileSystem"),
    "overlay": Option("Files.Overlay"), "overlay-ro": Option("Files.OverlayReadOnly"),
    "inaccessible": Option("Files.Inaccessible"), "bind-user": Option("Files.BindUser"),
    "bind-user-shell": Option("Files.BindUserShell"),
    "private-network": _flag("Network.Private"), "network-veth": _flag("Network.VirtualEthernet", _PRIVATE),
    "network-interface": Option("Network.Interface", also=(_PRIVATE,)),
    "network-macvlan": Option("Network.MACVLAN", also=(_PRIVATE,)),
    "network-ipvlan": Option("Network.IPVLAN", also=(_PRIVATE,)),
    "network-veth-extra": Option("Network.VirtualEthernetExtra", also=(_PRIVATE,)),
    "network-bridge": Option("Network.Bridge", also=(_CABLE, _PRIVATE)),
    "network-zone": Option("Network.Zone", also=(_CABLE, _PRIVATE)),
    "network-namespace-path": Option("Network.NamespacePath"), "port": Option("Network.Port"),
    # what is no setting of a file
    **dict.fromkeys((
        "directory", "template", "image", "image-policy", "mstack", "oci-bundle", "root-hash", "root-hash-sig",
        "verity-data", "machine", "slice", "property", "register", "settings", "console", "set-credential",
        "load-credential", "selinux-context", "selinux-apifs-context", "background", "cleanup", "forward-journal",
    ), Option()),
    **dict.fromkeys(("quiet", "keep-unit", "pipe", "share-system", "help", "version", "system"), _flag()),
}  # fmt: skip
_SHORT = {
    "D": "directory", "i": "image", "M": "machine", "S": "slice", "q": "quiet", "x": "ephemeral", "b": "boot",
    "a": "as-pid2", "u": "user", "p": "port", "n": "network-veth", "E": "setenv", "P": "pipe", "Z": "selinux-context",
    "L": "selinux-apifs-context", "h": "help",
}  # fmt: skip
# Settings that systemd takes from one place or the other together, not each for itself.
_GROUPS = (
    {"Exec.Boot", "Exec.ProcessTwo", "Exec.Parameters"},
    {"Exec.Capability", "Exec.DropCapability", "Exec.AmbientCapability"},
    {"Exec.PrivateUsers", "Exec.PrivateUsersDelegate", _OWNERS, "Files.PrivateUsersChown"},
    {f"Files.{key}" for key in ("Bind", "BindReadOnly", "TemporaryFileSystem", "Overlay", "OverlayReadOnly", "Inaccessible")},
    {
        f"Network.{key}"
        for key in ("Private", "VirtualEthernet", "Zone", "Bridge", "MACVLAN", "IPVLAN", "Interface", "VirtualEthernetExtra",
                    "NamespacePath")
    },
)  # fmt: skip
_ADDED = {"Exec.Capability", "Exec.DropCapability"}  # those of the file come to those of the command line
_VARIABLE = re.compile(r"\$(\{\w+\}|\w+)")


def group_of(setting: str) -> frozenset[str]:
    """The settings that are taken from one place together with this one, itself included."""
    return frozenset(next((group for group in _GROUPS if setting in group), {setting}))


@dataclass(frozen=True)
class CommandLine:
    """A command line of systemd-nspawn. `said` are settings with their values, `words` the options that say each, `flags`
    all of these in one spelling each, `strange` the options nobody here knows. Without the program (a wrapper, a script) nothing of it is known."""

    argv: tuple[str, ...] = ()
    is_known: bool = False
    reads: str = FIRST  # --settings=
    machine: str = ""
    directory: str = ""
    image: str = ""
    said: Mapping[str, list[str]] = field(default_factory=dict)
    words: Mapping[str, list[str]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()

    @property
    def reads_files(self) -> bool:
        return self.reads != NEVER

    @cached_property
    def has_variables(self) -> bool:
        """Whether systemd puts words in that stand elsewhere (Environment=, EnvironmentFile=)."""
        return any(_VARIABLE.search(word.replace("$$", "")) for word in self.argv)

    @cached_property
    def outranked(self) -> frozenset[str]:
        """The settings of a file that do not count, because the command line speaks of them or of their group."""
        if self.reads == OVERRIDE:
            return frozenset()
        return frozenset(each for setting in self.said for each in group_of(setting))

    def beside(self, file: Collection[str]) -> dict[str, list[str]]:
        """What of it holds beside a file that says these settings: setting → values."""
        if self.reads != OVERRIDE:
            return dict(self.said)
        taken = {each for setting in file for each in group_of(setting)} - _ADDED
        return {setting: said for setting, said in self.said.items() if setting not in taken}

    @property
    def deviates(self) -> bool:
        """Whether it says anything else than the stock unit's."""
        usual = stock()
        return not self.is_known or (self.reads, self.said) != (usual.reads, usual.said) or bool(self.strange)

    def deviations(self) -> list[str]:
        """The words that the stock unit's has not, and those of it that are missing, as a person would name them."""
        usual = stock()
        more = [
            word
            for setting, words in self.words.items()
            for word in words
            if self.said[setting] != usual.said.get(setting)
        ]
        gone = [f"no {word}" for setting, words in usual.words.items() for word in words if setting not in self.said]
        reads = [] if self.reads == OVERRIDE else [f"--settings={self.reads}"]
        return list(dict.fromkeys([*reads, *more, *gone, *self.strange]))


def settings_of(line: CommandLine, file: nspawn.Document, *, trusted: bool) -> nspawn.Document:
    """What a machine gets: of its .nspawn file what counts, and what the command line says beside that. `trusted` is
    whether the file lies in /etc or /run."""
    trusted = trusted or line.reads == TRUSTED
    kept = [e for e in file.entries if line.reads_files and (not e.key or _counts(line, e, trusted=trusted))]
    held = line.beside({f"{entry.section}.{entry.key}" for entry in kept if entry.key})
    said = ((*setting.split(".", 1), value) for setting, values_ in held.items() for value in values_)
    return nspawn.Document([*kept, *(nspawn.Entry("", section, key, value) for section, key, value in said)])


def _counts(line: CommandLine, entry: nspawn.Entry, *, trusted: bool) -> bool:
    name = f"{entry.section}.{entry.key}"
    setting = nspawn.SETTINGS.get(name)
    return name not in line.outranked and (trusted or not (setting and setting.trusted))


@cache
def stock() -> CommandLine:
    """The stock unit's."""
    return parse(STOCK_ARGV)


def parse(argv: Sequence[str]) -> CommandLine:
    """A command line, the program first; words before it (env, nice …) are passed over. Never raises."""
    words = tuple(argv[:LISTED_AT_MOST])
    at = next((number for number, word in enumerate(words) if PurePosixPath(word).name == PROGRAM), None)
    if at is None:
        return CommandLine(words)
    said: dict[str, list[str]] = {}
    named: dict[str, list[str]] = {}
    about: dict[str, str] = {}
    flags: list[str] = []
    strange: list[str] = []
    for name, value, word in _options(words[at + 1 :]):
        option = OPTIONS.get(name)
        if option is None:
            strange.append(word)
        elif not option.setting:
            about[name] = value
        else:
            setting, text = _of_limit(value) if option.setting == "Exec.Limit" else (option.setting, value)
            _say(said, named, (setting, text), word)
            for more in option.also:
                _say(said, named, more, word)
            flags.append(
                f"--{name}={value}" if option.value and (value != option.lone or not option.optional) else f"--{name}"
            )
    return CommandLine(
        argv=words, is_known=True, reads=_reads(about.get("settings", "")), machine=about.get("machine", ""),
        directory=about.get("directory", ""), image=about.get("image", ""), said=said, words=named, flags=tuple(flags),
        strange=tuple(strange),
    )  # fmt: skip


def _say(said: dict[str, list[str]], named: dict[str, list[str]], what: tuple[str, str], word: str) -> None:
    setting, text = what
    if text not in said.setdefault(setting, []):
        said[setting].append(text)
    if word not in named.setdefault(setting, []):
        named[setting].append(word)


def _reads(text: str) -> str:
    if text in {OVERRIDE, TRUSTED}:
        return text
    try:
        values.boolean(text)
    except BadValue:
        return FIRST
    return FIRST if values.is_true(text) else NEVER


def _of_limit(value: str) -> tuple[str, str]:
    """NOFILE=1024:4096 or RLIMIT_NOFILE=… → the setting and its value."""
    name, _, limit = value.partition("=")
    return f"Exec.Limit{name.removeprefix('RLIMIT_')}", limit


def _options(words: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(long name, value, the word as it stands) of each option, as getopt_long(3) reads them; what is none of them ends
    the options and is the command."""
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--" or not word.startswith("-") or word == "-":
            rest = left if word == "--" else [word, *left]
            if rest and not _VARIABLE.fullmatch(rest[0]):
                yield from (("", "", f"command: {' '.join(rest)[:300]}"),)
            elif rest:
                yield from (("", "", each) for each in rest)
            return
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = _full(name)
            option = OPTIONS.get(name)
            if option and option.value and not option.optional and not equals and left:
                value, word = left[0], f"{word} {left.pop(0)}"
            elif option and not equals:
                value = option.lone
            yield name, value, word
        else:
            yield from _short(word[1:], left)


def _short(letters: str, left: list[str]) -> Iterator[tuple[str, str, str]]:
    """Options of one letter each, several in one word; the first that takes a value takes the rest."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter == "U":
            yield "private-users", "pick", "-U"
            yield "private-users-ownership", "auto", "-U"
            continue
        if letter == "j":
            yield "link-journal", "try-guest", "-j"
            continue
        name = _SHORT.get(letter, f"-{letter}")
        option = OPTIONS.get(name)
        if option and option.value:
            value = letters or (left.pop(0) if left else "")
            yield name, value, f"-{letter} {value}"
            return
        yield name, option.lone if option else "", f"-{letter}"


def _full(name: str) -> str:
    """An option's whole name: getopt takes a beginning that only one has."""
    if name in OPTIONS:
        return name
    meant = [known for known in OPTIONS if known.startswith(name)]
    return meant[0] if len(meant) == 1 and name else name
