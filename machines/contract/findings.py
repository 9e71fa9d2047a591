"""What an examination of a host or a machine may find: every finding in words, as one table.

A host reports codes and a few facts (a link's name, an address, a count); the sentences and the commands that mend a
trouble stand here. So no host, however hostile, can put a command of its own into somebody's clipboard.
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from machines.contract.problems import BadValue

MendWord = Literal["networkd", "forwarding", "autostart", "inotify", "guest-networkd"]
MENDS: tuple[MendWord, ...] = get_args(MendWord)


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"  # worth knowing, nothing to do
    WARNING = "warning"  # will bite one day, or may be the reason
    PROBLEM = "problem"  # something does not work because of it
    UNKNOWN = "unknown"  # could not be looked at


class Finding(BaseModel):
    """One thing looked at. `code` is a key of WORDS, `can_mend` says that here and now the mend would be safe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: Annotated[str, Field(max_length=40)]
    facts: dict[Annotated[str, Field(max_length=20)], Annotated[str, Field(max_length=300)]] = Field(
        default={}, max_length=8
    )
    can_mend: bool = False


MOST = 100
_FINDINGS: TypeAdapter[list[Finding]] = TypeAdapter(Annotated[list[Finding], Field(max_length=MOST)])


def from_wire(data: object) -> list[Finding]:
    """Findings out of parsed JSON; codes this side has no words for are left out. Raises BadValue."""
    try:
        return [finding for finding in _FINDINGS.validate_python(data) if finding.code in WORDS]
    except ValidationError as error:
        raise BadValue("The findings cannot be read.", field="findings") from error


def to_wire(found: list[Finding]) -> list[dict[str, Any]]:
    return [finding.model_dump(mode="json") for finding in found[:MOST]]


@dataclass(frozen=True)
class Words:
    """What a code says. {facts} are filled in; in commands they are quoted as one word each, unless the fact is a list
    of words of ours (`spread`)."""

    group: str
    level: Level
    title: str
    means: str = ""
    commands: tuple[str, ...] = ()
    mend: MendWord | None = None


NETWORK, LIMITS, SYSTEM, ROOM, TOOLS = "network", "limits", "system", "room", "tools"
GROUPS = {
    NETWORK: "From packet to address",
    LIMITS: "Limits",
    SYSTEM: "systemd and control groups",
    ROOM: "Disk, memory, clock",
    TOOLS: "Tools",
}
MEND_TITLES: dict[MendWord, str] = {
    "networkd": "Start and enable systemd-networkd",
    "forwarding": "Forward packets, now and at boot",
    "autostart": "Enable machines.target",
    "inotify": "Raise the limit, now and at boot",
    "guest-networkd": "Start and enable it inside",
}
FORWARDING_FILE = "/etc/sysctl.d/60-nspawnpanel-forwarding.conf"
INOTIFY_FILE = "/etc/sysctl.d/60-nspawnpanel-inotify.conf"
INOTIFY_INSTANCES = 1024
_ENABLE = "systemctl enable --now systemd-networkd.service"
_OK, _NOTE, _WARNING, _PROBLEM, _UNKNOWN = Level

