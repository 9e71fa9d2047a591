"""The sections of policy.toml for single teams: [teams.web], and [teams."*"] for every team that has none of its own.

A section narrows what the file says for the whole host; it never widens it. It says rules of the whole host once more, for this team
alone, and ceilings: how many machines of the team this host takes, and what they may take of it together.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from machines.contract.configuration import values
from machines.contract.problems import BadValue
from machines.contract.quantities import size

ANY = "*"
LISTS = (
    "operations",
    "machines",
    "bind_sources",
    "bind_sources_read_only",
    "networks",
    "interfaces",
    "capabilities",
    "mirrors",
    "pull_urls",
)
CEILINGS = ("max_machines", "max_memory", "max_cpu", "max_disk")
_SLUG = re.compile(r"[A-Za-z0-9_-]{1,63}")


@dataclass(frozen=True)
class Section:
    """One team's. None where nothing is said. `max_memory` and `max_disk` in bytes, `max_cpu` in percent of one CPU."""

    operations: tuple[str, ...] | None = None
    machines: tuple[str, ...] | None = None
    bind_sources: tuple[str, ...] | None = None
    bind_sources_read_only: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    interfaces: tuple[str, ...] | None = None
    capabilities: tuple[str, ...] | None = None
    mirrors: tuple[str, ...] | None = None
    pull_urls: tuple[str, ...] | None = None
    lowest_port: int | None = None
    max_machines: int | None = None
    max_memory: int | None = None
    max_cpu: float | None = None
    max_disk: int | None = None

    def rules(self) -> dict[str, Any]:
        """What it says of rules that the whole host has too."""
        return {name: value for name, value in self._said().items() if name not in CEILINGS}

    def facts(self) -> dict[str, Any]:
        """What it says, as the panel shows it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._said().items()}

    @property
    def has_ceilings(self) -> bool:
        return any(getattr(self, name) is not None for name in CEILINGS)

    @property
    def limits_each(self) -> str:
        """The first of the ceilings for which each machine needs a limit; "" where there is none."""
        return next((name for name in ("max_memory", "max_cpu") if getattr(self, name) is not None), "")

    def _said(self) -> dict[str, Any]:
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in told.items() if value is not None}


def of_facts(policy: Mapping[str, Any], team: str) -> Section | None:
    """What a host has told of a team's section, whose values may be anything: what cannot be is not there."""
    teams = policy.get("teams")
    told = (teams.get(team) or teams.get(ANY)) if isinstance(teams, Mapping) and team else None
    if not isinstance(told, Mapping):
        return None
    said: dict[str, Any] = {name: tuple(told[name]) for name in LISTS if _are_words(told.get(name))}
    said |= {name: told[name] for name in ("lowest_port", *CEILINGS) if _is_number(told.get(name))}
    return Section(**said)


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63


def read(value: object) -> dict[str, Section]:
    """The table `teams` of the file. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("“teams” must be sections such as [teams.web]")
    return {team: _section(team, rules) for team, rules in value.items()}


def _section(team: str, rules: object) -> Section:
    if team != ANY and not _SLUG.fullmatch(team):
        raise ValueError(
            f'[teams.{quoted(team)}] names no team: the part of its address, such as web, or "*" for all others'
        )
    if not isinstance(rules, Mapping):
        raise ValueError(f"[teams.{quoted(team)}] must be a section")
    try:
        return Section(**{name: _rule(name, value) for name, value in rules.items()})
    except ValueError as error:
        raise ValueError(f"[teams.{quoted(team)}]: {error}") from error


def _rule(name: str, value: Any) -> Any:
    if name in LISTS:
        if not _are_words(value):
            raise ValueError(f"“{name}” must be a list of strings")
        return tuple(value)
    if name in {"max_machines", "lowest_port"}:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"“{name}” must be a whole number")
        return value
    if name in {"max_memory", "max_disk"}:
        return _bytes(name, value)
    if name == "max_cpu":
        return _percent(value)
    known = (*LISTS, "lowest_port", *CEILINGS)
    raise ValueError(f"“{name}” is not a rule of a team; known are {', '.join(known)}")


def _bytes(name: str, value: object) -> int:
    try:
        return values.size_in_bytes(value if isinstance(value, str) else "")
    except BadValue:
        raise ValueError(f'“{name}” must be a size such as "8G"') from None


def _percent(value: object) -> float:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,2})?%", value):
        raise ValueError('“max_cpu” must be a percentage of one CPU such as "400%"')
    return float(value[:-1])


def quoted(team: str) -> str:
    """As it stands in a header of the file."""
    return team if team != ANY and _SLUG.fullmatch(team) else f'"{team}"'


# --- ceilings


@dataclass(frozen=True)
class Takes:
    """What a machine may take of this host, None where nothing limits it; `disk` is what its image takes now."""

    memory: float | None = None
    cpu: float | None = None
    disk: int = 0


def beyond(
    section: Section, others: Mapping[str, Takes], asked: Takes | None, now: Takes | None
) -> tuple[str, str] | None:
    """(rule, sentence) for the first ceiling that a machine would break beside the team's `others`, or None. `asked` is what its
    settings are to let it take, None where none are written; `now` what they let it take, None for a machine that is not there yet."""
    most = section.max_machines
    if now is None and most is not None and len(others) >= most:
        return "max_machines", f"the team has {len(others)} of {most} machines here."
    if now is None and (full := beyond_disk(section, others)):
        return full
    if asked is None:
        return None
    memory = _sum("MemoryMax", section.max_memory, others, asked.memory, now.memory if now else 0)
    cpu = _sum("CPUQuota", section.max_cpu, others, asked.cpu, now.cpu if now else 0)
    return ("max_memory", memory) if memory else ("max_cpu", cpu) if cpu else None


def beyond_disk(section: Section, all_of_team: Mapping[str, Takes]) -> tuple[str, str] | None:
    """The same for one more image, or a base image, beside those of the team's machines."""
    disk = sum(each.disk for each in all_of_team.values())
    if section.max_disk is None or disk < section.max_disk:
        return None
    return "max_disk", f"images of the team take {size(disk)} of {size(section.max_disk)} here."


def _sum(key: str, most: float | None, others: Mapping[str, Takes], asked: float | None, now: float | None) -> str:
    """Why this limit would be too high; "" when it is not, or is no higher than it is now."""
    if most is None or (asked is not None and now is not None and asked <= now):
        return ""
    if asked is None:
        return f"a machine without {key}=; the team may use {_written(key, most)} here."
    each = {name: _of(key, takes) for name, takes in others.items()}
    if unlimited := next((name for name, value in each.items() if value is None), ""):
        return f"more while {unlimited} of the team has no {key}=."
    used = sum(value or 0 for value in each.values())
    if used + asked <= most:
        return ""
    return f"{key}={_written(key, asked)}; the team's other machines have {_written(key, used)} of {_written(key, most)} here."


def _of(key: str, takes: Takes) -> float | None:
    return takes.cpu if key == "CPUQuota" else takes.memory


def _written(key: str, value: float) -> str:
    return f"{value:g}%" if key == "CPUQuota" else size(value)
