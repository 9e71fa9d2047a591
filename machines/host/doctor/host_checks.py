"""What can be wrong with a host. Each check looks at one thing and says what it found; checks.py has their order."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from machines.contract import tools as tool_table
from machines.contract.configuration.findings import Finding
from machines.contract.problems import printable
from machines.host.doctor.facts import Facts
from machines.host.files import autostart
from machines.host.network import firewall
from machines.host.observe import host_facts
from machines.host.system import tools as host_tools
from machines.host.system.run import run

Check = Callable[[Facts], Iterator[Finding]]

MANAGERS = {
    "NetworkManager.service": "NetworkManager", "connman.service": "ConnMan", "dhcpcd.service": "dhcpcd",
    "wicked.service": "wicked", "networking.service": "ifupdown",
}  # fmt: skip
INTERFACES = Path("/etc/network/interfaces")
NETWORK_FILES = (Path("/etc/systemd/network"), Path("/run/systemd/network"))
SYSCTL = Path("/proc/sys")
SYSCTL_FILES = (Path("/etc/sysctl.conf"), Path("/etc/sysctl.d"))
GIB = 1 << 30
LOGIND = "systemd-logind.service"
TIMEDATED = "org.freedesktop.timedate1"
TIME_SERVICES = (
    "systemd-timesyncd.service", "chrony.service", "chronyd.service", "ntpsec.service", "ntpd.service", "ntp.service",
    "openntpd.service",
)  # fmt: skip
# Package manager → (package that keeps the clock, its service).
TIME_PACKAGES = {
    "apt": ("systemd-timesyncd", "systemd-timesyncd.service"),
    "dnf": ("chrony", "chronyd.service"),
    "zypper": ("chrony", "chronyd.service"),
}


def found(code: str, several: Mapping[str, object] | None = None, *, can_fix: bool = False, **facts: object) -> Finding:
    given = {**(several or {}), **facts}
    return Finding(
        code=code, facts={name: printable(str(value))[:300] for name, value in given.items()}, can_fix=can_fix
    )


# --- network


def networkd(observed: Facts) -> Iterator[Finding]:
    about = observed.networkd
    if observed.networkd_answers:
        yield found("networkd-runs")
    elif observed.networkd_runs:
        yield found("networkd-mute", can_fix=may_restart_networkd(observed))
    elif about.get("LoadState") == "not-found":
        yield found("networkd-missing")
    elif about.get("LoadState") == "masked":
        yield found("networkd-masked")
    elif may_start_networkd(observed):
        yield found("networkd-stopped", can_fix=True)
    elif manager := other_manager(observed):
        yield found("networkd-beside", manager=manager)
    else:
        yield found("networkd-stopped")


def may_start_networkd(observed: Facts) -> bool:
    """It was meant to run and only stands still; or it would touch nobody's links but those of machines."""
    about = observed.networkd
    if about.get("LoadState") != "loaded":
        return False
    return about.get("UnitFileState") == "enabled" or (not other_manager(observed) and not _own_network_files())


def may_restart_networkd(observed: Facts) -> bool:
    """No file of its configuration has changed since it started, so the host's own links stay as they are."""
    started = float(observed.networkd.get("ActiveEnterTimestamp", 0)) / 1e6
    there = (path for folder in NETWORK_FILES if folder.is_dir() for path in (folder, *folder.rglob("*")))
    return all(path.lstat().st_ctime <= started for path in there)


def other_manager(observed: Facts) -> str:
    """The program that manages this host's network instead, or ""."""
    for unit, title in MANAGERS.items():
        if observed.unit(unit).get("ActiveState") == "active" and (title != "ifupdown" or _ifupdown_has_links()):
            return title
    return ""


def _ifupdown_has_links() -> bool:
    try:
        text = INTERFACES.read_text(errors="replace")
    except OSError:
        return False
    names = re.findall(r"^\s*iface\s+(\S+)", text, re.MULTILINE)
    return any(name != "lo" for name in names) or "source" in text


def _own_network_files() -> bool:
    """Whether somebody wrote files that systemd-networkd would obey when started."""
    return any(True for folder in NETWORK_FILES if folder.is_dir() for _ in folder.glob("*.network"))


def forwarding(observed: Facts) -> Iterator[Finding]:
    forwards = sysctl("net.ipv4.ip_forward")
    if not forwards:
        raise ValueError("net.ipv4.ip_forward cannot be read.")
    if forwards == "1":
        yield found("forwarding-on")
    elif observed.networkd_runs and any(link.name.startswith(("ve-", "vz-")) for link in observed.host_links.values()):
        yield found("forwarding-off", can_fix=not is_forbidden("net.ipv4.ip_forward", "1"))
    else:
        yield found("forwarding-later")


