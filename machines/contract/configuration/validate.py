"""What would not hold in a configuration: single values, keys that contradict each other, and what the host has not.

The panel asks with what a host has reported and what other machines are to have; the host asks again with what is there.
systemd's own parsers have the last word, but they say nothing of a key that another one makes void.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from machines.contract.configuration import command_line, file_policy, limits, nspawn, protected, values
from machines.contract.configuration.command_line import CommandLine
from machines.contract.configuration.file_policy import FileRules
from machines.contract.configuration.nspawn import EXEC, FILES, NETWORK, Document
from machines.contract.configuration.protected import Place
from machines.contract.configuration.setting import Setting

Port = tuple[str, int]  # tcp or udp, port of the host
CARDS = ("Interface", "MACVLAN", "IPVLAN")
SOURCES = ("Bind", "BindReadOnly", "Overlay", "OverlayReadOnly")
PICKED = "pick"
OWNERS_MAPPED_SINCE = 262  # before it, PrivateUsers=pick in a file means that owners are rewritten
OWNERS = file_policy.OWNERS


@dataclass(frozen=True)
class Finding:
    """One thing that would not hold. `settings` are those it is about, the one to mend first (as Network.Port, MemoryMax);
    `value` is the line's, where one line of several is meant. What is not `refused` is a warning."""

    settings: tuple[str, ...]
    message: str
    hint: str = ""
    value: str = ""
    refused: bool = True

    @property
    def key(self) -> str:
        return self.settings[0].rpartition(".")[2]

    @property
    def after_key(self) -> str:
        """The message as it goes on after “KEY=”, with which some begin."""
        return (
            self.message.removeprefix(f"{self.key}=") if self.message.startswith(f"{self.key}=") else f" {self.message}"
        )


def itself(path: str) -> Iterable[str]:
    return [path]


@dataclass(frozen=True)
class Facts:
    """What is known of a host. None where nothing is known; then nothing is held against anybody.

    `unit` is what the machine's unit runs, `lacks` are limits that nothing enforces (HostFact.lacks). `ports` says who has a port, `writable` which machine can write below a folder, `bound` which machine binds one. `way`
    gives every path that is passed on the way to a source, links included, where the file system can be asked. `rules` are
    those of the host's policy, `protected` the places that no machine may have.
    """

    name: str = "this host"
    systemd: int = 0
    memory: int = 0
    networkd: bool | None = None
    bridges: Collection[str] | None = None
    interfaces: Collection[str] | None = None
    bind_sources: Collection[str] | None = None
    bind_sources_read_only: Collection[str] = ()
    ports: Mapping[Port, str] = field(default_factory=dict)
    writable: Mapping[str, str] = field(default_factory=dict)
    bound: Mapping[str, str] = field(default_factory=dict)
    way: Callable[[str], Iterable[str]] = itself
    rules: FileRules | None = None
    unit: CommandLine = field(default_factory=command_line.stock)
    lacks: Mapping[str, str] = field(default_factory=dict)
    protected: Sequence[Place] = ()


def judge(document: Document, dropin: str, facts: Facts) -> list[Finding]:
    """Everything that is wrong or will probably disappoint, what is refused first."""
    bad = list(_values(document, dropin))
    found = [
        *_versions(document, dropin, facts),
        *_limits(dropin, facts),
        *_lacking(dropin, facts),
        *_policy(document, dropin, facts),
        *_run_as_root(dropin),
    ]
    for check in (
        _once,
        _unread,
        _network,
        _ports,
        _cards,
        _users,
        _owners,
        _protected,
        _sources,
        _nested,
        _disappointing,
    ):
        found += check(document, facts)
    named = {finding.settings[0] for finding in bad}
    found = [*bad, *(finding for finding in found if finding.settings[0] not in named)]
    return sorted(found, key=lambda finding: not finding.refused)


# --- single values


def _values(document: Document, dropin: str) -> Iterator[Finding]:
    for name, problem in nspawn.check(document):
        yield Finding((name,), problem.message, problem.hint)
    for key, problem in limits.check(dropin):
        yield Finding((key,), problem.message, problem.hint)


