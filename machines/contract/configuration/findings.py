"""What an examination of a host or a machine may find: every finding in words, as one table.

A host reports codes and a few facts (a link's name, an address, a count); the sentences and the commands that fix a
trouble stand here. So no host, however hostile, can put a command of its own into somebody's clipboard.
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from machines.contract.problems import BadValue

FixWord = Literal[
    "networkd", "networkd-restart", "forwarding", "autostart", "inotify", "guest-networkd", "guest-renew", "nat"
]
FIXES: tuple[FixWord, ...] = get_args(FixWord)


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"  # worth knowing, nothing to do
    WARNING = "warning"  # will bite one day, or may be the reason
    PROBLEM = "problem"  # something does not work because of it
    UNKNOWN = "unknown"  # could not be looked at


class Finding(BaseModel):
    """One thing looked at. `code` is a key of WORDS, `can_fix` says that here and now the fix would be safe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: Annotated[str, Field(max_length=40)]
    facts: dict[Annotated[str, Field(max_length=20)], Annotated[str, Field(max_length=300)]] = Field(
        default={}, max_length=8
    )
    can_fix: bool = False


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
    fix: FixWord | None = None


STATE, NETWORK, LIMITS, SYSTEM, BINDS, ROOM, TOOLS = "state", "network", "limits", "system", "binds", "room", "tools"
GROUPS = {
    STATE: "State",
    NETWORK: "Network path",
    LIMITS: "Limits",
    SYSTEM: "systemd and control groups",
    BINDS: "Binds",
    ROOM: "Disk, memory, kernel limits, time",
    TOOLS: "Tools",
}
FIX_TITLES: dict[FixWord, str] = {
    "networkd": "Start and enable systemd-networkd",
    "networkd-restart": "Restart systemd-networkd",
    "forwarding": "Forward packets, now and at boot",
    "autostart": "Enable machines.target",
    "inotify": "Raise the limit, now and at boot",
    "guest-networkd": "Start and enable it inside",
    "guest-renew": "Ask for a new lease",
    "nat": "Restore NAT and port forwards",
}
FORWARDING_FILE = "/etc/sysctl.d/60-nspawnpanel-forwarding.conf"
INOTIFY_FILE = "/etc/sysctl.d/60-nspawnpanel-inotify.conf"
LIMITS_FILE = "/etc/sysctl.d/60-nspawnpanel-limits.conf"
INOTIFY_INSTANCES = 1024
_ENABLE = "systemctl enable --now systemd-networkd.service"
_OK, _NOTE, _WARNING, _PROBLEM, _UNKNOWN = Level