WORDS: dict[str, Words] = {
    # --- the host's part of the network
    "networkd-runs": Words(NETWORK, _OK, "systemd-networkd runs on the host"),
    "networkd-stopped": Words(
        NETWORK, _PROBLEM, "systemd-networkd does not run on the host",
        "It gives machines with a network of their own their addresses and translates them to the outside. "
        "Without it they have neither.",
        (_ENABLE,), "networkd",
    ),
    "networkd-beside": Words(
        NETWORK, _PROBLEM, "systemd-networkd does not run; {manager} manages this host's network",
        "Both may run side by side: where no .network file names the host's own links, systemd-networkd only touches "
        "those of machines (ve-…, vz-…). Look into /etc/systemd/network first, then start it.",
        (_ENABLE,),
    ),
    "networkd-masked": Words(
        NETWORK, _PROBLEM, "systemd-networkd is masked on the host",
        "Somebody forbade it to start. Without it machines with a network of their own get no address.",
        ("systemctl unmask systemd-networkd.service", _ENABLE),
    ),
    "networkd-missing": Words(
        NETWORK, _PROBLEM, "systemd-networkd is not installed on the host",
        "Without it machines with a network of their own get no address. Fedora and RHEL have it as a package.",
        ("dnf install systemd-networkd", _ENABLE),
    ),
    "forwarding-on": Words(NETWORK, _OK, "The host forwards packets"),
    "forwarding-later": Words(
        NETWORK, _OK, "The host does not forward packets yet",
        "systemd-networkd switches it on with the first machine that needs it.",
    ),
    "forwarding-off": Words(
        NETWORK, _PROBLEM, "The host does not forward packets",
        "Machines have an address and reach the host, but nothing beyond it. Something switched net.ipv4.ip_forward off "
        "after systemd-networkd had switched it on.",
        (f"echo net.ipv4.ip_forward=1 > {FORWARDING_FILE}", f"sysctl -p {FORWARDING_FILE}"), "forwarding",
    ),
    "forward-open": Words(NETWORK, _OK, "No firewall refuses what machines send on"),
    "forward-docker": Words(
        NETWORK, _WARNING, "Docker's firewall drops forwarded packets",
        "Docker sets the policy of FORWARD to DROP, for machines too. They reach the host but nothing beyond it.",
        ("iptables -I DOCKER-USER -i {links} -j ACCEPT", "iptables -I DOCKER-USER -o {links} -j ACCEPT"),
    ),
    "forward-ufw": Words(
        NETWORK, _WARNING, "ufw drops forwarded packets",
        "Its default for routed packets is deny. Machines reach the host but nothing beyond it.",
        ("ufw route allow in on {links}", "ufw route allow out on {links}"),
    ),
    "forward-drop": Words(
        NETWORK, _WARNING, "The firewall drops forwarded packets: chain {chain} of table {table}",
        "Its policy is drop and none of its rules names the links of machines.",
        ("nft insert rule {family} {table} {chain} iifname {nft_links} accept",
         "nft insert rule {family} {table} {chain} oifname {nft_links} accept"),
    ),
    "dhcp-ufw": Words(
        NETWORK, _WARNING, "ufw drops what machines ask for an address",
        "UDP port 67 of the host must be open to the links of machines, or no lease is given.",
        ("ufw allow in on {links} to any port 67 proto udp",),
    ),
    "dhcp-drop": Words(
        NETWORK, _WARNING, "The firewall drops what machines ask for an address: chain {chain} of table {table}",
        "UDP port 67 of the host must be open to the links of machines, or no lease is given.",
        ("nft insert rule {family} {table} {chain} iifname {nft_links} udp dport 67 accept",),
    ),
    "firewalld": Words(
        NETWORK, _WARNING, "firewalld runs and has no zone for the links of machines",
        "They fall into its default zone, which lets neither DHCP nor forwarding through.",
        ("firewall-cmd --permanent --zone=trusted --add-interface={links}", "firewall-cmd --reload"),
    ),
    "firewall-unread": Words(
        NETWORK, _UNKNOWN, "The firewall could not be read: nft is not installed", "",
        ("{install} nftables",),
    ),
    # --- a machine's part of the network
    "not-running": Words(
        NETWORK, _UNKNOWN, "It is not running, so its network cannot be followed",
        "Start it and examine it again.",
    ),
    "network-own": Words(NETWORK, _OK, "It has a network of its own: {links}"),
    "network-host": Words(
        NETWORK, _NOTE, "It shares the host's network",
        "It has no address of its own: it uses the host's addresses and ports.",
    ),
    "network-none": Words(
        NETWORK, _NOTE, "It has only the loopback link",
        "Its configuration gives it a network of its own with nothing in it (Private=yes alone).",
    ),
    "network-given": Words(
        NETWORK, _NOTE, "It is connected by {links}, not by a cable of the host's",
        "Addresses come from where that link leads; the host has no part in it.",
    ),
    "link-up": Words(NETWORK, _OK, "Its cable is plugged in: {link} on the host"),
    "link-down": Words(
        NETWORK, _PROBLEM, "Its cable is down: {link} on the host",
        "systemd-networkd on the host brings it up. If that runs, it has no .network file for this link.",
        ("networkctl status {link}", "ip link set {link} up"),
    ),
    "link-down-inside": Words(
        NETWORK, _PROBLEM, "Its cable {link} is down at the machine's end",
        "Nobody inside has brought host0 up.",
    ),
    "bridge-joined": Words(NETWORK, _OK, "{link} is in the bridge {bridge}"),
    "bridge-left": Words(
        NETWORK, _PROBLEM, "{link} is in no bridge; its configuration says {bridge}",
        "What it sends reaches nobody.", ("ip link set {link} master {bridge}",),
    ),
    "bridge-absent": Words(
        NETWORK, _PROBLEM, "There is no bridge {bridge} on the host",
        "The machine cannot start without it.",
        ("ip link add {bridge} type bridge", "ip link set {bridge} up"),
    ),
    "dhcp-serves": Words(NETWORK, _OK, "systemd-networkd serves addresses on {link}, {pool}"),
    "dhcp-silent": Words(
        NETWORK, _PROBLEM, "systemd-networkd serves no addresses on {link}",
        "No .network file with DHCPServer=yes matches the link, or setting it up failed ({state}).",
        ("networkctl status {link}", "networkctl reconfigure {link}"),
    ),
    "dhcp-elsewhere": Words(
        NETWORK, _NOTE, "Addresses come from the network behind {bridge}",
        "On a bridge of the host's own its network must have a DHCP server, or the machine a fixed address.",
    ),
    "lease-given": Words(NETWORK, _OK, "The host has given it a lease: {address}"),
    "lease-none": Words(
        NETWORK, _PROBLEM, "The host has given out no lease on {link}",
        "The machine has not asked, or what it asked was dropped on the way.",
    ),
    "inside-networkd": Words(NETWORK, _OK, "systemd-networkd runs inside"),
    "inside-other": Words(NETWORK, _OK, "{program} runs inside and manages its network"),
    "inside-masked": Words(
        NETWORK, _PROBLEM, "systemd-networkd is masked inside",
        "Nobody inside asks for an address. Somebody forbade it to start, so only they should allow it again.",
        ("systemctl --machine={name} unmask systemd-networkd.service",
         "systemctl --machine={name} enable --now systemd-networkd.service"),
    ),
    "inside-off": Words(
        NETWORK, _PROBLEM, "systemd-networkd is installed inside but not enabled",
        "Nobody inside asks for an address.",
        ("systemctl --machine={name} enable --now systemd-networkd.service",), "guest-networkd",
    ),
    "inside-stopped": Words(
        NETWORK, _PROBLEM, "systemd-networkd is enabled inside but does not run",
        "It was stopped, or it failed; its log says which.",
        ("journalctl --machine={name} --unit=systemd-networkd.service --lines=30",
         "systemctl --machine={name} restart systemd-networkd.service"), "guest-networkd",
    ),
    "inside-soon": Words(
        NETWORK, _NOTE, "systemd-networkd does not run inside yet", "It started {seconds} s ago. Examine it again in a moment.",
    ),
    "inside-missing": Words(
        NETWORK, _PROBLEM, "Nothing inside manages the network",
        "systemd-networkd is not in the image, and no other program that asks for an address runs. "
        "Fedora and RHEL have it as a package.",
        ("machinectl shell {name} /usr/bin/dnf install systemd-networkd",),
    ),
    "address-has": Words(NETWORK, _OK, "It has an address: {addresses}"),
    "address-local": Words(
        NETWORK, _WARNING, "It has only a link-local address: {addresses}",
        "It asked and nobody answered, so it took one that reaches no further than its cable.",
    ),
    "address-none": Words(NETWORK, _PROBLEM, "It has no address"),
    "route-has": Words(NETWORK, _OK, "It knows a way out"),
    "route-none": Words(
        NETWORK, _WARNING, "It knows no way out", "There is no default route inside; it reaches its own network only.",
    ),
    "masquerade-on": Words(NETWORK, _OK, "Its addresses are translated to the host's"),
    "masquerade-off": Words(
        NETWORK, _WARNING, "Nobody translates its addresses to the host's",
        "It reaches the host but no answer from further away finds back. systemd-networkd does this on its own links; "
        "another program may have flushed its rules.",
        ("networkctl reconfigure {link}",),
    ),
    "resolve-ok": Words(NETWORK, _OK, "It knows whom to ask for names: {servers}"),
    "resolve-none": Words(
        NETWORK, _WARNING, "It knows nobody to ask for names",
        "Its /etc/resolv.conf is missing or empty. Addresses work, names do not.",
        ("systemctl --machine={name} enable --now systemd-resolved.service",
         "machinectl shell {name} /bin/ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf"),
    ),
    "resolve-dead": Words(
        NETWORK, _WARNING, "Its /etc/resolv.conf asks systemd-resolved, which does not run inside",
        "Addresses work, names do not.", ("systemctl --machine={name} enable --now systemd-resolved.service",),
    ),
    "image-unread": Words(NETWORK, _UNKNOWN, "Its image cannot be read from outside", "It is a disk image, not a directory."),
    # --- limits
    "unit-own": Words(LIMITS, _OK, "It runs in its own unit, {unit}"),
    "unit-foreign": Words(
        LIMITS, _WARNING, "It runs in {unit}, not in its own unit",
        "It was started by hand. None of the limits set here hold for it until it is stopped and started as a unit.",
        ("machinectl poweroff {name}", "machinectl start {name}"),
    ),
    "memory-enough": Words(LIMITS, _OK, "The kernel has killed nothing in it for want of memory"),
    "memory-killed": Words(
        LIMITS, _WARNING, "The kernel has killed {count} of its processes for want of memory",
        "Since it started it ran into its MemoryMax. Its log names what was killed; give it more, or let it do less.",
        ("journalctl --dmesg --grep oom-kill",),
    ),
    "tasks-enough": Words(LIMITS, _OK, "It never ran into its limit of processes"),
    "tasks-full": Words(
        LIMITS, _WARNING, "It was refused a process {count} times", "It runs into its TasksMax.",
    ),
    # --- systemd and control groups
    "systemd-fine": Words(SYSTEM, _OK, "systemd {version} has no fault known here"),
    "systemd-escape": Words(
        SYSTEM, _NOTE, "systemd {version} may have a fault: CVE-2026-40226",
        "By its number: up to 259.3 (and 258.5, 257.11) a crafted .nspawn file beside an image can break out of the "
        "machine. Distributions mend it without a new number, so ask yours. There is no such file on this host now.",
        ("apt-get update", "apt-get install --only-upgrade systemd-container"),
    ),
    "beside-danger": Words(
        SYSTEM, _PROBLEM, "A .nspawn file lies beside its image, and systemd {version} may trust it too much: {files}",
        "By its number this systemd has CVE-2026-40226: a crafted file of this kind can break out of the machine. "
        "If you did not put it there, set it aside before the next start.",
        ("mv --no-clobber {file} {file}.aside",),
    ),
    "beside-ignored": Words(
        SYSTEM, _NOTE, "A .nspawn file lies beside its image: {files}",
        "systemd reads it only while there is none in /etc/systemd/nspawn, and drops everything privileged in it, "
        "binds and network among others.",
    ),
    "autostart-works": Words(SYSTEM, _OK, "Machines that shall start at boot do"),
    "autostart-dead": Words(
        SYSTEM, _PROBLEM, "Machines that shall start at boot will not: {machines}",
        "They are enabled, but machines.target is not, and nothing else starts them. Below systemd 253 machinectl "
        "does not enable it.",
        ("systemctl enable machines.target",), "autostart",
    ),
    "cgroup-v2": Words(SYSTEM, _OK, "Control groups are version 2"),
    "cgroup-v1": Words(
        SYSTEM, _WARNING, "Control groups are version 1 ({kind})",
        "systemd 258 dropped it: a machine with so new a systemd does not start here, and the next upgrade of the host "
        "needs version 2. It comes with the next boot.",
        ("sed -i 's/^GRUB_CMDLINE_LINUX=\"/&systemd.unified_cgroup_hierarchy=1 /' /etc/default/grub", "update-grub"),
    ),
    "guest-fits": Words(SYSTEM, _OK, "Its systemd, {guest}, gets on with the host's control groups"),
    "guest-too-old": Words(
        SYSTEM, _PROBLEM, "Its systemd, {guest}, is too old for version 2 of control groups",
        "It boots only on a host with version 1, or in an image with systemd 230 or later.",
    ),
    "guest-too-new": Words(
        SYSTEM, _PROBLEM, "Its systemd, {guest}, no longer knows version 1 of control groups", "The host must boot with version 2.",
    ),
    "guest-unread": Words(SYSTEM, _UNKNOWN, "Which systemd is inside could not be told"),
    # --- room
    "disk-enough": Words(ROOM, _OK, "Room for images: {free} free of {total}"),
    "disk-low": Words(
        ROOM, _WARNING, "Little room for images: {free} free of {total}",
        "Builds, clones and logs fail when it is gone, and machines with it.",
        ("du --one-file-system --summarize --human-readable /var/lib/machines/*",),
    ),
    "disk-full": Words(
        ROOM, _PROBLEM, "Hardly any room for images: {free} free of {total}",
        "Machines cannot write, builds fail.",
        ("du --one-file-system --summarize --human-readable /var/lib/machines/*", "journalctl --vacuum-size=200M"),
    ),
    "files-few": Words(
        ROOM, _WARNING, "The file system of images has hardly room for more files: {free} of {total} left",
        "It is full for new files while bytes are free.", ("df --inodes /var/lib/machines",),
    ),
    "memory-fine": Words(ROOM, _OK, "Memory: {free} free of {total}"),
    "memory-low": Words(
        ROOM, _WARNING, "Little memory: {free} free of {total}",
        "The kernel soon kills something, and it chooses among all machines.", ("systemd-cgtop --order=memory --depth=3",),
    ),
    "inotify-enough": Words(ROOM, _OK, "Enough inotify instances: {limit}"),
    "inotify-low": Words(
        ROOM, _WARNING, "Few inotify instances: {limit} for {machines} running machines",
        "Every systemd takes about ten, all machines of root share them. When they are gone, services inside fail with "
        "“Too many open files”.",
        (f"echo fs.inotify.max_user_instances={INOTIFY_INSTANCES} > {INOTIFY_FILE}", f"sysctl -p {INOTIFY_FILE}"),
        "inotify",
    ),
    "clock-kept": Words(ROOM, _OK, "The clock is kept by a time server"),
    "clock-loose": Words(
        ROOM, _NOTE, "Nobody keeps the clock true", "No time server corrects it. An order is refused once it is a minute off.",
        ("timedatectl set-ntp true",),
    ),
    "clock-agrees": Words(ROOM, _OK, "Host and panel agree on the time"),
    "clock-differs": Words(
        ROOM, _WARNING, "The host's clock is {seconds} s {way} the panel's",
        "Times in logs do not fit together. Orders are refused when it is too much.", ("timedatectl set-ntp true", "timedatectl"),
    ),
    # --- tools
    "tools-there": Words(TOOLS, _OK, "Every tool is installed"),
    "tools-missing": Words(
        TOOLS, _WARNING, "Tools are missing: {tools}", "What needs them fails.", ("{install} {packages}",),
    ),
    "check-failed": Words(
        TOOLS, _UNKNOWN, "Something could not be looked at: {what}", "{why}",
    ),
}  # fmt: skip

