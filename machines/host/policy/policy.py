"""What this host will ever allow, whoever asks: /etc/nspawnpanel/policy.toml, written by its root, never by us.

The panel decides who may ask; the host decides what may happen. A missing file means the defaults below. Every refusal
names the rule, so that an administrator of the host knows which line to change. An example with every rule explained
lies beside this file as policy.toml.
"""

import fnmatch
import os
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from machines.contract import orders, recipes
from machines.contract import policy_sections as sections
from machines.contract.configuration import command_line, egress_rules, file_policy, nspawn, protected
from machines.contract.configuration.command_line import CommandLine
from machines.contract.configuration.limits import PROPERTIES
from machines.contract.policy_sections import Section
from machines.contract.problems import NotAllowed
from machines.host.policy import protection
from machines.host.policy.protection import Source
from machines.host.system import guarded
from machines.host.system.faults import Misconfigured
from machines.host.system.paths import Paths

# Keys a drop-in may hold. No Exec*=, no LoadCredential=, no Environment=: each of them would be root on the host. No Wants=
# and its kin: they start any unit of the host with the machine, poweroff.target or debug-shell.service too.
# What is guarded opens devices, the host's firewall or another slice.
UNIT_SETTINGS = (*(key for key, prop in PROPERTIES.items() if not prop.guarded), "SetCredential")
NETWORKS = ("veth", "zone", "bridge", "macvlan", "ipvlan", "host", "none", "other")


# What rules and operations were called before: a file that says so is refused with the word of today.
FORMER_RULES = {
    "ops": "operations",
    "port_lowest": "lowest_port",
    "pulls": "pull_urls",
    "panels": "panel_urls",
    "archive_gib": "max_archive_gib",
    "cache_gib": "max_cache_gib",
    "bases": "max_bases",
    "builds_at_once": "max_parallel_builds",
}
FORMER_OPERATIONS = {
    "bake": "build_base",
    "discard": "remove_base",
    "examine": "diagnose",
    "mark": "set_read_only",
    "mend": "fix",
    "prove": "limit_test",
    "tidy": "remove_dropins",
}


@dataclass(frozen=True)
class Policy:
    """The rules. Lists of names may use shell patterns (fnmatch)."""

    operations: tuple[str, ...] = tuple(sorted(orders.KINDS))
    machines: tuple[str, ...] = ("*",)
    bind_sources: tuple[str, ...] = ("/srv", "/mnt", "/media")
    bind_sources_read_only: tuple[str, ...] = ("/usr/share", "/etc/ssl/certs", "/etc/resolv.conf")
    networks: tuple[str, ...] = NETWORKS
    interfaces: tuple[str, ...] = ("*",)  # for Interface=, MACVLAN=, IPVLAN=, Bridge=
    capabilities: tuple[str, ...] = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_SYS_NICE", "CAP_SYS_PTRACE")
    system_calls: tuple[str, ...] = ()  # beyond systemd-nspawn's own set; some of those are root on the host
    private_users: str = "optional"  # or "required": no ids that belong to this host itself
    privileged_binds: str = "never"  # or "allowed": writable binds where ids inside are the host's own, root's too
    linked_files: str = "refuse"  # settings files that are links; or "follow": what they lead to is written
    lowest_port: int = 1
    unit_settings: tuple[str, ...] = UNIT_SETTINGS
    mirrors: tuple[str, ...] = ("*",)
    pull_urls: tuple[str, ...] = ("https://*", "http://*")
    pull_addresses: tuple[str, ...] = (
        egress_rules.PUBLIC,
        egress_rules.PRIVATE,
    )  # and networks; never the host itself unless listed
    unverified_pulls: str = "never"  # or "allowed"
    # where archives come from and go to; empty: what this host was told when it joined
    panel_urls: tuple[str, ...] = ()
    max_archive_gib: int = 50  # of an archive, and of what is unpacked from it
    max_cache_gib: int = 4  # of packages kept for later builds; 0 keeps none
    max_bases: int = 20  # kept at once; the least used goes
    max_parallel_builds: int = 2
    builds_in_memory: bool = True  # when half of what is available is enough
    teams: Mapping[str, Section] = field(default_factory=dict)  # slug → what else holds for it; "*" for all others

    team: str = ""  # no rules: whose section these are, and those of the whole host with what that says (of())
    narrowed: "Policy | None" = None

    def facts(self) -> dict[str, Any]:
        """The rules as the panel shows them."""
        told = {each: getattr(self, each) for each in RULES}
        rules = {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}
        return rules | ({"teams": {team: each.facts() for team, each in self.teams.items()}} if self.teams else {})

    def section(self, team: str) -> Section | None:
        """What the file says of this team; of one it does not name what it says of "*"."""
        return self.teams.get(team, self.teams.get(sections.ANY)) if team else None

    def of(self, team: str) -> "Policy":
        """The rules for what a team asks, or what is its machine's: those of the whole host, and its section's besides. A section
        never allows what the host does not, for both are asked. "" is no team."""
        section = self.section(team)
        if section is None:
            return self
        return replace(self, team=team, narrowed=replace(self, team=team, **section.rules()))

    @property
    def layers(self) -> tuple["Policy", ...]:
        """All that must allow something: these rules, and the team's."""
        return (replace(self, team="", narrowed=None), self.narrowed) if self.narrowed else (self,)


