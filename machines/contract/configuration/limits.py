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
    yield p("MemoryMax", v.memory_limit, "Memory, at most", "Beyond it the kernel kills inside the machine.", since=231, example="512M", live=True, anchor="MemoryMax=bytes")
    yield p("MemoryHigh", v.memory_limit, "Memory, slow down above", "Above it the machine is throttled and reclaimed.", since=231, example="400M", live=True, anchor="MemoryHigh=bytes")
    yield p("CPUQuota", v.cpu_quota, "CPU time, at most", "Percent of one CPU: 200% is two CPUs.", since=213, example="150%", live=True, shows="CPUQuotaPerSecUSec")
    yield p("CPUWeight", v.whole_number(1, 10000, "idle"), "CPU weight", "Share when CPUs are busy; 200 gets twice as much as 100.", since=232, example="200", default="100", live=True, anchor="CPUWeight=weight")
    yield p("TasksMax", v.whole_number(1, 10_000_000, "infinity"), "Processes, at most", "Processes and threads together.", since=227, example="4096", default="16384", live=True, anchor="TasksMax=N")  # the stock unit's
    yield p("IOWeight", weight, "Disk weight", "Share of disk time when disks are busy.", since=230, example="200", default="100", live=True, anchor="IOWeight=weight")
    yield p("MemorySwapMax", v.size, "Swap, at most", "How much may be swapped out.", since=232, example="0", live=True, anchor="MemorySwapMax=bytes")
    yield p("MemoryLow", v.memory, "Memory, protected", "Best-effort protection from reclaim.", since=240, example="128M", live=True, anchor="MemoryMin=bytes, MemoryLow=bytes")
    yield p("MemoryMin", v.memory, "Memory, guaranteed", "Hard protection from reclaim.", since=240, example="64M", live=True, anchor="MemoryMin=bytes, MemoryLow=bytes")
    yield p("AllowedCPUs", v.cpu_list, "CPUs", "Only these CPUs.", since=244, example="0-3", live=True)

    q = partial(p, rare=True)
    yield q("CPUQuotaPeriodSec", v.time_span, "CPU time, measured over", "The stretch of time CPUQuota= is counted in, from 1ms to 1s: shorter is smoother.", since=242, example="10ms", default="100ms", shows="CPUQuotaPeriodUSec")
    yield q("StartupCPUWeight", v.whole_number(1, 10000, "idle"), "CPU weight while the host boots", "In place of CPUWeight= while the host starts or stops.", since=232, example="50", anchor="CPUWeight=weight")
    yield q("CPUSetPartition", v.one_of("member", "root", "isolated"), "CPUs of its own", "root and isolated take the CPUs of AllowedCPUs= away from the rest of the host.", since=261, default="member", guarded=True)
    yield q("AllowedMemoryNodes", v.cpu_list, "Memory nodes", "Only memory of these NUMA nodes.", since=244, example="0")
    yield q("MemoryZSwapMax", v.size, "Compressed swap, at most", "How much of zswap's memory it may fill.", since=253, example="256M", anchor="MemoryZSwapMax=bytes")
    yield q("StartupIOWeight", weight, "Disk weight while the host boots", "In place of IOWeight= while the host starts or stops.", since=230, example="50", anchor="IOWeight=weight")
    for key, what, check, example, column in (
        ("IOReadBandwidthMax", "Reading, at most", v.device_rate, "/dev/sda 50M", "Bytes a second"),
        ("IOWriteBandwidthMax", "Writing, at most", v.device_rate, "/dev/sda 20M", "Bytes a second"),
        ("IOReadIOPSMax", "Reads a second, at most", v.device_rate, "/dev/sda 1K", "Reads a second"),
        ("IOWriteIOPSMax", "Writes a second, at most", v.device_rate, "/dev/sda 500", "Writes a second"),
    ):
        first = key.replace("Write", "Read")
        yield q(key, check, what, "For each disk, or for the disk a path is on; K, M and G count by 1000.", since=230, example=example, repeats=True, row=v.Row(("Disk or path", column), " "), anchor=f"{first}=device {'bytes' if 'Bandwidth' in key else 'IOPS'}")
    yield q("IODeviceWeight", v.device_weight, "Disk weight of one disk", "In place of IOWeight= for this disk.", since=230, example="/dev/sda 200", repeats=True, row=v.Row(("Disk or path", "Weight"), " "), anchor="IODeviceWeight=device weight")
    yield q("IODeviceLatencyTargetSec", v.device_latency, "Disk latency to aim at", "Others wait when a request to this disk takes longer.", since=240, example="/dev/sda 25ms", repeats=True, row=v.Row(("Disk or path", "Time"), " "), anchor="IODeviceLatencyTargetSec=device target", shows="IODeviceLatencyTargetUSec")
    for key, what, since in (("CPUAccounting", "CPU time", 208), ("MemoryAccounting", "memory", 208), ("TasksAccounting", "processes", 227), ("IOAccounting", "disk traffic", 230), ("IPAccounting", "network traffic", 235)):
        yield q(key, v.boolean, f"Count {what}", f"Whether systemd counts {what} of this machine. A limit counts anyway.", since=since, live=key != "IPAccounting")
    yield q("Slice", v.slice_unit, "Slice", "The group of units it shares limits with. A machine of a team: machine-TEAM.slice.", since=208, default="machine.slice", example="machine-team.slice", guarded=True)
    yield q("ManagedOOMSwap", v.one_of("auto", "kill"), "When swap runs out", "kill lets systemd-oomd end this machine's biggest group of processes.", since=247, default="auto", live=True, anchor="ManagedOOMSwap=auto|kill, ManagedOOMMemoryPressure=auto|kill")
    yield q("ManagedOOMMemoryPressure", v.one_of("auto", "kill"), "When memory is short", "kill lets systemd-oomd end what presses most, before the kernel does.", since=247, default="auto", live=True, anchor="ManagedOOMSwap=auto|kill, ManagedOOMMemoryPressure=auto|kill")
    yield q("ManagedOOMMemoryPressureLimit", v.percentage, "How short memory may be", "The share of time spent waiting for memory above which systemd-oomd acts.", since=247, example="50%", live=True)
    yield q("ManagedOOMPreference", v.one_of("none", "avoid", "omit"), "Spare it from systemd-oomd", "avoid ends others first, omit never this one.", since=248, default="none", live=True, anchor="ManagedOOMPreference=none|avoid|omit")
    yield q("MemoryPressureWatch", v.boolean_or("auto", "skip"), "Tell it when memory is short", "Whether its init is given the file that says so.", since=254, default="auto")
    yield q("OOMRules", v.words, "Rules for systemd-oomd", "Names of rules that systemd-oomd follows for this machine.", since=261, example="strict")


