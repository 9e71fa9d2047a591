"""Places of a host that no machine may write to, whatever its policy says: what its root or its systemd runs, or reads its
configuration from. Some may not even be read, for they hold keys or are doors to root.

This is the table, and what can be told of a path by its name alone: enough to say it on a form before anything is sent. The
host adds places of its own (the worker's programs and state, programs its units run) and compares by what a path reaches
(machines/host/policy/protection.py).
"""

import fnmatch
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

PLACES_TOLD = 300  # at most, in a report

PROGRAMS = "programs that root runs"
SETTINGS = "configuration that root's programs read"
UNITS = "units, state and keys of systemd"
JOBS = "jobs that run as root"
PACKAGES = "packages and their scripts, which run as root"
MACHINES = "images and settings of machines"
CONTAINERS = "containers and virtual machines of other programs"
SOCKETS = "sockets that control services running as root"
KERNEL = "the kernel and its devices"
KEYS = "keys and passwords"
WORKER = "the worker of nspawnpanel, which runs as root"
OWN_KEYS = "keys, state and policy of nspawnpanel"


@dataclass(frozen=True, order=True)
class Place:
    """A path of the host and everything below it. `secret` is what no machine may read either."""

    path: str
    why: str
    secret: bool = False


def _places(why: str, *paths: str, secret: bool = False) -> Iterator[Place]:
    yield from (Place(path, why, secret) for path in paths)


# fmt: off
TABLE: tuple[Place, ...] = (
    *_places(PROGRAMS, "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/gnu", "/snap",
             "/var/lib/snapd", "/var/lib/flatpak", "/var/lib/extensions", "/var/lib/portables", "/var/lib/dkms"),
    *_places(KERNEL, "/boot", "/efi", "/sys", "/dev", "/lib/modules"),
    *_places(KERNEL, "/proc", secret=True),
    *_places(SETTINGS, "/etc", "/var/lib/confexts", "/var/lib/dbus", "/var/lib/polkit-1", "/var/lib/NetworkManager",
             "/var/lib/cloud", "/run/udev", "/run/tmpfiles.d", "/run/sysctl.d", "/run/sudo", "/run/NetworkManager", "/run/extensions", "/run/confexts"),
    *_places(KEYS, "/root", "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/ssh", "/etc/ssl/private",
             "/etc/pki/private", "/etc/credstore", "/etc/credstore.encrypted", "/etc/cryptsetup-keys.d", "/run/credentials",
             "/run/cryptsetup-keys.d", "/var/lib/sss", secret=True),
    *_places(OWN_KEYS, "/etc/nspawnpanel", "/var/lib/nspawnpanel", "/run/nspawnpanel", secret=True),
    *_places(UNITS, "/run/systemd", "/var/lib/systemd", "/var/lib/private/systemd", secret=True),
    *_places(JOBS, "/var/spool/cron", "/var/spool/at", "/var/spool/anacron", "/var/spool/incron"),
    *_places(PACKAGES, "/var/lib/dpkg", "/var/lib/apt", "/var/cache/apt", "/var/lib/rpm", "/var/lib/dnf", "/var/cache/dnf",
             "/var/cache/yum", "/var/lib/zypp", "/var/cache/zypp", "/var/lib/pacman", "/var/cache/pacman"),
    *_places(MACHINES, "/var/lib/machines", "/var/lib/machines.raw", "/var/lib/machines.before-pool", "/etc/machines", "/run/machines",
             "/var/lib/container", secret=True),
    *_places(CONTAINERS, "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/var/lib/libvirt", "/var/lib/lxc",
             "/var/lib/lxd", "/var/lib/incus", "/var/lib/kubelet", "/var/lib/rancher", secret=True),
    *_places(SOCKETS, "/run/dbus", "/run/docker.sock", "/run/docker", "/run/containerd", "/run/podman", "/run/crio", "/run/libvirt",
             "/run/lxd", "/run/incus", "/run/snapd.socket", "/run/snapd-snap.socket", "/run/polkit", "/run/user/0",
             "/run/pcscd", "/run/multipathd.socket", "/run/lvm", secret=True),
)
# fmt: on

# Files in those places that may be read all the same: how a host resolves names is no secret.
READABLE = (
    "/run/systemd/resolve/resolv.conf",
    "/run/systemd/resolve/stub-resolv.conf",
    "/etc/ssh/ssh_known_hosts",
)

