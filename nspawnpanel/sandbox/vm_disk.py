"""The disk of a virtual machine: a whole Debian with its own kernel on ext4, made of a tree that is built once and kept.

Facts, each found by trying:
- mke2fs -d fills a file system from a folder in a second or two, owners, links and attributes included: nothing is
  mounted, and a run may start from a disk of its own instead of an overlay.
- QEMU loads the kernel and the initramfs out of the tree's /boot by itself: no boot loader.
- The cloud kernel has virtio as modules. Loaded by the initramfs they spare ifupdown its wait for udev (9 s emulated).
- The network is ifupdown's, as on a Debian that was installed by hand: networkd has no link of its own there.
- systemd-nspawn without --boot lends a command a whole system's /proc and /dev, and the outer machine's network.
"""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from nspawnpanel.sandbox import apt, pool, trees, uplink
from nspawnpanel.sandbox.run import run
from nspawnpanel.sandbox.trees import HOME, REPOSITORY, REQUIREMENTS, Say

SUITE = "trixie"
PYTHON, LIBC = "3.13.5", "2.41"  # of that suite: wheels are fetched before it has a Python
SIZE = "6G"  # sparse
WHEELS = "var/cache/wheels"
PACKAGES = [
    "systemd", "systemd-sysv", "dbus", "libpam-systemd", "udev", "kmod", "ifupdown", "iproute2", "procps", "e2fsprogs",
    "openssh-server", "ca-certificates", "initramfs-tools", "linux-image-cloud-amd64",
]  # fmt: skip
# What would only take time. (Not systemd-networkd-wait-online: whether a host waits for it in vain is worth knowing.)
MASKED = (
    "ifupdown-pre.service", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer",
    "e2scrub_all.timer", "e2scrub_reap.service", "systemd-firstboot.service", "serial-getty@ttyS0.service",
    "getty@tty1.service",
)  # fmt: skip
MODULES_HOOK = """#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
for module in virtio_pci virtio_blk virtio_net ext4; do force_load "$module"; done
"""
FILES = {
    "etc/initramfs-tools/conf.d/virtual": "MODULES=list\n",
    "etc/fstab": "/dev/vda / ext4 errors=remount-ro 0 1\n",
    "etc/network/interfaces": (
        "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n"
        "  address 10.0.2.15/24\n  gateway 10.0.2.2\n"
    ),
    "etc/systemd/journald.conf.d/size.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=64M\n",
    "etc/apt/apt.conf.d/80yes": 'APT::Get::Assume-Yes "true";\n',  # nobody sits there to be asked
    "etc/ssh/sshd_config.d/lean.conf": "UsePAM no\n",  # which would start a whole user's systemd at the first command
    "etc/pip.conf": f"[global]\nno-index = true\nfind-links = /{WHEELS}\ndisable-pip-version-check = true\n",
}


def prepare(cache: Path, install: Sequence[str] = (), machines: Sequence[str] = (), say: Say = lambda _: None) -> Path:
    """The tree of a Debian with its kernel, after the shell lines `install` were run in it, with a small image for each
    of `machines`; built now if it is not in `cache` (half a minute and what the lines take). Raises SandboxError."""
    kept = pool.open_pool(cache, say) / "trees"
    bare = trees.system(kept, f"vm-{SUITE}", PACKAGES, None, say)
    image = trees.prepare_machine(cache, SUITE, say=say)
    recipe = [FILES, MODULES_HOOK, MASKED, list(install), list(machines), image.name, REQUIREMENTS.read_text()]

    def build(tree: Path) -> None:
        pool.copy(bare, tree)
        _fill(tree)
        for line in install:
            say(f"virtual machine: {line}")
            _run_in(tree, line)
        pool.flatten(tree)  # what was installed may have made subvolumes, which no copy of the tree would have
        for machine in machines:
            run(["cp", "--archive", "--", str(image), str(tree / "var/lib/machines" / machine)], timeout=300)

    return trees.once(kept / f"{bare.name}-{trees.digest(recipe)}", build)


def _fill(tree: Path) -> None:
    for name, text in FILES.items():
        trees.put(tree, name, text)
    trees.put(tree, "etc/initramfs-tools/hooks/virtual", MODULES_HOOK, mode=0o755)
    trees.mask(tree, MASKED)
    trees.put(tree, f"{HOME}/src/machines/host/requirements.txt", REQUIREMENTS.read_text())
    trees.pip(["download", "--dest", str(tree / WHEELS)], PYTHON, LIBC)
    _give_way_out(tree, loopback="127.0.0.1")
    run(["chroot", str(tree), "update-initramfs", "-u"], timeout=300)


def _give_way_out(tree: Path, loopback: str) -> None:
    """Packages come from where this machine takes its own, by the settings by which it reaches them."""
    if sources := apt.debian(SUITE):
        trees.put(tree, "etc/apt/sources.list", "".join(f"{source.line()}\n" for source in sources))
    outside = apt.carried_over(run(["apt-config", "dump"]).stdout, loopback)
    trees.put(tree, "etc/apt/apt.conf.d/90outside", outside)
    if (certificates := Path("/") / trees.CERTIFICATES).is_file():
        shutil.copyfile(certificates, tree / trees.CERTIFICATES)


def _run_in(tree: Path, line: str) -> None:
    """A shell line as root in the tree, which is not booted: units can be enabled there and not started."""
    nspawn = [
        "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--settings=no", "--console=pipe", "--as-pid2",
        "--resolv-conf=replace-host", "--timezone=off", "--setenv=DEBIAN_FRONTEND=noninteractive",
        "--directory", str(tree), "--", "/bin/bash", "-ec", line,
    ]  # fmt: skip
    run(nspawn, timeout=1200)


def make(tree: Path, own: Path, disk: Path, name: str, key: str) -> None:
    """The disk of one run out of a prepared tree, by way of a copy of it, `own`: with the host's name, the public key of
    who may enter, and this checkout. Raises SandboxError."""
    pool.drop(own)
    pool.copy(tree, own)
    _dress(own, name, key)
    disk.unlink(missing_ok=True)
    run(["mke2fs", "-q", "-t", "ext4", "-d", str(own), "-F", str(disk), SIZE], timeout=300)
    pool.drop(own)


def _dress(tree: Path, name: str, key: str) -> None:
    trees.put(tree, "etc/hostname", f"{name}\n")
    trees.put(tree, "etc/hosts", f"127.0.0.1 localhost {name}\n::1 localhost\n")
    trees.put(tree, "etc/machine-id", f"{uuid.uuid4().hex}\n")
    trees.put(tree, "etc/resolv.conf", f"nameserver {uplink.NAMESERVER}\n")
    trees.put(tree, "root/.ssh/authorized_keys", key, mode=0o600)
    _give_way_out(tree, uplink.GATEWAY)
    shutil.copytree(
        REPOSITORY / "machines", tree / HOME / "src/machines", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )  # fmt: skip
    for folder in ("etc", "var"):
        trees.put(
            tree, f"{folder}/.updated", ""
        )  # newer than /usr: nothing is to be brought up to date at the first boot
    if (tree / HOME / "bin/python").is_symlink():  # compiled here, where it takes a tenth of the time
        compiled = ["chroot", str(tree), f"/{HOME}/bin/python", "-m", "compileall", "-q", f"/{HOME}/src"]
        run(compiled, check=False, timeout=300)