def _versions(document: Document, dropin: str, facts: Facts) -> Iterator[Finding]:
    """An older systemd ignores a key it does not know and starts the machine without it."""
    if not facts.systemd:
        return
    for entry in document.settings():
        name = f"{entry.section}.{entry.key}"
        setting = nspawn.SETTINGS.get(name)
        if setting and setting.needs(entry.value) > facts.systemd:
            yield _too_old(name, setting, entry.value, facts)
    for key, value in limits.read(dropin).items():
        if limits.PROPERTIES[key].since > facts.systemd:
            yield _too_old(key, limits.PROPERTIES[key], value, facts)


def _too_old(name: str, setting: Setting, value: str, facts: Facts) -> Finding:
    needs = setting.needs(value)
    what = f"{setting.key}=" if needs == setting.since else f"{setting.key}={value}"
    return Finding(
        (name,), f"{what} needs systemd {needs}; {facts.name} has {facts.systemd} and would ignore it.", value=value
    )


def _once(document: Document, _: Facts) -> Iterator[Finding]:
    names = dict.fromkeys((e.section, e.key) for e in document.settings())
    for section, key in names:
        setting, said = nspawn.SETTINGS.get(f"{section}.{key}"), document.get(section, key)
        if setting and not setting.repeats and len(said) > 1:
            message = f"{key}= is set {len(said)} times; systemd uses the last one, {said[-1]}."
            yield Finding((setting.id,), message, refused=False)


def _unread(document: Document, facts: Facts) -> Iterator[Finding]:
    """What the command line of the machine's unit keeps systemd from taking out of the file."""
    names = dict.fromkeys(f"{entry.section}.{entry.key}" for entry in document.settings() if entry.value)
    if names and not facts.unit.reads_files:
        yield Finding(
            (next(iter(names)),), "The machine's unit runs systemd-nspawn with --settings=no: this file has no effect.",
            "Remove the option from the unit's ExecStart= (systemctl cat shows the drop-in).", refused=False,
        )  # fmt: skip
        return
    for name in names:
        if name in facts.unit.outranked:
            group = [name, *sorted(command_line.group_of(name) - {name})]
            words = next(", ".join(facts.unit.words[each]) for each in group if each in facts.unit.words)
            message = (
                f"{name.rpartition('.')[2]}= has no effect: the machine's unit has {words}, which takes precedence "
                "without --settings=override."
            )
            yield Finding((name,), message, refused=False)


# --- the network as one mode


@dataclass(frozen=True)
class _Block:
    """The keys of [Network] as systemd understands them; None where the file says nothing."""

    private: bool | None
    veth: bool | None
    bridges: tuple[str, ...]  # which of Zone and Bridge are said
    cards: tuple[str, ...]
    unit: CommandLine

    @property
    def _is_unsaid(self) -> bool:
        """Whether that is left to the command line of the unit: the file says nothing of it, or does not count."""
        said = self.private is not None or self.veth is not None or self.bridges or self.cards
        return not said or not self.unit.reads_files or f"{NETWORK}.Private" in self.unit.outranked

    @property
    def is_private(self) -> bool:
        """Whether the machine gets a network of its own."""
        if self._is_unsaid:
            return not self.unit.is_known or f"{NETWORK}.Private" in self.unit.said
        return bool(self.private or self.veth or self.bridges or self.cards)

    @property
    def has_cable(self) -> bool:
        if self._is_unsaid:
            return not self.unit.is_known or f"{NETWORK}.VirtualEthernet" in self.unit.said
        return bool(self.veth or self.bridges)


def _block(document: Document, facts: Facts) -> _Block:
    def said(key: str) -> bool | None:
        value = document.last(NETWORK, key)
        return values.is_true(value) if value else None

    def named(*keys: str) -> tuple[str, ...]:
        return tuple(key for key in keys if document.get(NETWORK, key))

    cards = named(*CARDS, "VirtualEthernetExtra")
    return _Block(said("Private"), said("VirtualEthernet"), named("Zone", "Bridge"), cards, facts.unit)