# Facts that hold several words of ours, each of which is quoted for itself.
SPREAD = frozenset({"packages"})
# The fact `install` names a host's package manager.
INSTALLERS = {"apt": "apt-get install", "dnf": "dnf install", "zypper": "zypper install", "pacman": "pacman -S"}


class _Blank(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


def title(finding: Finding) -> str:
    """The finding in one sentence."""
    return WORDS[finding.code].title.format_map(_Blank(finding.facts))


def means(finding: Finding) -> str:
    """What it means, and what to do; "" where the title says it all."""
    return WORDS[finding.code].means.format_map(_Blank(finding.facts))


def commands(finding: Finding) -> list[str]:
    """What mends it, as lines for a shell of the host's root."""
    quoted = _Blank({name: _quoted(name, value) for name, value in finding.facts.items()})
    return [line.format_map(quoted) for line in WORDS[finding.code].commands]


def _quoted(name: str, value: str) -> str:
    """No option, and without what a terminal would obey when it is pasted: quotes do not keep a Ctrl-C from ending the
    line."""
    calm = "".join(character if character.isprintable() else " " for character in value).lstrip("- ")
    if name == "install":
        return INSTALLERS.get(value, "apt-get install")
    return shlex.join(word.lstrip("-") for word in calm.split()) if name in SPREAD else shlex.quote(calm)


def level(finding: Finding) -> Level:
    return WORDS[finding.code].level


def worst(found: Iterable[Level]) -> Level:
    """The gravest of some levels; what could not be looked at weighs less than a warning."""
    order = [Level.OK, Level.NOTE, Level.UNKNOWN, Level.WARNING, Level.PROBLEM]
    return max((Level(each) for each in found), key=order.index, default=Level.OK)
