"""Why a machine has no address, or one that leads nowhere: the chain is followed link by link from the host's end.

Facts, tried with traffic on 252 and 257: before some version after 252 networkd gives a link whose .network file says
Address=0.0.0.0/28 yet another network whenever it sets the link up anew (`networkctl reconfigure`, a carrier that was
lost); machines keep their lease of the former one, and what is sent to them leaves by the default route. A host and its
machines on a macvlan do not reach each other, by design.
"""

import json
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from typing import Any

from machines.contract.configuration.findings import Finding
from machines.host.doctor import host_checks, probe
from machines.host.doctor.facts import NETWORK1, Facts
from machines.host.doctor.host_checks import found
from machines.host.doctor.inside_checks import may_ask_inside
from machines.host.network import listeners, netlink
from machines.host.network.links import Cable
from machines.host.network.netlink import Link
from machines.host.system.bus import BusError, escape

CABLES = 4  # looked at
DHCP_SERVER = ("udp", 67)
NETWORKD_COMM = "systemd-network"  # /proc/PID/comm has 15 characters


def has_own_cable(observed: Facts) -> bool:
    """Whether the host serves it: a network of its own, and the other end here."""
    return bool(observed.leader) and not observed.shares_network and bool(observed.cables)


def cables(observed: Facts) -> list[Cable]:
    return observed.cables[:CABLES] if has_own_cable(observed) else []


def network(observed: Facts) -> Iterator[Finding]:
    if not observed.leader:
        yield found("not-running")
    elif observed.shares_network:
        yield found("network-host")
    elif not observed.links_inside:
        yield found("network-none")
    else:
        led = {
            cable.inside.name: f"{cable.inside.name} ({cable.host.name})" for cable in observed.cables if cable.inside
        }
        said = ", ".join(led.get(name, name) for name in observed.links_inside)
        yield found("network-own" if observed.cables else "network-given", links=said)
    if observed.leader and not observed.shares_network:
        yield from _on_cards(observed)


def _on_cards(observed: Facts) -> Iterator[Finding]:
    """Links that sit on a card of the host's: mv- or iv- and the card's name, as nspawn calls them."""
    by_name = {link.name: link for link in observed.host_links.values()}
    for name in observed.links_inside:
        card = by_name.get(name[3:]) if name.startswith(("mv-", "iv-")) else None
        if card and not card.has_carrier:
            yield found("card-down", card=card.name, link=name)
        elif card:
            yield found("card-apart", card=card.name, link=name)


def bridge_exists(observed: Facts) -> Iterator[Finding]:
    mode, target = observed.configured
    if mode == "bridge" and target and all(link.name != target for link in observed.host_links.values()):
        yield found("bridge-absent", bridge=target)


def host_networkd(observed: Facts) -> Iterator[Finding]:
    if any(cable.is_main and not cable.is_bridged for cable in cables(observed)):
        yield from host_checks.networkd(observed)


def cable(observed: Facts) -> Iterator[Finding]:
    for each in cables(observed):
        if not each.host.is_up:
            yield found("link-down" if each.is_main else "extra-down", link=each.host.name)
        elif not each.host.has_carrier:
            yield found("link-down-inside" if each.is_main else "extra-down-inside", link=each.host.name)
        else:
            yield found("link-up", link=each.host.name)
        if each.is_main:
            yield from _bridge(observed, each)


def _bridge(observed: Facts, cable: Cable) -> Iterator[Finding]:
    mode, target = observed.configured
    wanted = f"vz-{target}" if mode == "zone" else target if mode == "bridge" else ""
    link, bridge = cable.host.name, cable.bridge
    if bridge is None:
        if wanted and link.startswith("vb-"):  # a ve- was made for another configuration, which still runs
            yield found("bridge-left", link=link, bridge=wanted)
    elif not bridge.is_up:
        yield found("bridge-down", bridge=bridge.name)
    elif wanted and bridge.name != wanted:
        yield found("bridge-other", link=link, bridge=bridge.name, wanted=wanted)
    else:
        yield found("bridge-joined", link=link, bridge=bridge.name)


# --- addresses from the host


def dhcp(observed: Facts) -> Iterator[Finding]:
    for each in cables(observed) if observed.networkd_runs else []:
        if not (each.is_main and each.host.has_carrier):  # what hangs on it would only repeat that
            continue
        yield from _served(observed, each) if observed.networkd_answers else host_checks.networkd(observed)


def _served(observed: Facts, cable: Cable) -> Iterator[Finding]:
    link, leases = cable.server, leases_of(observed, cable.server)
    pool = observed.networks_of(link)
    own = _usable(observed, cable)
    if leases is not None and pool:
        yield found("dhcp-serves", link=link.name, pool=", ".join(str(each) for each in pool[:4]))
        yield from _lease(cable, leases, own)
    elif own or cable.is_bridged:
        yield found("dhcp-elsewhere", bridge=link.name)
    elif program := _other_dhcp_server():
        yield found("dhcp-other", program=program, link=link.name)
    else:
        yield found(
            "dhcp-silent", link=link.name, state=_told_by_networkd(observed, link).get("AdministrativeState", "?")
        )


