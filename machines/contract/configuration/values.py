"""Checks of single values, shared by nspawn.py and limits.py. Each takes the text and raises BadValue with a sentence.

systemd drops a bad value with a warning and starts the machine without it; so what passes here must be what systemd
takes, and what it takes but nobody means (a line break, a trailing backslash that swallows the next line) is refused.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from machines.contract.problems import BadValue

Check = Callable[[str], None]

_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*([KMGTPE]?)(?:i?B)?", re.IGNORECASE)
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]+")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}


def one_line(text: str) -> None:
    """What every value of every file of ours must be: one bounded line that cannot swallow the next."""
    if len(text) > 2048:
        raise BadValue("The value is longer than 2048 characters.")
    if any(not c.isprintable() and c != "\t" for c in text) or "\u2028" in text or "\u2029" in text:
        raise BadValue("The value contains a line break or another control character.")
    if text.endswith("\\"):
        raise BadValue("The value ends in a backslash; systemd would swallow the next line.")


def boolean(text: str) -> None:
    """systemd.syntax(7), parse_boolean()."""
    if text.lower() not in {"1", "yes", "y", "true", "t", "on", "0", "no", "n", "false", "f", "off"}:
        raise BadValue(f"“{text}” is not yes or no.")


def is_true(text: str) -> bool:
    return text.lower() in {"1", "yes", "y", "true", "t", "on"}


@dataclass(frozen=True)
class OneOf:
    words: tuple[str, ...]

    def __call__(self, text: str) -> None:
        if text not in self.words:
            raise BadValue(f"“{text}” is not one of {', '.join(self.words)}.")


@dataclass(frozen=True)
class BooleanOr:
    """Yes, no, or one of a few words."""

    words: tuple[str, ...]

    def __call__(self, text: str) -> None:
        if text in self.words:
            return
        try:
            boolean(text)
        except BadValue:
            raise BadValue(f"“{text}” is not yes, no or one of {', '.join(self.words)}.") from None


@dataclass(frozen=True)
class WholeNumber:
    """A whole number, or one of a few words."""

    low: int
    high: int
    words: tuple[str, ...] = ()

    def __call__(self, text: str) -> None:
        if text in self.words:
            return
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not self.low <= int(text) <= self.high:
            extra = f", or {', '.join(self.words)}" if self.words else ""
            raise BadValue(f"Give a whole number from {self.low} to {self.high}{extra}.")


def one_of(*words: str) -> OneOf:
    return OneOf(words)


def boolean_or(*words: str) -> BooleanOr:
    return BooleanOr(words)


def whole_number(low: int, high: int, *words: str) -> WholeNumber:
    return WholeNumber(low, high, words)


@dataclass(frozen=True)
class Row:
    """A value that is typed in several fields: what each is called, and the sign that stands between them."""

    columns: tuple[str, ...]
    sign: str = ""
    from_the_end: bool = False  # the last sign divides, not the first
    quotes: bool = False  # the whole is one word of systemd's, put in quotes where it must

    def split(self, text: str) -> list[str]:
        if self.quotes:
            found = unquoted(text)
            if found is None or len(found) != 1 or self.sign not in found[0]:
                return [text, ""]  # several in one line: shown as they are
            text = found[0]
        if not self.sign:
            return [text]
        if self.sign == ":":
            parts = split_colons(text)
            at = len(parts) - 1 if self.from_the_end else 1
            return [":".join(parts[:at]), ":".join(parts[at:])]
        first, _, rest = text.partition(self.sign)
        return [first, rest.strip() if self.sign == " " else rest]

    def join(self, parts: Sequence[str]) -> str:
        """Without the sign where nothing follows it, but a variable may be empty: NAME=."""
        if self.quotes and self.sign in parts[0]:
            return parts[0]
        if self.quotes:
            return quoted(self.sign.join(parts))
        if self.sign != "=" and not any(parts[1:]):
            return parts[0]
        return self.sign.join(parts)


def size_in_bytes(text: str) -> int:
    """1.5G → 1610612736. Raises BadValue."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise BadValue(f"“{text}” is not a size: write bytes or a number with K, M, G or T, such as 512M.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def is_size(text: str) -> bool:
    return _SIZE.fullmatch(text.strip()) is not None


