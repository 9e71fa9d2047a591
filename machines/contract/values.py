"""Checks of single values, shared by nspawn.py and limits.py. Each takes the text and raises BadValue with a sentence.

systemd drops a bad value with a warning and starts the machine without it; so what passes here must be what systemd
takes, and what it takes but nobody means (a line break, a trailing backslash that swallows the next line) is refused.
"""

import re
from collections.abc import Callable

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


def one_of(*words: str) -> Check:
    def check(text: str) -> None:
        if text not in words:
            raise BadValue(f"“{text}” is not one of {', '.join(words)}.")

    return check


def boolean_or(*words: str) -> Check:
    def check(text: str) -> None:
        if text not in words:
            try:
                boolean(text)
            except BadValue:
                raise BadValue(f"“{text}” is not yes, no or one of {', '.join(words)}.") from None

    return check


def whole_number(low: int, high: int, *words: str) -> Check:
    def check(text: str) -> None:
        if text in words:
            return
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not low <= int(text) <= high:
            extra = f", or {', '.join(words)}" if words else ""
            raise BadValue(f"Give a whole number from {low} to {high}{extra}.")

    return check


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
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?([, ]+[0-9]+(-[0-9]+)?)*", text):
        raise BadValue("List CPUs as 0-3,7.")


def absolute_path(text: str) -> None:
    if not text.startswith("/"):
        raise BadValue(f"“{text}” is not an absolute path: it must begin with /.")
    if ".." in text.split("/"):
        raise BadValue("The path contains “..”; write where it really leads.")
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
    if len(parts) < 2:
        raise BadValue("An overlay names at least a lower tree and a target, separated by a colon.")
    for part in parts:
        if part:
            absolute_path(part.removeprefix("+"))


def mount_point(text: str) -> None:
    """PATH[:mount options]"""
    absolute_path(text.split(":", 1)[0])


def environment(text: str) -> None:
    """NAME=VALUE"""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", text):
        raise BadValue("Write NAME=VALUE; a name has letters, digits and _ and does not begin with a digit.")


def capabilities(text: str) -> None:
    """Space separated CAP_ names, or all; systemd ignores unknown ones, so the shape is held strictly."""
    for word in text.split():
        if word != "all" and not re.fullmatch(r"CAP_[A-Z_]+", word):
            raise BadValue(f"“{word}” is not a capability such as CAP_NET_ADMIN.")


def signal_name(text: str) -> None:
    if not re.fullmatch(r"SIG[A-Z0-9]+([+-][0-9]{1,2})?", text):
        raise BadValue(f"“{text}” is not a signal such as SIGRTMIN+3.")


def machine_id(text: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{32}", text.replace("-", "").lower()):
        raise BadValue("A machine id has 32 hexadecimal digits.")


def private_users(text: str) -> None:
    """yes, no, identity, pick, managed, or FIRST-UID[:COUNT]"""
    if text in {"pick", "identity", "managed"} or re.fullmatch(r"[0-9]{1,10}(:[0-9]{1,10})?", text):
        return
    try:
        boolean(text)
    except BadValue:
        raise BadValue("Give pick, identity, managed, yes, no, or a first user id such as 524288:65536.") from None


def rlimit(text: str) -> None:
    if not re.fullmatch(r"(infinity|[0-9]+[KMGTPE]?|[+-][0-9]+)(:(infinity|[0-9]+[KMGTPE]?|[+-][0-9]+))?", text):
        raise BadValue("Give a limit, SOFT:HARD, or infinity.")


def hostname(text: str) -> None:
    if len(text) > 64 or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", text):
        raise BadValue("A host name has letters, digits, dashes and dots, 64 at most.")


def words(text: str) -> None:
    if not text.strip():
        raise BadValue("Give at least one word.")
