"""What the host's packet filter does to machines, as far as its rules tell, read by nft; and systemd's own table put
back where somebody emptied it.

Facts (252, 257): networkd and nspawn make the table io.systemd.nat when they first need it, with all its chains, and use
it as it is afterwards. What a machine's port leads to is added once, when nspawn sees its address; what a link's network
is, once, when networkd sets it up. So after `nft flush ruleset` (nftables.service does that when it is restarted)
neither comes back by itself. 252 writes protocols as numbers.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any

from machines.contract.problems import Problem
from machines.host.system.faults import CommandFailed
from machines.host.system.run import run

SECONDS = 15
NAT = "io.systemd.nat"
PROTOCOLS = {"tcp": "tcp", "udp": "udp", "6": "tcp", "17": "udp"}


@dataclass(frozen=True)
class Chain:
    family: str
    table: str
    name: str
    hook: str
    policy: str


@dataclass(frozen=True)
class Rules:
    chains: list[Chain]
    rules: list[dict[str, Any]]
    sets: list[dict[str, Any]]  # and maps

    def chain_names(self, table: str) -> frozenset[str]:
        return frozenset(chain.name for chain in self.chains if chain.table == table)


def read() -> Rules | None:
    """The whole rule set; None when nft is not installed or cannot be understood."""
    try:
        return parse(run(["nft", "--json", "list", "ruleset"], timeout=SECONDS).out)
    except (Problem, ValueError):
        return None


def read_forwards() -> dict[tuple[str, int], "Forward"] | None:
    """forwards() without reading anything else; empty when nobody has made the map. None when it cannot be told."""
    try:
        said = run(["nft", "--json", "list", "map", "ip", NAT, "map_port_ipport"], timeout=SECONDS).out
        return forwards(parse(said))
    except CommandFailed as failed:
        return {} if "No such file" in failed.tail else None
    except (Problem, ValueError):
        return None


def parse(text: str) -> Rules:
    """Raises ValueError when it is not nft's JSON."""
    data = json.loads(text)
    entries = data.get("nftables") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a rule set")
    found: dict[str, list[dict[str, Any]]] = {"chain": [], "rule": [], "set": [], "map": []}
    for entry in entries:
        for kind, what in entry.items():
            found.get(kind, []).append(what)
    return Rules([_chain(chain) for chain in found["chain"]], found["rule"], found["set"] + found["map"])


def _chain(given: Mapping[str, Any]) -> Chain:
    names = ("family", "table", "name", "hook", "policy")
    return Chain(*(str(given.get(name, "")) for name in names))


def closed(rules: Rules, hook: str, passes: str = "") -> Iterator[Chain]:
    """Chains at this hook that end in a refusal while no rule on their way lets machines' links through.

    `passes` is one more word that would let them through (a port). This reads rules, it does not run them: a rule that
    names the links and refuses nothing counts as one that lets them pass.
    """
    words = re.compile("|".join(['"(ve|vz|vb)-', *([rf"\b{re.escape(passes)}\b"] if passes else [])]))
    for chain in rules.chains:
        if chain.hook != hook or chain.family not in {"ip", "inet"} or not _refuses(rules, chain):
            continue
        if not any(words.search(json.dumps(each)) and not _verdicts(each) & REFUSALS for each in _passed(rules, chain)):
            yield chain


REFUSALS = {"drop", "reject"}


def _verdicts(expression: list[dict[str, Any]]) -> set[str]:
    return {word for part in expression for word in part}


def _passed(rules: Rules, chain: Chain) -> Iterator[list[dict[str, Any]]]:
    """Every rule of a chain and of those it leads to."""
    names, seen = [chain.name], set()
    while names:
        name = names.pop()
        seen.add(name)
        for rule in rules.rules:
            if (rule.get("family"), rule.get("table"), rule.get("chain")) == (*chain_key(chain), name):
                expression = rule.get("expr") or []
                yield expression
                names += [to for part in expression if (to := _leads_to(part)) and to not in seen]


def _leads_to(part: dict[str, Any]) -> str:
    jump = part.get("jump") or part.get("goto") or {}
    return str(jump.get("target", "")) if isinstance(jump, dict) else ""


def chain_key(chain: Chain) -> tuple[str, str]:
    return chain.family, chain.table


def _refuses(rules: Rules, chain: Chain) -> bool:
    if chain.policy == "drop":
        return True
    own = [
        r for r in rules.rules if (r.get("family"), r.get("table"), r.get("chain")) == (*chain_key(chain), chain.name)
    ]
    words = {word for part in (own[-1].get("expr") or [] if own else []) for word in part}
    return bool(words & {"drop", "reject"}) and words <= {"drop", "reject", "counter", "log", "limit", "xt"}


def keeper(rules: Rules, chain: Chain) -> str:
    """Who looks after a chain: docker, ufw, firewalld, or "" for an administrator's own."""
    names = rules.chain_names(chain.table)
    if chain.table == "firewalld":
        return "firewalld"
    if any(name.startswith("ufw") for name in names):
        return "ufw"
    return "docker" if "DOCKER-USER" in names and chain.hook == "forward" else ""