def _other_dhcp_server() -> str:
    """The program that serves DHCP on this host beside networkd, which has a socket of its own for each link it serves."""
    programs = map(listeners.who, listeners.sharing(DHCP_SERVER))
    return next((program for program in programs if not program.startswith(NETWORKD_COMM)), "")


def _lease(cable: Cable, leases: list[str], own: list[IPv4Address]) -> Iterator[Finding]:
    mine = [address for address in leases if ip_address(address) in own]
    if mine:
        yield found("lease-given", address=", ".join(mine))
    elif own:
        yield found("lease-fixed", addresses=", ".join(map(str, own[:5])))
    else:
        yield found("lease-none", link=cable.server.name)


def leases_of(observed: Facts, link: Link) -> list[str] | None:
    """The addresses systemd-networkd has leased out on a link, by 257 also in an earlier life; None when it serves none
    there. Raises BusError when it does not answer."""
    try:
        said = observed.host.bus.do(observed.host.bus.properties(NETWORK1, _object(link), f"{NETWORK1}.DHCPServer"))
    except BusError as error:
        if "Unknown" in error.name:  # object, interface or property: no server there
            return None
        raise
    return [str(ip_address(bytes(lease[2]))) for lease in said.get("Leases", [])]


def _object(link: Link) -> str:
    return f"/org/freedesktop/network1/link/{escape(str(link.index))}"


def _told_by_networkd(observed: Facts, link: Link) -> dict[str, Any]:
    """What systemd-networkd says of a link: its state, its file; {} of one it does not know. Raises BusError."""
    try:
        text = observed.host.bus.do(observed.host.bus.call(NETWORK1, _object(link), f"{NETWORK1}.Link.Describe"))[0]
    except BusError as error:
        if "Unknown" in error.name:
            return {}
        raise
    said = json.loads(text)
    return said if isinstance(said, dict) else {}


def network_files(observed: Facts, link: Link) -> list[str]:
    """The .network file systemd-networkd set a link up by, and its drop-ins. Raises BusError."""
    said = _told_by_networkd(observed, link)
    return [str(name) for name in (said.get("NetworkFile"), *(said.get("NetworkFileDropins") or [])) if name]


def _usable(observed: Facts, cable: Cable) -> list[IPv4Address]:
    """Its IPv4 addresses on that cable, those left out that reach no further than the cable."""
    inside = cable.inside.index if cable.inside else 0
    fours = (each.ip for index, each in observed.addresses_inside if index == inside)
    return [ip for ip in fours if isinstance(ip, IPv4Address) and not ip.is_link_local][:8]


# --- whether the address is one the host can use


def placed(observed: Facts) -> Iterator[Finding]:
    """Its addresses against the networks of the link it hangs on, and one packet there."""
    for each in cables(observed):
        pool = observed.networks_of(each.server)
        for ip in _usable(observed, each) if pool else []:
            yield from _place(observed, each, ip)


def _place(observed: Facts, cable: Cable, ip: IPv4Address) -> Iterator[Finding]:
    link, pool = cable.server, observed.networks_of(cable.server)
    facts = {"address": ip, "link": link.name, "pool": ", ".join(map(str, pool[:4]))}
    way = observed.host_links.get(netlink.way_to(ip))
    sent = {**facts, "way": way.name if way else "no link", "name": observed.machine}
    if not any(ip in each for each in pool):
        if cable.is_bridged:
            yield found("address-apart", facts)
        else:
            yield found("address-astray", sent, can_fix=cable.is_main and may_ask_inside(observed))
    elif way is None or way.index != link.index:
        yield found("address-shadowed", sent)
    else:
        yield from _reach(facts, ip)


def _reach(facts: dict[str, Any], ip: IPv4Address) -> Iterator[Finding]:
    answer = probe.knock(ip)
    if answer in {"open", "refused"}:
        yield found("host-reaches", facts)
    elif answer == "silent" and probe.is_neighbour(ip):
        yield found("host-unsure", facts)
    else:
        yield found("host-unreached", facts)


def packet_filter(observed: Facts) -> Iterator[Finding]:
    if has_own_cable(observed):
        yield from host_checks.packet_filter(observed)


def forwarding(observed: Facts) -> Iterator[Finding]:
    if any(observed.networks_of(each.server) for each in cables(observed)):
        yield from host_checks.forwarding(observed)


def answers_for(observed: Facts) -> list[tuple[Cable, IPv4Address]]:
    """The addresses the host can send to, with the cable each is on."""
    return [
        (each, ip)
        for each in cables(observed)
        for ip in _usable(observed, each)
        if any(ip in pool for pool in observed.networks_of(each.server))
    ]
