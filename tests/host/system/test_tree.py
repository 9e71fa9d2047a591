"""Trees are hostile: whatever links lie in them, nothing outside is read or written."""

import contextlib
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from machines.contract.problems import Problem
from machines.contract.recipes import BuildSecrets, FirstBoot
from machines.host.rootfs.steps import firstboot
from machines.host.system import tree
from machines.host.system.run import run


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "tree"
    (made / "etc").mkdir(parents=True)
    return made


@pytest.fixture
def canary(tmp_path):
    folder = tmp_path / "canary"
    folder.mkdir()
    (folder / "secret").write_text("host secret")
    (folder / "hostname").write_text("untouched")
    return folder


def snapshot(folder):
    return {p.name: (p.lstat().st_mode, p.read_text()) for p in sorted(folder.iterdir())}


LINKS = {
    "absolute": str,
    "up": lambda canary: "../../canary",
    "far-up": lambda canary: "../" * 40 + str(canary).lstrip("/"),
    "proc": lambda canary: f"/proc/self/root{canary}",
    "proc-cwd": lambda canary: f"/proc/self/cwd/{'../' * 20}{str(canary).lstrip('/')}",
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_link_in_the_tree_never_leads_out(root, canary, link, what):
    before = snapshot(canary)
    (root / "etc").rmdir()
    if what == "folder":
        (root / "etc").symlink_to(LINKS[link](canary))
    else:
        (root / "etc").mkdir()
        (root / "etc/hostname").symlink_to(LINKS[link](canary) + "/hostname")
        (root / "etc/secret").symlink_to(LINKS[link](canary) + "/secret")
    for act in (
        lambda: tree.write_text(root, "etc/hostname", "owned"),
        lambda: tree.rewrite(root, "etc/hostname", "owned"),
        lambda: tree.symlink(root, "etc/hostname", "x"),
        lambda: tree.unlink(root, "etc/hostname"),
        lambda: tree.make_directory(root, "etc/hostname", 0o777),
    ):
        try:
            act()
        except OSError:
            continue
    assert tree.read_text(root, "etc/secret") == ""
    assert snapshot(canary) == before


def test_the_top_itself_may_be_no_link(root, canary, tmp_path):
    (tmp_path / "top").symlink_to(canary)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        tree.write_text(tmp_path / "top", "hostname", "owned")
    assert tree.read_text(tmp_path / "top", "secret") == ""
    with pytest.raises(OSError):  # noqa: PT011
        tree.check_top(tmp_path / "top")


def test_a_fifo_or_device_is_no_file(root):
    os.mkfifo(root / "etc/os-release")
    assert tree.read_text(root, "etc/os-release") == ""
    with pytest.raises(OSError, match="regular"):
        tree.rewrite(root, "etc/os-release", "x")


def test_reading_is_bounded(root):
    with (root / "etc/big").open("wb") as file:
        file.truncate(1 << 40)
    assert len(tree.read_text(root, "etc/big", limit=1000)) == 1000


def test_a_folder_without_end_is_not_listed_to_its_end(root, monkeypatch):
    monkeypatch.setattr(tree, "MOST", 3)
    for number in range(5):
        (root / f"etc/{number}").touch()
    assert len(tree.names(root, "etc")) == 3


@pytest.mark.parametrize("path", ["", "/", "..", "etc/..", "a/../.."])
def test_a_path_must_name_a_file(root, path):
    with pytest.raises(OSError):  # noqa: PT011
        tree.write_text(root, path, "x")


def test_links_within_the_tree_are_followed(root):
    (root / "usr").mkdir()
    (root / "usr/real").mkdir()
    (root / "lib").symlink_to("/usr/real")
    tree.write_text(root, "lib/file", "text", 0o640)
    assert (root / "usr/real/file").read_text() == "text"
    assert stat.S_IMODE((root / "usr/real/file").stat().st_mode) == 0o640
    assert tree.read_text(root, "lib/file") == "text"
    assert tree.exists(root, "lib/file")


def test_missing_folders_are_made(root):
    tree.write_text(root, "a/b/c", "x")
    assert (root / "a/b/c").read_text() == "x"


def test_a_rename_race_never_gets_out(root, canary):
    """A machine that swaps a folder for a link while we write (a path check was beaten by this in 0.03 s)."""
    before = snapshot(canary)
    (root / "dir").mkdir()
    (root / "evil").symlink_to(str(canary))
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for old, new in (("dir", "tmp"), ("evil", "dir"), ("dir", "evil"), ("tmp", "dir")):
                with contextlib.suppress(OSError):  # the other side may have made the folder meanwhile
                    os.rename(root / old, root / new)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(600):
            try:
                tree.write_text(root, "dir/hostname", "owned")
            except OSError:
                continue
            assert tree.read_text(root, "dir/secret") == ""
    finally:
        stop.set()
        thread.join()
    assert snapshot(canary) == before


def test_the_root_password_changes_one_field_and_keeps_the_mode(root):
    (root / "etc/shadow").write_text("daemon:*:1::::::\nroot:*:20779:0:99999:7:::\nroots:x:\n")
    (root / "etc/shadow").chmod(0o640)
    firstboot.set_root_password(root, r"$6$salt$ha\1sh")
    assert (root / "etc/shadow").read_text() == (
        "daemon:*:1::::::\nroot:$6$salt$ha\\1sh:20779:0:99999:7:::\nroots:x:\n"
    )
    assert stat.S_IMODE((root / "etc/shadow").stat().st_mode) == 0o640


def test_a_tree_without_root_is_a_problem(root):
    (root / "etc/shadow").write_text("daemon:*:1::::::\n")
    with pytest.raises(Problem) as caught:
        firstboot.set_root_password(root, "$6$x$y")
    assert caught.value.code == "no-root-account"


def test_first_boot_writes_names_keys_and_an_empty_identity(root):
    ran: list[list[str]] = []
    (root / "etc/shadow").write_text("root:*:1::::::\n")
    firstboot.set_up(
        root,
        "web",
        FirstBoot(ssh_keys=("ssh-ed25519 AAAA me",), timezone="UTC"),
        BuildSecrets(),
        lambda argv: ran.append(list(argv)),
    )
    firstboot.set_region(root, FirstBoot(), lambda argv: ran.append(list(argv)), trusted=False)
    assert ran == []
    assert (root / "etc/locale.conf").read_text() == "LANG=C.UTF-8\n"
    assert not (root / "etc/default").exists()
    assert (root / "etc/localtime").readlink() == Path("../usr/share/zoneinfo/UTC")
    assert (root / "etc/hostname").read_text() == "web\n"
    keys = root / "root/.ssh/authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAA me\n"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.parent.stat().st_mode) == 0o700
    assert (root / "etc/machine-id").read_text() == ""
    assert "127.0.1.1 web" in (root / "etc/hosts").read_text()