def memory(text: str) -> None:
    """A size, a percentage of the host's memory, or infinity (systemd.resource-control(5))."""
    if text == "infinity" or (re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2})?%", text) and float(text[:-1]) <= 100):
        return
    size_in_bytes(text)
    if not re.fullmatch(r"[0-9.]+[KMGTPE]?", text):
        wanted = re.sub(r"\s|i?b$", "", text, flags=re.IGNORECASE).upper()
        raise BadValue(f"Write {wanted}: systemd takes a number with a capital K, M, G or T and nothing else.")


def size(text: str) -> None:
    """As memory(), but no percentage: systemd would take it of the swap, which is not what anybody means."""
    memory(text)
    if text.endswith("%"):
        raise BadValue("Give a size such as 512M, or infinity.")


def memory_limit(text: str) -> None:
    """As memory(), and enough for a machine to start at all."""
    memory(text)
    if text != "infinity" and not text.endswith("%") and size_in_bytes(text) < 1024 * 1024:
        raise BadValue(f"{text} is less than 1 MiB; no machine can start with it. Did you mean {text}M?")


def cpu_quota(text: str) -> None:
    """A percentage of one CPU, with its sign: systemd silently ignores a bare "150"."""
    if re.fullmatch(r"[0-9]+", text):
        raise BadValue(f"Write {text}% with the percent sign; systemd ignores the value without it.")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,2})?%", text) or float(text[:-1]) < 1:
        raise BadValue("Give a percentage of one CPU, such as 50% or 200% for two CPUs.")


def cpu_list(text: str) -> None:
    if not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?([, ]+[0-9]{1,4}(-[0-9]{1,4})?)*", text):
        raise BadValue("List CPUs as 0-3,7.")
    for first, last in re.findall(r"([0-9]+)-([0-9]+)", text):
        if int(first) > int(last):
            raise BadValue(f"{first}-{last} is reversed.")


def absolute_path(text: str) -> None:
    if not text.startswith("/"):
        raise BadValue(f"“{text}” is not an absolute path: it must begin with /.")
    if ".." in text.split("/"):
        raise BadValue("The path contains “..”; write the resolved path.")
    if len(text) > 1024:
        raise BadValue("The path is longer than 1024 characters.")


def interface(text: str) -> None:
    """A network interface name: 15 characters at most (IFNAMSIZ), else the kernel refuses it."""
    if not 1 <= len(text) <= 15:
        raise BadValue(f"“{text}” has {len(text)} characters; an interface name has at most 15.")
    # systemd's ifname_valid(): all digits would be an index, the two words are special directories of /proc/sys
    if not _INTERFACE.fullmatch(text) or text.isdigit() or text in {".", "..", "all", "default"}:
        raise BadValue(f"“{text}” is not an interface name.")


def interface_pair(text: str) -> None:
    """HOST[:INSIDE]"""
    for part in text.split(":", 1):
        interface(part)


def interface_pairs(text: str) -> None:
    """HOST[:INSIDE], several separated by spaces."""
    if not text.strip():
        raise BadValue("Name at least one interface.")
    for pair in text.split():
        interface_pair(pair)


def interfaces(text: str) -> None:
    """Names of interfaces, or with ~ in front those to leave out."""
    if not text.removeprefix("~").strip():
        raise BadValue("Name at least one interface.")
    for name in text.removeprefix("~").split():
        interface(name)


def zone(text: str) -> None:
    """The bridge is vz-NAME, so 12 characters remain; systemd ignores a longer name silently."""
    if len(text) > 12:
        raise BadValue(
            f"“{text}” has {len(text)} characters; a zone name has at most 12 (systemd ignores longer ones)."
        )
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise BadValue("A zone name has letters, digits, - and _ only.")