def _guards() -> Iterator[Setting]:
    p = partial(Setting, SECTION, group=Group.SECURITY, page=CONTROL)
    yield p("DeviceAllow", v.device_access, "Devices of the host", "A device node, or a group such as char-alsa, and what may be done with it. The node itself comes in by a bind.", since=208, example="/dev/kvm rw", repeats=True, row=v.Row(("Device", "Access"), " "), rare=True, guarded=True)
    yield p("DevicePolicy", v.one_of("closed", "strict", "auto"), "Other devices", "closed adds the usual pseudo devices to those above, strict adds none, auto opens everything while none is named.", since=208, default="closed", rare=True, guarded=True, anchor="DevicePolicy=auto|closed|strict")
    n = partial(p, group=Group.NETWORK, rare=True)
    yield n("IPAddressAllow", v.addresses, "Addresses it may talk to", "Allowed even where the next setting denies; any, localhost, link-local, multicast or networks. No firewall: it filters at the machine's processes.", since=235, example="10.0.0.0/8", repeats=True, anchor="IPAddressAllow=ADDRESS[/PREFIXLENGTH]…")
    yield n("IPAddressDeny", v.addresses, "Addresses it may not talk to", "any forbids all but those above.", since=235, example="any", repeats=True, anchor="IPAddressAllow=ADDRESS[/PREFIXLENGTH]…")
    yield n("SocketBindAllow", v.socket_rule, "Ports it may listen on", "Allowed even where the next setting denies: tcp:8080, ipv6:udp:5000-6000, any.", since=249, example="tcp:80", repeats=True, anchor="SocketBindAllow=bind-rule")
    yield n("SocketBindDeny", v.socket_rule, "Ports it may not listen on", "any forbids all but those above.", since=249, example="any", repeats=True, anchor="SocketBindAllow=bind-rule")
    yield n("RestrictNetworkInterfaces", v.interfaces, "Interfaces it may use", "Only these, as they are named inside; with ~ in front, all but these. The loopback must be named too.", since=250, example="lo host0", repeats=True)
    yield n("BindNetworkInterface", v.interface, "Bind sockets to an interface", "Every socket of the machine uses this interface (a VRF).", since=260, example="vrf-blue")
    yield n("NFTSet", v.nft_sets, "Firewall sets", "Sets of the host's nftables that hold this machine's control group while it runs.", since=255, example="cgroup:inet:filter:web", repeats=True, guarded=True, anchor="NFTSet=family:table:set")


