"""How much of a host a team may use: its HostShare, held against what its machines there are to have.

A quota binds the team's machines whoever acts, an administrator too (as the limits of a project do in Incus): who wants more
for one raises the quota. Two presses at once cannot both take the last GiB: check() holds the share's row until the job's row is
written. Lines and limits that a machine has already are not held against it: a quota that was lowered stops nothing that runs,
and every step down is allowed.
"""

import fnmatch
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from machines.contract import orders, recipes
from machines.contract.configuration import file_policy, nspawn
from machines.contract.configuration.nspawn import FILES, NETWORK, Document
from machines.contract.configuration.protected import is_in
from machines.contract.configuration.validate import Finding
from machines.contract.problems import NotAllowed
from machines.contract.quantities import size
from machines.models import Host, HostShare, Machine, ObservedFiles, Team
from machines.panel.teams import host_sections
from machines.panel.teams.usage import NOTHING, memory_total, of_limits, percents, used

LOWER = "Lower the limit, or ask an administrator for more."
ASK = "An administrator can change what the team may use of this host."
UNSAID_MODE = "veth"  # what the stock unit's command line gives a machine whose file says nothing


# What needs a share, and may be too much for it
Counted = orders.Apply | orders.Build | orders.RemoveDropins | orders.BuildBase | orders.RemoveBase


class QuotaExceeded(NotAllowed):
    """The team may not use that much of the host, by its quota or by the host's own policy. `findings` name the settings; that of the first is the message."""

    code = "quota"

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(findings[0].message, hint=findings[0].hint)
        self.findings = findings


def check(host: Host, team_id: int | None, order: orders.Order) -> None:
    """Pass silently when this order leaves the team within its quota on this host. In the transaction that places it, after the
    rows of what it is about. Raises QuotaExceeded."""
    if team_id is None or not isinstance(order, Counted):
        return
    rows = HostShare.objects.select_for_update(of=("self",)).select_related("team", "host")
    share = rows.filter(host=host, team=team_id).first()
    found = _once(_of_order(host, team_id, share, order))
    if found:
        raise QuotaExceeded(found)


def _of_order(host: Host, team_id: int, share: HostShare | None, order: Counted) -> Iterator[Finding]:
    if share is None:
        yield not_shared(host, Team.objects.get(pk=team_id))
    elif isinstance(order, orders.BuildBase):
        yield from (*_of_disk(share, used(share).disk), *host_sections.of_base(share))
    elif isinstance(order, orders.RemoveDropins):
        yield from _of_dropins(share, order.name)
    elif isinstance(order, orders.Apply | orders.Build):
        yield from _of_files(share, order)


def _of_files(share: HostShare, order: orders.Apply | orders.Build) -> Iterator[Finding]:
    files = order.configuration
    if isinstance(order, orders.Build):
        yield from _of_build(share, order)
    yield from findings(share, order.name, files.nspawn, files.limits)
    builds = isinstance(order, orders.Build)
    machine = None if builds else _machine(share, order.name)
    yield from host_sections.findings(share, order.name, files.nspawn, files.limits, machine, builds=builds)


def _of_dropins(share: HostShare, name: str) -> Iterator[Finding]:
    """Without drop-ins of other people only ours limits the machine: it must hold what is limited, and be within that."""
    machine = _machine(share, name)
    ours = _ours(machine)
    for each in (*_of_limits(share, machine, name, ours), *host_sections.of_limits(share, name, ours, machine)):
        message = f"Without this drop-in, the panel's own limits of {name} are all that holds. {each.message}"
        yield Finding(each.settings, message, "Import its limits into the settings and apply them first.", each.value)


def _ours(machine: Machine | None) -> str:
    """Our drop-in as its host told of it, or as it was applied where it has told nothing."""
    found = ObservedFiles.objects.filter(machine=machine).first() if machine else None
    if found is not None:
        return found.ours.text if found.ours else ""
    return machine.applied.limits_text if machine and machine.applied else ""


def _once(found: Iterable[Finding]) -> list[Finding]:
    """The first of each setting: a host's policy often says once more what the quota says."""
    kept: dict[tuple[str, str], Finding] = {}
    for each in found:
        kept.setdefault((each.settings[0], each.value), each)
    return list(kept.values())


def of_draft(machine: Machine, nspawn_text: str, limits_text: str) -> list[Finding]:
    """What check() would refuse of these files of a machine that is there, on a host that is shared to its team."""
    share = share_of(machine.host, machine.team_id)
    if share is None:
        return []
    of_section = host_sections.findings(share, machine.name, nspawn_text, limits_text, machine, builds=False)
    return _once([*findings(share, machine.name, nspawn_text, limits_text, machine=machine), *of_section])


