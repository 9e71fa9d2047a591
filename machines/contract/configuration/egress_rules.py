"""Where a pull may really connect to, whatever its address says: the rule “pull_addresses” of a host's policy.

Three words and any network. What is in none of them is refused: a host's own loopback and addresses, link-local (there
clouds hand out credentials to whoever asks from the host), multicast and what has no owner.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from machines.contract.problems import NotAllowed

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
RULE = "pull_addresses"
PUBLIC, PRIVATE = "public", "private"


def _networks(*words: str) -> tuple[Network, ...]:
    return tuple(ip_network(word) for word in words)


# Where clouds answer their own machines; some of it lies in networks that are private or public otherwise.
METADATA = _networks("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200", "168.63.129.16", "192.0.0.0/24")
OWN = _networks("127.0.0.0/8", "::1", "0.0.0.0/8", "::")
NOBODY = _networks("224.0.0.0/4", "240.0.0.0/4", "ff00::/8", "fec0::/10", "100::/64")
WITHIN = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "fc00::/7")
# An IPv4 address in the clothes of an IPv6 one ends in it.
CARRIED = _networks("::ffff:0:0/96", "64:ff9b::/96", "::/96")
SIX_TO_FOUR = ip_network("2002::/16")


def check_rule(word: str) -> None:
    """Raises ValueError for a word that is neither public, private nor a network."""
    if word not in {PUBLIC, PRIVATE}:
        ip_network(word)


def plain(address: Address) -> Address:
    """The address packets end up at."""
    if isinstance(address, IPv6Address):
        if address in SIX_TO_FOUR:
            return IPv4Address((int(address) >> 80) & 0xFFFFFFFF)
        if any(address in carried for carried in CARRIED) and int(address) > 1:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_metadata(address: Address) -> bool:
    """Whether it is link-local, or where a cloud answers its own machines."""
    return _within(plain(address), METADATA)


def what(address: Address, *, is_own: bool = False) -> str:
    """What kind of address that is, in words; “public” and “private” are the words of the rule."""
    address = plain(address)
    if is_metadata(address):
        return "a link-local address or a cloud's metadata service"
    if is_own or _within(address, OWN):
        return "the host itself"
    if _within(address, NOBODY):
        return "a multicast or reserved address"
    return PRIVATE if _within(address, WITHIN) else PUBLIC


def may_reach(address: Address, rules: Iterable[str], *, is_own: bool = False) -> bool:
    """Whether the rules allow it; `is_own` for an address that the host itself has."""
    words = set(rules)
    named = tuple(ip_network(word) for word in words - {PUBLIC, PRIVATE})
    return _within(plain(address), named) or what(address, is_own=is_own) in words & {PUBLIC, PRIVATE}


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def literal(url: str) -> Address | None:
    """The address a URL names by its number; None for one with a name, which is looked up when it is used."""
    try:
        return ip_address((urlsplit(url).hostname or "").partition("%")[0])
    except ValueError:
        return None


def refusal(name: str, address: Address, *, is_own: bool = False, via: str = "") -> NotAllowed:
    """The sentence for an address that may not be reached: `name` leads there, and `via` redirects to that."""
    kind = what(address, is_own=is_own)
    kind = f"a {kind} address" if kind in {PUBLIC, PRIVATE} else kind
    is_number, ends_at = name == str(plain(address)), plain(address)
    if via:
        leads = f"{via} redirects to {name},{'' if is_number else f' which resolves to {ends_at},'} {kind}"
    else:
        leads = f"{name} is {kind}" if is_number else f"{name} resolves to {ends_at}, {kind}"
    return NotAllowed(
        f"This host's policy does not allow it: {leads}, and no image may come from there.",
        hint=f"If that is a mirror you trust, the host's administrator can add “{ends_at}” to the rule “{RULE}” in "
        "/etc/nspawnpanel/policy.toml.",
        code="policy-refused",
    )