def _service() -> Iterator[Setting]:
    s = partial(Setting, SECTION, group=Group.BOOT, page=SERVICE)
    yield s("Restart", v.one_of("no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"), "Start it again", "What systemd does when the machine ends without being asked to. A reboot from inside works without.", since=208, default="no", live=True)
    yield s("RestartSec", v.time_span, "Wait before that", "Time before it is started again.", since=208, default="100ms", example="5s", live=True, shows="RestartUSec")
    yield s("TimeoutStartSec", v.time_span_or_infinity, "Time to start", "After it, a start counts as failed. A large image whose owners are rewritten needs more.", since=208, example="5min", shows="TimeoutStartUSec")
    yield s("TimeoutStopSec", v.time_span_or_infinity, "Time to power off", "After it, what is left is killed.", since=208, default="90s", example="2min", live=True, shows="TimeoutStopUSec")
    yield s("TimeoutSec", v.time_span_or_infinity, "Time to start and to power off", "Both at once.", since=208, example="2min", rare=True)
    yield Setting(SECTION, "CoredumpReceive", v.boolean, "Keep its core dumps inside", "Whether crashes inside are handled inside, not by the host.", Group.HOST, 255, rare=True, page=CONTROL)
    u = partial(Setting, UNIT, group=Group.HOST, page=IN_UNIT, rare=True, since=201)
    yield u("After", v.units, "Start after", "Units of the host that must be up first, if they start too: other machines, mounts, network-online.target.", example="systemd-nspawn@db.service", repeats=True, anchor="Before=")
    yield u("Before", v.units, "Start before", "Units of the host that wait for this machine.", example="systemd-nspawn@app.service", repeats=True)
    yield u("Requisite", v.units, "Only while these run", "Without them a start fails at once; nothing is started for it.", example="srv.mount", repeats=True)
    yield u("PartOf", v.units, "Stop and restart with", "When one of these is stopped or restarted, so is the machine.", example="systemd-nspawn@db.service", repeats=True)
    yield u("Description", v.words, "Description", "What systemctl says this unit is.", example="Shop, front end", live=True)
    yield u("Documentation", v.documentation, "Documentation", "Addresses that systemctl status shows.", example="https://wiki.example/shop", repeats=True, live=True)
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
        return f"{lacks.removesuffix('.service')} does not run here, and nothing else acts on it."
    if "." in lacks:
        return f"Nothing enforces it: control groups have no {lacks} here."
    return f"Nothing enforces it: this host has {lacks}, which know no such limit."


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