def _network(document: Document, facts: Facts) -> Iterator[Finding]:
    """What systemd does with each combination (tried on 252 to 257): the stronger key wins and nobody is told."""
    block = _block(document, facts)
    cable = ("VirtualEthernet",) if block.veth else ()
    stronger = [*cable, *block.bridges, *block.cards]
    if block.private is False and stronger:
        yield _contradiction(
            "Private", f"Private=no has no effect beside {stronger[0]}=", "needs a private network", stronger
        )
    if block.veth is False and block.bridges:
        first = block.bridges[0]
        yield _contradiction(
            "VirtualEthernet",
            f"VirtualEthernet=no has no effect beside {first}=",
            "creates a veth link anyway",
            [first],
        )
    if len(block.bridges) == 2:
        yield _contradiction(
            "Zone", "Zone= and Bridge= are mutually exclusive", "takes the host's end of the veth link", ["Bridge"]
        )
    if document.last(NETWORK, "NamespacePath") and (block.private is not None or stronger):
        other = (stronger or ["Private"])[0]
        yield _contradiction(
            "NamespacePath", f"NamespacePath= and {other}= are mutually exclusive", "sets up another network", [other]
        )
    if block.cards and block.veth is None and block.private is None and not block.bridges:
        yield Finding(
            (f"{NETWORK}.VirtualEthernet", f"{NETWORK}.{block.cards[0]}"),
            f"With {block.cards[0]}= alone the machine has no veth link to its host (host0).",
            "Set VirtualEthernet=no if that is intended, or yes to have both.", refused=False,
        )  # fmt: skip
    if block.private and block.veth is None and not stronger:
        yield Finding(
            (f"{NETWORK}.Private",), "With Private=yes alone the machine has only its loopback.",
            "Set VirtualEthernet=no if that is intended, or VirtualEthernet=yes.", refused=False,
        )  # fmt: skip


def _contradiction(key: str, what: str, why: str, others: list[str]) -> Finding:
    names = tuple(f"{NETWORK}.{name}" for name in (key, *others))
    return Finding(names, f"{what}: that one {why}.", "Keep the intended one.")


def _ports(document: Document, facts: Facts) -> Iterator[Finding]:
    block, seen = _block(document, facts), set()
    for value in document.get(NETWORK, "Port"):
        port = host_port(value)
        if port is None:
            continue  # said by the check of values
        word = f"{port[1]}/{port[0]}"
        if not block.is_private:
            yield _port(
                value, "A machine on the host's network has no ports to forward: it uses the host's ports.", "Private"
            )
        elif not block.has_cable:
            yield _port(
                value, f"Port {word} cannot be forwarded: there is no veth link to the host.", "VirtualEthernet"
            )
        if port in seen:
            yield _port(value, f"Port {word} of the host is forwarded twice.")
        elif port in facts.ports:
            yield _port(
                value,
                f"Port {word} of {facts.name} is already used by {facts.ports[port]}.",
                hint="Choose another port.",
            )
        seen.add(port)


def _port(value: str, message: str, also: str = "", hint: str = "") -> Finding:
    names = (f"{NETWORK}.Port", *([f"{NETWORK}.{also}"] if also else []))
    return Finding(names, message, hint, value if not also else "")


def host_port(value: str) -> Port | None:
    """(tcp or udp, port of the host) of a Port= value; None when it is not one."""
    words = value.split(":")
    protocol = words.pop(0) if words[0] in {"tcp", "udp"} else "tcp"
    return (protocol, int(words[0])) if words and words[0].isascii() and words[0].isdecimal() else None


def _cards(document: Document, facts: Facts) -> Iterator[Finding]:
    for value in document.get(NETWORK, "Bridge"):
        if facts.bridges is not None and value not in facts.bridges:
            yield Finding(
                (f"{NETWORK}.Bridge",), f"There is no bridge named {value} on {facts.name}.",
                _there_is("bridge", facts.bridges), value,
            )  # fmt: skip
    for key in CARDS:
        for value in document.get(NETWORK, key):
            for pair in value.split() if facts.interfaces is not None else ():
                card = pair.split(":")[0]
                if card not in (facts.interfaces or ()):
                    message = f"There is no interface named {card} on {facts.name}."
                    yield Finding((f"{NETWORK}.{key}",), message, _there_is("interface", facts.interfaces or ()), value)


def _there_is(kind: str, names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:12])
    return f"Available: {shown}." if shown else f"There is no {kind} at all."


# --- users and files


def _owners(document: Document, facts: Facts) -> Iterator[Finding]:
    """What is meant as a detail of the user namespace takes it away; see file_policy.users_of()."""
    key = next((key for key in OWNERS if document.last(FILES, key)), "")
    if key and not document.last(EXEC, "PrivateUsers") and file_policy.users_of(Document(), facts.unit) != "no":
        yield Finding(
            (f"{FILES}.{key}", f"{EXEC}.PrivateUsers"),
            f"{key}= without PrivateUsers= turns the user namespace off: root inside would be root on the host.",
            "Set PrivateUsers=pick as well, or PrivateUsers=no if that is intended.",
        )  # fmt: skip