def test_no_secret_is_in_a_command(root):
    ran: list[list[str]] = []
    (root / "etc/shadow").write_text("root:*:1::::::\n")
    firstboot.set_up(
        root, "web", FirstBoot(), BuildSecrets(root_password_hash="$6$canary$hash"), lambda argv: ran.append(list(argv))
    )
    assert "canary" not in str(ran)


ACCOUNTS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\nsudo:x:27:\n", "shadow": "root:!:1::::::\n",
    "gshadow": "root:*::\nsudo:*::\n", "hostname": "old\n",
}  # fmt: skip


def _fill(folder):
    (folder / "ssh").mkdir(parents=True)
    (folder / "ssh/ssh_host_rsa_key").write_text("x")
    for name, text in ACCOUNTS.items():
        (folder / name).write_text(text)


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="systemd-sysusers is not installed")
def test_a_link_out_of_a_hostile_tree_changes_nothing_of_the_host(tmp_path):
    """Inside of the tree its /etc is a folder of it, for a program outside it is one of the host's own."""
    outside, root = tmp_path / "outside", tmp_path / "tree"
    for folder in (outside, Path(f"{root}{outside}")):
        _fill(folder)
    (root / "etc").symlink_to(outside)
    before = {path.relative_to(outside): path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    answers = FirstBoot(user="ada", locale="C.UTF-8", timezone="UTC", ssh_keys=("ssh-ed25519 AAAA me",))
    firstboot.set_region(root, answers, run, trusted=False)
    firstboot.set_up(root, "web", answers, BuildSecrets(), run)
    assert {path.relative_to(outside): path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    inside = Path(f"{root}{outside}")
    assert "ada:x:1000:1000:" in (inside / "passwd").read_text()
    assert "sudo:x:27:ada\n" in (inside / "group").read_text()
    assert "ada:" in (inside / "shadow").read_text()
    assert "root:!:1::::::" in (inside / "shadow").read_text()
    assert (inside / "sudoers.d/90-ada").exists()
    assert (inside / "systemd/system/multi-user.target.wants" / firstboot.KEYS_UNIT).is_symlink()


def test_debian_has_its_locale_in_two_places_until_one_is_a_link(root):
    (root / "etc/debian_version").write_text("12.1\n")
    firstboot.set_region(root, FirstBoot(locale="C.UTF-8"), run, trusted=False)
    assert (root / "etc/default/locale").read_text() == "LANG=C.UTF-8\n"
    (root / "etc/default/locale").unlink()
    (root / "etc/default/locale").symlink_to("../locale.conf")
    firstboot.set_region(root, FirstBoot(locale="POSIX"), run, trusted=False)
    assert (root / "etc/default/locale").is_symlink()
    assert (root / "etc/default/locale").read_text() == "LANG=POSIX\n"


def test_what_is_written_back_has_every_byte(tmp_path):
    (tmp_path / "etc").mkdir()
    text = b"# caf\xe9\n127.0.1.1 old\n" + b"10.0.0.1 x\n" * 10
    (tmp_path / "etc/hosts").write_bytes(text)
    firstboot.write_hosts(tmp_path, "new", "old")
    assert (tmp_path / "etc/hosts").read_bytes() == text.replace(b"old", b"new")


def test_a_list_of_hosts_too_long_to_be_read_stays_whole(tmp_path):
    (tmp_path / "etc").mkdir()
    text = b"127.0.1.1 old\n" + b"10.0.0.1 x\n" * 10_000
    (tmp_path / "etc/hosts").write_bytes(text)
    firstboot.write_hosts(tmp_path, "new", "old")
    assert (tmp_path / "etc/hosts").read_bytes() == text


def test_a_list_of_passwords_is_never_cut(tmp_path):
    (tmp_path / "etc").mkdir()
    text = b"root:*:1::::::\n" + b"caf\xe9:*:1::::::\n" * 100_000
    (tmp_path / "etc/shadow").write_bytes(text)
    with pytest.raises(Problem, match="too long"):
        firstboot.set_password(tmp_path, "root", "$y$x")
    assert (tmp_path / "etc/shadow").read_bytes() == text
