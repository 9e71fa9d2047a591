"""Properties of a machine's unit as one table, and the drop-in that holds them.

Limits never stand in a .nspawn file; they belong to systemd-nspawn@NAME.service. Sources: systemd.resource-control(5),
systemd.service(5), systemd.unit(5). No Exec*=, no credentials, no environment: each would be root on the host.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from machines.contract.configuration import nspawn, values
from machines.contract.configuration import values as v
from machines.contract.configuration.setting import Group, Setting
from machines.contract.problems import BadValue

SECTION = "Service"
UNIT = "Unit"
Property = Setting
CONTROL, SERVICE, IN_UNIT = "systemd.resource-control", "systemd.service", "systemd.unit"


# fmt: off
def _resources() -> Iterator[Setting]:
    p = partial(Setting, SECTION, group=Group.RESOURCES, page=CONTROL)
    weight = v.whole_number(1, 10000)
    yield p("MemoryMax", v.memory_limit, "Memory limit", "Hard limit: beyond it the OOM killer ends processes of the machine.", since=231, example="512M", live=True, anchor="MemoryMax=bytes")
    yield p("MemoryHigh", v.memory_limit, "Memory soft limit (throttle)", "Above it the machine is throttled and its memory reclaimed.", since=231, example="400M", live=True, anchor="MemoryHigh=bytes")
    yield p("CPUQuota", v.cpu_quota, "CPU limit", "Percent of one CPU: 200% is two CPUs.", since=213, example="150%", live=True, shows="CPUQuotaPerSecUSec")
    yield p("CPUWeight", v.whole_number(1, 10000, "idle"), "CPU weight", "Share when CPUs are busy; 200 gets twice as much as 100.", since=232, example="200", default="100", live=True, anchor="CPUWeight=weight")
    yield p("TasksMax", v.whole_number(1, 10_000_000, "infinity"), "Task limit", "Processes and threads combined.", since=227, example="4096", default="16384", live=True, anchor="TasksMax=N")  # the stock unit's
    yield p("IOWeight", weight, "I/O weight", "Share of disk I/O when disks are busy.", since=230, example="200", default="100", live=True, anchor="IOWeight=weight")
    yield p("MemorySwapMax", v.size, "Swap limit", "How much swap the machine may use.", since=232, example="0", live=True, anchor="MemorySwapMax=bytes")
    yield p("MemoryLow", v.memory, "Memory protected (best effort)", "Best-effort protection from reclaim.", since=240, example="128M", live=True, anchor="MemoryMin=bytes, MemoryLow=bytes")
    yield p("MemoryMin", v.memory, "Memory protected (hard)", "Hard protection from reclaim.", since=240, example="64M", live=True, anchor="MemoryMin=bytes, MemoryLow=bytes")
    yield p("AllowedCPUs", v.cpu_list, "Allowed CPUs", "The machine runs on these CPUs only.", since=244, example="0-3", live=True)

    q = partial(p, rare=True)
    yield q("CPUQuotaPeriodSec", v.time_span, "CPU limit period", "Interval that CPUQuota= is measured over, from 1ms to 1s: shorter is smoother.", since=242, example="10ms", default="100ms", shows="CPUQuotaPeriodUSec")
    yield q("StartupCPUWeight", v.whole_number(1, 10000, "idle"), "CPU weight during host boot", "Replaces CPUWeight= while the host boots or shuts down.", since=232, example="50", anchor="CPUWeight=weight")
    yield q("CPUSetPartition", v.one_of("member", "root", "isolated"), "Exclusive CPUs (cpuset partition)", "root and isolated take the CPUs in AllowedCPUs= away from the rest of the host.", since=261, default="member", guarded=True)
    yield q("AllowedMemoryNodes", v.cpu_list, "NUMA nodes", "Memory is allocated on these NUMA nodes only.", since=244, example="0")
    yield q("MemoryZSwapMax", v.size, "Compressed swap limit (zswap)", "How much zswap memory the machine may use.", since=253, example="256M", anchor="MemoryZSwapMax=bytes")
    yield q("StartupIOWeight", weight, "I/O weight during host boot", "Replaces IOWeight= while the host boots or shuts down.", since=230, example="50", anchor="IOWeight=weight")
    for key, what, check, example, column in (
        ("IOReadBandwidthMax", "Read bandwidth limit", v.device_rate, "/dev/sda 50M", "Bytes per second"),
        ("IOWriteBandwidthMax", "Write bandwidth limit", v.device_rate, "/dev/sda 20M", "Bytes per second"),
        ("IOReadIOPSMax", "Read IOPS limit", v.device_rate, "/dev/sda 1K", "Reads per second"),
        ("IOWriteIOPSMax", "Write IOPS limit", v.device_rate, "/dev/sda 500", "Writes per second"),
    ):
        first = key.replace("Write", "Read")
        yield q(key, check, what, "Per device: a device node, or any path on it. K, M and G are powers of 1000.", since=230, example=example, repeats=True, row=v.Row(("Device or path", column), " "), anchor=f"{first}=device {'bytes' if 'Bandwidth' in key else 'IOPS'}")
    yield q("IODeviceWeight", v.device_weight, "I/O weight per device", "Overrides IOWeight= for this device.", since=230, example="/dev/sda 200", repeats=True, row=v.Row(("Device or path", "Weight"), " "), anchor="IODeviceWeight=device weight")
    yield q("IODeviceLatencyTargetSec", v.device_latency, "I/O latency target", "Other units are throttled when requests to this device take longer.", since=240, example="/dev/sda 25ms", repeats=True, row=v.Row(("Device or path", "Time"), " "), anchor="IODeviceLatencyTargetSec=device target", shows="IODeviceLatencyTargetUSec")
    for key, what, since in (("CPUAccounting", "CPU", 208), ("MemoryAccounting", "memory", 208), ("TasksAccounting", "task", 227), ("IOAccounting", "disk I/O", 230), ("IPAccounting", "network traffic", 235)):
        yield q(key, v.boolean, f"{what[0].upper()}{what[1:]} accounting", f"Whether systemd does {what} accounting for this machine. A limit does so anyway.", since=since, live=key != "IPAccounting")
    yield q("Slice", v.slice_unit, "Slice", "The slice whose limits it shares with other units. For a team: machine-TEAM.slice.", since=208, default="machine.slice", example="machine-team.slice", guarded=True)
    yield q("ManagedOOMSwap", v.one_of("auto", "kill"), "On low swap (systemd-oomd)", "kill lets systemd-oomd kill this machine's largest control group.", since=247, default="auto", live=True, anchor="ManagedOOMSwap=auto|kill, ManagedOOMMemoryPressure=auto|kill")
    yield q("ManagedOOMMemoryPressure", v.one_of("auto", "kill"), "On memory pressure (systemd-oomd)", "kill lets systemd-oomd kill the control group under the most pressure, before the kernel's OOM killer does.", since=247, default="auto", live=True, anchor="ManagedOOMSwap=auto|kill, ManagedOOMMemoryPressure=auto|kill")
    yield q("ManagedOOMMemoryPressureLimit", v.percentage, "Memory pressure limit", "Share of time spent waiting for memory above which systemd-oomd acts.", since=247, example="50%", live=True)
    yield q("ManagedOOMPreference", v.one_of("none", "avoid", "omit"), "systemd-oomd preference", "avoid: other units are killed first; omit: it is never killed.", since=248, default="none", live=True, anchor="ManagedOOMPreference=none|avoid|omit")
    yield q("MemoryPressureWatch", v.boolean_or("auto", "skip"), "Memory pressure notification", "Whether its init is given the pressure file to watch.", since=254, default="auto")
    yield q("OOMRules", v.words, "systemd-oomd rules", "Names of the systemd-oomd rules that apply to this machine.", since=261, example="strict")


def _guards() -> Iterator[Setting]:
    p = partial(Setting, SECTION, group=Group.SECURITY, page=CONTROL)
    yield p("DeviceAllow", v.device_access, "Allowed devices", "A device node, or a group such as char-alsa, and the access allowed. The node itself needs a bind mount.", since=208, example="/dev/kvm rw", repeats=True, row=v.Row(("Device", "Access"), " "), rare=True, guarded=True)
    yield p("DevicePolicy", v.one_of("closed", "strict", "auto"), "Device policy", "closed adds the standard pseudo devices to the allowed ones, strict adds none, auto allows everything while none is listed.", since=208, default="closed", rare=True, guarded=True, anchor="DevicePolicy=auto|closed|strict")
    n = partial(p, group=Group.NETWORK, rare=True)
    yield n("IPAddressAllow", v.addresses, "Allowed IP addresses", "Takes precedence over IPAddressDeny=: any, localhost, link-local, multicast or networks. Not a firewall: it filters the traffic of the machine's processes.", since=235, example="10.0.0.0/8", repeats=True, anchor="IPAddressAllow=ADDRESS[/PREFIXLENGTH]…")
    yield n("IPAddressDeny", v.addresses, "Denied IP addresses", "any denies all but the allowed ones.", since=235, example="any", repeats=True, anchor="IPAddressAllow=ADDRESS[/PREFIXLENGTH]…")
    yield n("SocketBindAllow", v.socket_rule, "Allowed listening ports", "Takes precedence over SocketBindDeny=: tcp:8080, ipv6:udp:5000-6000, any.", since=249, example="tcp:80", repeats=True, anchor="SocketBindAllow=bind-rule")
    yield n("SocketBindDeny", v.socket_rule, "Denied listening ports", "any denies all but the allowed ones.", since=249, example="any", repeats=True, anchor="SocketBindAllow=bind-rule")
    yield n("RestrictNetworkInterfaces", v.interfaces, "Allowed network interfaces", "Only these, by their names inside; with ~ in front, all but these. List the loopback (lo) too.", since=250, example="lo host0", repeats=True)
    yield n("BindNetworkInterface", v.interface, "Bind sockets to an interface", "All sockets of the machine are bound to this interface (VRF).", since=260, example="vrf-blue")
    yield n("NFTSet", v.nft_sets, "nftables sets", "Sets in the host's nftables that contain this machine's control group while it runs.", since=255, example="cgroup:inet:filter:web", repeats=True, guarded=True, anchor="NFTSet=family:table:set")


def _service() -> Iterator[Setting]:
    s = partial(Setting, SECTION, group=Group.BOOT, page=SERVICE)
    yield s("Restart", v.one_of("no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"), "Restart policy", "What systemd does when the machine exits on its own. A reboot from inside always works.", since=208, default="no", live=True)
    yield s("RestartSec", v.time_span, "Restart delay", "Time systemd waits before a restart.", since=208, default="100ms", example="5s", live=True, shows="RestartUSec")
    yield s("TimeoutStartSec", v.time_span_or_infinity, "Start timeout", "A start that takes longer counts as failed. A large image whose file owners are rewritten needs more.", since=208, example="5min", shows="TimeoutStartUSec")
    yield s("TimeoutStopSec", v.time_span_or_infinity, "Stop timeout", "What is still running after that is killed.", since=208, default="90s", example="2min", live=True, shows="TimeoutStopUSec")
    yield s("TimeoutSec", v.time_span_or_infinity, "Start and stop timeout", "Sets both at once.", since=208, example="2min", rare=True)
    yield Setting(SECTION, "CoredumpReceive", v.boolean, "Receive core dumps inside", "Whether core dumps of crashes inside are processed inside, not on the host.", Group.HOST, 255, rare=True, page=CONTROL)
    u = partial(Setting, UNIT, group=Group.HOST, page=IN_UNIT, rare=True, since=201)
    yield u("After", v.units, "Start after", "Host units that must be up first, if they are started too: other machines, mounts, network-online.target.", example="systemd-nspawn@db.service", repeats=True, anchor="Before=")
    yield u("Before", v.units, "Start before", "Host units that wait for this machine.", example="systemd-nspawn@app.service", repeats=True)
    yield u("Requisite", v.units, "Requires running units", "If one is not running, the start fails at once; none is started for it.", example="srv.mount", repeats=True)
    yield u("PartOf", v.units, "Stop and restart with", "When one of these is stopped or restarted, so is the machine.", example="systemd-nspawn@db.service", repeats=True)
    yield u("Description", v.words, "Description", "Description of the unit, as systemctl shows it.", example="Shop, front end", live=True)
    yield u("Documentation", v.documentation, "Documentation", "URLs that systemctl status shows.", example="https://wiki.example/shop", repeats=True, live=True)
# fmt: on


PROPERTIES: dict[str, Setting] = {prop.key: prop for prop in (*_resources(), *_guards(), *_service())}
# Those of which systemctl show and the control group say one number that can be compared with what is wanted.
PROVEN = (
    "MemoryMax", "MemoryHigh", "CPUQuota", "CPUWeight", "TasksMax", "IOWeight", "MemorySwapMax", "MemoryLow", "MemoryMin",
    "AllowedCPUs",
)  # fmt: skip


def unenforced(lacks: str) -> str:
    """Why nothing enforces a limit, out of what a host says is not there (HostFact.lacks)."""
    if lacks.endswith(".service"):
        return f"{lacks.removesuffix('.service')} is not running here, and nothing else enforces it."
    if "." in lacks:
        return f"Not enforced: the control groups here have no {lacks}."
    return f"Not enforced: this host has {lacks}, which has no such limit."


def section_of(key: str) -> str:
    """Where in a drop-in it stands."""
    return PROPERTIES[key].section if key in PROPERTIES else SECTION


def short(key: str, value: str) -> str:
    """Bytes in the largest unit that says the same, 67108864 → 64M: set-property leaves plain bytes."""
    if not key.startswith("Memory") or not value.isdecimal() or not int(value):
        return value
    for power, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if int(value) % (1 << power) == 0:
            return f"{int(value) >> power}{unit}"
    return value


def dropin(wanted: Mapping[str, str], base: str = "") -> str:
    """The drop-in's text, based on an earlier one whose other lines are kept; "" when nothing is left to say.

    Values of a key that may stand several times are lines.
    """
    document = nspawn.parse(nspawn.unmark(base))
    before = document.text()
    for key, prop in PROPERTIES.items():
        document.put_setting(prop, wanted.get(key, ""))
    if document.text() != before:
        document.drop_empty_sections()
    return document.text() if document.text().strip() else ""


def read(text: str) -> dict[str, str]:
    """The properties of a drop-in; the last one wins, and a key that repeats has a value a line.

    (systemd expands no % specifiers in limits.)
    """
    document = nspawn.parse(text)
    found = {key: document.said(prop) for key, prop in PROPERTIES.items()}
    return {key: value for key, value in found.items() if value}


def check(text: str) -> list[tuple[str, BadValue]]:
    """What systemd would ignore in a drop-in, as (key, problem)."""
    problems: list[tuple[str, BadValue]] = []
    for entry in nspawn.parse(text).settings():
        prop = PROPERTIES.get(entry.key)
        try:
            values.one_line(entry.value)
            if prop is not None and prop.section == entry.section and entry.value:
                prop.check(entry.value)
        except BadValue as problem:
            problems.append((entry.key, problem))
    return problems


def effective(key: str, wanted: str, total_memory: int = 0) -> str:
    """What `systemctl show` says once `wanted` holds: bytes, microseconds per second, or the number itself."""
    if wanted in {"infinity", "idle"}:
        return "0" if wanted == "idle" else wanted
    if key.startswith("Memory"):
        if wanted.endswith("%"):
            return str(int(total_memory * float(wanted[:-1]) / 100))
        return str(values.size_in_bytes(wanted))
    if key == "CPUQuota":
        return str(round(float(wanted[:-1]) * 10_000))
    return wanted