def _users(document: Document, facts: Facts) -> Iterator[Finding]:
    """Tried on 252 and 257, on btrfs and ext4: with a picked range below a volatile root systemd has to map or change the
    owners of its files, can do neither, and the machine does not start, whatever PrivateUsersOwnership= says."""
    volatile, users = document.last(FILES, "Volatile"), file_policy.users_of(document, facts.unit)
    on = volatile in {"state", "overlay"} or values.is_true(volatile)
    if on and users == PICKED:
        yield Finding(
            (f"{FILES}.Volatile", f"{EXEC}.PrivateUsers"),
            f"Volatile={volatile} with a UID range of its own does not start: systemd cannot map the owners of its "
            "files.",
            "Set PrivateUsers=identity: still a user namespace, but with the host's IDs.",
        )  # fmt: skip
    mapped = any(document.last(FILES, key) for key in OWNERS) or not 0 < facts.systemd < OWNERS_MAPPED_SINCE
    if document.last(EXEC, "PrivateUsers") == PICKED and not mapped:
        yield Finding(
            (f"{EXEC}.PrivateUsers", f"{FILES}.PrivateUsersOwnership"),
            "PrivateUsers=pick alone rewrites the owner of every file of the machine at its next start.",
            "Set PrivateUsersOwnership=auto as well: owners are then mapped where possible.", refused=False,
        )  # fmt: skip


def sources(document: Document, *, writable: bool = False) -> Iterator[tuple[str, str, str]]:
    """(key, value, path of the host) of everything that comes in from the host; with `writable` only what the machine
    may write to. Paths inside the image and temporary folders are left out."""
    for key in ("Bind",) if writable else ("Bind", "BindReadOnly"):
        for value in document.get(FILES, key):
            path = values.unescape_colons(values.split_colons(value)[0])
            if path.startswith("/"):
                yield key, value, path
    for key in ("Overlay",) if writable else ("Overlay", "OverlayReadOnly"):
        for value in document.get(FILES, key):
            parts = file_policy.overlay_layers(value)
            for path in parts[-1:] if writable else parts:
                if path.startswith("/"):
                    yield key, value, path


def _sources(document: Document, facts: Facts) -> Iterator[Finding]:
    if facts.bind_sources is None:
        return
    for key, value, path in sources(document):
        roots = [*facts.bind_sources, *(facts.bind_sources_read_only if key == "BindReadOnly" else ())]
        if protected.met(path, facts.protected, writable=key in file_policy.WRITABLE):
            continue  # which is refused
        if not any(_within(path, root) for root in roots):
            message = (
                f"{path} is outside the paths that the policy of {facts.name} allows: {', '.join(roots) or 'nothing'}."
            )
            hint = f"It will be refused there unless {path} is a symlink into one of these."
            yield Finding((f"{FILES}.{key}",), message, hint, value, refused=False)


def _protected(document: Document, facts: Facts) -> Iterator[Finding]:
    """What no machine may have, by the names of the paths alone; the host compares by what they reach."""
    as_root = file_policy.are_the_hosts(file_policy.users_of(document, facts.unit))
    written = set(sources(document, writable=True))
    for key, value, path in sources(document):
        writable = as_root or (key, value, path) in written
        place = protected.met(path, facts.protected, writable=writable)
        if place:
            why = protected.sentence(path, place, writable=writable)
            yield Finding((f"{FILES}.{key}",), why, "Bind a directory elsewhere, such as one below /srv.", value)


def _nested(document: Document, facts: Facts) -> Iterator[Finding]:
    """Whoever can write to a folder can put a link in the place of anything below it, and what leads there at the next
    start is not what was judged here. So a source lies below nothing that a machine can write to."""
    own = {path: "this machine itself" for _, _, path in sources(document, writable=True)}
    writable = {**facts.writable, **own}
    for key, value, path in sources(document):
        for step in facts.way(path):
            above = next((folder for folder in writable if _below(step, folder)), None)
            if above:
                message = (
                    f"{path} lies inside {above}, which {writable[above]} can write to: a symlink placed there could "
                    "point anywhere on the host."
                )
                yield Finding((f"{FILES}.{key}",), message, "Bind a directory outside it.", value)
                break
    for key, value, path in sources(document, writable=True):
        below = next((folder for folder in facts.bound if _below(folder, path)), None)
        if below:
            message = (
                f"{facts.bound[below]} binds {below}, which lies inside {path}: this machine could place a symlink "
                "there that points anywhere on the host."
            )
            yield Finding((f"{FILES}.{key}",), message, "Bind a directory outside it.", value)