RULES = tuple(each.name for each in fields(Policy) if each.name not in {"teams", "team", "narrowed"})


def read(file: Path) -> Policy:
    """The rules of a file. Raises Misconfigured when it cannot be trusted or read: better no worker than a guess."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Policy()
    except OSError as error:
        raise Misconfigured(f"{file} cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as opened:
        _check_owner(file, os.fstat(opened.fileno()))
        try:
            return _policy(tomllib.load(opened))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
            raise Misconfigured(f"{file} cannot be used: {error}") from error


def _check_owner(file: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise Misconfigured(
            f"{file} must be a file that only root can write to.",
            hint=f"Run: chown root:root {file} && chmod 644 {file}",
        )


def _policy(rules: Mapping[str, Any]) -> Policy:
    defaults = Policy()
    given: dict[str, Any] = {}
    for name, value in rules.items():
        if name in FORMER_RULES:
            raise ValueError(f"the rule “{name}” is called “{FORMER_RULES[name]}” now")
        if name == "teams":
            given[name] = sections.read(value)
            continue
        if name not in RULES:
            raise ValueError(f"“{name}” is not a rule; known are {', '.join((*RULES, 'teams'))}")
        given[name] = _rule(name, value, type(getattr(defaults, name)))
    for word in given.get(egress_rules.RULE, ()):
        egress_rules.check_rule(word)
    for where in (given, *(each.rules() for each in given.get("teams", {}).values())):
        _check_operations(where.get("operations", ()))
    return Policy(**given)


def _check_operations(words: Sequence[str]) -> None:
    for op in words:
        if op in FORMER_OPERATIONS:
            raise ValueError(f"the operation “{op}” is called “{FORMER_OPERATIONS[op]}” now")


def _rule(name: str, value: object, wanted: type) -> object:
    if wanted is tuple:
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise ValueError(f"“{name}” must be a list of strings")
        return tuple(value)
    if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
        raise ValueError(f"“{name}” must be {'true or false' if wanted is bool else f'a {wanted.__name__}'}")
    return value


def refuse(rule: str, message: str, policy: Policy) -> NotAllowed:
    """`policy` is the layer that says no."""
    section = policy.teams and policy.team and (policy.team if policy.team in policy.teams else sections.ANY)
    whose = f" for team {policy.team}" if section else ""
    named = f"“{rule}” of [teams.{sections.quoted(section)}]" if section else f"“{rule}”"
    return NotAllowed(
        f"This host's policy does not allow it{whose}: {message}",
        hint=f"Its administrator can change the rule {named} in /etc/nspawnpanel/policy.toml.",
        code="policy-refused",
    )


def allow(policy: Policy, order: orders.Order, *, as_administrator: bool = False) -> None:
    """Pass silently when the policy lets this order happen at all. Raises NotAllowed naming the rule, and the section where it is a
    team's.

    The files of an Apply or Build are judged by allow_files() on their final text, by the code that writes them. What a team's
    people may order does not bind an administrator of the panel; what its machines may be does.
    """
    for layer in policy.layers:
        if order.op not in layer.operations and not (layer.team and as_administrator):
            raise refuse("operations", f"the operation “{order.op}”.", layer)
        _allow(layer, order)


def _allow(policy: Policy, order: orders.Order) -> None:
    name = getattr(order, "name", None)
    if name and not _matches(name, policy.machines):
        raise refuse("machines", f"the machine name “{name}”.", policy)
    if isinstance(order, orders.Build | orders.BuildBase):
        _allow_recipe(policy, order.recipe)
    if isinstance(order, orders.Export):
        _allow_panel(policy, order.url)


def _allow_recipe(policy: Policy, recipe: recipes.AnyRecipe) -> None:
    for mirror in _mirrors_of(recipe):
        if not _matches(mirror, policy.mirrors):
            raise refuse("mirrors", f"the mirror {mirror}.", policy)
    if isinstance(recipe, recipes.PullRecipe):
        if not _matches(recipe.url, policy.pull_urls):
            raise refuse("pull_urls", f"images from {recipe.url}.", policy)
        number = egress_rules.literal(recipe.url)
        if number and not egress_rules.may_reach(number, policy.pull_addresses):
            raise egress_rules.refusal(
                str(number), number
            )  # others are judged when they have an address (rootfs/steps/egress_proxy.py)
        if recipe.verify == "none" and policy.unverified_pulls != "allowed":
            raise refuse("unverified_pulls", "an unverified image.", policy)
    if isinstance(recipe, recipes.CloneRecipe) and not _matches(recipe.source, policy.machines):
        raise refuse("machines", f"a copy of the machine “{recipe.source}”.", policy)
    if isinstance(recipe, recipes.ArchiveRecipe):
        _allow_panel(policy, recipe.url)
        if recipe.size > policy.max_archive_gib * 1024**3:
            raise refuse("max_archive_gib", f"an archive of {recipe.size / 1024**3:.1f} GiB.", policy)


def _allow_panel(policy: Policy, url: str) -> None:
    """Archives come from the panel and go to it, nowhere else. A host that was never told where that is (it joined before
    that was said) refuses at least itself and the metadata services of clouds."""
    host, number = (urlsplit(url).hostname or "").rstrip("."), egress_rules.literal(url)
    if policy.panel_urls:
        is_right = "@" not in url and _matches(url, policy.panel_urls)
    elif number:
        is_right = egress_rules.what(number) in {egress_rules.PUBLIC, egress_rules.PRIVATE}
    else:
        is_right = host != "localhost" and not host.endswith(".localhost")
    if not is_right:
        raise refuse(
            "panel_urls",
            f"archives from or to {url.split('/transfer/', maxsplit=1)[0]}, which is not the URL of its panel.",
            policy,
        )


def _mirrors_of(recipe: recipes.AnyRecipe) -> list[str]:
    """Every address a recipe wants packages from. Through a proxy of its choice any of them would be another one."""
    match recipe:
        case recipes.DebianRecipe():
            found = [recipe.proxy, recipe.mirror, *(repository.uri for repository in recipe.repositories)]
        case recipes.DnfRecipe() | recipes.SuseRecipe():
            found = [recipe.proxy, *(repository.url for repository in recipe.repositories)]
        case recipes.ArchRecipe():
            found = [recipe.proxy, recipe.mirror]
        case _:
            found = []
    return [address for address in found if address]


def allow_files(
    policy: Policy,
    paths: Paths,
    wanted: nspawn.Document,
    limits: nspawn.Document,
    *,
    found: Sequence[str] = (),
    unit: CommandLine | None = None,
) -> None:
    """Judge a machine's final .nspawn file and drop-in. Raises NotAllowed naming the rule.

    `found` are the texts of the files as they are on the host: a line that stands there already was written by
    somebody with the permission to, and passes the policy; but what gives root away (protection.py) does not. Paths are compared
    by where they lead: /srv/x may lead to /etc. `unit` is what the machine's unit runs.
    """
    known = {(e.section, e.key, e.value) for text in found for e in nspawn.parse(text).settings()}
    fresh = nspawn.Document([e for e in wanted.entries if (e.section, e.key, e.value) not in known])
    dropin = nspawn.Document([e for e in limits.entries if (e.section, e.key, e.value) not in known])
    users = file_policy.users_of(wanted, unit or command_line.stock())
    _refuse_protected(paths, wanted, fresh, as_root=file_policy.are_the_hosts(users))
    for layer in policy.layers:
        for source in protection.sources(fresh):
            if why := _outside(layer, source):
                raise refuse(rule_of(source), why, layer)
        for refusal in file_policy.refusals(file_policy.as_told(layer.facts()), fresh, dropin, wanted, users=users):
            raise refuse(refusal.rule, refusal.message, layer)


def _refuse_protected(paths: Paths, wanted: nspawn.Document, fresh: nspawn.Document, *, as_root: bool) -> None:
    """Raises NotAllowed code protected-path. That a read-only bind is none without a user namespace is only held against a
    line that is new."""
    every, new = list(protection.sources(wanted)), list(protection.sources(fresh))
    if not every:
        return
    guard = protection.Protection(protection.places(paths))
    for broken in (*guard.judge(every, as_root=False), *guard.judge(new, as_root=as_root)):
        raise NotAllowed(
            f"{broken.source.key}={broken.source.value}: {broken.why}",
            hint="Bind a directory that contains only what the machine should have, such as one below /srv.",
            code="protected-path",
        )


def outside(policy: Policy, source: Source) -> str:
    """Why the policy does not let a machine have this source; "" when it does."""
    return next((why for layer in policy.layers if (why := _outside(layer, source))), "")


def _outside(policy: Policy, source: Source) -> str:
    roots = policy.bind_sources
    if source.key == "BindReadOnly":
        roots = (*roots, *policy.bind_sources_read_only)
    real = guarded.call(source.path, lambda: os.path.realpath(source.path))
    if any(protected.is_in(real, os.path.realpath(root)) for root in roots):
        return ""
    leads = f" (it leads to {real})" if real != source.path else ""
    return f"{source.key}= of {source.path}{leads}; allowed are {', '.join(roots)}."


def rule_of(source: Source) -> str:
    return "bind_sources_read_only" if source.key == "BindReadOnly" else "bind_sources"


def _matches(word: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(word, pattern) for pattern in patterns)