def sysctl(name: str) -> str:
    try:
        return (SYSCTL / name.replace(".", "/")).read_text().strip()
    except OSError:
        return ""


def is_forbidden(name: str, value: str) -> bool:
    """Whether a file of this host's own sets this sysctl to something else: somebody decided it, so it stays."""
    files = [SYSCTL_FILES[0], *sorted(SYSCTL_FILES[1].glob("*.conf"))]
    ours = "60-nspawnpanel-"
    texts = (file.read_text(errors="replace") for file in files if file.is_file() and not file.name.startswith(ours))
    said = [each for text in texts for each in re.findall(rf"^\s*-?{re.escape(name)}\s*=\s*(\S*)", text, re.MULTILINE)]
    return any(each != value for each in said)


def packet_filter(observed: Facts) -> Iterator[Finding]:
    rules = observed.rules
    if rules is None:
        yield found("firewall-unread", install=host_tools.manager())
        return
    link = observed.cables[0].server.name if observed.name and observed.cables else "ve-+"
    yield from (_dhcp(rules, chain, link) for chain in firewall.closed(rules, "input", passes="67"))
    refused = [_forward(rules, chain, link) for chain in firewall.closed(rules, "forward")]
    if observed.unit("firewalld.service").get("ActiveState") == "active":
        refused = [] if _firewalld_knows(link) else [found("firewalld", links=link)]
    yield from refused or [found("forward-open")]


def _forward(rules: firewall.Rules, chain: firewall.Chain, link: str) -> Finding:
    code = {"docker": "forward-docker", "ufw": "forward-ufw"}.get(firewall.keeper(rules, chain), "forward-drop")
    return found(code, _place(chain, link), links=link)


def _dhcp(rules: firewall.Rules, chain: firewall.Chain, link: str) -> Finding:
    code = "dhcp-ufw" if firewall.keeper(rules, chain) == "ufw" else "dhcp-drop"
    return found(code, _place(chain, link), links=link)


def _place(chain: firewall.Chain, link: str) -> dict[str, str]:
    in_nft = link.replace("+", "*")
    return {"family": chain.family, "table": chain.table, "chain": chain.name, "nft_links": in_nft}


def _firewalld_knows(link: str) -> bool:
    listed = run(["firewall-cmd", "--get-active-zones"], timeout=20).out.split()
    return link in listed or f"{link.split('-', maxsplit=1)[0]}-+" in listed


# --- systemd


def systemd(observed: Facts) -> Iterator[Finding]:
    version = full_version()
    if not version:
        raise LookupError("systemctl does not report its version.")
    files = beside(observed)
    if may_escape(version):
        yield (
            found("beside-danger", version=version, files=", ".join(f.name for f in files[:5]), file=files[0])
            if files
            else found("systemd-escape", version=version)
        )
        return
    yield found("systemd-fine", version=version)
    if files:
        yield found("beside-ignored", files=", ".join(f.name for f in files[:5]))


def full_version() -> str:
    """257.13 where the distribution says so, else 257."""
    said = run(["systemctl", "--version"], timeout=10).out.split("\n")[0]
    match = re.search(r"systemd (\d+)(?: \((\d+(?:\.\d+)?))?", said)
    return (match[2] or match[1]) if match else ""


def may_escape(version: str) -> bool:
    """Whether a version is one of those with CVE-2026-40226, by its number alone."""
    numbers = [int(part) for part in version.split(".") if part.isdigit()] or [0]
    major, minor = numbers[0], numbers[1] if len(numbers) > 1 else 0
    mended = {257: 12, 258: 6, 259: 4}
    return 233 <= major <= 259 and minor < mended.get(major, 1 << 30)


def beside(observed: Facts) -> list[Path]:
    """Settings files beside images: of every machine, or of the one that is examined."""
    folder = observed.host.paths.machines
    pattern = f"{observed.name}.nspawn" if observed.name else "*.nspawn"
    return sorted(folder.glob(pattern))[:50]


def autostarts(observed: Facts) -> Iterator[Finding]:
    wanted = autostart.linked(observed.host.paths)
    if observed.name:
        wanted &= {observed.name}
    wanted -= autostart.enabled(observed.host.paths)
    if not wanted or autostart.has_target(observed.host.paths):
        yield found("autostart-works")
    else:
        yield found("autostart-dead", machines=", ".join(sorted(wanted)), can_fix=True)


def logind(observed: Facts) -> Iterator[Finding]:
    if observed.is_off_the_bus(LOGIND, "org.freedesktop.login1"):
        yield found("logind-mute")


