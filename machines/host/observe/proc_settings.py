"""What the kernel says of a running machine's first process, by the settings of contract/configuration/nspawn.py.

systemd-nspawn tells nobody what it made of its file; /proc/LEADER does. What a process can say of itself may be false,
so a value from here is shown, never obeyed. What its links and forwarded ports are is asked of the host's own kernel.
Settings that leave no trace (Timezone=, KillSignal= …) have no line. Every read is bounded: a machine's root may mount as much as it likes.
"""

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from machines.contract.configuration import compare_effective, nspawn, values
from machines.contract.problems import Problem
from machines.host.network import addresses, firewall, links
from machines.host.system import guarded

PROC = Path("/proc")
READ_AT_MOST = 1024 * 1024
EXPOSES = 10.0  # seconds after the start within which systemd-nspawn may not have led ports to its address yet
# capability(7), in the order of their bits
CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
# the kernel's name of a limit → systemd's; those in seconds, bytes and counts read as systemd writes them
RLIMITS = {
    "Max cpu time": "CPU", "Max file size": "FSIZE", "Max data size": "DATA", "Max stack size": "STACK",
    "Max core file size": "CORE", "Max resident set": "RSS", "Max processes": "NPROC", "Max open files": "NOFILE",
    "Max locked memory": "MEMLOCK", "Max address space": "AS", "Max file locks": "LOCKS",
    "Max pending signals": "SIGPENDING", "Max msgqueue size": "MSGQUEUE", "Max nice priority": "NICE",
    "Max realtime priority": "RTPRIO", "Max realtime timeout": "RTTIME",
}  # fmt: skip
_CARDS = (("MACVLAN", "mv-"), ("IPVLAN", "iv-"))
LONGEST_LINK = 15  # IFNAMSIZ without its end
_MOUNTS = ("Bind", "BindReadOnly", "Overlay", "OverlayReadOnly", "TemporaryFileSystem", "Inaccessible")


def read(leader: int, machine: Mapping[str, Any], text: str) -> dict[str, str]:
    """What can be seen of the machine whose first process is `leader`. `text` is its .nspawn file: only the mounts and
    variables it names are looked for. `machine` is what machined says of it."""
    document, process = nspawn.parse(text), PROC / str(leader)
    status = dict(line.split(":\t", 1) for line in _lines(process / "status") if ":\t" in line)
    found = {
        **_process(process, status, machine),
        **_limits(process),
        **_root(mounts := _mounts(process)),
        **_network(process, document, machine),
    }
    found |= {f"Files.{key}": _at(mounts, document.get(nspawn.FILES, key), key) for key in _MOUNTS}
    found["Exec.Environment"] = _environment(process, document.get(nspawn.EXEC, "Environment"))
    return {key: value[:4000] for key, value in found.items() if value}


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as stream:
            return stream.read(READ_AT_MOST).decode(errors="replace").splitlines()
    except OSError:
        return []


def _process(process: Path, status: Mapping[str, str], machine: Mapping[str, Any]) -> dict[str, str]:
    users = " ".join(_lines(process / "uid_map")[:1]).split()
    kept = int(status.get("CapBnd", "0"), 16) if re.fullmatch(r"[0-9a-f]{1,16}", status.get("CapBnd", "")) else 0
    personality = "".join(_lines(process / "personality"))
    return {
        "Exec.Ephemeral": _yes(str(Path(str(machine.get("RootDirectory", ""))).name).startswith(".#")),
        "Exec.PrivateUsers": ("no" if users[1:] == ["0", "4294967295"] else ":".join(users[1:])) if users else "",
        "Exec.Capability": " ".join(f"CAP_{name}" for bit, name in enumerate(CAPABILITIES) if kept >> bit & 1),
        "Exec.NoNewPrivileges": _yes(status["NoNewPrivs"] == "1") if "NoNewPrivs" in status else "",
        "Exec.OOMScoreAdjust": "".join(_lines(process / "oom_score_adj")),
        "Exec.CPUAffinity": status.get("Cpus_allowed_list", "").strip(),
        "Exec.Personality": {"00000000": "x86-64", "00000008": "x86"}.get(personality, personality),
        "Exec.MachineID": bytes(machine.get("Id", b"")).hex(),
    }


def _limits(process: Path) -> dict[str, str]:
    found = {}
    for line in _lines(process / "limits"):
        name = RLIMITS.get(line[:26].strip())
        if name:
            soft, hard = (word.replace("unlimited", "infinity") for word in line[26:].split()[:2])
            found[f"Exec.Limit{name}"] = soft if soft == hard else f"{soft}:{hard}"
    return found


# mount point → (file system, whether it is read-only)
Mounts = dict[str, tuple[str, bool]]


def _mounts(process: Path) -> Mounts:
    """proc_pid_mountinfo(5); of several mounts on one point the last one is on top."""
    found: Mounts = {}
    for line in _lines(process / "mountinfo"):
        head, _, tail = line.partition(" - ")
        parts = head.split(" ")
        if len(parts) > 5 and tail:
            found[guarded.unescaped(parts[4])] = tail.split(" ", 1)[0], "ro" in parts[5].split(",")
    return found


