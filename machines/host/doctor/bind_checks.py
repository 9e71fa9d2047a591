"""Whether binds give the host away: those of the panel, those made by hand, and those of a unit's own command line. Each is
judged by what it reaches at this moment, see protection.py."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from machines.contract.configuration import file_policy
from machines.contract.configuration.command_line import CommandLine
from machines.contract.configuration.findings import Finding
from machines.contract.configuration.nspawn import Document
from machines.contract.names import MachineName
from machines.host.doctor.facts import Facts
from machines.host.doctor.host_checks import found
from machines.host.files import files_on_disk
from machines.host.machine import lint
from machines.host.observe import command_line
from machines.host.policy import protection
from machines.host.policy.protection import Protection
from machines.host.system.paths import unit_of

LOOKED_AT = 500  # machines of a host
TOLD = 20  # of them, with a finding each


def of_host(observed: Facts) -> Iterator[Finding]:
    """All machines with an image, whoever made them."""
    paths, bus = observed.host.paths, observed.host.bus
    guard = Protection(protection.places(paths))
    told = 0
    for name, image in islice(lint.images_of(paths).items(), LOOKED_AT):
        observed.task.check_stop()
        line = command_line.read(bus, name)
        for finding in _judge(observed, guard, name, lint.settings_of(paths, name, image, line), line):
            yield finding
            told += 1
            if told >= TOLD:
                return
    if not told:
        yield found("binds-fine")


def of_machine(observed: Facts) -> Iterator[Finding]:
    guard = Protection(protection.places(observed.host.paths))
    told = list(islice(_judge(observed, guard, observed.machine, observed.settings, observed.command_line), TOLD))
    yield from told or [found("binds-fine")]


def _judge(
    observed: Facts, guard: Protection, name: MachineName, settings: Document, line: CommandLine
) -> Iterator[Finding]:
    each = list(protection.sources(settings))
    bad = {broken.source: broken.why for broken in guard.judge(each, as_root=False)}
    file = next(
        files_on_disk.nspawn_files(observed.host.paths, files_on_disk.Places(name, observed.host.paths.machines)), None
    )
    about = {"name": name, "unit": unit_of(name), "file": file or Path(observed.host.paths.nspawn_file(name))}
    for source, why in bad.items():
        yield found("binds-protected", about, line=f"{source.key}={source.value}", why=why)
    if file_policy.are_the_hosts(file_policy.users_of(settings, line)):
        for source in each:
            if source not in bad and (source.writable or _would_be_bad(guard, source)):
                yield found("binds-as-root", about, line=f"{source.key}={source.value}")


def _would_be_bad(guard: Protection, source: protection.Source) -> bool:
    """Whether a read-only bind gives the host away once it is remounted, which root inside can do."""
    return any(guard.judge([source], as_root=True))
