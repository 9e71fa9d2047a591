"""What every page about a machine's configuration shows."""

from dataclasses import dataclass
from typing import Any

from machines.contract.configuration import nspawn
from machines.contract.permissions import Permission
from machines.models import Machine, ObservedFiles, Revision
from machines.models.found import ETC
from machines.panel.configs import diffs, drafts, effective_settings
from machines.panel.hosts import host_facts
from machines.panel.pages.machine_rows import host_url, machine_url
from machines.panel.web.access import PanelRequest

PASSING = {"memory_bytes", "cpu_ns", "tasks", "disk_bytes", "changed_at"}  # columns of a machine that say nothing here


def context(request: PanelRequest, machine: Machine, draft: Revision | None, here: str) -> dict[str, Any]:
    """`here` is the tab: config, holds or revisions."""
    return {
        "machine": machine,
        "host": machine.host,
        "state": machine.shown_state.value,
        "url": machine_url(machine.host.name, machine.name),
        "host_url": host_url(machine.host.name),
        "draft": draft,
        "holder": drafts.holder(draft),
        "seen": drafts.stamp(machine, draft),
        "may_configure": request.user.may(Permission.CONFIGURE),
        "here": here,
        "unit_words": unit_words(machine),
        "hand_words": hand_words(machine),
        "links": links(machine, ObservedFiles.objects.filter(machine=machine).first()) if here == "config" else [],
    }


def unit_words(machine: Machine) -> list[str]:
    """What the machine's unit runs otherwise than the stock unit would, word by word; [] when it does not."""
    line = machine.next_command
    if not line.is_known:
        return [" ".join(line.argv)[:200]]
    return line.deviations() if line.deviates else []


def hand_words(machine: Machine) -> list[str]:
    """The same of the command line that somebody started it with by hand; [] for what runs in its own unit."""
    if not effective_settings.is_by_hand(machine) or not machine.run_command:
        return []
    line = machine.command
    if not line.is_known:
        return [" ".join(line.argv)[:200]]
    return line.deviations() if line.deviates else []


def file_diffs(machine: Machine, before: diffs.Files, after: diffs.Files) -> list[tuple[str, list[diffs.DiffLine]]]:
    """(path on the host, what changes in it) for both files."""
    return [
        (f"/etc/systemd/nspawn/{machine.name}.nspawn", diffs.unified(before.nspawn, after.nspawn)),
        (dropin_path(machine), diffs.unified(before.limits, after.limits)),
    ]


@dataclass(frozen=True)
class Link:
    """A file that an apply would write, and that is a link. `follows` says that what it leads to is written then, else
    the host refuses."""

    path: str
    target: str
    follows: bool

    @property
    def is_null(self) -> bool:
        """Whether it switches the file off."""
        return self.target == "/dev/null"


def links(machine: Machine, found: ObservedFiles | None) -> list[Link]:
    """Those of both files that are links, as its host has told; a host never puts a file in the place of a link."""
    mine = {f"{ETC}{machine.name}.nspawn", dropin_path(machine)}
    files = [file for file in found.files if file.target and file.path in mine] if found else []
    follows = host_facts.follows_links(machine.host)
    return [Link(file.path, file.target, follows and file.target != "/dev/null") for file in files]


def dropin_path(machine: Machine) -> str:
    return f"/etc/systemd/system/systemd-nspawn@{machine.name}.service.d/50-nspawnpanel.conf"


def three_ways(machine: Machine, draft: Revision, there: diffs.Files) -> dict[str, Any]:
    """What was applied, what the host has instead, and the draft; with what the host's files differ in, line by line."""
    bare = diffs.Files(nspawn.unmark(there.nspawn), nspawn.unmark(there.limits))
    applied = drafts.files(machine.applied)
    return {
        "rows": diffs.three_ways(applied, bare, drafts.files(draft)),
        "diffs": file_diffs(machine, applied, bare),
    }
