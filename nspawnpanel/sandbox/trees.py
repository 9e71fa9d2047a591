"""The trees sandboxes start from, built once and kept: a Debian that can host machines, and a small one to be a machine.

A tree is named by a hash of everything that decides its contents, built under another name and renamed when complete,
so a tree that exists is whole. Two layers: the distribution (slow, rarely changes), and on top of it the Python
environment of the host worker.
"""

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from packaging.requirements import Requirement

from nspawnpanel.sandbox import apt, pool
from nspawnpanel.sandbox.run import PATH, run
from nspawnpanel.sandbox.uplink import NAMESERVER

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = REPOSITORY / "machines" / "host" / "requirements.txt"
HOME = "opt/nspawnpanel"  # below a tree's root
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
LATEST = 4  # raise it to have every tree built anew

_SYSTEM = [
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "libnss-resolve",
    "dbus",
    "libpam-systemd",
    "iproute2",
    "procps",
]
HOST_PACKAGES = [
    *_SYSTEM, "systemd-container", "nftables", "kmod", "btrfs-progs", "util-linux", "libnss-mymachines",
    "python3", "python3-venv", "mmdebstrap", "debootstrap", "debian-archive-keyring", "ca-certificates", "zstd",
    "gpg", "gpg-agent",
]  # fmt: skip
MACHINE_PACKAGES = [*_SYSTEM]

_WANTED_BY_MULTI_USER = "etc/systemd/system/multi-user.target.wants"
# What a booting sandbox has no use for, or would wait for in vain.
_MASKED = (
    "systemd-networkd-wait-online.service", "console-getty.service", "apt-daily.timer", "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "systemd-firstboot.service",
)  # fmt: skip

HOST_FILES = {
    # nspawn mounts the control groups read-only; the systemd inside must make groups for its own machines.
    "host-init": (
        "#!/bin/sh\n"
        "for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do\n"
        '  if mountpoint -q "$dir"; then mount -o remount,bind,rw "$dir"; fi\n'
        "done\n"
        # The kernel gives out loop devices by number, and systemd takes their nodes away again outside.
        'for number in $(seq 0 63); do [ -e "/dev/loop$number" ] || mknod -m 660 "/dev/loop$number" b 7 "$number"; done\n'
        'exec /lib/systemd/systemd "$@"\n'
    ),
    # slirp4netns sets its device up itself, so that nothing done to networkd in a test cuts the way out.
    "etc/systemd/network/10-uplink.network": "[Match]\nName=tap0\n\n[Link]\nUnmanaged=yes\n",
    "etc/systemd/resolved.conf.d/uplink.conf": f"[Resolve]\nDNS={NAMESERVER}\n",
    "etc/sysctl.d/forward.conf": "net.ipv4.ip_forward = 1\n",
    "etc/systemd/journald.conf.d/size.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=256M\n",
}
Say = Callable[[str], None]


def prepare(cache: Path, suite: str = "bookworm", mirror: str | None = None, say: Say = lambda _: None) -> Path:
    """The tree of a Debian `suite` that can host machines, built now if it is not in `cache` (about a minute).

    Raises SandboxError when it cannot be built. May be called by several processes at once: one builds, others wait.
    """
    trees = pool.open_pool(cache, say) / "trees"
    debian = system(trees, f"host-{suite}", HOST_PACKAGES, mirror, say)
    text = REQUIREMENTS.read_text()
    name = f"{debian.name}-{digest([HOST_FILES, _MASKED, text])}"
    return once(trees / name, lambda tree: _fill_host(tree, debian, say))


def prepare_machine(cache: Path, suite: str = "bookworm", mirror: str | None = None, say: Say = lambda _: None) -> Path:
    """The tree of a small Debian with systemd, to be planted in sandboxes as a machine's image (about half a minute)."""
    trees = pool.open_pool(cache, say) / "trees"
    debian = system(trees, f"machine-{suite}", MACHINE_PACKAGES, mirror, say)
    return once(trees / f"{debian.name}-ready", lambda tree: _fill_machine(tree, debian))


def once(tree: Path, build: Callable[[Path], None]) -> Path:
    """`tree`, which `build` makes under another name where it is missing. One process builds, others wait for it."""
    if tree.is_dir():
        return tree
    with pool.locked(tree.with_name(f".{tree.name}.lock")):
        aside = tree.with_name(f".{tree.name}.new")
        if not tree.is_dir():
            pool.drop(aside)
            build(aside)
            aside.rename(tree)
    return tree


def digest(recipe: object) -> str:
    """A short name for all that decides what is in a tree."""
    return hashlib.sha256(json.dumps([LATEST, recipe]).encode()).hexdigest()[:10]


