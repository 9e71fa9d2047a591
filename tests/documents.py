"""Settings files and drop-ins as hypothesis makes them: any number of settings of the tables, with values that systemd takes."""

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import hypothesis
from hypothesis import strategies as st

from machines.contract.configuration import limits, nspawn, values
from machines.contract.configuration.setting import Setting

DIGITS = st.integers(0, 10_000).map(str)
WORD = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
PATH = st.lists(st.from_regex(r"[A-Za-z0-9_.ü-]{0,6}[a-z0-9]", fullmatch=True), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
IFNAME = st.from_regex(r"[a-z]{2,6}[0-9]{1,3}", fullmatch=True)
CPUS = st.sampled_from(["0", "0-3", "0,2", "1-2 5"])
SIZE = st.one_of(st.just("infinity"), st.integers(2**20, 2**40).map(str), st.integers(1, 500).map(lambda n: f"{n}M"))
SPAN = st.sampled_from(["5s", "90", "1min 30s", "200ms", "1h"])
PAIR = st.tuples(IFNAME, IFNAME).map(":".join)


def words(each: "st.SearchStrategy[str]", most: int = 3) -> "st.SearchStrategy[str]":
    return st.lists(each, min_size=1, max_size=most, unique=True).map(" ".join)


def either(*some: Any) -> "st.SearchStrategy[str]":
    return st.one_of(*(st.just(one) if isinstance(one, str) else one for one in some))


def bind() -> "st.SearchStrategy[str]":
    options = st.sampled_from(["", "", "rbind", "norbind", "idmap", "noidmap"])
    escaped = PATH.map(lambda path: path.replace(":", "\\:"))
    return st.builds(
        lambda plus, source, target, option: f"{plus}{source}" + (f":{target}" + (f":{option}" if option else "")),
        st.sampled_from(["", "", "+"]), escaped, escaped, options,
    )  # fmt: skip


CALLS = st.sampled_from(["@keyring", "@mount", "bpf", "ptrace", "add_key"])
MADE: dict[Callable[[str], None], "st.SearchStrategy[str]"] = {
    values.boolean: st.sampled_from(["yes", "no", "true", "0", "on", "off"]),
    values.environment: st.tuples(st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True), st.text("abc /:=%ü\"'", max_size=12)).map(lambda p: values.quoted(f"{p[0]}={p[1]}")),
    values.quoted_words: either(words(WORD), st.just('"two words" three'), st.just("a 'b c'")),
    values.words: words(WORD),
    values.user: either(WORD, st.integers(0, 60000).map(str)),
    values.user_names: WORD,
    values.absolute_path: PATH,
    values.pivot_root: either(PATH, st.tuples(PATH, PATH).map(":".join)),
    values.capabilities: words(st.sampled_from(sorted(values.CAPABILITIES))),
    values.ambient_capabilities: words(st.sampled_from(sorted(values.CAPABILITIES))),
    values.signal_name: st.sampled_from([*sorted(values.SIGNALS), "SIGRTMIN+3", "SIGRTMIN", "SIGRTMAX-2"]),
    values.machine_id: st.integers(1, 2**128 - 1).map(lambda n: f"{n:032x}"),
    values.private_users: either("pick", "yes", "no", "identity", st.integers(1, 60).map(lambda n: f"{n * 65536}:65536")),
    values.system_calls: st.tuples(st.sampled_from(["", "~"]), words(CALLS)).map("".join),
    values.address_families: either("none", words(st.sampled_from(["AF_INET", "AF_INET6", "AF_UNIX"]))),
    values.rlimit_size: either("infinity", st.integers(0, 2**40).map(str), st.integers(1, 99).map(lambda n: f"{n}M:infinity")),
    values.rlimit_count: either("infinity", DIGITS, st.integers(1, 99).map(lambda n: f"{n}:{n + 5}")),
    values.rlimit_nice: st.sampled_from(["+5", "-5", "20", "0:40", "+10:-10"]),
    values.cpu_list: CPUS,
    values.hostname: st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{1,5})?", fullmatch=True),
    values.bind: bind(),
    values.mount_point: either(PATH, PATH.map(lambda path: f"{path}:size=10%,mode=1777")),
    values.overlay: st.tuples(PATH, st.sampled_from(["", "+"]), PATH, PATH).map(lambda p: f"{p[0]}:{p[1]}{p[2]}:{p[3]}"),
    values.shell: either("yes", "no", "/bin/bash"),
    values.interface: IFNAME,
    values.interfaces: st.tuples(st.sampled_from(["", "~"]), words(IFNAME)).map("".join),
    values.interface_pair: either(IFNAME, PAIR),
    values.interface_pairs: words(IFNAME),
    values.zone: WORD,
    values.port: st.tuples(st.sampled_from(["", "tcp:", "udp:"]), st.integers(1, 65535)).map(lambda p: f"{p[0]}{p[1]}"),
    values.memory: SIZE, values.memory_limit: SIZE, values.size: SIZE,
    values.cpu_quota: st.integers(1, 900).map(lambda n: f"{n}%"),
    values.percentage: st.integers(0, 100).map(lambda n: f"{n}%"),
    values.time_span: SPAN, values.time_span_or_infinity: either("infinity", SPAN),
    values.device_rate: st.tuples(PATH, st.sampled_from(["5M", "1000", "2G"])).map(" ".join),
    values.device_weight: st.tuples(PATH, st.integers(1, 10000).map(str)).map(" ".join),
    values.device_latency: st.tuples(PATH, st.sampled_from(["25ms", "1s"])).map(" ".join),
    values.device_access: st.tuples(st.sampled_from(["/dev/kvm", "/dev/null", "char-alsa", "block-*"]), st.sampled_from(["r", "rw", "rwm"])).map(" ".join),
    values.addresses: words(st.sampled_from(["any", "localhost", "10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1"])),
    values.socket_rule: st.sampled_from(["any", "80", "tcp:80", "ipv6:udp:5000-6000", "ipv4", "ipv6:tcp", "udp"]),
    values.units: words(WORD.map(lambda word: f"systemd-nspawn@{word}.service")),
    values.slice_unit: WORD.map(lambda word: f"machine-{word}.slice"),
    values.nft_sets: words(WORD.map(lambda word: f"cgroup:inet:filter:{word}")),
    values.documentation: words(WORD.map(lambda word: f"https://wiki.example/{word}")),
}  # fmt: skip


