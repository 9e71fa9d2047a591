"""What an examination looks at: the host and perhaps one machine, each fact read once and only when a check asks."""

import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from machines.contract.configuration import nspawn
from machines.contract.configuration.command_line import CommandLine, parse
from machines.contract.names import MachineName, is_usable
from machines.host.context.host_context import HostContext, Task
from machines.host.doctor.guest import Guest
from machines.host.files import files_on_disk
from machines.host.network import firewall, links, netlink
from machines.host.network.netlink import Interface, Link
from machines.host.observe import command_line, unit_state
from machines.host.system import cgroup, guarded, journal
from machines.host.system.bus import SYSTEMD, SYSTEMD_PATH, BusError
from machines.host.system.paths import unit_of

NETWORKD, NETWORK1 = "systemd-networkd.service", "org.freedesktop.network1"
STARTS = 1.0  # seconds a service that has just started may take for its name on the bus
CONTAINERS = {
    "systemd-nspawn",
    "lxc",
    "lxc-libvirt",
    "docker",
    "podman",
    "openvz",
    "wsl",
    "proot",
    "container-other",
    "rkt",
    "pouch",
}
PROCESSES = 4000  # of one machine; the rest is not looked at


@dataclass
class Facts:
    """`name` is None when it is about the host alone."""

    host: HostContext
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
    def networkd_answers(self) -> bool:
        """Whether it can be asked over D-Bus."""
        return self.networkd_runs and not self.is_off_the_bus(NETWORKD, NETWORK1)

    def is_off_the_bus(self, unit: str, name: str) -> bool:
        """Whether a service of the host's runs without its name on the bus, for longer than a start takes.

        Facts (252, 257): when the host's D-Bus ends or is restarted, systemd itself comes back to it; machined, and logind
        of 252 end and are started when asked, and so is timedated, which takes up to half a minute for that by 257. networkd,
        and logind of 257, run on and never come back. Who asks what runs on waits 25 s, for dbus-daemon wants it started."""
        until = time.monotonic() + STARTS
        while self.unit(unit).get("ActiveState") == "active":
            if self.host.bus.do(self.host.bus.has(name)):
                return False
            if time.monotonic() > until:
                return True
            time.sleep(0.2)
        return False

    @cached_property
    def is_container(self) -> bool:
        """Whether this host is itself a container: then its clock is somebody else's."""
        bus = self.host.bus
        kind = str(bus.do(bus.properties(SYSTEMD, SYSTEMD_PATH, f"{SYSTEMD}.Manager")).get("Virtualization", ""))
        return kind in CONTAINERS

    @cached_property
    def rules(self) -> firewall.Rules | None:
        return firewall.read()

    @cached_property
    def running(self) -> list[MachineName]:
        """The containers machined knows."""
        machines = self.host.bus.do(self.host.bus.machined("ListMachines"))[0]
        return [MachineName(entry[0]) for entry in machines if entry[1] == "container" and is_usable(entry[0])]

    # --- the machine

    @property
    def machine(self) -> MachineName:
        assert self.name is not None
        return self.name

    @cached_property
    def state(self) -> unit_state.UnitState:
        """What its unit is doing."""
        return self.host.bus.do(unit_state.read(self.host.bus, self.machine))

    @cached_property
    def console(self) -> list[str]:
        """The last lines of its newest run, its console's among them."""
        return journal.lines_of(self.state.invocation, 200, pid=self.state.last_pid)

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
    def host_links(self) -> dict[int, Link]:
        """Every link of the host by its index."""
        return {link.index: link for link in netlink.links()}

    @cached_property
    def host_addresses(self) -> list[tuple[int, Interface]]:
        """(index of the link, address) of the host."""
        return netlink.addresses()

    def networks_of(self, link: Link) -> list[IPv4Network]:
        """The IPv4 networks that lie on a link of the host, link-local ones left out."""
        own = [each.network for index, each in self.host_addresses if index == link.index]
        return [each for each in own if isinstance(each, IPv4Network) and not each.is_link_local]

    @cached_property
    def space(self) -> int | None:
        """The number of its network namespace; None when no link of the host leads there."""
        return netlink.space_of(self.leader) if self.leader and not self.shares_network else None

    @cached_property
    def cables(self) -> list[links.Cable]:
        """Its veths, with both ends."""
        if self.space is None:
            return []
        return links.cables(self.space, self.host_links, {link.index: link for link in netlink.links(self.space)})

    @cached_property
    def addresses_inside(self) -> list[tuple[int, Interface]]:
        """(index of the link inside, address)."""
        return netlink.addresses(self.space) if self.space is not None else []

    @cached_property
    def links_inside(self) -> list[str]:
        return links.inside(self.leader) if self.leader else []

    @cached_property
    def shares_network(self) -> bool:
        return os.readlink(f"/proc/{self.leader}/ns/net") == os.readlink("/proc/self/ns/net")

    @cached_property
    def image(self) -> Path:
        """Where its image lies, as machined told last."""
        known = self.host.slow.images.get(self.machine)
        return known.path if known else self.host.paths.image(self.machine)

    @cached_property
    def command_line(self) -> CommandLine:
        """That of the systemd-nspawn that runs it, else of its unit."""
        running = parse(command_line.of_process(self.leader)) if self.leader else CommandLine()
        return running if running.is_known else command_line.read(self.host.bus, self.machine)

    @cached_property
    def settings(self) -> nspawn.Document:
        """What it gets by its .nspawn file and by its command line. Raises OSError when the file cannot be read."""
        return files_on_disk.asked_settings(self.host.paths, self.machine, self.image.parent, self.command_line)

    @property
    def settings_are_newer(self) -> bool:
        """Whether its .nspawn file was written after it started: what it says is for the next start."""
        where = files_on_disk.places(self.machine, self.command_line, self.image.parent)
        file = next(files_on_disk.nspawn_files(self.host.paths, where), None)
        return file is not None and guarded.state(file).st_mtime > time.time() - self.seconds_up

    @cached_property
    def configured(self) -> tuple[str, str]:
        """(network mode, target) it is started with; the host's network when nothing is said."""
        mode, target = nspawn.network_mode(self.settings)
        return mode or ("host" if self.command_line.is_known else "veth"), target

    @cached_property
    def guest(self) -> Guest:
        return Guest(self.image)

    @cached_property
    def programs(self) -> frozenset[str]:
        """Names of the processes in its control group, as the kernel keeps them: 15 characters at most. Raises LookupError
        when it runs and none can be seen."""
        if not self.leader:
            return frozenset()
        if not (names := _names_of(self.group)):
            raise LookupError(f"The processes of {self.unit_name} are not visible.")
        return frozenset(names)


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
    tops = (cgroup.ROOT, cgroup.ROOT / "unified", cgroup.ROOT / "systemd")
    return next((top / group.lstrip("/") for top in tops if (top / group.lstrip("/")).is_dir()), Path("/nonexistent"))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").split("\n")[:-1]
    except OSError:  # it has ended meanwhile
        return []


def event(group: str, names: tuple[str, ...], word: str) -> int:
    """How often the kernel counted `word` in one of these files of a group, in whichever hierarchy has it. Raises
    LookupError when none of them says so: then nobody knows."""
    for name in names:
        controller = name.split(".", maxsplit=1)[0]
        for top in (cgroup.ROOT, cgroup.ROOT / controller):
            for line in _lines(top / group.lstrip("/") / name):
                if match := re.fullmatch(rf"{word} (\d+)", line):
                    return int(match[1])
    raise LookupError(f"The kernel does not count {word} for {group or 'it'}.")