# Devices a machine may be given where the policy names them: none of them leads to the host's memory, disks or keyboards.
DEVICES = (
    "/dev/dri", "/dev/dri/*", "/dev/kfd", "/dev/snd", "/dev/snd/*", "/dev/fuse", "/dev/net", "/dev/net/tun", "/dev/kvm", "/dev/nvidia*",
    "/dev/video*", "/dev/media*", "/dev/dvb", "/dev/dvb/*", "/dev/ttyUSB*", "/dev/ttyACM*", "/dev/ttyS*", "/dev/serial", "/dev/serial/*",
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/vhost-net", "/dev/ppp", "/dev/rtc*", "/dev/watchdog*",
)  # fmt: skip

# Keys of a unit that make root of the host run, read or write something, or start other units. No drop-in of a machine gets
# one through the panel, whatever the policy's unit_settings says.
UNIT_KEYS = (
    "Exec*", "Environment*", "PassEnvironment", "UnsetEnvironment", "*Credential", "LoadCredential*", "ImportCredential*", "Root*", "Bind*Paths",
    "MountImages", "Extension*", "StandardInput*", "StandardOutput", "StandardError", "TTYPath", "PIDFile", "OnFailure*", "OnSuccess*", "Wants",
    "Requires", "BindsTo", "Upholds", "PropagatesStopTo", "Conflicts", "JoinsNamespaceOf", "RuntimeDirectory*", "StateDirectory*", "CacheDirectory*",
    "LogsDirectory*", "ConfigurationDirectory*", "User", "Group", "PAMName", "FailureAction", "SuccessAction", "StartLimitAction", "JobTimeoutAction",
    "RebootArgument", "BPFProgram", "IPIngressFilterPath", "IPEgressFilterPath", "BusName", "Sockets", "OpenFile", "FileDescriptorStore*",
)  # fmt: skip
SAFE_UNIT_KEYS = ("SetCredential",)


def runs_as_root(key: str) -> bool:
    """Whether a key of a unit is one of these."""
    return key not in SAFE_UNIT_KEYS and any(fnmatch.fnmatchcase(key, pattern) for pattern in UNIT_KEYS)


def met(path: str, places: Iterable[Place], *, writable: bool) -> Place | None:
    """The first of these places that a bind of this path would give away, by its name alone: one that it lies in, or that
    lies in it. Of a bind that cannot be written through only secrets count."""
    path = normal(path)
    if writable and is_device(path):
        return None
    if not writable and path in READABLE:
        return None
    return next((each for each in places if (writable or each.secret) and overlap(path, each.path)), None)


def normal(path: str) -> str:
    """Without “.”, “..” and double slashes, and with the old names of what lies in /run."""
    path = posixpath.normpath("/" + path.lstrip("/"))
    for old, new in (("/var/run", "/run"), ("/var/lock", "/run/lock")):
        if is_in(path, old):
            return new + path.removeprefix(old)
    return path


def is_in(path: str, folder: str) -> bool:
    """Whether a path is that folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def overlap(one: str, other: str) -> bool:
    return is_in(one, other) or is_in(other, one)


def is_device(path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in DEVICES)


def sentence(path: str, place: Place, *, writable: bool, leads: str = "") -> str:
    """Why a bind is not made, as a sentence. `leads` is where the path ends when that is elsewhere."""
    what = f"{path} leads to {leads}, which" if leads and leads != path else path
    end = leads or path
    if normal(end) == place.path:
        where = "is protected"
    else:
        where = f"{'lies in' if is_in(normal(end), place.path) else 'holds'} {place.path}"
    verb = "write to" if writable else "see"
    return f"{what} {where}: {place.why}. No machine may {verb} that, whatever the policy says."


def as_told(places: object) -> list[Place]:
    """What a host tells of its own places; whatever is no place is left out."""
    if not isinstance(places, Collection) or isinstance(places, str | bytes):
        return []
    return [
        Place(each["path"], str(each.get("why", "")), each.get("secret") is True)
        for each in places
        if isinstance(each, Mapping) and isinstance(each.get("path"), str) and each["path"].startswith("/")
    ][:PLACES_TOLD]
