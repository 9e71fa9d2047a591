"""What a machine knows before its first start, written into its finished tree.

A tree that others have made may be hostile, so nothing in it is ever run from here and every file is reached by tree.py.
That rules out tools which take a tree with --root: with `/etc` a link to /proc/self/root/etc, systemd-sysusers of systemd
252 made the user on the host itself, and systemd-firstboot its locale. Names, locale and time zone are lines of text and
links of our own; a user is made by systemd-sysusers(8) in a folder with copies of the tree's files. A password's hash
stands in no argv, which every user of the host could read.
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.contract.recipes import BuildSecrets, FirstBoot
from machines.host.system import tree as files

Run = Callable[[Sequence[str]], object]
FIRST_USER_ID = 1000
PASSWD_LIMIT = 1024 * 1024
ACCOUNTS = {"passwd": 0o644, "group": 0o644, "shadow": 0o600, "gshadow": 0o600}  # with the modes of new ones
# SSH host keys are as unique as a machine-id. Debian's server makes them only when it is installed, so a tree that had
# them gets this unit, which makes new ones at the next start; Fedora and Arch have such a unit already.
KEYS_UNIT = "nspawnpanel-ssh-keys.service"
KEYS_UNIT_TEXT = """\
# Written by nspawnpanel: new SSH host keys for a machine that was copied
[Unit]
Description=Make SSH host keys
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
ConditionFileIsExecutable=/usr/bin/ssh-keygen
Before=ssh.service sshd.service ssh.socket sshd.socket

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
"""


def needs_locales(locale: str) -> bool:
    """C and C.UTF-8 are in libc itself."""
    return bool(locale) and not locale.upper().startswith(("C.", "POSIX")) and locale != "C"


def hostname_of(name: MachineName, answers: FirstBoot) -> str:
    """What it shall be called; "" for a copy that keeps who it was."""
    return answers.hostname or (str(name) if answers.new_identity else "")


def set_region(root: Path, answers: FirstBoot, run: Run, *, trusted: bool) -> None:
    """Locale and time zone. Only a `trusted` tree, made of a distribution's packages just now, has its locale made by
    its own tools. Raises CommandFailed, OSError or Problem."""
    if trusted and needs_locales(answers.locale):
        make_locale(root, answers.locale, run)
    if answers.locale:
        _write_locale(root, f"LANG={answers.locale}\n")
    if answers.timezone:
        files.symlink(root, "etc/localtime", f"../usr/share/zoneinfo/{answers.timezone}")


def _write_locale(root: Path, text: str) -> None:
    """Debian has a place of its own for it, in later releases a link to the common one."""
    files.write_text(root, "etc/locale.conf", text)
    if files.exists(root, "etc/debian_version") and not files.link(root, "etc/default/locale"):
        files.write_text(root, "etc/default/locale", text)


def set_up(root: Path, name: MachineName, answers: FirstBoot, hidden: BuildSecrets, run: Run) -> None:
    """What makes it this machine: names, people, keys, identity. Raises CommandFailed, OSError or Problem."""
    before = files.read_text(root, "etc/hostname").strip()
    if host := hostname_of(name, answers):
        files.write_text(root, "etc/hostname", f"{host}\n")
        write_hosts(root, host, before)
    if hidden.root_password_hash:
        set_root_password(root, hidden.root_password_hash)
    if answers.ssh_keys:
        write_ssh_keys(root, "root", answers.ssh_keys)
    if answers.user:
        make_user(root, answers.user, answers.ssh_keys, hidden.user_password_hash, run)
    if answers.new_identity:
        forget_identity(root)


def make_locale(root: Path, locale: str, run: Run) -> None:
    """Have the tree's own locale-gen make it. Raises Problem when the release does not know it.

    Without a locale-gen locales come as packages.
    """
    if not any(files.exists(root, f"{folder}/locale-gen") for folder in ("usr/sbin", "usr/bin")):
        return
    known = files.read_text(root, "usr/share/i18n/SUPPORTED", limit=256 * 1024)
    line = next((line for line in known.splitlines() if line.split()[:1] == [locale]), "")
    if known and not line:
        raise Problem(f"This release has no locale {locale}.", code="locale-unknown", hint="C.UTF-8 works everywhere.")
    files.write_text(root, "etc/locale.gen", f"{line or f'{locale} UTF-8'}\n")
    run(["chroot", str(root), "locale-gen"])


def write_hosts(root: Path, name: str, before: str = "") -> None:
    """A small /etc/hosts; in one that is there the machine's own line (127.0.1.1) gets its new name instead of `before`."""
    names = f"{name} {name.split('.', maxsplit=1)[0]}" if "." in name else name
    if not files.exists(root, "etc/hosts"):
        files.write_text(root, "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {names}\n::1 localhost ip6-localhost\n")
        return
    own = re.compile(rf"(?m)^127\.0\.1\.1[ \t]+{re.escape(before)}(?:[ \t][^\n]*)?$")
    with contextlib.suppress(OSError):  # a link, too long or nothing readable: then it stays as it is
        text = files.read_whole(root, "etc/hosts")
        if before and before != name and own.search(text):
            files.rewrite(root, "etc/hosts", own.sub(f"127.0.1.1 {names}", text))


def set_root_password(root: Path, password_hash: str) -> None:
    set_password(root, "root", password_hash)


def set_password(root: Path, user: str, password_hash: str) -> None:
    """Put the hash into a user's line of the tree's shadow file; mode and owner of the file stay. Raises Problem."""
    text = _accounts(root, "shadow")
    changed, times = re.subn(rf"(?m)^{re.escape(user)}:[^:\n]*:", lambda _: f"{user}:{password_hash}:", text, count=1)
    if times != 1:
        raise Problem(f"The image has no line for {user} in /etc/shadow.", code="no-root-account")
    files.rewrite(root, "etc/shadow", changed)


