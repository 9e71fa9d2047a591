"""What the host's packet filter does to machines, as far as its rules tell: read by nft, never written."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from machines.contract.problems import Problem
from machines.host.run import run

SECONDS = 15


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
    sets: list[dict[str, Any]]

    def chain_names(self, table: str) -> frozenset[str]:
        return frozenset(chain.name for chain in self.chains if chain.table == table)


def read() -> Rules | None:
    """The whole rule set; None when nft is not installed or cannot be understood."""
    try:
        return parse(run(["nft", "--json", "list", "ruleset"], timeout=SECONDS).out)
    except (Problem, ValueError):
        return None


def parse(text: str) -> Rules:
    """Raises ValueError when it is not nft's JSON."""
    data = json.loads(text)
    entries = data.get("nftables") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a rule set")
    found: dict[str, list[dict[str, Any]]] = {"chain": [], "rule": [], "set": []}
    for entry in entries:
        for kind, what in entry.items():
            found.get(kind, []).append(what)
    return Rules([_chain(chain) for chain in found["chain"]], found["rule"], found["set"])


def _chain(given: Mapping[str, Any]) -> Chain:
    names = ("family", "table", "name", "hook", "policy")
    return Chain(*(str(given.get(name, "")) for name in names))


def closed(rules: Rules, hook: str, passes: str = "") -> Iterator[Chain]:
    """Chains at this hook that end in a refusal while no rule of their table lets machines' links through.

    `passes` is one more word that would let them through (a port). This reads rules, it does not run them: a rule that
    names the links counts as one that lets them pass.
    """
    words = re.compile("|".join(['"(ve|vz|vb)-', *([rf"\b{re.escape(passes)}\b"] if passes else [])]))
    for chain in rules.chains:
        if chain.hook != hook or chain.family not in {"ip", "inet"} or not _refuses(rules, chain):
            continue
        own = [r for r in rules.rules if (r.get("family"), r.get("table")) == chain_key(chain)]
        if not any(words.search(json.dumps(rule.get("expr", []))) for rule in own):
            yield chain


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
    if any(_holds(element, address) for given in rules.sets if given.get("name") == "masq_saddr"
           for element in given.get("elem") or []):  # fmt: skip
        return True
    texts = (json.dumps(rule.get("expr", [])) for rule in rules.rules if rule.get("table") != "io.systemd.nat")
    return any('"masquerade"' in text or '"snat"' in text for text in texts)


def _holds(element: Any, address: IPv4Address) -> bool:
    try:
        if isinstance(element, str):
            return address == IPv4Address(element)
        if "prefix" in element:
            return address in IPv4Network(f"{element['prefix']['addr']}/{element['prefix']['len']}")
        if "range" in element:
            return IPv4Address(element["range"][0]) <= address <= IPv4Address(element["range"][1])
    except (ValueError, KeyError, TypeError, IndexError):
        return False
    return False