def share_of(host: Host | None, team_id: int | None) -> HostShare | None:
    """What a team may use of a host; None where it may not use it, and for what belongs to nobody."""
    if host is None or team_id is None:
        return None
    return HostShare.objects.select_related("team", "host").filter(host=host, team=team_id).first()


def not_shared(host: Host, team: Team) -> Finding:
    return Finding(("host",), f"{host} is not shared to team {team}.", "An administrator can share it.")


# --- what is asked


def findings(
    share: HostShare, name: str, nspawn_text: str, limits_text: str, *, machine: Machine | None = None
) -> Iterator[Finding]:
    """What of these files of the machine of this name goes beyond the team's share of the host, or is none of what it allows.
    Costs no query where the share limits nothing in a configuration; `machine` is looked up where it is not given."""
    if not counts_files(share):
        return
    machine = machine or _machine(share, name)
    before = machine.applied.nspawn_text if machine and machine.applied else ""
    wanted, known = nspawn.parse(nspawn_text), nspawn.parse(before)
    yield from _of_limits(share, machine, name, limits_text)
    yield from _of_network(share, wanted, known if before else None)
    yield from _of_binds(share, wanted, known)


def _machine(share: HostShare, name: str) -> Machine | None:
    machines = Machine.objects.listed().select_related("applied")
    return machines.filter(host=share.host_id, team=share.team_id, name=name).first()


@dataclass(frozen=True)
class Sum:
    """A limit whose sum over a team's machines is limited: `others` have that much of `most`, `asked` is what this one is to
    have and `now` what it has (None: as much as it likes). `unlimited` is one of the others that may take as much as it likes."""

    key: str
    what: str
    most: int | None
    others: float
    asked: float | None
    now: float | None
    unlimited: str

    def written(self, value: float) -> str:
        return percents(value) if self.key == "CPUQuota" else size(value)


def _of_limits(share: HostShare, machine: Machine | None, name: str, text: str) -> Iterator[Finding]:
    if share.max_memory is None and share.max_cpu is None:
        return
    total = memory_total(share.host)
    asked, others = of_limits(text, total), used(share, without=name)
    now = of_limits(machine.applied.limits_text, total) if machine and machine.applied else NOTHING
    memory = Sum(
        "MemoryMax", "memory", share.max_memory, others.memory, asked.memory, now.memory, others.without_memory
    )
    cpu = Sum("CPUQuota", "CPU time", share.max_cpu, others.cpu, asked.cpu, now.cpu, others.without_cpu)
    yield from (*_over(share, memory), *_over(share, cpu))


def _over(share: HostShare, each: Sum) -> Iterator[Finding]:
    team, host, written = share.team, share.host, each.written
    if each.most is None:
        return
    if each.asked is None:
        message = f"Team {team} may use {written(each.most)} of {each.what} on {host}, so each of its machines needs this limit."
        yield Finding((each.key,), message, "Set it, or ask an administrator for no limit.")
        return
    total = each.others + each.asked
    if each.now is not None and each.asked <= each.now:
        return
    if each.unlimited:
        message = (
            f"{each.unlimited} of team {team} has no {each.key}=, so what the team uses of {host} cannot be counted."
        )
        yield Finding((each.key,), message, f"Set {each.key}= for {each.unlimited} first.")
    elif total > each.most:
        message = (
            f"Other machines of team {team} have {written(each.others)} of its {written(each.most)} of {each.what} on {host}; "
            f"this asks for {written(each.asked)}: {written(total - each.most)} too much."
        )
        yield Finding((each.key,), message, LOWER)


def _of_network(share: HostShare, wanted: Document, known: Document | None) -> Iterator[Finding]:
    """The mode, and every interface of the host that it brings in. What the machine has already passes."""
    if not share.networks:
        return
    has = set(connections(known)) if known is not None else set()
    for key, word in connections(wanted):
        if (key, word) not in has and not _allows(share.networks, word):
            message = f"Team {share.team} may not use the network {word} on {share.host}; allowed: {', '.join(share.networks)}."
            yield Finding((f"{NETWORK}.{key}",), message, ASK)


def connections(document: Document) -> Iterator[tuple[str, str]]:
    """(key, word) of each way a machine is connected: "veth", "bridge:br0", "interface:eth1", "other". One word for each NIC, as
    the * of a pattern takes blanks too."""
    mode, target = nspawn.network_mode(document)
    key = nspawn.NETWORK_MODES[mode].target if mode in nspawn.NETWORK_MODES else ""
    mode = mode or UNSAID_MODE
    for word in [f"{mode}:{nic}" for nic in _on_host(target)] or [mode]:
        yield key or "VirtualEthernet", word
    for value in document.get(NETWORK, "Interface"):
        for nic in _on_host(value):
            yield "Interface", f"interface:{nic}"
    if document.get(NETWORK, "VirtualEthernetExtra"):
        yield "VirtualEthernetExtra", UNSAID_MODE
    if document.get(NETWORK, "NamespacePath"):
        yield "NamespacePath", nspawn.OTHER


