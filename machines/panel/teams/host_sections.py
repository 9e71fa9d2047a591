"""What the policy.toml of a host says of single teams, as the host has told it: shown, and held against what a team asks before a host
has to refuse it. The host judges again, by what is really there.
"""

import fnmatch
import posixpath
from collections.abc import Iterator

from machines.contract import policy_sections
from machines.contract.configuration import file_policy, nspawn, validate
from machines.contract.configuration.protected import is_in
from machines.contract.configuration.validate import Finding
from machines.contract.policy_sections import ANY, CEILINGS, Section, Takes
from machines.contract.quantities import size
from machines.models import Host, HostShare, Machine, User
from machines.panel.teams import usage

SETTING = {"max_memory": "MemoryMax", "max_cpu": "CPUQuota", "max_machines": "name", "max_disk": "host"}
Lines = list[tuple[str, str]]


def section(host: Host, team: str) -> Section | None:
    """Of the team of this slug; nothing of a host that has told nothing, or something odd."""
    told = host.facts.get("policy")
    return policy_sections.of_facts(told, team) if isinstance(told, dict) else None


def limits_each(share: HostShare) -> bool:
    """Whether the host's policy has a ceiling for which each machine of the team needs a limit."""
    rules = section(share.host, share.team.slug)
    return rules is not None and bool(rules.limits_each)


def shown_to(user: User, host: Host) -> list[tuple[str, Lines]]:
    """(name of a section, its rules) of those that are this person's to see: all of them for an administrator, else those of its own
    teams."""
    told = host.facts.get("policy")
    teams = told.get("teams") if isinstance(told, dict) else None
    if not isinstance(teams, dict):
        return []
    mine = [grant.slug for grant in user.grants]
    seen = sorted(map(str, teams)) if user.sees_all else [slug for slug in mine if slug in teams]
    if not user.sees_all and ANY in teams and len(seen) < len(mine):
        seen.append(ANY)
    found = [(team, policy_sections.of_facts({"teams": {team: teams[team]}}, team)) for team in seen]
    return [(team, _lines(each)) for team, each in found if each]


def _lines(each: Section) -> Lines:
    return [(rule, _written(rule, value)) for rule, value in each.facts().items()]


def _written(rule: str, value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "nothing"
    if rule in {"max_memory", "max_disk"} and isinstance(value, int | float):
        return size(value)
    return usage.percents(value) if rule == "max_cpu" and isinstance(value, int | float) else str(value)


def findings(
    share: HostShare, name: str, nspawn_text: str, limits_text: str, machine: Machine | None, *, builds: bool
) -> Iterator[Finding]:
    """What the host would refuse of these files of a team's machine, refused here only where the host can be asked; `machine` is its
    row where it is there."""
    rules = section(share.host, share.team.slug)
    if rules is None or share.host.is_silent:
        return
    if builds and rules.machines is not None and not any(fnmatch.fnmatchcase(name, each) for each in rules.machines):
        yield _refusal(
            share, "machines", ("name",), f"the machine name “{name}”; allowed: {', '.join(rules.machines)}."
        )
    before = (machine.applied.nspawn_text, machine.applied.limits_text) if machine and machine.applied else ("", "")
    found = [*_of_files(share, rules, nspawn_text, limits_text), *_of_binds(share, rules, nspawn_text)]
    yield from (each for each in validate.fresh(found, (nspawn_text, limits_text), before) if each.refused)
    yield from _of_ceilings(share, rules, name, limits_text, None if builds else machine)


def _of_files(share: HostShare, rules: Section, nspawn_text: str, limits_text: str) -> Iterator[Finding]:
    document, dropin = nspawn.parse(nspawn_text), nspawn.parse(limits_text)
    for each in file_policy.refusals(file_policy.as_told(rules.facts() | NO_MORE), document, dropin):
        yield _refusal(share, each.rule, each.settings, each.message, each.value)


NO_MORE = {"privileged_binds": "allowed"}  # what a section does not rule


def _of_binds(share: HostShare, rules: Section, nspawn_text: str) -> Iterator[Finding]:
    """By the path as it is written: a link below an allowed folder may lead out of it, which the host sees."""
    if rules.bind_sources is None:
        return
    for key, value, path in validate.sources(nspawn.parse(nspawn_text)):
        roots = [*rules.bind_sources, *((rules.bind_sources_read_only or ()) if key == "BindReadOnly" else ())]
        if not any(is_in(posixpath.normpath(path), posixpath.normpath(root)) for root in roots):
            message = f"{key}= of {path}; allowed are {', '.join(roots) or 'nothing'}."
            yield _refusal(share, "bind_sources", (f"{nspawn.FILES}.{key}",), message, value)


def _of_ceilings(
    share: HostShare, rules: Section, name: str, limits_text: str, machine: Machine | None
) -> Iterator[Finding]:
    if not any(getattr(rules, each) is not None for each in CEILINGS):
        return
    total = usage.memory_total(share.host)
    others = {row.name: _takes(uses, row) for row, uses in usage.each(share, without=name)}
    now = None
    if machine is not None:
        now = _takes(usage.of_limits(machine.applied.limits_text, total) if machine.applied else usage.NOTHING, machine)
    found = policy_sections.beyond(rules, others, _takes(usage.of_limits(limits_text, total), None), now)
    if found:
        rule, message = found
        yield _refusal(share, rule, (SETTING[rule],), message)


def of_limits(share: HostShare, name: str, limits_text: str, machine: Machine | None) -> Iterator[Finding]:
    """What the host would refuse of a drop-in for this machine, as findings()."""
    rules = section(share.host, share.team.slug)
    if rules is not None and not share.host.is_silent:
        yield from _of_ceilings(share, rules, name, limits_text, machine)


def of_base(share: HostShare) -> Iterator[Finding]:
    """What the host would refuse of a base image for this team, as findings()."""
    rules = section(share.host, share.team.slug)
    if rules is None or share.host.is_silent or rules.max_disk is None:
        return
    takes = {row.name: _takes(uses, row) for row, uses in usage.each(share)}
    if found := policy_sections.beyond_disk(rules, takes):
        rule, message = found
        yield _refusal(share, rule, (SETTING[rule],), message)


def _takes(uses: usage.Uses, machine: Machine | None) -> Takes:
    return Takes(uses.memory, uses.cpu, (machine.disk_bytes or 0) if machine else 0)


def _refusal(share: HostShare, rule: str, settings: tuple[str, ...], message: str, value: str = "") -> Finding:
    told = share.host.facts["policy"]["teams"]
    name = share.team.slug if share.team.slug in told else f'"{ANY}"'
    return Finding(
        settings, f"The policy of {share.host} does not allow it for team {share.team}: {message}",
        f"Its administrator can change the rule “{rule}” of [teams.{name}] in /etc/nspawnpanel/policy.toml.", value,
    )  # fmt: skip