def _within(path: str, root: str) -> bool:
    return path.rstrip("/") == root.rstrip("/") or _below(path, root)


def _below(path: str, folder: str) -> bool:
    return path.rstrip("/").startswith(folder.rstrip("/") + "/")


# --- what is allowed and may disappoint


def _disappointing(document: Document, facts: Facts) -> Iterator[Finding]:
    block = _block(document, facts)
    if facts.networkd is False and block.has_cable and "Bridge" not in block.bridges:
        message = (
            f"systemd-networkd is not running on {facts.name}, so the machine gets no address and no port is forwarded."
        )
        yield Finding((f"{NETWORK}.VirtualEthernet",), message, refused=False)


def _limits(dropin: str, facts: Facts) -> Iterator[Finding]:
    wanted = limits.read(dropin)
    top = wanted.get("MemoryMax", "")
    if (
        facts.memory
        and top
        and top[-1] not in "%y"
        and values.is_size(top)
        and values.size_in_bytes(top) > facts.memory
    ):
        message = f"MemoryMax={top} is more than the {facts.memory / 2**30:.3g}\u00a0GiB that {facts.name} has."
        yield Finding(("MemoryMax",), message, refused=False)


def _lacking(dropin: str, facts: Facts) -> Iterator[Finding]:
    for key, value in limits.read(dropin).items():
        if facts.lacks.get(key) and value not in {"infinity", "auto", "none", limits.PROPERTIES[key].default}:
            message = f"{key}= will not be enforced on {facts.name}. {limits.unenforced(facts.lacks[key])}"
            yield Finding((key,), message, refused=False)


def _policy(document: Document, dropin: str, facts: Facts) -> Iterator[Finding]:
    """What the host would refuse: the same rules, as it has told them."""
    if facts.rules:
        users = file_policy.users_of(document, facts.unit)
        for each in file_policy.refusals(facts.rules, document, nspawn.parse(dropin), users=users):
            yield Finding(
                each.settings, f"The policy of {facts.name} does not allow it: {each.message}",
                f"Its administrator can change the rule “{each.rule}” in /etc/nspawnpanel/policy.toml.", each.value,
            )  # fmt: skip


def _run_as_root(dropin: str) -> Iterator[Finding]:
    for entry in nspawn.parse(dropin).settings():
        if protected.runs_as_root(entry.key):
            message = (
                f"{entry.key}= of the machine's unit gives root on the host. The panel never writes it, whatever the "
                "policy says."
            )
            yield Finding((entry.key,), message, "Put it into a drop-in of its own on the host.", entry.value)


def fresh(findings: Iterable[Finding], wanted: tuple[str, str], found: tuple[str, str]) -> list[Finding]:
    """The same with a refusal only for what the draft has to do with; what stood in the files already is a warning.

    `wanted` and `found` are the texts of the .nspawn file and of the drop-in.
    """
    return sorted(
        (
            each if not each.refused or _is_fresh(each, wanted, found) else replace(each, refused=False)
            for each in findings
        ),
        key=lambda finding: not finding.refused,
    )


def _is_fresh(finding: Finding, wanted: tuple[str, str], found: tuple[str, str]) -> bool:
    """Whether the draft changes one of the settings, or brings the line that is meant."""
    for name in finding.settings:
        now, before = _said(wanted, name), _said(found, name)
        if now != before and (not finding.value or finding.value not in before):
            return True
    return False


def _said(files: tuple[str, str], name: str) -> list[str]:
    section, _, key = name.rpartition(".")
    settings = nspawn.parse(files[0] if section else files[1]).settings()
    return [e.value for e in settings if (e.section, e.key) == (section or limits.section_of(key), key)]


def only_warned(findings: Iterable[Finding]) -> list[Finding]:
    """The same when what is known may be out of date: nothing is refused for it."""
    return [replace(finding, refused=False) for finding in findings]