def translates(rules: Rules, address: IPv4Address) -> bool:
    """Whether packets from this address leave with the host's: in networkd's set, or by a rule of somebody's."""
    own = [each for each in rules.sets if each.get("name") == "masq_saddr" and each.get("table") == NAT]
    if any(_holds(element, address) for each in own for element in each.get("elem") or []):
        return any('"masquerade"' in json.dumps(r.get("expr", [])) for r in rules.rules if r.get("table") == NAT)
    return any(_masks(rule.get("expr", []), address) for rule in rules.rules if rule.get("table") != NAT)


_MASKS = re.compile(r'"(masquerade|snat|MASQUERADE|SNAT)"')


def _masks(expression: list[dict[str, Any]], address: IPv4Address) -> bool:
    """Whether a rule translates what comes from an address: Docker's, for one, is for its own networks only."""
    if not _MASKS.search(json.dumps(expression)):
        return False
    for match in (part["match"] for part in expression if isinstance(part.get("match"), dict)):
        if "saddr" in json.dumps(match.get("left")) and _holds(match.get("right"), address) != (match["op"] != "!="):
            return False
    return True


def _holds(element: Any, address: IPv4Address) -> bool:
    try:
        if isinstance(element, str):
            return address == IPv4Address(element)
        if "set" in element:
            return any(_holds(each, address) for each in element["set"])
        if "prefix" in element:
            return address in IPv4Network(f"{element['prefix']['addr']}/{element['prefix']['len']}")
        if "range" in element:
            return IPv4Address(element["range"][0]) <= address <= IPv4Address(element["range"][1])
    except (ValueError, KeyError, TypeError, IndexError):
        return False
    return False


@dataclass(frozen=True)
class Forward:
    """A port of the host that leads to a machine's."""

    protocol: str
    port: int
    address: IPv4Address
    to: int

    @property
    def text(self) -> str:
        return f"{self.protocol} {self.port} → {self.address}:{self.to}"


def forwards(rules: Rules) -> dict[tuple[str, int], Forward]:
    """systemd-nspawn's map of forwarded ports, by protocol and the host's port."""
    found = {}
    for each in rules.sets:
        if (each.get("family"), each.get("table"), each.get("name")) == ("ip", NAT, "map_port_ipport"):
            for element in each.get("elem") or []:
                if forward := _forward(element):
                    found[forward.protocol, forward.port] = forward
    return found


def _forward(element: Any) -> Forward | None:
    try:
        (protocol, port), (address, to) = element[0]["concat"], element[1]["concat"]
        return Forward(PROTOCOLS[str(protocol)], int(port), IPv4Address(ip_address(address)), int(to))
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def has_own_forward(rules: Rules, protocol: str, port: int) -> bool:
    """Whether a rule of somebody's, not systemd's, leads this port somewhere."""
    words = re.compile(r'"(dnat|redirect|DNAT|REDIRECT)"')
    texts = (json.dumps(rule.get("expr", [])) for rule in rules.rules if rule.get("table") != NAT)
    return any(words.search(text) and f'"{protocol}"' in text and re.search(rf"\b{port}\b", text) for text in texts)


# --- systemd's table, as it makes it itself

_SETS = {
    "masq_saddr": "add set ip io.systemd.nat masq_saddr { type ipv4_addr; flags interval; }",
    "map_port_ipport": "add map ip io.systemd.nat map_port_ipport "
                       "{ type inet_proto . inet_service : ipv4_addr . inet_service; }",
}  # fmt: skip
_TO_MAP = "dnat ip to meta l4proto . th dport map @map_port_ipport"
_CHAINS = {
    "prerouting": ("dstnat + 1", f"fib daddr type local {_TO_MAP}"),
    "output": ("-99", f'ip daddr != 127.0.0.0/8 oif "lo" {_TO_MAP}'),
    "postrouting": ("srcnat + 1", "ip saddr @masq_saddr masquerade"),
}


def restoring(rules: Rules, networks: list[IPv4Network], wanted: list[Forward]) -> list[str]:
    """Lines for nft that put back what is missing: of the table, of these networks, of these forwards; [] for nothing."""
    present = forwards(rules)
    lost = [forward for forward in wanted if present.get((forward.protocol, forward.port)) != forward]
    bare = [network for network in networks if not translates(rules, network.network_address + 1)]
    if not lost and not bare:
        return []
    lines = [*_frame(rules), *(f"add element ip {NAT} masq_saddr {{ {network} }}" for network in bare)]
    for forward in lost:
        key = f"{forward.protocol} . {forward.port}"
        if (forward.protocol, forward.port) in present:
            lines.append(f"delete element ip {NAT} map_port_ipport {{ {key} }}")
        lines.append(f"add element ip {NAT} map_port_ipport {{ {key} : {forward.address} . {forward.to} }}")
    return lines


def _frame(rules: Rules) -> Iterator[str]:
    yield f"add table ip {NAT}"
    sets = {each.get("name") for each in rules.sets if (each.get("family"), each.get("table")) == ("ip", NAT)}
    yield from (line for name, line in _SETS.items() if name not in sets)
    filled = {r.get("chain") for r in rules.rules if (r.get("family"), r.get("table")) == ("ip", NAT)}
    there = {chain.name for chain in rules.chains if chain_key(chain) == ("ip", NAT)}
    for name, (priority, rule) in _CHAINS.items():
        if name not in there:
            yield f"add chain ip {NAT} {name} {{ type nat hook {name} priority {priority}; policy accept; }}"
        if name not in filled:
            yield f"add rule ip {NAT} {name} {rule}"