def _accounts(root: Path, name: str) -> str:
    """One of the tree's lists of users, to be changed. Raises Problem for one that is too long."""
    try:
        return files.read_whole(root, f"etc/{name}", PASSWD_LIMIT)
    except OSError as error:
        raise Problem(f"The image's /etc/{name} is too long to be edited.", code="no-root-account") from error


def write_ssh_keys(root: Path, home: str, keys: Sequence[str], owner: tuple[int, int] = (0, 0)) -> None:
    """authorized_keys below a home directory; harmless without an SSH server."""
    files.make_directory(root, f"{home}/.ssh", 0o700, owner)
    text = "".join(f"{key}\n" for key in keys)
    files.write_text(root, f"{home}/.ssh/authorized_keys", text, 0o600, owner)


# --- a user


def make_user(root: Path, user: str, keys: Sequence[str], password_hash: str, run: Run) -> None:
    """Somebody who may log in and use sudo: with their password, or without one when they have none.

    Raises Problem user-exists or CommandFailed.
    """
    taken = {
        line.split(":")[0]: line.split(":") for line in files.read_text(root, "etc/passwd", PASSWD_LIMIT).splitlines()
    }
    if user in taken:
        raise Problem(f"The image already has a user {user}.", code="user-exists", hint="Choose another user name.")
    ids = {int(fields[2]) for fields in taken.values() if len(fields) > 2 and fields[2].isdigit()}
    number = next(n for n in range(FIRST_USER_ID, 65_000) if n not in ids)
    groups = files.read_text(root, "etc/group", PASSWD_LIMIT)
    group = "sudo" if re.search(r"(?m)^sudo:", groups) else "wheel"
    shell = "/bin/bash" if files.exists(root, "bin/bash") else "/bin/sh"
    rules = f'u {user} {number} "{user}" /home/{user} {shell}\nm {user} {group}\n'
    files.write_text(root, f"etc/sysusers.d/{user}.conf", rules)
    _sysusers(root, user, rules, run)
    if password_hash:
        set_password(root, user, password_hash)
    else:
        files.make_directory(root, "etc/sudoers.d", 0o750)
        files.write_text(root, f"etc/sudoers.d/90-{user}", f"{user} ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440)
    _make_home(root, user, (number, _group_of(root, user, number)))
    if keys:
        write_ssh_keys(root, f"home/{user}", keys, (number, _group_of(root, user, number)))


def _sysusers(root: Path, user: str, rules: str, run: Run) -> None:
    """systemd-sysusers(8) over copies of the tree's files; what it changed goes back. Raises CommandFailed, OSError or
    Problem."""
    with tempfile.TemporaryDirectory(prefix="nspawnpanel-users-") as folder:
        aside = Path(folder)
        before = {name: _accounts(root, name) for name in (*ACCOUNTS, "login.defs")}
        for name, text in before.items():
            if text:
                files.write_text(aside, f"etc/{name}", text, 0o600)
        files.write_text(aside, f"etc/sysusers.d/{user}.conf", rules)
        run(["systemd-sysusers", f"--root={aside}", f"{user}.conf"])  # looked for inside the folder
        for name, mode in ACCOUNTS.items():
            after = files.read_whole(aside, f"etc/{name}", 2 * PASSWD_LIMIT)
            if before[name] and after != before[name]:
                files.rewrite(root, f"etc/{name}", after)
            elif after != before[name]:
                files.write_text(root, f"etc/{name}", after, mode)


def _group_of(root: Path, user: str, number: int) -> int:
    match = re.search(rf"(?m)^{re.escape(user)}:[^:\n]*:(\d+):", files.read_text(root, "etc/group", PASSWD_LIMIT))
    return int(match[1]) if match else number


def _make_home(root: Path, user: str, owner: tuple[int, int]) -> None:
    """With the start files a distribution gives to everybody."""
    files.make_directory(root, f"home/{user}", 0o700, owner)
    for name in (".profile", ".bashrc", ".bash_profile", ".bash_logout"):
        if text := files.read_text(root, f"etc/skel/{name}"):
            files.write_text(root, f"home/{user}/{name}", text, 0o644, owner)


# --- identity


def forget_identity(root: Path) -> None:
    """What no two machines may share: machine-id (an empty one is made anew at the first start), the seed of
    randomness, SSH host keys."""
    files.write_text(root, "etc/machine-id", "", mode=0o444)
    files.unlink(root, "var/lib/dbus/machine-id")
    if files.exists(root, "var/lib/dbus"):
        files.symlink(root, "var/lib/dbus/machine-id", "/etc/machine-id")
    for seed in ("var/lib/systemd/random-seed", "var/lib/systemd/credential.secret"):
        files.unlink(root, seed)
    keys = [name for name in files.names(root, "etc/ssh") if re.fullmatch(r"ssh_host_[a-z0-9_]+_key(\.pub)?", name)]
    for name in keys:
        files.unlink(root, f"etc/ssh/{name}")
    if keys and not files.exists(root, "usr/lib/systemd/system/sshd-keygen.target"):
        files.write_text(root, f"etc/systemd/system/{KEYS_UNIT}", KEYS_UNIT_TEXT)
        wanted = f"etc/systemd/system/multi-user.target.wants/{KEYS_UNIT}"
        files.symlink(root, wanted, f"/etc/systemd/system/{KEYS_UNIT}")
