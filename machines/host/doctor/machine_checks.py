"""What can be wrong with one machine, above all why it has no address: the chain is followed link by link from the host's
end. Each check looks at one thing and says what it found; CHECKS is the order of the page."""

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from machines.contract.findings import Finding
from machines.host import addresses, host_fact, load_group
from machines.host.bus import BusError, escape
from machines.host.doctor import firewall, host_checks, links
from machines.host.doctor.guest import NETWORKD
from machines.host.doctor.host_checks import Check, found
from machines.host.doctor.scene import Scene, event
from machines.host.paths import unit_of

NETWORK1 = "org.freedesktop.network1"
OTHERS = {
    "NetworkManager": "NetworkManager", "dhclient": "dhclient", "dhcpcd": "dhcpcd", "udhcpc": "udhcpc",
    "connmand": "ConnMan", "wickedd": "wicked",
}  # fmt: skip
TOO_OLD, TOO_NEW = 230, 258  # the first systemd that knows version 2 of control groups; the first without version 1
CABLES = 4  # looked at
BOOTS = 20.0  # seconds within which what is not running inside may still be about to


def has_own_cable(scene: Scene) -> bool:
    """Whether the host serves it: a network of its own, and the other end here."""
    return bool(scene.leader) and not scene.shares_network and bool(scene.cables)


def waits_for_address(scene: Scene) -> bool:
    return bool(scene.leader) and not scene.shares_network and bool(scene.links_inside)


# --- network, from the host's end


def network(scene: Scene) -> Iterator[Finding]:
    if not scene.leader:
        yield found("not-running")
    elif scene.shares_network:
        yield found("network-host")
    elif not scene.links_inside:
        yield found("network-none")
    elif not scene.cables:
        yield found("network-given", links=", ".join(scene.links_inside))
    else:
        yield found("network-own", links=", ".join(scene.links_inside))


def bridge_exists(scene: Scene) -> Iterator[Finding]:
    mode, target = scene.configured
    if mode == "bridge" and target and links.read(target) is None:
        yield found("bridge-absent", bridge=target)


def host_networkd(scene: Scene) -> Iterator[Finding]:
    if has_own_cable(scene):
        yield from host_checks.networkd(scene)


def cable(scene: Scene) -> Iterator[Finding]:
    for name in scene.cables[:CABLES] if has_own_cable(scene) else ():
        link = links.read(name)
        if link is None:
            continue
        if not link.is_up:
            yield found("link-down", link=name)
        elif not link.has_carrier:
            yield found("link-down-inside", link=name)
        else:
            yield found("link-up", link=name)
        yield from _bridge(scene, link)


def _bridge(scene: Scene, link: links.Link) -> Iterator[Finding]:
    mode, target = scene.configured
    wanted = f"vz-{target}" if mode == "zone" else target if mode == "bridge" else ""
    if link.bridge:
        yield found("bridge-joined", link=link.name, bridge=link.bridge)
    elif wanted:
        yield found("bridge-left", link=link.name, bridge=wanted)


def server_of(link: links.Link) -> str:
    """The link on which this host serves addresses for it; "" where that is somebody else's business."""
    return link.name if not link.bridge else link.bridge if link.bridge.startswith("vz-") else ""


def dhcp(scene: Scene) -> Iterator[Finding]:
    for name in scene.cables[:CABLES] if has_own_cable(scene) and scene.networkd_runs else ():
        link = links.read(name)
        if link is None or not link.has_carrier:  # what hangs on it would only repeat that
            continue
        server = server_of(link)
        if not server:
            yield found("dhcp-elsewhere", bridge=link.bridge)
        else:
            yield from _lease(scene, server)


def _lease(scene: Scene, server: str) -> Iterator[Finding]:
    leases, pool = leases_of(scene, server), links.network(server)
    if leases is None or pool is None:
        yield found("dhcp-silent", link=server, state=_state(scene, server))
        return
    yield found("dhcp-serves", link=server, pool=pool)
    own = {address.address for address in addresses.of_process(scene.leader)}
    macs = links.macs(scene.leader)
    mine = [address for address, mac in leases if address in own or mac in macs]
    yield found("lease-given", address=", ".join(mine)) if mine else found("lease-none", link=server)


def leases_of(scene: Scene, link: str) -> list[tuple[str, str]] | None:
    """(address, hardware address) of the leases systemd-networkd has given on a link; None when it serves none there."""
    about = links.read(link)
    if about is None:
        return None
    path = f"/org/freedesktop/network1/link/{escape(str(about.index))}"
    try:
        said = scene.host.bus.do(scene.host.bus.properties(NETWORK1, path, f"{NETWORK1}.DHCPServer"))
    except BusError:
        return None
    return [_one_lease(lease) for lease in said.get("Leases", [])]


