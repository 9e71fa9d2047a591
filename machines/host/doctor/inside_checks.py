"""What goes on at a machine's end of its network: who asks for an address there, what it got, which way out it knows."""

from collections.abc import Iterator

from machines.contract.configuration.findings import Finding
from machines.host.doctor.facts import Scene
from machines.host.doctor.guest import NETWORKD
from machines.host.doctor.host_checks import found
from machines.host.network import addresses, links

OTHERS = {
    "NetworkManager": "NetworkManager", "dhclient": "dhclient", "dhcpcd": "dhcpcd", "udhcpc": "udhcpc",
    "connmand": "ConnMan", "wickedd": "wicked",
}  # fmt: skip
BUSES = ("dbus-daemon", "dbus-broker")
BOOTS = 20.0  # seconds within which what is not running inside may still be about to


def waits_for_address(scene: Scene) -> bool:
    return bool(scene.leader) and not scene.shares_network and bool(scene.links_inside)


def inside(scene: Scene) -> Iterator[Finding]:
    if scene.leader and not waits_for_address(scene):
        return
    other = next((title for name, title in OTHERS.items() if name in scene.programs), "")
    if "systemd-network" in scene.programs:
        yield found("inside-networkd")
    elif other:
        yield found("inside-other", program=other)
    elif not scene.guest.is_readable:
        yield found("image-unread")
    elif (code := _not_asking(scene)) == "inside-stopped" and scene.seconds_up < BOOTS:
        yield found("inside-soon", seconds=round(scene.seconds_up))
    elif code:
        yield found(code, name=scene.machine, can_fix=may_enable_inside(scene))


def _not_asking(scene: Scene) -> str:
    """Why nobody inside asks for an address, or "" where nothing is wrong as far as the image tells."""
    guest = scene.guest
    if not guest.has_networkd:
        return "inside-missing" if scene.leader else ""
    if guest.is_masked(NETWORKD):
        return "inside-masked"
    if not guest.is_enabled(NETWORKD):
        return "inside-off"
    return "inside-stopped" if scene.leader else ""


def may_enable_inside(scene: Scene) -> bool:
    """Nobody forbade it, nobody else does its work, and its bus can be spoken to."""
    return (
        bool(scene.leader)
        and scene.guest.has_networkd
        and not scene.guest.is_masked(NETWORKD)
        and not any(name in scene.programs for name in (*OTHERS, "systemd-network"))
        and any(name in scene.programs for name in BUSES)
    )


def may_ask_inside(scene: Scene) -> bool:
    """Whether systemd-networkd runs inside and can be told to ask for an address anew."""
    return "systemd-network" in scene.programs and any(name in scene.programs for name in BUSES)


def links_up(scene: Scene) -> Iterator[Finding]:
    """Links the host has no end of; those it has are looked at from there."""
    if not waits_for_address(scene):
        return
    ours = {cable.inside.name for cable in scene.cables if cable.inside}
    up = links.up_inside(scene.leader)
    yield from (
        found("inside-link-down", link=name) for name in scene.links_inside if name not in ours and name not in up
    )


def address(scene: Scene) -> Iterator[Finding]:
    if not waits_for_address(scene):
        return
    has = _addresses(scene)
    usable = [each for each in has if not each.startswith("169.254.")]
    if usable:
        yield found("address-has", addresses=", ".join(usable[:5]))
    elif has:
        yield found("address-local", addresses=", ".join(has[:5]))
    else:
        yield found("address-none")


def _addresses(scene: Scene) -> list[str]:
    """Raises OSError: tables that cannot be read are no missing address."""
    four, six = addresses.tables(scene.leader)
    fours, sixes = addresses.parse_fib_trie(four), addresses.parse_if_inet6(six)
    return [*fours, *(each for each in sixes if not each.startswith("fe80"))]


def route(scene: Scene) -> Iterator[Finding]:
    if waits_for_address(scene) and _addresses(scene):
        yield found("route-has" if links.has_way_out(scene.leader) else "route-none")


def resolve(scene: Scene) -> Iterator[Finding]:
    guest = scene.guest
    if not waits_for_address(scene):
        return
    if not guest.is_readable:
        yield found("image-unread")
        return
    asks_resolved, servers = guest.asks_resolved, guest.name_servers
    if asks_resolved or servers == ["127.0.0.53"]:
        if "systemd-resolve" in scene.programs:
            yield found("resolve-ok", servers="systemd-resolved inside")
        elif scene.seconds_up > BOOTS:
            yield found("resolve-dead", name=scene.machine)
    elif servers:
        yield found("resolve-ok", servers=", ".join(servers))
    else:
        yield found("resolve-none", name=scene.machine)
