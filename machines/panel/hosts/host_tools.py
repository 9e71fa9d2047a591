"""What a host lacks for something, by what it has told of its tools (contract/tools.py), said before it is ordered."""

from machines.contract import tools
from machines.contract.recipes import AnyRecipe
from machines.models import Host

# All that a worker looked for before it had the table: of other tools such a host cannot be said to lack them
_ONCE = frozenset({
    "systemd-nspawn", "machinectl", "systemd-run", "systemd-analyze", "systemd-sysusers", "journalctl", "mmdebstrap",
    "debootstrap", "dnf", "dnf5", "pacstrap", "zypper", "btrfs", "zstd",
})  # fmt: skip


def lacking_for(host: Host | None, *works: str) -> str:
    """A sentence with what to install; "" when nothing is missing or the host has not told what it has."""
    return _sentence(host, tools.lacking(works, _there(host))) if _there(host) else ""


def lacking_for_recipe(host: Host | None, recipe: AnyRecipe | None) -> str:
    """The same for what builds this recipe."""
    return _sentence(host, tools.groups_of(recipe, _there(host))) if recipe and _there(host) else ""


def _there(host: Host | None) -> dict[str, str]:
    told = host.facts.get("tools") if host else None
    return told if isinstance(told, dict) else {}


def _sentence(host: Host | None, groups: list[tuple[str, ...]]) -> str:
    if _there(host).keys() <= _ONCE:
        groups = [group for group in groups if _ONCE.issuperset(group)]
    manager = host.facts.get("package_manager") if host else ""
    return tools.sentence(groups, str(host), manager if isinstance(manager, str) else "")