def port(text: str) -> None:
    """[tcp:|udp:]HOST[:MACHINE]"""
    match = re.fullmatch(r"(?:(?:tcp|udp):)?([0-9]{1,5})(?::([0-9]{1,5}))?", text)
    if not match or any(number and not 1 <= int(number) <= 65535 for number in match.groups()):
        raise BadValue(f"“{text}” is not a port such as 8080:80 or udp:53 (numbers 1 to 65535).")


BIND_OPTIONS = {"rbind": 0, "norbind": 0, "noidmap": 250, "idmap": 250, "rootidmap": 252, "owneridmap": 256}


def split_colons(text: str) -> list[str]:
    """Split at colons that no backslash escapes; the parts stay escaped."""
    parts = [""]
    for piece in re.findall(r"\\.|[^\\:]+|[\\:]", text, re.DOTALL):
        if piece == ":":
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def escape_colons(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:")


def unescape_colons(part: str) -> str:
    return re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL)


def bind(text: str) -> None:
    """[+]SOURCE[:TARGET[:OPTIONS]]; a colon in a path is written \\:"""
    parts = split_colons(text)
    if len(parts) > 3:
        raise BadValue(f"“{text}” has too many colons; a colon inside a path is written \\:.")
    source = parts[0].removeprefix("+")
    if source:
        absolute_path(source)
    if len(parts) > 1 and parts[1]:
        absolute_path(parts[1])
    for option in parts[2].split(",") if len(parts) > 2 else []:
        if option not in BIND_OPTIONS:
            raise BadValue(f"“{option}” is not a bind option; known are {', '.join(BIND_OPTIONS)}.")


def overlay(text: str) -> None:
    parts = split_colons(text)
    if len(parts) < 2 or not parts[-1]:
        raise BadValue("An overlay needs at least a lower layer and a target, separated by a colon.")
    absolute_path(parts[-1])
    for part in parts[:-1]:
        if part:
            absolute_path(part.removeprefix("+"))


def pivot_root(text: str) -> None:
    """NEW-ROOT[:OLD-ROOT]"""
    parts = split_colons(text)
    if len(parts) > 2:
        raise BadValue("Give the new root, or the new root and where the old one is mounted: /new:/old.")
    for part in parts:
        absolute_path(part)


def mount_point(text: str) -> None:
    """PATH[:mount options]"""
    parts = split_colons(text)
    absolute_path(parts[0])
    if len(parts) > 2:
        raise BadValue("Give a path, or a path and mount options: /tmp:size=10%.")
    if len(parts) == 2 and not re.fullmatch(r"[A-Za-z0-9_=%.,/+-]+", parts[1]):
        raise BadValue("Mount options are words such as size=10%,mode=1777.")


def unquoted(text: str) -> list[str] | None:
    """The words systemd makes of a value: quotes hold together and go, backslashes stay. None when a quote stays open."""
    words_: list[str] = []
    word, quote, inside, escaped = "", "", False, False
    for character in text:
        if escaped:
            word, escaped = word + character, False
        elif character == "\\":
            word, escaped, inside = word + character, True, True
        elif quote:
            quote, word = ("", word) if character == quote else (quote, word + character)
        elif character in "\"'":
            quote, inside = character, True
        elif character in " \t":
            words_ += [word] if inside else []
            word, inside = "", False
        else:
            word, inside = word + character, True
    return None if quote else words_ + ([word] if inside else [])


def quoted(word: str) -> str:
    """A word as systemd reads it back whole."""
    if word and not re.search(r"[\s\"']", word):
        return word
    return '"' + word.replace('"', '"\'"\'"') + '"'


def environment(text: str) -> None:
    """NAME=VALUE; a value with spaces stands in quotes, or systemd takes its first word and drops the rest in silence."""
    found = unquoted(text)
    if found is None:
        raise BadValue("A quotation mark is not closed.")
    for word in found or [""]:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", word, re.DOTALL):
            raise BadValue(
                'Write NAME=VALUE, in quotes where it has spaces: "NAME=two words". A name has letters, digits and _ and does not begin with a digit.'
            )


_CAPABILITIES = (
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER "
    "FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE "
    "NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE "
    "SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
)
CAPABILITIES = {f"CAP_{name}" for name in _CAPABILITIES.split()}