def _root(mounts: Mounts) -> dict[str, str]:
    system, read_only = mounts.get("/", ("", False))
    if not system:
        return {}
    state = read_only and mounts.get("/var", ("", False))[0] == "tmpfs"
    volatile = {"overlay": "overlay", "tmpfs": "yes"}.get(system, "state" if state else "no")
    return {"Files.Volatile": volatile, "Files.ReadOnly": _yes(read_only)}


def _at(mounts: Mounts, wanted: Iterable[str], key: str) -> str:
    """Which of the file's mount points are really mounted, one on a line, with how."""
    found = []
    for value in wanted:
        target = mount_point(key, value)
        system, read_only = mounts.get(target, ("", False))
        if system:
            found.append(f"{target} {'read-only' if read_only else 'writable'} {system}")
    return "\n".join(found[:100])


def mount_point(key: str, value: str) -> str:
    """Where a line of the file mounts something inside: SOURCE[:TARGET[:OPTIONS]], LOWER:…:TARGET, PATH[:OPTIONS]."""
    parts = [values.unescape_colons(part) for part in values.split_colons(value)]
    if key.startswith("Bind"):
        return (parts[1] if len(parts) > 1 and parts[1] else parts[0]).removeprefix("+")
    return parts[-1] if key.startswith("Overlay") else parts[0]


def _environment(process: Path, wanted: Iterable[str]) -> str:
    names = {value.partition("=")[0] for value in wanted}
    try:
        with (process / "environ").open("rb") as stream:
            said = stream.read(READ_AT_MOST).decode(errors="replace").split("\0")
    except OSError:
        return ""
    return "\n".join(line[:300] for line in said if line.partition("=")[0] in names)


def _network(process: Path, document: nspawn.Document, machine: Mapping[str, Any]) -> dict[str, str]:
    try:
        private = os.readlink(process / "ns/net") != os.readlink(PROC / "self/ns/net")
    except OSError:
        return {}
    found = {"Network.Private": _yes(private)}
    if not private:
        return {**found, "Network.VirtualEthernet": "no"}
    names = [line.split(":")[0].strip() for line in _lines(process / "net/dev")[2:200]]
    found |= {"Network.VirtualEthernet": _yes("host0" in names)}
    found |= {f"Network.{key}": _cards(names, document.get(nspawn.NETWORK, key), prefix) for key, prefix in _CARDS}
    found["Network.Interface"] = " ".join(name for name in names if name != "lo")
    if document.get(nspawn.NETWORK, "Port") and time.time() - machine.get("Timestamp", 0) / 1e6 > EXPOSES:
        found["Network.Port"] = _ports(int(process.name))
    return found | _cables(int(process.name))


def _cards(names: Sequence[str], wanted: Iterable[str], prefix: str) -> str:
    """Which of these cards (CARD or CARD:NAME-INSIDE) are there as a link of the machine, and others of that kind. A name
    that is too long for the kernel is cut and ends in a hash."""
    pairs = [pair for value in wanted for pair in value.split()]
    inside = {pair: pair.partition(":")[2] or f"{prefix}{pair}" for pair in pairs}
    there = [pair for pair, name in inside.items() if _is_among(name, names)]
    more = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return " ".join(there or more)


def _is_among(name: str, names: Sequence[str]) -> bool:
    cut = name[: LONGEST_LINK - 4]
    return name in names or (len(name) > LONGEST_LINK and any(each.startswith(cut) for each in names))


def _cables(leader: int) -> dict[str, str]:
    """What its veths lead to: the bridge that its own is in, as a zone or a bridge, and the extra ones."""
    try:
        cables = links.of_machine(leader)
    except (Problem, OSError):
        return {}
    extra = (f"{cable.host.name}:{cable.inside.name}" for cable in cables if not cable.is_main and cable.inside)
    found = {"Network.VirtualEthernetExtra": "\n".join(extra)}
    bridge = next((cable.bridge.name for cable in cables if cable.is_main and cable.bridge), "")
    if not bridge:
        return found
    return found | ({"Network.Zone": bridge[3:]} if bridge.startswith("vz-") else {"Network.Bridge": bridge})


def _ports(leader: int) -> str:
    """The ports of the host that lead to it, by the kernel's own rules: “tcp:8080:80”, one on a line, or NONE; "" when they
    cannot be read, or when it has no address to lead to."""
    own = {each.address for each in addresses.of_process(leader) if each.family == "inet"}
    led = firewall.read_forwards() if own else None
    if led is None:
        return ""
    mine = [forward for forward in led.values() if str(forward.address) in own]
    return "\n".join(f"{forward.protocol}:{forward.port}:{forward.to}" for forward in mine) or compare_effective.NONE


def _yes(true: bool) -> str:
    return "yes" if true else "no"
