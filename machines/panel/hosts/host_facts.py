"""What a host has told of itself that decides what can be ordered there: its systemd, its networks, its policy.

A host may say anything, so each value is read with care, and what is not told forbids nothing.
"""

from typing import Any

from machines.contract.configuration import egress_rules, nspawn
from machines.contract.recipes import PullRecipe
from machines.models import Host

SHOWN = 8  # names, in a sentence
_TOLD_AS = {"bridge": "bridges", "macvlan": "interfaces", "ipvlan": "interfaces"}  # mode → the fact with its targets


def systemd(host: Host | None) -> int:
    """The version of its systemd; 0 when it is not known."""
    told = host.facts.get("systemd") if host else None
    return told if isinstance(told, int) else 0


def has_older_systemd(host: Host | None, version: int) -> bool:
    return 0 < systemd(host) < version


def network_targets(host: Host | None) -> list[tuple[str, str]]:
    """What a machine can be connected to: (name, what it is)."""
    bridges, interfaces = _names(host, "bridges") or [], _names(host, "interfaces") or []
    cards = [name for name in interfaces if name not in {*bridges, "lo"}]
    return [(name, "bridge") for name in bridges] + [(name, "NIC") for name in cards]


def lacks_target(host: Host, mode: nspawn.NetworkMode | None, name: str) -> str:
    """Why a machine of this network mode cannot be connected to `name` there; "" when it can, or nobody knows."""
    told_as = _TOLD_AS.get(mode.word if mode else "", "")
    there, word = _names(host, told_as), "bridge" if told_as == "bridges" else "NIC"
    if not told_as or there is None or name in there:
        return ""
    has = f"it has {', '.join(there[:SHOWN])}" if there else f"it has no {word} at all"
    return f"{host.name} has no {word} “{name}”; {has}."


def takes_target(mode: nspawn.NetworkMode | None) -> bool:
    """Whether a machine of this mode is connected to something that is there already."""
    return mode is not None and mode.word in _TOLD_AS


def _names(host: Host | None, fact: str) -> list[str] | None:
    told = host.facts.get(fact) if host else None
    return [str(name) for name in told] if isinstance(told, list) else None


# --- policy


def policy(host: Host | None) -> dict[str, Any]:
    told = host.facts.get("policy") if host else None
    return told if isinstance(told, dict) else {}


def pulls_unverified(host: Host | None) -> bool:
    """Whether it carries out pulls that nobody verifies."""
    return policy(host).get("unverified_pulls") == "allowed"


def any_pulls_unverified() -> bool:
    return Host.objects.filter(facts__policy__unverified_pulls="allowed").exists()


def follows_links(host: Host | None) -> bool:
    """Whether it writes what a link leads to, where a file of a machine is one."""
    return policy(host).get("linked_files") == "follow"


def unreachable(host: Host, recipe: PullRecipe) -> str:
    """Why it would not connect to the number in an address; "" when it would, or has not told its rule."""
    rules, number = policy(host).get(egress_rules.RULE), egress_rules.literal(recipe.url)
    try:
        if number is None or not isinstance(rules, list) or egress_rules.may_reach(number, map(str, rules)):
            return ""
    except ValueError:
        return ""
    problem = egress_rules.refusal(str(number), number)
    return f"{problem.message} {problem.hint}"
