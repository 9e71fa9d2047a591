"""What an examination looks at: the host and perhaps one machine, each fact read once and only when a check asks."""

import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from machines.contract import nspawn
from machines.contract.names import MachineName
from machines.host import guarded, kernel, unit_state
from machines.host.bus import BusError
from machines.host.doctor import firewall, links
from machines.host.doctor.guest import Guest
from machines.host.paths import unit_of
from machines.host.this_host import Task, ThisHost

NETWORKD = "systemd-networkd.service"
PROCESSES = 4000  # of one machine; the rest is not looked at


@dataclass
class Scene:
    """`name` is None when it is about the host alone."""

    host: ThisHost
    task: Task
    name: MachineName | None = None

    # --- the host

    def unit(self, unit: str) -> dict[str, Any]:
        """Properties of a unit of the host."""
        return self.host.bus.do(self.host.bus.unit(unit))

    @cached_property
    def networkd(self) -> dict[str, Any]:
        return self.unit(NETWORKD)

    @property
    def networkd_runs(self) -> bool:
        return self.networkd.get("ActiveState") == "active"

    @cached_property
    def rules(self) -> firewall.Rules | None:
        return firewall.read()

    @cached_property
    def machines_running(self) -> int:
        return sum(entry[1] == "container" for entry in self.host.bus.do(self.host.bus.machined("ListMachines"))[0])

    # --- the machine

    @property
    def machine(self) -> MachineName:
        assert self.name is not None
        return self.name

    @cached_property
    def registered(self) -> dict[str, Any]:
        """What machined says of the machine; {} while it is not running."""
        try:
            path = self.host.bus.do(self.host.bus.machined("GetMachine", "s", [self.machine]))[0]
            return self.host.bus.do(
                self.host.bus.properties("org.freedesktop.machine1", path, unit_state.MACHINE_IFACE)
            )
        except BusError as error:
            if "NoSuchMachine" in error.name or "UnknownObject" in error.name:
                return {}
            raise

    @property
    def leader(self) -> int:
        """Its init as the host sees it; 0 while it is not running."""
        return int(self.registered.get("Leader", 0))

    @cached_property
    def unit_name(self) -> str:
        return str(self.registered.get("Unit") or unit_of(self.machine))

    @cached_property
    def seconds_up(self) -> float:
        """How long it has been running."""
        return time.time() - float(self.unit(self.unit_name).get("ActiveEnterTimestamp", 0)) / 1e6

    @cached_property
    def group(self) -> str:
        """Its control group, below each hierarchy's root; "" while it has none."""
        kind = "Scope" if self.unit_name.endswith(".scope") else "Service"
        return str(self.host.bus.do(self.host.bus.unit(self.unit_name, kind)).get("ControlGroup", ""))

    @cached_property
    def cables(self) -> list[str]:
        """The host's ends of its virtual cables."""
        return links.of_indices(self.registered.get("NetworkInterfaces") or [])

    @cached_property
    def links_inside(self) -> list[str]:
        return links.inside(self.leader) if self.leader else []

    @cached_property
    def shares_network(self) -> bool:
        return os.readlink(f"/proc/{self.leader}/ns/net") == os.readlink("/proc/self/ns/net")

    @cached_property
    def configured(self) -> tuple[str, str]:
        """(network mode, target) of its .nspawn file; the unit's own cable when it says nothing."""
        try:
            text = guarded.whole(self.host.paths.nspawn_file(self.machine)).decode(errors="replace")
        except OSError:
            text = ""
        mode, target = nspawn.network_mode(nspawn.parse(text))
        return mode or "veth", target

    @cached_property
    def guest(self) -> Guest:
        return Guest(self.host.paths.image(self.machine))

    @cached_property
    def programs(self) -> frozenset[str]:
        """Names of the processes in its control group, as the kernel keeps them: 15 characters at most."""
        return frozenset(_names_of(self.group)) if self.leader else frozenset()


def _names_of(group: str) -> list[str]:
    found: list[str] = []
    for folder, _, _ in os.walk(_tree(group)):
        for pid in _lines(Path(folder) / "cgroup.procs"):
            found += _lines(Path("/proc") / pid / "comm")
            if len(found) > PROCESSES:
                return found
    return found


def _tree(group: str) -> Path:
    """Where systemd keeps the processes of a group."""
    tops = (kernel.ROOT, kernel.ROOT / "unified", kernel.ROOT / "systemd")
    return next((top / group.lstrip("/") for top in tops if (top / group.lstrip("/")).is_dir()), Path("/nonexistent"))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").split("\n")[:-1]
    except OSError:  # it has ended meanwhile
        return []


def event(group: str, names: tuple[str, ...], word: str) -> int:
    """How often the kernel counted `word` in one of these files of a group, in whichever hierarchy has it."""
    for name in names:
        controller = name.split(".", maxsplit=1)[0]
        for top in (kernel.ROOT, kernel.ROOT / controller):
            for line in _lines(top / group.lstrip("/") / name):
                if match := re.fullmatch(rf"{word} (\d+)", line):
                    return int(match[1])
    return 0