def _on_host(value: str) -> list[str]:
    """The NICs of the host in a value that may name several of them, each perhaps with its name inside."""
    return [pair.split(":")[0] for pair in value.split()]


def _allows(patterns: list[str], word: str) -> bool:
    """A mode alone allows each of its zones, bridges and NICs."""
    return any(fnmatch.fnmatchcase(word, pattern) or word.partition(":")[0] == pattern for pattern in patterns)


def _of_binds(share: HostShare, wanted: Document, known: Document) -> Iterator[Finding]:
    """By the path as it is written; where links lead, the host looks."""
    if not share.bind_sources:
        return
    has = set(_sources(known))
    for key, value, path in _sources(wanted):
        if (key, value, path) not in has and not any(_is_below(path, root) for root in share.bind_sources):
            message = (
                f"Team {share.team} may not bind {path} of {share.host}; allowed: {', '.join(share.bind_sources)}."
            )
            yield Finding((f"{FILES}.{key}",), message, ASK, value)


def _sources(document: Document) -> Iterator[tuple[str, str, str]]:
    """(key, value, path) of everything that comes in from the host, a person's home (~ada) too."""
    for entry in document.settings():
        if entry.section != FILES or not entry.value:
            continue
        for path in _paths(entry.key, entry.value):
            if path and not path.startswith("+"):
                yield entry.key, entry.value, path


def _paths(key: str, value: str) -> list[str]:
    if key in {"Bind", "BindReadOnly"}:
        return [file_policy.split(value)[0]]
    if key in {"Overlay", "OverlayReadOnly"}:
        return file_policy.overlay_layers(value)
    return [f"~{user}" for user in value.split()] if key == "BindUser" else []


def _is_below(path: str, root: str) -> bool:
    real = posixpath.normpath(f"/{path.lstrip('/')}")  # two slashes at the beginning would stay
    return not path.startswith("~") and is_in(real, posixpath.normpath(root))


def _of_build(share: HostShare, order: orders.Build) -> Iterator[Finding]:
    """What a new machine needs beside its configuration."""
    team, host = share.team, share.host
    if share.name_pattern and not fnmatch.fnmatchcase(order.name, share.name_pattern):
        message = f"Machines of team {team} on {host} are called {share.name_pattern}."
        yield Finding(("name",), message, ASK)
    yield from _of_count(share, order)
    if order.leftovers == "keep" and order.seen and (counts_files(share) or host_sections.limits_each(share)):
        message = f"Files that lie on {host} already cannot be kept: what they allow is not counted against team {team}'s quota."
        yield Finding(("leftovers",), message, "Replace them, or choose another name.")


def _of_count(share: HostShare, order: orders.Build) -> Iterator[Finding]:
    if share.max_machines is None and share.max_disk is None:
        return
    team, host, others = share.team, share.host, used(share, without=order.name)
    if share.max_machines is not None and others.machines >= share.max_machines:
        message = f"Team {team} has {others.machines} of {share.max_machines} machines on {host}."
        yield Finding(("name",), message, "Remove one, or ask an administrator for more.")
    yield from _of_disk(share, others.disk, image_size(order.recipe, host))


def _of_disk(share: HostShare, taken: int, asked: int = 0) -> Iterator[Finding]:
    """Bytes that the team's images take, and that one more takes at least."""
    if share.max_disk is None or (taken < share.max_disk and taken + asked <= share.max_disk):
        return
    takes = f"; this takes {size(asked)}" if asked else ""
    message = f"Images of team {share.team} take {size(taken)} of {size(share.max_disk)} on {share.host}{takes}."
    yield Finding(("host",), message, "Remove a machine, or ask an administrator for more.")


def image_size(recipe: recipes.AnyRecipe, host: Host) -> int:
    """Bytes a new image takes at least, as far as that is known before it is made; 0 where it is not."""
    if isinstance(recipe, recipes.ArchiveRecipe):
        return recipe.size
    if isinstance(recipe, recipes.CloneRecipe):
        original = Machine.objects.listed().on(host).filter(name=recipe.source).first()
        return original.disk_bytes or 0 if original else 0
    return 0


def counts_files(share: HostShare) -> bool:
    limits_something = share.max_memory is not None or share.max_cpu is not None
    return limits_something or bool(share.networks or share.bind_sources)
