"""Whether a machine's packets leave with the host's address, and whether its forwarded ports lead to it: by the rules
that are really there, and by knocking at the port."""

import configparser
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from machines.contract.configuration import nspawn
from machines.contract.configuration.findings import Finding
from machines.contract.names import MachineName
from machines.host.doctor import probe
from machines.host.doctor.facts import Facts
from machines.host.doctor.host_checks import found
from machines.host.doctor.network_checks import answers_for, has_own_cable, network_files
from machines.host.network import firewall, netlink
from machines.host.network.firewall import Forward
from machines.host.network.links import Cable
from machines.host.network.netlink import Link
from machines.host.system import guarded, tools

PORTS = 20  # of a machine, looked at
SETTLES = 10.0  # seconds after the start within which nspawn may not have seen the address yet
ANYWHERE = IPv4Address("192.0.2.1")  # TEST-NET-1: where the default route leads
MOST_MACHINES = 200


@dataclass(frozen=True)
class Port:
    """A line Port= of the settings."""

    protocol: str
    host: int
    machine: int

    @property
    def text(self) -> str:
        return f"{self.protocol} {self.host}"


def parse_port(text: str) -> Port | None:
    """[tcp:|udp:]HOST[:MACHINE]; None when it is none."""
    words = text.strip().split(":")
    protocol = words.pop(0) if words[0] in {"tcp", "udp"} else "tcp"
    if not 1 <= len(words) <= 2 or not all(word.isdigit() and 0 < int(word) < 65536 for word in words):
        return None
    return Port(protocol, int(words[0]), int(words[-1]))


# --- the way out


def masquerade(observed: Facts) -> Iterator[Finding]:
    reached = {cable.server.name: (cable, ip) for cable, ip in answers_for(observed)}
    if reached and observed.rules is None:
        yield found("nat-unread", install=tools.manager())
        return
    for cable, ip in reached.values():
        yield from _translated(observed, cable, ip)


def _translated(observed: Facts, cable: Cable, ip: IPv4Address) -> Iterator[Finding]:
    assert observed.rules is not None
    link = cable.server
    if firewall.translates(observed.rules, ip):
        yield found("masquerade-on")
    elif observed.networkd_answers and asks_masquerade(observed, link):
        yield found("masquerade-off", link=link.name, can_fix=True)
    elif observed.networkd_answers:
        yield found("masquerade-unasked", link=link.name)


def asks_masquerade(observed: Facts, link: Link) -> bool:
    """Whether systemd-networkd was told to translate a link's network, by the files it set the link up by."""
    said = [_masquerade_in(Path(file)) for file in network_files(observed, link)]
    return next((value for value in reversed(said) if value), "no") in {"both", "ipv4", "yes", "true", "1", "on"}