def system(trees: Path, name: str, packages: list[str], mirror: str | None, say: Say) -> Path:
    """The bare distribution of the tree `name`, KIND-SUITE, with these packages. Raises SandboxError."""
    suite = name.split("-")[1]
    sources = [source.line() for source in apt.debian(suite, mirror)]

    def build(tree: Path) -> None:
        say(f"building the tree {name} with mmdebstrap, once; this takes about half a minute")
        pool.make(tree)
        run(_mmdebstrap(tree, suite, packages, sources), timeout=1800)
        pool.flatten(tree)  # systemd's own tmpfiles make subvolumes of /var/lib/machines and the like

    return once(trees / f"{name}-{digest(packages)}", build)


def _mmdebstrap(tree: Path, suite: str, packages: list[str], sources: list[str]) -> list[str]:
    return [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(packages)}",
        "--format=directory",
        "--aptopt=Acquire::Languages \"none\"",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        suite,
        str(tree),
        *sources,
    ]  # fmt: skip


def _fill_machine(tree: Path, debian: Path) -> None:
    pool.copy(debian, tree)
    _enable(tree, "systemd-networkd.service")
    mask(tree, _MASKED)
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/hostname").unlink(missing_ok=True)


def _fill_host(tree: Path, debian: Path, say: Say) -> None:
    pool.copy(debian, tree)
    for name, text in HOST_FILES.items():
        put(tree, name, text, mode=0o755 if name == "host-init" else 0o644)
    _enable(tree, "systemd-networkd.service")
    _enable(tree, "machines.target")
    mask(tree, _MASKED)
    say("filling the host's Python environment")
    _fill_python(tree)


def put(tree: Path, name: str, text: str, mode: int = 0o644) -> None:
    """Write a file below a tree's root, folders included."""
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link whose absolute target lies outside the tree
    path.write_text(text)
    path.chmod(mode)


def link(tree: Path, name: str, target: str) -> None:
    """Make a symbolic link below a tree's root, replacing what is there."""
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _enable(tree: Path, unit: str) -> None:
    link(tree, f"{_WANTED_BY_MULTI_USER}/{unit}", f"/lib/systemd/system/{unit}")


def mask(tree: Path, units: Iterable[str]) -> None:
    """Units that are never to start in a tree."""
    for unit in units:
        link(tree, f"etc/systemd/system/{unit}", "/dev/null")


def _fill_python(tree: Path) -> None:
    """A venv with the host's requirements for the tree's own Python, which may be older or newer than this one."""
    python = ["chroot", str(tree), f"/{HOME}/bin/python"]
    run(["chroot", str(tree), "python3", "-m", "venv", "--without-pip", f"/{HOME}"])
    version = run([*python, "-c", "import platform; print(platform.python_version())"]).stdout.strip()
    libc = run([*python, "-c", "import platform; print(platform.libc_ver()[1])"]).stdout.strip()
    packages = next((tree / HOME / "lib").glob("python3*/site-packages"))
    _install(packages, version, libc)
    run([*python, "-m", "compileall", "-q", f"/{packages.relative_to(tree)}"], check=False, timeout=300)
    (packages / "nspawnpanel-source.pth").write_text(f"/{HOME}/src\n")
    (tree / HOME / "src" / "machines").mkdir(parents=True)


def _install(packages: Path, version: str, libc: str) -> None:
    pip(["install", "--no-compile", "--root-user-action=ignore", "--target", str(packages)], version, libc)


def pip(verb: list[str], version: str, libc: str) -> None:
    """Have this machine's pip install or download the host's requirements for another Python and C library, with no
    settings but its own. Raises SandboxError."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write("\n".join(requirements(REQUIREMENTS.read_text(), version)))
        wanted.flush()
        argv = [
            sys.executable, "-m", "pip", *verb, "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", "--implementation=cp", f"--python-version={version}", *_platforms(libc),
            "--requirement", wanted.name,
        ]  # fmt: skip
        run(argv, timeout=900, env=_pip_environment())


def _pip_environment() -> dict[str, str]:
    """What the outer pip needs: its own settings, proxies and certificates, but no PYTHON* that would bend it."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}, "PATH": PATH}


def requirements(text: str, version: str) -> list[str]:
    """The lines of a pinned requirements file that hold for Python `version`; pip itself would ask the outer Python."""
    environment = {"python_full_version": version, "python_version": ".".join(version.split(".")[:2])}
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    pins = [Requirement(line) for line in lines if line]
    kept = {pin.name: pin for pin in pins if not pin.marker or pin.marker.evaluate(environment)}
    return [f"{pin.name}{pin.specifier}" for pin in kept.values()]


def _platforms(libc: str) -> list[str]:
    major, minor = (int(part) for part in re.findall(r"\d+", libc)[:2])
    machine = platform.machine()
    tags = [f"manylinux_{major}_{number}_{machine}" for number in range(minor, 4, -1)]
    return [f"--platform={tag}" for tag in [*tags, f"manylinux2014_{machine}", f"linux_{machine}"]]