def control_groups(_: Facts) -> Iterator[Finding]:
    kind = host_facts.cgroup_layout()
    if not kind:
        raise LookupError("No control groups are mounted on /sys/fs/cgroup.")
    if kind == "v2":
        yield found("cgroup-v2")
    else:
        yield found("cgroup-v1", kind="both mounted, the controllers in version 1" if kind == "hybrid" else "alone")


# --- room


@dataclass(frozen=True)
class Space:
    """A file system; `place` is a path on it, bytes and files as they are left and in all (0 files: it counts none)."""

    place: Path
    free: int
    total: int
    files_free: int
    files: int


def space_of(place: Path) -> Space:
    """Raises OSError."""
    room = os.statvfs(place)
    return Space(
        place, room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize, room.f_favail, room.f_files
    )  # fmt: skip


def disk(observed: Facts) -> Iterator[Finding]:
    """The images' file system, and the others a machine or this worker cannot do without."""
    pool, seen = observed.host.paths.machines, set()
    pool = pool if pool.exists() else pool.parent
    for place in (pool, observed.host.paths.state, Path("/var/log"), Path("/etc"), Path("/run"), Path("/tmp")):  # noqa: S108
        if place.exists() and (device := place.stat().st_dev) not in seen:
            seen.add(device)
            yield from judge_space(space_of(place), is_pool=place == pool)


def judge_space(space: Space, *, is_pool: bool) -> Iterator[Finding]:
    said = {"free": size(space.free), "total": size(space.total), "place": space.place}
    full, low = max(GIB // 4, space.total // 50), max(2 * GIB, space.total // 10)
    if not is_pool:  # a small one may be as its owner wants it
        full, low = min(full, space.total // 50), min(low, space.total // 20)
    if space.free < full:
        yield found("disk-full" if is_pool else "place-full", said)
    elif space.free < low:
        yield found("disk-low" if is_pool else "place-low", said)
    elif is_pool:
        yield found("disk-enough", said)
    yield from _inodes(space)


def _inodes(space: Space) -> Iterator[Finding]:
    counts = {"free": space.files_free, "total": space.files, "place": space.place}
    if space.files and space.files_free < max(space.files // 200, 100):  # btrfs counts none
        yield found("files-gone", counts)
    elif space.files_free < space.files // 20:
        yield found("files-few", counts)


def memory(_: Facts) -> Iterator[Finding]:
    ram = host_facts.memory()
    free, total = ram.get("MemAvailable", 0), ram.get("MemTotal", 0)
    low = free < max(GIB // 8, total // 20)
    yield found("memory-low" if low else "memory-fine", free=size(free), total=size(total))


def size(count: int) -> str:
    """1.4 GiB."""
    number, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1000 and len(units) > 1:
        number /= 1024
        del units[0]
    return f"{number:.3g} {units[0]}"


def clock(observed: Facts) -> Iterator[Finding]:
    """timedated says it; the worker itself may not even ask the kernel's clock."""
    if observed.is_off_the_bus("systemd-timedated.service", TIMEDATED):
        yield found("clock-mute")
        return
    said = observed.host.bus.do(observed.host.bus.properties(TIMEDATED, f"/{TIMEDATED.replace('.', '/')}", TIMEDATED))
    service, runs = time_service(observed)
    if said.get("NTPSynchronized"):
        yield found("clock-kept")
    elif observed.is_container:
        yield found("clock-outer")
    elif said.get("NTP") or runs:
        yield found("clock-unsynced", service=service or "systemd-timesyncd.service")
    elif said.get("CanNTP"):
        yield found("clock-loose")
    elif service:
        yield found("clock-service-off", service=service)
    else:
        package, service = TIME_PACKAGES.get(host_tools.manager(), ("chrony", "chronyd.service"))
        yield found("clock-missing", install=host_tools.manager(), packages=package, service=service)


def time_service(observed: Facts) -> tuple[str, bool]:
    """(a service of this host that keeps the clock, whether it runs); ("", False) when none is installed."""
    there = {name: observed.unit(name) for name in TIME_SERVICES}
    loaded = [name for name, about in there.items() if about.get("LoadState") == "loaded"]
    running = [name for name in loaded if there[name].get("ActiveState") == "active"]
    return next(iter(running or loaded), ""), bool(running)


# --- tools


def tools(_: Facts) -> Iterator[Finding]:
    missing = host_tools.missing()
    if missing:
        packages, what = " ".join(sorted(set(missing.values()))), ", ".join(map(_with_works, sorted(missing)))
        yield found("tools-missing", tools=what, packages=packages, install=host_tools.manager())
    else:
        yield found("tools-there")


def _with_works(tool: str) -> str:
    """zstd (exporting machines)."""
    works = [work.title for work in tool_table.WORKS.values() if work.expected and any(tool in g for g in work.needs)]
    return f"{tool} ({', '.join(works)})"
