"""What a machine knows before its first start, written into its finished tree.

Names, locale and time zone by systemd-firstboot(1). The root password's hash is written into the tree's shadow file by
ourselves: systemd-firstboot would take it only in its argv or, on some versions, not at all, and a hash in an argv can
be read by every user of the host.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.contract.recipes import FirstBoot
from machines.host.rootfs import tree as files
from machines.host.rootfs.debian import needs_locales

Run = Callable[[Sequence[str]], object]


def firstboot(root: Path, name: MachineName, answers: FirstBoot) -> list[str]:
    """The command. --force: the files exist already, from the packages' own scripts."""
    return [
        "systemd-firstboot",
        f"--root={root}",
        "--force",
        f"--hostname={answers.hostname or name}",
        *([f"--locale={answers.locale}"] if answers.locale else []),
        *([f"--timezone={answers.timezone}"] if answers.timezone else []),
    ]


def set_up(root: Path, name: MachineName, answers: FirstBoot, password_hash: str, run: Run) -> None:
    """Everything of a first boot. Raises CommandFailed, OSError or Problem."""
    if needs_locales(answers.locale):
        make_locale(root, answers.locale, run)
    run(firstboot(root, name, answers))
    write_hosts(root, answers.hostname or name)
    if password_hash:
        set_root_password(root, password_hash)
    if answers.ssh_keys:
        write_ssh_keys(root, answers.ssh_keys)
    forget_identity(root)


def make_locale(root: Path, locale: str, run: Run) -> None:
    """Have the tree's own locale-gen make it. Raises Problem when the release does not know it."""
    known = files.read_text(root, "usr/share/i18n/SUPPORTED", limit=256 * 1024)
    line = next((line for line in known.splitlines() if line.split()[:1] == [locale]), "")
    if known and not line:
        raise Problem(
            f"This release knows no locale {locale}.", code="locale-unknown", hint="C.UTF-8 works everywhere."
        )
    files.write_text(root, "etc/locale.gen", f"{line or f'{locale} UTF-8'}\n")
    run(["chroot", str(root), "locale-gen"])


def write_hosts(root: Path, name: str) -> None:
    """A small /etc/hosts, unless a package has made one."""
    if not files.exists(root, "etc/hosts"):
        names = f"{name} {name.split('.', maxsplit=1)[0]}" if "." in name else name
        files.write_text(root, "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {names}\n::1 localhost ip6-localhost\n")


def set_root_password(root: Path, password_hash: str) -> None:
    """Put the hash into root's line of the tree's shadow file; mode and owner of the file stay. Raises Problem."""
    text = files.read_text(root, "etc/shadow")
    changed, times = re.subn(r"(?m)^root:[^:\n]*:", lambda _: f"root:{password_hash}:", text, count=1)
    if times != 1:
        raise Problem("The tree has no line for root in /etc/shadow.", code="no-root-account")
    files.rewrite(root, "etc/shadow", changed)


def write_ssh_keys(root: Path, keys: Sequence[str]) -> None:
    """root's authorized_keys; harmless without an SSH server."""
    files.make_directory(root, "root/.ssh", mode=0o700)
    files.write_text(root, "root/.ssh/authorized_keys", "".join(f"{key}\n" for key in keys), mode=0o600)


def forget_identity(root: Path) -> None:
    """An empty machine-id is made anew at the first start; leftovers of the build's randomness go."""
    files.write_text(root, "etc/machine-id", "", mode=0o444)
    files.unlink(root, "var/lib/dbus/machine-id")
    files.symlink(root, "var/lib/dbus/machine-id", "/etc/machine-id")
    files.unlink(root, "var/lib/systemd/random-seed")