def value_of(setting: Setting) -> "st.SearchStrategy[str]":
    check = setting.check
    if isinstance(check, values.OneOf):
        return st.sampled_from(check.words)
    if isinstance(check, values.BooleanOr):
        return st.sampled_from(["yes", "no", *check.words])
    if isinstance(check, values.WholeNumber):
        return either(st.integers(check.low, min(check.high, 10_000)).map(str), *check.words)
    return MADE[check]


def said(setting: Setting) -> "st.SearchStrategy[list[str]]":
    """What stands in the file of it, a line for each value."""
    most = 3 if setting.repeats else 1
    return st.lists(value_of(setting), min_size=1, max_size=most, unique=True)


@st.composite
def _file(draw: Any, table: dict[str, Setting], sections: tuple[str, ...]) -> str:
    chosen = draw(st.lists(st.sampled_from(sorted(table)), unique=True, max_size=25))
    lines: dict[str, list[str]] = {section: [] for section in sections}
    for name in chosen:
        setting = table[name]
        lines[setting.section] += [f"{setting.key}={text}" for text in draw(said(setting))]
    parts = [f"[{section}]\n" + "".join(f"{line}\n" for line in found) for section, found in lines.items() if found]
    return "\n".join(parts)


def documents(newest: int = 999) -> "st.SearchStrategy[str]":
    """Settings files, of settings that a systemd of this version knows."""
    known = {name: setting for name, setting in nspawn.SETTINGS.items() if setting.since <= newest}
    return _file(known, nspawn.SECTIONS)


def dropins(newest: int = 999) -> "st.SearchStrategy[str]":
    return _file({name: prop for name, prop in limits.PROPERTIES.items() if prop.since <= newest}, ("Unit", "Service"))


# --- Many at once


def drawn(strategy: "st.SearchStrategy[Any]", count: int) -> list[Any]:
    """What hypothesis makes of a strategy, without a test around it."""
    found: list[Any] = []

    @hypothesis.settings(max_examples=count, database=None, derandomize=True, phases=[hypothesis.Phase.generate])
    @hypothesis.given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


@cache
def _pool(setting: Setting) -> list[list[str]]:
    return drawn(said(setting), 30)


def many(table: dict[str, Setting], newest: int, count: int, seed: int = 1) -> Iterator[dict[str, list[str]]]:
    """Settings documents as {setting: values}: up to twelve settings each, of those that this systemd knows."""
    known = {name: setting for name, setting in table.items() if setting.since <= newest}
    values_of = {
        name: [lines for lines in _pool(setting) if all(setting.needs(line) <= newest for line in lines)]
        for name, setting in known.items()
    }
    dice = random.Random(seed)
    names = sorted(known)
    for _ in range(count):
        yield {name: dice.choice(values_of[name]) for name in dice.sample(names, dice.randint(1, 12))}


def written(table: dict[str, Setting], wanted: dict[str, list[str]]) -> str:
    """The document as our writer makes it."""
    document = nspawn.parse("")
    for name, lines in wanted.items():
        document.put(table[name].section, table[name].key, lines)
    return document.text()
