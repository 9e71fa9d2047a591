"""What goes on at a machine's end of its network: who asks for an address there, what it got, which way out it knows."""

from collections.abc import Iterator

from machines.contract.configuration.findings import Finding
from machines.host.doctor.facts import Facts
from machines.host.doctor.guest import NETWORKD
from machines.host.doctor.host_checks import found
from machines.host.network import addresses, links

OTHERS = {
    "NetworkManager": "NetworkManager", "dhclient": "dhclient", "dhcpcd": "dhcpcd", "udhcpc": "udhcpc",
    "connmand": "ConnMan", "wickedd": "wicked",
}  # fmt: skip
BUSES = ("dbus-daemon", "dbus-broker")
BOOTS = 20.0  # seconds within which what is not running inside may still be about to


def waits_for_address(observed: Facts) -> bool:
    return bool(observed.leader) and not observed.shares_network and bool(observed.links_inside)


def inside(observed: Facts) -> Iterator[Finding]:
    if observed.leader and not waits_for_address(observed):
        return
    other = next((title for name, title in OTHERS.items() if name in observed.programs), "")
    if "systemd-network" in observed.programs:
        yield found("inside-networkd")
    elif other:
        yield found("inside-other", program=other)
    elif not observed.guest.is_readable:
        yield found("image-unread")
    elif (code := _not_asking(observed)) == "inside-stopped" and observed.seconds_up < BOOTS:
        yield found("inside-soon", seconds=round(observed.seconds_up))
    elif code:
        yield found(code, name=observed.machine, can_fix=may_enable_inside(observed))


def _not_asking(observed: Facts) -> str:
    """Why nobody inside asks for an address, or "" where nothing is wrong as far as the image tells."""
    guest = observed.guest
    if not guest.has_networkd:
        return "inside-missing" if observed.leader else ""
    if guest.is_masked(NETWORKD):
        return "inside-masked"
    if not guest.is_enabled(NETWORKD):
        return "inside-off"
    return "inside-stopped" if observed.leader else ""


def may_enable_inside(observed: Facts) -> bool:
    """Nobody forbade it, nobody else does its work, and its bus can be spoken to."""
    return (
        bool(observed.leader)
        and observed.guest.has_networkd
        and not observed.guest.is_masked(NETWORKD)
        and not any(name in observed.programs for name in (*OTHERS, "systemd-network"))
        and any(name in observed.programs for name in BUSES)
    )


def may_ask_inside(observed: Facts) -> bool:
    """Whether systemd-networkd runs inside and can be told to ask for an address anew."""
    return "systemd-network" in observed.programs and any(name in observed.programs for name in BUSES)


def links_up(observed: Facts) -> Iterator[Finding]:
    """Links the host has no end of; those it has are looked at from there."""
    if not waits_for_address(observed):
        return
    ours = {cable.inside.name for cable in observed.cables if cable.inside}
    up = links.up_inside(observed.leader)
    yield from (
        found("inside-link-down", link=name) for name in observed.links_inside if name not in ours and name not in up
    )


def address(observed: Facts) -> Iterator[Finding]:
    if not waits_for_address(observed):
        return
    has = _addresses(observed)
    usable = [each for each in has if not each.startswith("169.254.")]
    if usable:
        yield found("address-has", addresses=", ".join(usable[:5]))
    elif has:
        yield found("address-local", addresses=", ".join(has[:5]))
    else:
        yield found("address-none")


def _addresses(observed: Facts) -> list[str]:
    """Raises OSError: tables that cannot be read are no missing address."""
    four, six = addresses.tables(observed.leader)
    fours, sixes = addresses.parse_fib_trie(four), addresses.parse_if_inet6(six)
    return [*fours, *(each for each in sixes if not each.startswith("fe80"))]


def route(observed: Facts) -> Iterator[Finding]:
    if waits_for_address(observed) and _addresses(observed):
        yield found("route-has" if links.has_way_out(observed.leader) else "route-none")


def resolve(observed: Facts) -> Iterator[Finding]:
    guest = observed.guest
    if not waits_for_address(observed):
        return
    if not guest.is_readable:
        yield found("image-unread")
        return
    asks_resolved, servers = guest.asks_resolved, guest.name_servers
    if asks_resolved or servers == ["127.0.0.53"]:
        if "systemd-resolve" in observed.programs:
            yield found("resolve-ok", servers="systemd-resolved inside")
        elif observed.seconds_up > BOOTS:
            yield found("resolve-dead", name=observed.machine)
    elif servers:
        yield found("resolve-ok", servers=", ".join(servers))
    else:
        yield found("resolve-none", name=observed.machine)