def capabilities(text: str) -> None:
    """Space separated CAP_ names, or all; systemd ignores unknown ones, so each must be one that Linux has."""
    words(text)
    for word in text.split():
        if word != "all" and word not in CAPABILITIES:
            raise BadValue(f"“{word}” is not a capability such as CAP_NET_ADMIN.")


def ambient_capabilities(text: str) -> None:
    """As capabilities(), but there is no “all”."""
    capabilities(text)
    if "all" in text.split():
        raise BadValue("Name each capability; “all” is not accepted here.")


_SIGNALS = (
    "ABRT ALRM BUS CHLD CONT FPE HUP ILL INT IO KILL PIPE PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 "
    "USR2 VTALRM WINCH XCPU XFSZ"
)
SIGNALS = {f"SIG{name}" for name in _SIGNALS.split()}


def signal_name(text: str) -> None:
    real_time = re.fullmatch(r"SIGRTM(?:IN(?:\+([0-9]{1,2}))?|AX(?:-([0-9]{1,2}))?)", text)
    if text not in SIGNALS and not (real_time and int(real_time[1] or real_time[2] or 0) <= 30):
        raise BadValue(f"“{text}” is not a signal such as SIGTERM or SIGRTMIN+3.")


def machine_id(text: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text.lower()):
        raise BadValue("A machine ID has 32 hexadecimal digits.")
    if not text.strip("0-"):
        raise BadValue("A machine ID is not all zeros.")


def private_users(text: str) -> None:
    """yes, no, identity, pick, managed, or FIRST-UID[:COUNT]"""
    if text in {"pick", "identity", "managed"}:
        return
    if re.fullmatch(r"[0-9]{1,10}(:[0-9]{1,10})?", text) and text not in {"0", "1"}:
        first, _, count = text.partition(":")
        if int(first) in {0xFFFF, 0xFFFFFFFF} or not 1 <= int(count or 65536) <= 2**32 - int(first) - 1:
            raise BadValue("That is not a range of user IDs; the last one is 4294967294.")
        return
    try:
        boolean(text)
    except BadValue:
        raise BadValue("Give pick, identity, managed, yes, no, or a first user ID such as 524288:65536.") from None


@dataclass(frozen=True)
class ResourceLimit:
    """LIMIT or SOFT:HARD, each a number or infinity; `units` are what may stand behind a number."""

    units: str = ""
    high: int = 2**63
    nice: bool = False  # 1 to 40, or a nice level with its sign

    def __call__(self, text: str) -> None:
        parts = text.split(":")
        if len(parts) > 2 or not all(self._is_one(part) for part in parts):
            raise BadValue(f"Give a limit or SOFT:HARD, such as {self.example}:infinity.")
        if len(parts) == 2 and self._size(parts[0]) > self._size(parts[1]):
            raise BadValue("The soft limit (the first) is above the hard one.")

    @property
    def example(self) -> str:
        return "10" if self.nice else "512M" if self.units == _SIZES else "1024"

    def _is_one(self, text: str) -> bool:
        if text == "infinity":
            return True
        if self.nice:
            level = re.fullmatch(r"[+-][0-9]{1,2}", text)
            return (-20 <= int(text) <= 19) if level else bool(re.fullmatch(r"[0-9]{1,2}", text)) and int(text) <= 40
        found = re.fullmatch(rf"([0-9]{{1,18}})({self.units})" if self.units else r"([0-9]{1,18})()", text)
        return bool(found) and self._size(text) < self.high

    def _size(self, text: str) -> int:
        if text == "infinity":
            return 2**64
        if self.nice and text[0] in "+-":
            return 20 - int(text)
        found = re.fullmatch(r"([0-9]+)([KMGTPE]?)", text)
        return int(found[1]) * _UNITS[found[2]] if found else 0


_SIZES = "[KMGTPE]?"
rlimit_size = ResourceLimit(_SIZES)
rlimit_count = ResourceLimit()
rlimit_nice = ResourceLimit(nice=True)


_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"


def hostname(text: str) -> None:
    if len(text) > 64 or not re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", text):
        raise BadValue("A hostname has letters, digits, dashes and dots, 64 at most.")