def _one_lease(lease: Any) -> tuple[str, str]:
    return str(ip_address(bytes(lease[2]))), bytes(lease[4][:6]).hex(":")


def _state(scene: Scene, link: str) -> str:
    """What systemd-networkd says of a link: unmanaged, pending, failed …"""
    about = links.read(link)
    path = f"/org/freedesktop/network1/link/{escape(str(about.index if about else 0))}"
    try:
        return str(
            scene.host.bus.do(scene.host.bus.properties(NETWORK1, path, f"{NETWORK1}.Link"))["AdministrativeState"]
        )
    except (BusError, KeyError):
        return "unknown to it"


def packet_filter(scene: Scene) -> Iterator[Finding]:
    if has_own_cable(scene):
        yield from host_checks.packet_filter(scene)


# --- network, from the machine's end


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
        yield found(code, name=scene.machine, can_mend=may_enable_inside(scene))


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
        and any(name in scene.programs for name in ("dbus-daemon", "dbus-broker"))
    )


def address(scene: Scene) -> Iterator[Finding]:
    if not waits_for_address(scene):
        return
    has = [each.address for each in addresses.of_process(scene.leader)]
    usable = [each for each in has if not each.startswith("169.254.")]
    if usable:
        yield found("address-has", addresses=", ".join(usable[:5]))
    elif has:
        yield found("address-local", addresses=", ".join(has[:5]))
    else:
        yield found("address-none")


def route(scene: Scene) -> Iterator[Finding]:
    if waits_for_address(scene) and addresses.of_process(scene.leader):
        yield found("route-has" if links.has_way_out(scene.leader) else "route-none")


def forwarding(scene: Scene) -> Iterator[Finding]:
    if has_own_cable(scene):
        yield from host_checks.forwarding(scene)


def masquerade(scene: Scene) -> Iterator[Finding]:
    served = [server_of(link) for name in scene.cables[:CABLES] if (link := links.read(name))]
    if not has_own_cable(scene) or not scene.networkd_runs or scene.rules is None:
        return
    for server in filter(None, served):
        pool = links.network(server)
        if pool is not None:
            done = firewall.translates(scene.rules, pool[1])
            yield found("masquerade-on") if done else found("masquerade-off", link=server)


def resolve(scene: Scene) -> Iterator[Finding]:
    guest = scene.guest
    if not waits_for_address(scene) or not guest.is_readable:
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


# --- limits, systemd


def unit(scene: Scene) -> Iterator[Finding]:
    if scene.leader:
        own = scene.unit_name == unit_of(scene.machine)
        yield found("unit-own" if own else "unit-foreign", unit=scene.unit_name, name=scene.machine)


def killed(scene: Scene) -> Iterator[Finding]:
    if scene.leader:
        count = event(scene.group, ("memory.events", "memory.oom_control"), "oom_kill") - proof_kills(scene)
        yield found("memory-killed", count=count) if count > 0 else found("memory-enough")


def proof_kills(scene: Scene) -> int:
    """How many of these were loads of ours, which were meant to be killed."""
    return load_group.kills_noted(scene.host.paths, bytes(scene.unit(scene.unit_name).get("InvocationID", b"")))


def refused_tasks(scene: Scene) -> Iterator[Finding]:
    if scene.leader:
        count = event(scene.group, ("pids.events",), "max")
        yield found("tasks-full", count=count) if count else found("tasks-enough")


def guest_systemd(scene: Scene) -> Iterator[Finding]:
    version, is_v2 = scene.guest.systemd, host_fact.cgroup() == "v2"
    if not version:
        yield found("guest-unread")
    elif is_v2 and version < TOO_OLD:
        yield found("guest-too-old", guest=version)
    elif not is_v2 and version >= TOO_NEW:
        yield found("guest-too-new", guest=version)
    else:
        yield found("guest-fits", guest=version)


def beside(scene: Scene) -> Iterator[Finding]:
    if host_checks.beside(scene):
        yield from host_checks.systemd(scene)


def autostarts(scene: Scene) -> Iterator[Finding]:
    yield from (finding for finding in host_checks.autostarts(scene) if finding.code != "autostart-works")


CHECKS: tuple[Check, ...] = (
    network, bridge_exists, host_networkd, cable, dhcp, packet_filter, inside, address, route, forwarding, masquerade,
    resolve, unit, killed, refused_tasks, guest_systemd, beside, autostarts, host_checks.disk,
)  # fmt: skip