def _masquerade_in(file: Path) -> str:
    """IPMasquerade= of a .network file, in small letters; "" where it says nothing. Raises OSError."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    text = guarded.whole(file).decode(errors="replace")
    try:
        parser.read_string(text)
    except configparser.Error:
        return ""
    return str(parser.get("Network", "IPMasquerade", fallback="") or "").strip().lower()


# --- the ports


def asked_ports(observed: Facts) -> list[Port]:
    ports = (parse_port(text) for text in observed.settings.get(nspawn.NETWORK, "Port"))
    return [port for port in ports if port][:PORTS]


def ports(observed: Facts) -> Iterator[Finding]:
    asked = asked_ports(observed) if has_own_cable(observed) else []
    own = [ip for _, ip in answers_for(observed)] if asked else []
    if own and observed.rules is None:
        yield found("ports-unread", ports=_list(asked), install=tools.manager())
    elif own:
        for port in asked:
            yield from _port(observed, port, own)


def _list(ports: list[Port]) -> str:
    return ", ".join(port.text for port in ports)


def _port(observed: Facts, port: Port, own: list[IPv4Address]) -> Iterator[Finding]:
    assert observed.rules is not None
    led = firewall.forwards(observed.rules).get((port.protocol, port.host))
    facts = {"port": port.text, "to": port.machine, "name": observed.machine}
    if led is None and firewall.has_own_forward(observed.rules, port.protocol, port.host):
        led = Forward(port.protocol, port.host, own[0], port.machine)
    if led is None:
        yield _missing(observed, facts)
    elif led.address not in own or led.to != port.machine:
        leads, owner = f"{led.address}:{led.to}", owner_of(observed, led.address)
        if owner and owner != observed.name:
            yield found("port-taken", facts, leads=leads, owner=owner)
        else:
            yield found("port-astray", facts, leads=leads, can_fix=True)
    else:
        yield _tried(observed, led, facts)


def owner_of(observed: Facts, address: IPv4Address) -> str:
    """The running machine that has this address; "" for none."""
    for name in observed.running[:MOST_MACHINES]:
        if any(ip == address for _, ip in answers_for(Facts(observed.host, observed.task, name))):
            return name
    return ""


def _missing(observed: Facts, facts: dict[str, object]) -> Finding:
    if observed.settings_are_newer:
        return found("port-later", facts)
    if observed.seconds_up < SETTLES:
        return found("port-soon", facts)
    return found("port-lost", facts, can_fix=True)


def _tried(observed: Facts, led: Forward, facts: dict[str, object]) -> Finding:
    """The machine's port itself, then through the host's address."""
    if led.protocol == "udp":
        return found("port-untried", facts)
    answer = probe.knock(led.address, led.to)
    if answer == "refused":
        return found("port-closed", facts)
    if answer != "open":
        return found("port-silent", facts, address=led.address)
    outer = _own_address(observed)
    if outer is not None and probe.knock(outer, led.port) != "open":
        return found("port-blocked", facts, address=outer)
    return found("port-open", facts)


def _own_address(observed: Facts) -> IPv4Address | None:
    """The host's address towards the outside; None when it has no way out."""
    way = netlink.way_to(ANYWHERE)
    own = (each.ip for index, each in observed.host_addresses if index == way)
    return next((ip for ip in own if isinstance(ip, IPv4Address)), None)


# --- of the whole host


def host_masquerade(observed: Facts) -> Iterator[Finding]:
    """Links of machines whose network nobody translates though systemd-networkd was told to."""
    if not observed.networkd_answers or not any(_is_of_machines(link) for link in observed.host_links.values()):
        return
    if observed.rules is None:
        yield found("nat-unread", install=tools.manager())
        return
    bare = sorted({link.name for link, _ in bare_networks(observed, observed.rules)})
    if bare:
        yield found("masquerade-off", link=", ".join(bare), can_fix=True)
    else:
        yield found("masquerade-on")


def _is_of_machines(link: Link) -> bool:
    return link.name.startswith(("ve-", "vz-"))


def bare_networks(observed: Facts, rules: firewall.Rules) -> list[tuple[Link, IPv4Network]]:
    """Networks of machines that lack the NAT systemd-networkd was told to do; none while that cannot be asked."""
    if not observed.networkd_answers:
        return []
    return [
        (link, network)
        for link in list(observed.host_links.values())[:MOST_MACHINES]
        if _is_of_machines(link) and asks_masquerade(observed, link)
        for network in observed.networks_of(link)
        if not firewall.translates(rules, network.network_address + 1)
    ]


def to_restore(observed: Facts) -> list[str]:
    """Lines for nft that put back what was lost: networks of every link, ports of the machine or of every machine."""
    if observed.rules is None:
        return []
    names = [observed.name] if observed.name else observed.running[:MOST_MACHINES]
    wanted = [forward for name in names if name for forward in _forwards_of(observed, name, observed.rules)]
    return firewall.restoring(
        observed.rules, [network for _, network in bare_networks(observed, observed.rules)], wanted
    )


def _forwards_of(observed: Facts, name: MachineName, rules: firewall.Rules) -> list[Forward]:
    """What leads to a machine as it is configured; without what leads to another running machine now, whose it stays."""
    own = Facts(observed.host, observed.task, name)
    address = next((ip for _, ip in answers_for(own)), None)
    if address is None or own.settings_are_newer:
        return []
    led, wanted = firewall.forwards(rules), []
    for port in asked_ports(own):
        now = led.get((port.protocol, port.host))
        taken = now is not None and owner_of(observed, now.address) not in {"", name}
        if not taken and not firewall.has_own_forward(rules, port.protocol, port.host):
            wanted.append(Forward(port.protocol, port.host, address, port.machine))
    return wanted