def words(text: str) -> None:
    if not text.strip():
        raise BadValue("Give at least one word.")


def user_names(text: str) -> None:
    """Names of users, several separated by spaces."""
    words(text)
    for name in text.split():
        user_name(name)


def user_name(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,30}", text):
        raise BadValue(f"“{text}” is not the name of a user.")


def user(text: str) -> None:
    """A user by name or number."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        user_name(text)


def shell(text: str) -> None:
    """Yes, no, or the path of a shell."""
    if text.startswith("/"):
        absolute_path(text)
        return
    try:
        boolean(text)
    except BadValue:
        raise BadValue(f"“{text}” is not yes, no or the path of a shell such as /bin/bash.") from None


def quoted_words(text: str) -> None:
    """Words as on a command line; every quote that opens must close."""
    words(text)
    if unquoted(text) is None:
        raise BadValue("A quotation mark is not closed.")


def system_calls(text: str) -> None:
    """[~] names and @groups."""
    rest = text.removeprefix("~")
    words(rest)
    for word in rest.split():
        if not re.fullmatch(r"@?[a-z0-9_-]+", word):
            raise BadValue(f"“{word}” is neither a system call such as bpf nor a group such as @keyring.")


def address_families(text: str) -> None:
    """[~] AF_ names, or none."""
    if text == "none":
        return
    rest = text.removeprefix("~")
    words(rest)
    for word in rest.split():
        if not re.fullmatch(r"AF_[A-Z0-9_]+", word):
            raise BadValue(f"“{word}” is not an address family such as AF_INET.")


_SPAN = r"[0-9]+(\.[0-9]+)?\s*(us|usec|µs|ms|msec|s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?|w|weeks?)?"


def time_span(text: str) -> None:
    """A number of seconds, or 1min 30s and the like (systemd.time(7))."""
    if not re.fullmatch(rf"{_SPAN}(\s*{_SPAN})*", text, re.ASCII):
        raise BadValue("Give a time such as 90, 1min 30s or 200ms; a bare number is seconds.")


def time_span_or_infinity(text: str) -> None:
    if text != "infinity":
        time_span(text)


def percentage(text: str) -> None:
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2})?%", text) or float(text[:-1]) > 100:
        raise BadValue("Give a percentage from 0% to 100%.")


def _device_and(text: str, what: str, good: Callable[[str], bool]) -> None:
    device, _, rest = text.partition(" ")
    absolute_path(device)
    if not good(rest.strip()):
        raise BadValue(f"After the device comes {what}.")


def device_rate(text: str) -> None:
    """DEVICE RATE, to the base of 1000."""
    _device_and(
        text, "a rate per second, such as 5M", lambda rate: bool(re.fullmatch(r"[1-9][0-9]{0,14}[KMGT]?", rate))
    )


def device_weight(text: str) -> None:
    good = lambda weight: bool(re.fullmatch(r"[0-9]{1,5}", weight)) and 1 <= int(weight) <= 10_000  # noqa: E731
    _device_and(text, "a weight from 1 to 10000", good)


def device_latency(text: str) -> None:
    _device_and(text, "a time such as 25ms", lambda span: bool(re.fullmatch(_SPAN, span, re.ASCII)))


def device_access(text: str) -> None:
    """DEVICE [rwm]; the device is a node or a group of /proc/devices."""
    device, _, access = text.partition(" ")
    if not re.fullmatch(r"(char|block)-[A-Za-z0-9_/*?.-]+", device):
        absolute_path(device)
        if not device.startswith(("/dev/", "/run/systemd/inaccessible/")):
            raise BadValue(f"“{device}” is neither below /dev nor a group such as char-alsa.")
    if access and not re.fullmatch(r"r?w?m?", access.strip()):
        raise BadValue("Access is any combination of r (read), w (write) and m (mknod), such as rw.")


def addresses(text: str) -> None:
    """IP addresses, networks, or any, localhost, link-local, multicast; several separated by spaces."""
    words(text)
    for word in text.split():
        if word in {"any", "localhost", "link-local", "multicast"}:
            continue
        try:
            ipaddress.ip_network(word, strict=False)
        except ValueError:
            raise BadValue(f"“{word}” is not an address or network such as 10.0.0.0/8.") from None
        if "." in word.partition("/")[2]:
            raise BadValue(f"Give the prefix length, not a netmask: “{word}”.")


def socket_rule(text: str) -> None:
    """[ipv4:|ipv6:][tcp:|udp:][PORT or PORT-PORT], or any."""
    found = re.fullmatch(r"(?:(ipv4|ipv6)(?::|$))?(?:(tcp|udp)(?::|$))?(?:([0-9]{1,5})(?:-([0-9]{1,5}))?)?", text)
    if text == "any":
        return
    ports = [int(number) for number in found.groups()[2:] if number] if found else []
    if not found or not text or text.endswith(":") or ports != sorted(ports) or not all(0 < p < 65536 for p in ports):
        raise BadValue("Give a rule such as tcp:8080, ipv6:udp:5000-6000, ipv4 or any.")


_UNIT = r"[A-Za-z0-9:_.\\@-]{1,200}\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope)"


def units(text: str) -> None:
    """Names of units, several separated by spaces."""
    words(text)
    for word in text.split():
        if not re.fullmatch(_UNIT, word):
            raise BadValue(f"“{word}” is not the name of a unit such as network-online.target.")


def slice_unit(text: str) -> None:
    if not re.fullmatch(r"(-|[A-Za-z0-9:_.]+(-[A-Za-z0-9:_.]+)*)\.slice", text) or len(text) > 200:
        raise BadValue(f"“{text}” is not the name of a slice such as machine-team.slice.")


def nft_sets(text: str) -> None:
    """cgroup:FAMILY:TABLE:SET, several separated by spaces."""
    words(text)
    for word in text.split():
        if not re.fullmatch(
            r"cgroup:(arp|bridge|inet|ip|ip6|netdev):[A-Za-z][A-Za-z0-9_]*:[A-Za-z][A-Za-z0-9_]*", word
        ):
            raise BadValue(f"“{word}” is not a set such as cgroup:inet:filter:web.")


def documentation(text: str) -> None:
    """Addresses of pages, several separated by spaces."""
    words(text)
    for word in text.split():
        if not re.fullmatch(r"(https?://|file:/|info:|man:)[^\s]+", word):
            raise BadValue(f"“{word}” does not begin with https://, http://, file:, info: or man:.")


# --- as people type it


def size_as_typed(text: str) -> str:
    """512m, 512 MB, 512MiB → 512M; unlimited → infinity. What is no size stays as it is."""
    if text.lower() in {"unlimited", "infinity", "max"}:
        return "infinity"
    match = _SIZE.fullmatch(text)
    return f"{match[1]}{match[2].upper()}" if match else percentage_as_typed(text) if "%" in text else text


def limits_as_typed(text: str) -> str:
    """The same of SOFT:HARD."""
    return ":".join(size_as_typed(part.strip()) for part in text.split(":"))


def percentage_as_typed(text: str) -> str:
    """50 or 50 % → 50%."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%?", text)
    return f"{match[1]}%" if match else text


def rate_as_typed(text: str) -> str:
    """/dev/sda 50 mb → /dev/sda 50M."""
    device, _, rate = text.partition(" ")
    return f"{device} {size_as_typed(rate.strip())}".strip()


def capabilities_as_typed(text: str) -> str:
    """net_admin, cap_net_admin → CAP_NET_ADMIN."""
    named = [
        word if word == "all" else f"CAP_{word.upper().removeprefix('CAP_')}" for word in text.replace(",", " ").split()
    ]
    return " ".join(named)


AS_TYPED: dict[Check, Callable[[str], str]] = {
    **dict.fromkeys((memory, size, memory_limit), size_as_typed),
    rlimit_size: limits_as_typed,
    **dict.fromkeys((cpu_quota, percentage), percentage_as_typed),
    device_rate: rate_as_typed,
    **dict.fromkeys((capabilities, ambient_capabilities), capabilities_as_typed),
}
