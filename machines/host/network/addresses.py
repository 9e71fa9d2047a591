"""The addresses of a machine, read from /proc/LEADER/net without a fork (machined's GetMachineAddresses costs one)."""

import os
import re
from ipaddress import IPv6Address

from machines.contract.reports import Address

READ_LIMIT = 256 * 1024
_FIRST = re.compile(r"^[0-9a-f]{32}(?= )", re.MULTILINE)


def of_process(leader: int) -> list[Address]:
    """Addresses in the network namespace of a process, global ones first; [] when it shares the host's."""
    try:
        if os.readlink(f"/proc/{leader}/ns/net") == os.readlink("/proc/self/ns/net"):
            return []
        of_four, of_six = tables(leader)
    except OSError:
        return []
    four, six = parse_fib_trie(of_four), parse_if_inet6(of_six)
    local = [Address(family="inet", address=a) for a in four if a.startswith("169.254.")]
    usable = [Address(family="inet", address=a) for a in four if not a.startswith("169.254.")]
    return [*usable, *(Address(family="inet6", address=a) for a in six if not a.startswith("fe80")), *local][:64]


def tables(leader: int) -> tuple[str, str]:
    """What of_process() reads: as long as it is the same, so are the addresses. Raises OSError."""
    return beginning(f"/proc/{leader}/net/fib_trie"), beginning(f"/proc/{leader}/net/if_inet6")


def beginning(file: str) -> str:
    """Whole lines of it: root inside a machine may give itself a hundred thousand addresses, and links any name. Raises
    OSError."""
    with open(file, encoding="ascii", errors="replace", newline="\n") as opened:  # a Path costs half as much again
        return opened.read(READ_LIMIT).rpartition("\n")[0]


def parse_fib_trie(text: str) -> list[str]:
    """IPv4 addresses of the interfaces: the leaves marked “/32 host LOCAL”, loopback left out."""
    found: dict[str, None] = {}
    leaf = ""
    for line in text.splitlines():
        word = line.strip().split()
        if word[:1] == ["|--"]:
            leaf = word[1]
        elif word[:3] == ["/32", "host", "LOCAL"] and not leaf.startswith("127."):
            found[leaf] = None
    return list(found)


def parse_if_inet6(text: str) -> list[str]:
    """IPv6 addresses: the first column of each line, loopback left out."""
    return [str(address) for address in sixes(text) if not address.is_loopback]


def sixes(text: str) -> list[IPv6Address]:
    """The first column of if_inet6."""
    return [IPv6Address(bytes.fromhex(word)) for word in _FIRST.findall(text)]