WORDS: dict[str, Words] = {
    # --- the machine itself
    "state-running": Words(STATE, _OK, "Running"),
    "state-starting": Words(
        STATE, _NOTE, "Starting: {part}", "{status}", ("systemctl status {unit}",),
    ),
    "state-stopping": Words(STATE, _NOTE, "Stopping: {part}"),
    "state-stopped": Words(STATE, _NOTE, "Not running"),
    "state-restarting": Words(
        STATE, _PROBLEM, "Restarting, attempt {count}: {why}",
        "It keeps exiting, and systemd keeps restarting it (Restart=). Stop it before you investigate.",
        ("journalctl --unit={unit} --lines=50", "systemctl stop {unit}"),
    ),
    "state-failed": Words(
        STATE, _PROBLEM, "Failed: {why}", "That is the last log line of its latest run; earlier lines may say more.",
        ("journalctl --unit={unit} --lines=50", "machinectl start {name}"),
    ),
    "state-refused": Words(
        STATE, _PROBLEM, "Start limit reached: {why}",
        "It was started too often in a short time, so systemd refuses to start it again. Once the cause is fixed, "
        "reset it and start it.",
        ("journalctl --unit={unit} --lines=50", "systemctl reset-failed {unit}", "machinectl start {name}"),
    ),
    "state-frozen": Words(
        STATE, _PROBLEM, "Its init has frozen: {line}",
        "Nothing inside is scheduled any more, although its unit is still active.",
        ("machinectl terminate {name}", "machinectl start {name}"),
    ),
    "state-files": Words(
        STATE, _WARNING, "Its console says: {line}",
        "The host has run out of inotify instances (below), or its own limit of open files is too low (LimitNOFILE=).",
        ("systemctl show --property=LimitNOFILE,LimitNOFILESoft {unit}",),
    ),
    "state-unread": Words(STATE, _UNKNOWN, "Its state is unknown"),
    # --- the host's part of the network
    "networkd-runs": Words(NETWORK, _OK, "systemd-networkd runs on the host"),
    "networkd-mute": Words(
        NETWORK, _WARNING, "systemd-networkd runs, but is no longer on D-Bus",
        "D-Bus was restarted on the host, and systemd-networkd does not reconnect by itself. It still provides DHCP and NAT, "
        "but leases and the state of its links cannot be read, here or with networkctl, until it is restarted.",
        ("systemctl restart systemd-networkd.service",), "networkd-restart",
    ),
    "networkd-stopped": Words(
        NETWORK, _PROBLEM, "systemd-networkd does not run on the host",
        "It provides DHCP and NAT for machines with a private network. Without it they have neither.",
        (_ENABLE,), "networkd",
    ),
    "networkd-beside": Words(
        NETWORK, _PROBLEM, "systemd-networkd does not run; {manager} manages this host's network",
        "Both may run side by side: where no .network file matches the host's own links, systemd-networkd only touches "
        "those of machines (ve-…, vz-…). Check /etc/systemd/network first, then start it.",
        (_ENABLE,),
    ),
    "networkd-masked": Words(
        NETWORK, _PROBLEM, "systemd-networkd is masked on the host",
        "It cannot be started while masked. Without it, machines with a private network get no address.",
        ("systemctl unmask systemd-networkd.service", _ENABLE),
    ),
    "networkd-missing": Words(
        NETWORK, _PROBLEM, "systemd-networkd is not installed on the host",
        "Without it, machines with a private network get no address. On Fedora and RHEL it is a separate package.",
        ("dnf install systemd-networkd", _ENABLE),
    ),
    "forwarding-on": Words(NETWORK, _OK, "The host forwards packets"),
    "forwarding-later": Words(
        NETWORK, _OK, "The host does not forward packets yet",
        "systemd-networkd turns it on with the first machine that needs it.",
    ),
    "forwarding-off": Words(
        NETWORK, _PROBLEM, "The host does not forward packets",
        "Machines have an address and reach the host, but nothing beyond it. Something turned net.ipv4.ip_forward "
        "off after systemd-networkd had turned it on.",
        (f"echo net.ipv4.ip_forward=1 > {FORWARDING_FILE}", f"sysctl -p {FORWARDING_FILE}"), "forwarding",
    ),
    "forward-open": Words(NETWORK, _OK, "Firewall allows forwarding"),
    "forward-docker": Words(
        NETWORK, _WARNING, "Docker's firewall drops forwarded packets",
        "Docker sets the FORWARD policy to DROP, which affects machines too. They reach the host but nothing beyond "
        "it.",
        ("iptables -I DOCKER-USER -i {links} -j ACCEPT", "iptables -I DOCKER-USER -o {links} -j ACCEPT"),
    ),
    "forward-ufw": Words(
        NETWORK, _WARNING, "ufw drops forwarded packets",
        "Its default for routed packets is deny. Machines reach the host but nothing beyond it.",
        ("ufw route allow in on {links}", "ufw route allow out on {links}"),
    ),
    "forward-drop": Words(
        NETWORK, _WARNING, "The firewall drops forwarded packets: chain {chain} of table {table}",
        "Its policy is drop and none of its rules matches the links of machines.",
        ("nft insert rule {family} {table} {chain} iifname {nft_links} accept",
         "nft insert rule {family} {table} {chain} oifname {nft_links} accept"),
    ),
    "dhcp-ufw": Words(
        NETWORK, _WARNING, "ufw drops DHCP requests from machines",
        "UDP port 67 of the host must be open on the links of machines, or they get no lease.",
        ("ufw allow in on {links} to any port 67 proto udp",),
    ),
    "dhcp-drop": Words(
        NETWORK, _WARNING, "The firewall drops DHCP requests from machines: chain {chain} of table {table}",
        "UDP port 67 of the host must be open on the links of machines, or they get no lease.",
        ("nft insert rule {family} {table} {chain} iifname {nft_links} udp dport 67 accept",),
    ),
    "firewalld": Words(
        NETWORK, _WARNING, "firewalld runs and has no zone for the links of machines",
        "They fall into its default zone, which allows neither DHCP nor forwarding.",
        ("firewall-cmd --permanent --zone=trusted --add-interface={links}", "firewall-cmd --reload"),
    ),
    "firewall-unread": Words(
        NETWORK, _UNKNOWN, "The firewall could not be read: nft is not installed", "",
        ("{install} nftables",),
    ),
    # --- a machine's part of the network
    "not-running": Words(
        NETWORK, _UNKNOWN, "Not running, so its network cannot be checked",
        "Start it and run diagnostics again.",
    ),
    "network-own": Words(NETWORK, _OK, "Private network: {links}"),
    "network-host": Words(
        NETWORK, _NOTE, "Shares the host's network",
        "It has no address of its own: it uses the host's addresses and ports.",
    ),
    "network-none": Words(
        NETWORK, _NOTE, "Only a loopback interface",
        "Its configuration gives it an empty private network (Private=yes alone).",
    ),
    "network-given": Words(
        NETWORK, _NOTE, "Connected by {links}, not by a veth pair",
        "Addresses come from the network behind that interface; the host is not involved.",
    ),
    "card-apart": Words(
        NETWORK, _NOTE, "{link} shares the host's interface {card}",
        "Host and machine cannot reach each other over it; that is how macvlan and ipvlan work. Others on that "
        "network can reach it.",
    ),
    "card-down": Words(
        NETWORK, _PROBLEM, "The host's interface {card}, which {link} needs, is down",
        "No traffic of the machine on {link} leaves the host.", ("ip link set {card} up",),
    ),
    "link-up": Words(NETWORK, _OK, "veth link is up: {link} on the host"),
    "link-down": Words(
        NETWORK, _PROBLEM, "veth link is down: {link} on the host",
        "systemd-networkd on the host brings it up. If that runs, it has no .network file for this link.",
        ("ip link set {link} up", "networkctl status {link}"),
    ),
    "link-down-inside": Words(
        NETWORK, _PROBLEM, "veth link {link} is down at the machine's end",
        "Nothing inside has brought host0 up.",
    ),
    "extra-down": Words(
        NETWORK, _WARNING, "Extra veth link is down: {link} on the host",
        "systemd-networkd has a .network file for ve-… links only; an extra one needs its own.", ("ip link set {link} up",),
    ),
    "extra-down-inside": Words(
        NETWORK, _WARNING, "Extra veth link {link} is down at the machine's end",
        "systemd-networkd inside has a .network file for host0 only; an extra one needs its own.",
    ),
    "inside-link-down": Words(
        NETWORK, _PROBLEM, "Interface {link} is down inside",
        "systemd-networkd inside has a .network file for host0 only: this one needs its own, in /etc/systemd/network of the "
        "machine.",
    ),
    "bridge-joined": Words(NETWORK, _OK, "{link} is in bridge {bridge}"),
    "bridge-left": Words(
        NETWORK, _PROBLEM, "{link} is in no bridge; configured: {bridge}",
        "Its traffic goes nowhere.", ("ip link set {link} master {bridge}",),
    ),
    "bridge-other": Words(
        NETWORK, _WARNING, "{link} is in bridge {bridge}; configured: {wanted}",
        "Either the configuration was changed since the machine started, or somebody moved the link. A restart of the machine "
        "puts it into {wanted}.",
    ),
    "bridge-down": Words(
        NETWORK, _PROBLEM, "Bridge {bridge} is down", "Nothing passes through it.", ("ip link set {bridge} up",),
    ),
    "bridge-absent": Words(
        NETWORK, _PROBLEM, "There is no bridge {bridge} on the host",
        "The machine cannot start without it.",
        ("ip link add {bridge} type bridge", "ip link set {bridge} up"),
    ),
    "dhcp-serves": Words(NETWORK, _OK, "DHCP server (systemd-networkd) on {link}: {pool}"),
    "dhcp-silent": Words(
        NETWORK, _PROBLEM, "No DHCP server on {link}",
        "systemd-networkd serves none there: no .network file with DHCPServer=yes matches the link, or setting it up failed "
        "({state}). No other program of the host listens on UDP port 67.",
        ("networkctl status {link}", "networkctl reconfigure {link}"),
    ),
    "dhcp-other": Words(
        NETWORK, _NOTE, "DHCP is served by {program}, not by systemd-networkd",
        "It listens on UDP port 67 of the host. Check its configuration for whether it serves {link}.",
    ),
    "dhcp-elsewhere": Words(
        NETWORK, _NOTE, "systemd-networkd serves no DHCP on {bridge}",
        "Addresses are static or come from another DHCP server on the network behind it.",
    ),
    "lease-given": Words(NETWORK, _OK, "DHCP lease: {address}"),
    "lease-fixed": Words(
        NETWORK, _NOTE, "Its address is in none of this host's DHCP leases: {addresses}",
        "It is static, comes from another DHCP server, or was leased before systemd-networkd was last restarted.",
    ),
    "lease-none": Words(
        NETWORK, _PROBLEM, "No DHCP lease given on {link}",
        "The machine has not asked for one, or its request was dropped on the way.",
    ),
    "inside-networkd": Words(NETWORK, _OK, "systemd-networkd runs inside"),
    "inside-other": Words(NETWORK, _OK, "{program} runs inside and manages its network"),
    "inside-masked": Words(
        NETWORK, _PROBLEM, "systemd-networkd is masked inside",
        "Nothing inside requests an address. Masking is deliberate: unmask it only if you know why it was masked.",
        ("systemctl --machine={name} unmask systemd-networkd.service",
         "systemctl --machine={name} enable --now systemd-networkd.service"),
    ),
    "inside-off": Words(
        NETWORK, _PROBLEM, "systemd-networkd is installed inside but not enabled",
        "Nothing inside requests an address.",
        ("systemctl --machine={name} enable --now systemd-networkd.service",), "guest-networkd",
    ),
    "inside-stopped": Words(
        NETWORK, _PROBLEM, "systemd-networkd is enabled inside but does not run",
        "It was stopped or it failed; its log says which.",
        ("journalctl --machine={name} --unit=systemd-networkd.service --lines=30",
         "systemctl --machine={name} restart systemd-networkd.service"), "guest-networkd",
    ),
    "inside-soon": Words(
        NETWORK, _NOTE, "systemd-networkd does not run inside yet",
        "It started {seconds} s ago. Run diagnostics again in a moment.",
    ),
    "inside-missing": Words(
        NETWORK, _PROBLEM, "Nothing inside manages the network",
        "systemd-networkd is not in the image, and no other DHCP client is running. On Fedora and RHEL it is a "
        "separate package.",
        ("machinectl shell {name} /usr/bin/dnf install systemd-networkd",),
    ),
    "address-has": Words(NETWORK, _OK, "IP addresses: {addresses}"),
    "address-local": Words(
        NETWORK, _WARNING, "Only a link-local address: {addresses}",
        "Its DHCP request was not answered, so it took one that is valid on its link only.",
    ),
    "address-none": Words(NETWORK, _PROBLEM, "No IP address"),
    "address-astray": Words(
        NETWORK, _PROBLEM, "Its address {address} is not in the network of {link} ({pool})",
        "The host sends packets for it by {way}, so nothing reaches it. systemd-networkd has given the link another network since "
        "(252 whenever it sets a link up anew), or its DHCP server adopted one the link does not have (257, while a "
        "zone's "
        "bridge comes up). The machine needs a new lease, and so does every other machine on {link}.",
        ("networkctl reconfigure {link}",
         "systemd-run --machine={name} --wait --pipe networkctl reconfigure host0",), "guest-renew",
    ),
    "address-apart": Words(
        NETWORK, _NOTE, "Its address {address} is in another network than the host's on {link} ({pool})",
        "They reach each other through a router only.",
    ),
    "address-shadowed": Words(
        NETWORK, _PROBLEM, "The host sends packets for {address} by {way}, not by {link}",
        "Two links of the host have overlapping networks, or a rule for routing leads elsewhere.",
        ("ip route get {address}", "ip -4 address"),
    ),
    "host-reaches": Words(NETWORK, _OK, "The host reaches {address}"),
    "host-unreached": Words(
        NETWORK, _PROBLEM, "No answer from {address} on {link}",
        "Its address is in the right network, but packets from the host are not answered.",
    ),
    "host-unsure": Words(
        NETWORK, _NOTE, "{address} answers ARP on {link}, but not TCP",
        "A firewall, inside or on the host, drops what the host sends to a closed port.",
    ),
    "route-has": Words(NETWORK, _OK, "Default route present"),
    "route-none": Words(
        NETWORK, _WARNING, "No default route", "It can reach only its own network.",
    ),
    "masquerade-on": Words(NETWORK, _OK, "NAT (masquerade) active"),
    "masquerade-off": Words(
        NETWORK, _WARNING, "NAT (masquerade) is off for {link}",
        "Machines reach the host, but replies from further away do not find their way back. systemd-networkd is "
        "configured for NAT, but its rules are gone: something flushed the ruleset, as a restart of nftables.service "
        "does. Restarting systemd-networkd restores NAT, but not port forwards.",
        ("systemctl restart systemd-networkd.service",), "nat",
    ),
    "masquerade-unasked": Words(
        NETWORK, _NOTE, "No NAT on {link}, as its .network file says",
        "Other hosts need a route to its network to reply.",
    ),
    "nat-unread": Words(NETWORK, _UNKNOWN, "NAT could not be checked: nft is not installed or does not respond", "",
                        ("{install} nftables",)),
    "ports-unread": Words(
        NETWORK, _UNKNOWN, "Port forwards could not be checked ({ports}): nft is not installed or does not respond", "",
        ("{install} nftables",),
    ),
    "port-open": Words(NETWORK, _OK, "Port forward works: {port} → {to}"),
    "port-untried": Words(
        NETWORK, _OK, "Port forward in place: {port} → {to}", "UDP cannot be tested: it sends no reply.",
    ),
    "port-closed": Words(
        NETWORK, _WARNING, "Port forward {port} → {to}: nothing listens on port {to} inside",
        "The service is not running, or it listens on the loopback address only.",
        ("systemd-run --machine={name} --wait --pipe ss --listening --numeric --tcp",),
    ),
    "port-silent": Words(
        NETWORK, _WARNING, "Port forward {port} → {to}: {address} does not answer on port {to}",
        "A firewall inside drops it.",
    ),
    "port-blocked": Words(
        NETWORK, _WARNING, "Port forward {port} → {to}: no answer at {address}",
        "The machine's own port {to} answers. A rule on the host drops or redirects the forwarded traffic.",
    ),
    "port-lost": Words(
        NETWORK, _PROBLEM, "Port forward lost: {port} → {to}",
        "It is configured, but the kernel has no rule for it: something flushed the ruleset since the machine started. "
        "systemd-nspawn adds it only when the machine gets its address.",
        ("machinectl reboot {name}",), "nat",
    ),
    "port-astray": Words(
        NETWORK, _PROBLEM, "Port forward {port} → {to} leads to {leads} instead",
        "The rule is left over from an earlier address, or it was changed by hand.",
        ("machinectl reboot {name}",), "nat",
    ),
    "port-taken": Words(
        NETWORK, _PROBLEM, "Port forward {port} → {to} leads to {owner} instead ({leads})",
        "Both forward the same host port; the one that got its address first has it. Give one of them another port.",
    ),
    "port-later": Words(
        NETWORK, _NOTE, "Port forward not active yet: {port} → {to}",
        "The configuration was changed after the machine started. Takes effect on restart.",
    ),
    "port-soon": Words(
        NETWORK, _NOTE, "Port forward not there yet: {port} → {to}",
        "The machine has just started. Run diagnostics again in a moment.",
    ),
    "resolve-ok": Words(NETWORK, _OK, "DNS configured: {servers}"),
    "resolve-none": Words(
        NETWORK, _WARNING, "No DNS server configured",
        "Its /etc/resolv.conf is missing or empty. IP addresses work, names do not resolve.",
        ("systemctl --machine={name} enable --now systemd-resolved.service",
         "machinectl shell {name} /bin/ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf"),
    ),
    "resolve-dead": Words(
        NETWORK, _WARNING, "Its /etc/resolv.conf asks systemd-resolved, which does not run inside",
        "IP addresses work, names do not resolve.",
        ("systemctl --machine={name} enable --now systemd-resolved.service",),
    ),
    "image-unread": Words(
        NETWORK, _UNKNOWN, "What is inside could not be checked",
        "Its image is a disk image, which cannot be read from outside.",
    ),
    # --- limits
    "unit-own": Words(LIMITS, _OK, "It runs in its own unit, {unit}"),
    "unit-foreign": Words(
        LIMITS, _WARNING, "It runs in {unit}, not in its own unit",
        "It was started by hand. None of the limits set here apply until it is stopped and started as a unit.",
        ("machinectl poweroff {name}", "machinectl start {name}"),
    ),
    "memory-enough": Words(LIMITS, _OK, "OOM kills: none"),
    "memory-killed": Words(
        LIMITS, _WARNING, "OOM kills: {count}",
        "The kernel has killed processes of it since it started: it reached its MemoryMax. Its log names them.",
        ("journalctl --dmesg --grep oom-kill",),
    ),
    "tasks-enough": Words(LIMITS, _OK, "Task limit never reached"),
    "tasks-full": Words(
        LIMITS, _WARNING, "Task limit reached: {count} times", "TasksMax= denied it new processes.",
    ),
    # --- systemd and control groups
    "systemd-fine": Words(SYSTEM, _OK, "systemd {version}: no known vulnerability"),
    "logind-mute": Words(
        SYSTEM, _WARNING, "systemd-logind runs, but is no longer on D-Bus",
        "D-Bus was restarted on the host, and systemd-logind does not reconnect by itself. Logins on the host, over SSH too, "
        "may take 25 seconds longer.",
        ("systemctl restart systemd-logind.service",),
    ),
    "systemd-escape": Words(
        SYSTEM, _NOTE, "systemd {version} may be vulnerable: CVE-2026-40226",
        "Going by the version number: up to 259.3 (and 258.5, 257.11) a crafted .nspawn file beside an image can "
        "break out of the machine. Distributions backport the fix without a new version number; check yours. There "
        "is no such file on this host now.",
        ("apt-get update", "apt-get install --only-upgrade systemd-container"),
    ),
    "beside-danger": Words(
        SYSTEM, _PROBLEM, "A .nspawn file lies beside its image, and systemd {version} may trust it too much: {files}",
        "Going by its version number, this systemd has CVE-2026-40226: a crafted file of this kind can break out of "
        "the machine. "
        "If you did not put it there, move it away before the next start.",
        ("mv --no-clobber {file} {file}.aside",),
    ),
    "beside-ignored": Words(
        SYSTEM, _NOTE, "A .nspawn file lies beside its image: {files}",
        "systemd reads it only while there is none in /etc/systemd/nspawn, and drops everything privileged in it, "
        "binds and network among others.",
    ),
    "autostart-works": Words(SYSTEM, _OK, "Autostart works"),
    "autostart-dead": Words(
        SYSTEM, _PROBLEM, "Autostart does not work for {machines}",
        "They are enabled, but machines.target is not, and nothing else starts them. Below systemd 253 machinectl "
        "does not enable it.",
        ("systemctl enable machines.target",), "autostart",
    ),
    # --- binds
    "binds-fine": Words(BINDS, _OK, "No bind exposes the host"),
    "binds-protected": Words(
        BINDS, _PROBLEM, "{name}: {line} exposes the host",
        "{why} Nothing is applied to the machine until the line is gone; it starts as before. If you did not write "
        "it, treat this host as compromised.",
        ("systemctl cat {unit}", "cat {file}"),
    ),
    "binds-as-root": Words(
        BINDS, _WARNING, "{name}: {line}, and root inside is root on this host",
        "It has no user namespace (PrivateUsers=no), so root inside can write there as root, create setuid programs, "
        "and remount a read-only bind writable. PrivateUsers=pick prevents that.",
        ("cat {file}",),
    ),
    "cgroup-v2": Words(SYSTEM, _OK, "cgroup v2"),
    "cgroup-v1": Words(
        SYSTEM, _WARNING, "cgroup v1 ({kind})",
        "systemd 258 dropped support: a machine with systemd 258 or later does not start here, and the next upgrade "
        "of the host needs cgroup v2. The switch takes effect at the next boot.",
        ("sed -i 's/^GRUB_CMDLINE_LINUX=\"/&systemd.unified_cgroup_hierarchy=1 /' /etc/default/grub", "update-grub"),
    ),
    "guest-fits": Words(SYSTEM, _OK, "systemd {guest} inside is compatible with the host's cgroups"),
    "guest-too-old": Words(
        SYSTEM, _PROBLEM, "systemd {guest} inside is too old for cgroup v2",
        "It boots only on a host with cgroup v1, or in an image with systemd 230 or later.",
    ),
    "guest-too-new": Words(
        SYSTEM, _PROBLEM, "systemd {guest} inside does not support cgroup v1", "The host must boot with cgroup v2.",
    ),
    "guest-unread": Words(SYSTEM, _UNKNOWN, "The systemd version inside is unknown"),
    # --- room
    "disk-enough": Words(ROOM, _OK, "Disk space: {free} free of {total}"),
    "disk-low": Words(
        ROOM, _WARNING, "Low disk space for images: {free} free of {total}",
        "Builds, clones and logs fail when it runs out, and so do machines.",
        ("du --one-file-system --summarize --human-readable /var/lib/machines/*",),
    ),
    "disk-full": Words(
        ROOM, _PROBLEM, "Disk for images almost full: {free} free of {total}",
        "Machines cannot write, builds fail.",
        ("du --one-file-system --summarize --human-readable /var/lib/machines/*", "journalctl --vacuum-size=200M"),
    ),
    "place-low": Words(
        ROOM, _WARNING, "Low disk space at {place}: {free} free of {total}", "", ("df --human-readable {place}",),
    ),
    "place-full": Words(
        ROOM, _PROBLEM, "Disk almost full at {place}: {free} free of {total}",
        "Settings cannot be written, starts and orders fail.", ("df --human-readable {place}",),
    ),
    "files-few": Words(
        ROOM, _WARNING, "Few inodes left at {place}: {free} of {total}",
        "When they run out, nothing can be created there, even with free space.", ("df --inodes {place}",),
    ),
    "files-gone": Words(
        ROOM, _PROBLEM, "Out of inodes at {place}: {free} of {total} left",
        "Nothing can be created there, even with free space.",
        ("df --inodes {place}", "du --inodes --one-file-system --summarize {place}/*"),
    ),
    "memory-fine": Words(ROOM, _OK, "Memory: {free} free of {total}"),
    "memory-low": Words(
        ROOM, _WARNING, "Low memory: {free} free of {total}",
        "The OOM killer may act soon, and it picks from all machines.", ("systemd-cgtop --order=memory --depth=3",),
    ),
    "inotify-enough": Words(ROOM, _OK, "Inotify instances: {used} used of {limit}"),
    "inotify-low": Words(
        ROOM, _WARNING, "Few inotify instances: {used} used of {limit}, {machines} running machines",
        "Every systemd takes about ten, and all machines share root's. When they run out, machines and services "
        "inside fail "
        "with “Too many open files”.",
        (f"echo fs.inotify.max_user_instances={{target}} > {INOTIFY_FILE}", f"sysctl -p {INOTIFY_FILE}"),
        "inotify",
    ),
    "kernel-limits-fine": Words(ROOM, _OK, "Kernel limits: enough headroom (open files, processes, terminals, keys)"),
    "kernel-limit-near": Words(
        ROOM, _WARNING, "Kernel limit almost reached: {used} of {limit} {what}",
        "The sysctl is {name}. When it is reached, machines fail with errors such as “Too many open files”, “Disk "
        "quota exceeded” "
        "(keys) or “Resource temporarily unavailable”.",
        (f"echo {{name}}={{target}} >> {LIMITS_FILE}", f"sysctl -p {LIMITS_FILE}"),
    ),
    "clock-kept": Words(ROOM, _OK, "Time sync (NTP) is on"),
    "clock-outer": Words(
        ROOM, _NOTE, "The clock is set by the machine this host runs on",
        "This host is a container and cannot set it. Time sync (NTP) belongs there.",
    ),
    "clock-unsynced": Words(
        ROOM, _NOTE, "Time sync (NTP) is on, but has not reached a server yet",
        "{service} keeps trying. Orders wait once the clock is off by a minute.",
        ("systemctl status {service}",),
    ),
    "clock-mute": Words(
        ROOM, _UNKNOWN, "The clock could not be checked: systemd-timedated runs, but is no longer on D-Bus",
        "D-Bus was restarted on the host. systemd-timedated ends by itself within a minute and is then started when needed.",
        ("systemctl stop systemd-timedated.service",),
    ),
    "clock-loose": Words(
        ROOM, _WARNING, "Time sync (NTP) is off", "Orders wait once the clock is off by a minute.",
        ("timedatectl set-ntp true",),
    ),
    "clock-service-off": Words(
        ROOM, _WARNING, "Time sync (NTP) is off: {service} does not run",
        "Orders wait once the clock is off by a minute. timedatectl cannot switch this service.",
        ("systemctl enable --now {service}",),
    ),
    "clock-missing": Words(
        ROOM, _WARNING, "Time sync (NTP) is not installed",
        "Orders wait once the clock is off by a minute. No service of this host sets it.",
        ("{install} {packages}", "systemctl enable --now {service}"),
    ),
    "clock-agrees": Words(ROOM, _OK, "Clocks of host and panel agree"),
    "clock-differs": Words(
        ROOM, _WARNING, "The host's clock is {seconds} s {way} the panel's",
        "Times in logs do not match. Orders wait while it is more than a minute off. See “Time sync” for what keeps "
        "this host's clock.", ("timedatectl",),
    ),
    # --- tools
    "tools-there": Words(TOOLS, _OK, "All tools are installed"),
    "tools-missing": Words(
        TOOLS, _WARNING, "Tools are missing: {tools}", "What needs them fails.", ("{install} {packages}",),
    ),
    "check-failed": Words(
        TOOLS, _UNKNOWN, "Could not be checked: {what}", "{why}",
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
    """What fixes it, as lines for a shell of the host's root."""
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
