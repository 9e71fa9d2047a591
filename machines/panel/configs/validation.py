"""A configuration judged before its host is asked: by what the host has told of itself, and by what its other machines are
to have. The host judges again, by what is really there."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from machines.contract.configuration import command_line, file_policy, nspawn, protected, syntax_check, validate
from machines.contract.configuration.command_line import CommandLine
from machines.contract.configuration.syntax_check import Remark
from machines.contract.configuration.validate import Facts, Finding
from machines.contract.states import MachineState
from machines.models import Host, Machine, ObservedFiles, PortForward
from machines.models.found import OURS
from machines.models.team import is_in
from machines.panel.configs.diffs import Files
from machines.panel.hosts import host_facts
from machines.panel.teams import redact

NEIGHBOURS = 500  # machines of one host whose files are looked into for ports and folders


# host → its machines with what each of them gets
Read = dict[UUID, list[tuple[Machine, nspawn.Document]]]


def findings(
    host: Host,
    name: str,
    wanted: Files,
    before: Files = Files(),  # noqa: B008 - frozen
    unit: CommandLine | None = None,
    *,
    read: Read | None = None,
    named: Collection[int] | None = (),
) -> list[Finding]:
    """What would not hold, what is refused first. What the files said `before` is not held against the draft; nor is
    what a silent host said long ago. `unit` is what the machine's unit runs, the stock unit's line without it; `read`
    keeps what each host's machines get, for whoever judges many of them. Machines of the teams `named`, None for all, are
    called by their names, others not."""
    document = nspawn.parse(wanted.nspawn)
    neighbours = _neighbours(host, name, document, {} if read is None else read, named)
    facts = replace(_facts(host, neighbours), unit=unit or command_line.stock())
    found = validate.judge(document, wanted.limits, facts)
    if host.is_silent:
        return validate.only_warned(found)
    return validate.fresh(found, (wanted.nspawn, wanted.limits), (before.nspawn, before.limits))


Neighbours = tuple[dict[validate.Port, str], dict[str, str], dict[str, str]]


@dataclass(frozen=True)
class LeftOut:
    """A line of a draft that systemd does not read. One that stood there before is no obstacle."""

    file: str
    remark: Remark
    is_old: bool


def left_out(machine: Machine, wanted: Files, before: Files) -> list[LeftOut]:
    """In the order of the files."""
    found = []
    for file, text, old, read in (
        (f"{machine.name}.nspawn", wanted.nspawn, before.nspawn, syntax_check.settings_file),
        (OURS, wanted.limits, before.limits, syntax_check.dropin),
    ):
        fresh = {remark.line for remark in read(text, old) if syntax_check.is_left_out(remark)}
        every = [remark for remark in read(text) if syntax_check.is_left_out(remark)]
        found += [LeftOut(file, remark, remark.line not in fresh) for remark in every]
    return found


def without_left_out(wanted: Files) -> Files:
    return Files(
        syntax_check.without_left_out(wanted.nspawn, nspawn.SECTIONS),
        syntax_check.without_left_out(wanted.limits, syntax_check.UNIT_SECTIONS),
    )


def _facts(host: Host, neighbours: Neighbours) -> Facts:
    told = host.facts
    policy = host_facts.policy(host)
    ports, writable, bound = neighbours
    return Facts(
        name=host.name,
        systemd=_whole(told, "systemd"),
        memory=_whole(told, "memory_total"),
        networkd=told.get("networkd"),
        bridges=told.get("bridges"),
        interfaces=[*(told.get("interfaces") or []), *(told.get("bridges") or [])] if "interfaces" in told else None,
        bind_sources=_words(policy.get("bind_sources")),
        bind_sources_read_only=_words(policy.get("bind_sources_read_only")) or (),
        rules=file_policy.as_told(policy),
        lacks=lacking(host),
        protected=[*protected.TABLE, *protected.as_told(told.get("protected"))],
        ports=ports,
        writable=writable,
        bound=bound,
    )


def _neighbours(
    host: Host, name: str, document: nspawn.Document, read: Read, named: Collection[int] | None
) -> Neighbours:
    """(port → machine, folder → machine that writes there, folder → machine that binds it) of the host's other machines;
    looked up only where this configuration has to do with it."""
    ports: dict[validate.Port, str] = {}
    writable: dict[str, str] = {}
    bound: dict[str, str] = {}
    if not document.get(nspawn.NETWORK, "Port") and not any(validate.sources(document)):
        return ports, writable, bound
    if host.pk not in read:
        read[host.pk] = list(_machines(host))
    for machine, theirs in read[host.pk]:
        if machine.name == name:
            continue
        other = called(machine, named)
        numbers = (validate.host_port(value) for value in theirs.get(nspawn.NETWORK, "Port"))
        ports |= {number: other for number in numbers if number}
        writable |= {path: other for _, _, path in validate.sources(theirs, writable=True)}
        bound |= {path: other for _, _, path in validate.sources(theirs)}
    return ports, writable, bound


def own(machine: Machine) -> list[int]:
    """The teams whose machines are named to whoever configures this one."""
    return [] if machine.team_id is None else [machine.team_id]


def called(machine: Machine, named: Collection[int] | None) -> str:
    """By its name, where it is of a team that is named."""
    return machine.name if is_in(named, machine.team_id) else redact.OF_OTHERS


def _machines(host: Host) -> Iterator[tuple[Machine, nspawn.Document]]:
    """The host's machines with what each gets: by what was applied here, else by the file that was found there, and by
    its unit's command line."""
    every = Machine.objects.listed().on(host).exclude(applied=None, state=MachineState.MISSING)
    mine = list(every.select_related("applied").order_by("pk")[:NEIGHBOURS])
    found = {
        each.machine_id: each.counting for each in ObservedFiles.objects.filter(machine__in=mine, machine__applied=None)
    }
    for machine in mine:
        file = found.get(machine.pk)
        text = machine.applied.nspawn_text if machine.applied else file.text if file and file.is_plain else ""
        trusted = machine.applied is not None or (file is not None and file.is_trusted)
        yield machine, command_line.settings_of(machine.next_command, nspawn.parse(text), trusted=trusted)


def ports_of_others(
    host: Host, machine: int | None, wanted: Collection[int], *, named: Collection[int] | None
) -> dict[tuple[str, int], str]:
    """(protocol, port of the host) → the machine it leads to, of the wanted ports those that other machines have by what
    was applied to them. `machine` is the key of the one that wants them, `named` as for findings()."""
    if not wanted:
        return {}
    others = Machine.objects.listed().on(host)
    others = others if machine is None else others.exclude(pk=machine)
    taken = PortForward.objects.filter(revision__in=others.values("applied"), host_port__in=wanted)
    return {
        (p.protocol, p.host_port): called(p.revision.machine, named) for p in taken.select_related("revision__machine")
    }


def lacking(host: Host) -> dict[str, str]:
    """Limits that nothing on this host enforces, as it says: key → what is not there."""
    told = host.facts.get("lacks")
    return {key: text for key, text in told.items() if isinstance(text, str)} if isinstance(told, dict) else {}


def _whole(facts: dict[str, Any], name: str) -> int:
    value = facts.get(name)
    return value if isinstance(value, int) else 0


def _words(value: Any) -> list[str] | None:
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else None
