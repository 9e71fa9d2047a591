"""Trees made to lead out of themselves or to hold up whoever looks, and all that touches a tree: nothing outside is read
or changed, and nothing hangs. The worst an operation may do is to refuse.

HOSTILE_ENTRIES=1000000 fills the fullest folder with a million files; make hostile does.
"""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import pytest

from machines.contract import orders
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.contract.recipes import BuildSecrets, FirstBoot
from machines.host.context.host_context import Image, Slow, Task
from machines.host.context.job_output import JobOutput
from machines.host.doctor.guest import Guest
from machines.host.observe import inventory
from machines.host.policy import real_paths
from machines.host.rootfs import btrfs_pool, build, clone, export
from machines.host.rootfs.steps import boot_tuning, firstboot
from machines.host.storage import base_images, btrfs, decompress, images, pool, uid_shift, unpack
from machines.host.storage.decompress import Limits
from machines.host.system.faults import CommandFailed
from tests.host import disks

SECRET = "CANARYcanaryCANARY"
ENTRIES = int(os.environ.get("HOSTILE_ENTRIES", "5000"))
PATIENCE = 30 if ENTRIES < 100_000 else 300  # seconds one operation may take
GIB = 1 << 30
HASH = "$6$saltsalt$" + "x" * 86
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDsW0M5mcmH1bMtbOYdmhuHtcNnrmOKoJYMvtwoJjlpB ada"
ANSWERS = FirstBoot(
    hostname="owned", locale="C.UTF-8", timezone="Europe/Berlin", ssh_keys=[KEY], user="ada", new_identity=True
)

Twist = Callable[[Path, Path], object]


# --- the trees


def plain(root: Path) -> None:
    """A tree with something at every place that is read or written."""
    for path, text in {
        "usr/lib/systemd/systemd": "", "usr/lib/os-release": "PRETTY_NAME=Plain\n", "usr/bin/id": "",
        "usr/lib/systemd/libsystemd-shared-252.so": "", "usr/lib/systemd/system/systemd-networkd.service": "",
        "etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/shadow": "root:*:1::::::\n", "etc/group": "root:x:0:\nsudo:x:27:\n",
        "etc/hostname": "plain\n", "etc/hosts": "127.0.1.1 plain\n", "etc/machine-id": "0" * 32, "etc/debian_version": "12",
        "etc/resolv.conf": "nameserver 10.0.0.1\n", "etc/ssh/ssh_host_rsa_key": "key", "etc/skel/.profile": "",
        "etc/systemd/network/x.network": "[Network]\nAddress=10.0.0.5/24\n", "etc/network/interfaces": "address 10.0.0.6\n",
        "var/lib/dbus/machine-id": "0" * 32, "var/lib/systemd/random-seed": "seed", "var/log/wtmp": "x",
        "var/log/journal/abc/system.journal": "x", "root/.ssh/authorized_keys": "", "home/bob/file": "",
    }.items():  # fmt: skip
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def instead(path: str, made: Callable[[Path, Path], object]) -> Twist:
    """Something else at a place of the tree."""

    def twist(root: Path, canary: Path) -> None:
        subprocess.run(["rm", "-rf", str(root / path)], check=True)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        made(root / path, canary)

    return twist


def leading(to: str) -> Callable[[Path, Path], object]:
    """A symbolic link; {canary} is the folder outside, {bare} the same without its first slash."""
    return lambda path, canary: path.symlink_to(to.format(canary=canary, bare=str(canary).lstrip("/")))


def node(mode: int, major: int = 0, minor: int = 0) -> Callable[[Path, Path], object]:
    return lambda path, _: os.mknod(path, mode | 0o666, os.makedev(major, minor))


def listening(path: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def sparse(path: Path, _: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 43)


def many(path: Path, _: Path) -> None:
    path.mkdir()
    for number in range(ENTRIES):
        os.mknod(path / f"{number}.wants")


def deep(path: Path, _: Path) -> None:
    name, folder = "d" * 200, os.open(path.parent, os.O_RDONLY)
    for _ in range(300):
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)


def hard_links(root: Path, canary: Path) -> None:
    """To what is outside; on btrfs a subvolume shares only within itself."""
    for path in ("etc/hostname", "etc/shadow", "etc/machine-id", "root/.ssh/authorized_keys"):
        (root / path).unlink()
        try:
            os.link(canary / Path(path).name, root / path)
        except OSError:
            os.link(root / "etc/hosts", root / path)


def shell(script: str) -> Twist:
    def twist(root: Path, canary: Path) -> None:
        subprocess.run(["bash", "-ec", script], cwd=root, check=True, env=os.environ | {"CANARY": str(canary)})

    return twist


def names_that_are_options(root: Path, canary: Path) -> None:
    for folder in (root, root / "etc"):
        for name in (
            "-rf",
            "--checkpoint=1",
            f"--checkpoint-action=exec=touch {canary.name}",
            "-",
            "--",
            "{}",
            "$(id)",
        ):
            (folder / name.replace("/", "")).touch()


def names_that_are_no_text(root: Path, _: Path) -> None:
    for name in (b"\xff\xfe", b"line\nline", b"\\", b" ", b"\xed\xa0\x80.network", b"\x1b[31m"):
        with open(os.fsencode(root) + b"/etc/systemd/network/" + name, "w"):
            pass
        os.mkdir(os.fsencode(root) + b"/" + name)


def mounted(root: Path, canary: Path) -> None:
    (root / "etc/inner").mkdir()
    subprocess.run(["mount", "--bind", str(canary), str(root / "etc/inner")], check=True)


def shifted(root: Path, canary: Path) -> None:
    """As a machine with a user namespace leaves it, with a link out among its files."""
    (root / "etc/out").symlink_to(canary / "hostname")
    (root / "etc/outer").symlink_to(canary)
    subprocess.run(["chown", "-hR", "655360:655360", str(root)], check=True)
    (root / "usr/bin/id").chmod(0o4755)


TREES: dict[str, Twist] = {
    # a folder is a link
    **{f"{path} → outside": instead(path, leading("{canary}")) for path in (
        "etc", "root", "home", "usr", "usr/lib", "etc/ssh", "etc/systemd/system", "etc/systemd/network", "etc/sysusers.d",
        "var/log/journal", "var/log/journal/abc", "var/lib/dbus",
    )},
    # it leads there in another way
    "etc → up": instead("etc", leading("../canary")),
    "etc → far up": instead("etc", leading("../" * 60 + "{bare}")),
    "etc → /proc/self/root": instead("etc", leading("/proc/self/root{canary}")),
    "etc → /proc/1/root": instead("etc", leading("/proc/1/root{canary}")),
    "etc → /proc/self/cwd": instead("etc", leading("/proc/self/cwd/" + "../" * 40 + "{bare}")),
    "etc → /dev/fd": instead("etc", leading("/dev/fd/0")),
    "etc → itself": instead("etc", leading("etc")),
    "etc → nowhere": instead("etc", leading("{canary}/nothing/there")),
    "rootfs → /": instead("rootfs", leading("/")),
    "the tree itself → outside": lambda root, canary: (subprocess.run(["rm", "-rf", root], check=True), root.symlink_to(canary)),
    # a file is a link
    **{f"{path} → outside": instead(path, leading("{canary}/" + path.rpartition("/")[2])) for path in (
        "etc/hostname", "etc/passwd", "etc/shadow", "etc/hosts", "etc/machine-id", "usr/lib/os-release",
        "root/.ssh/authorized_keys", "etc/default/locale", "etc/resolv.conf",
    )},
    # no file at all
    "FIFO": instead("etc/hostname", node(0o010000)),
    "FIFO that is a folder": instead("etc", node(0o010000)),
    "FIFO among accounts": instead("etc/passwd", node(0o010000)),
    "endless device": instead("etc/passwd", node(0o020000, 1, 5)),
    "terminal": instead("etc/hostname", node(0o020000, 5, 0)),
    # Of no driver: one of a loop device would be made by whoever opens it, for all of this machine
    "disk": instead("usr/lib/os-release", node(0o060000, 61, 0)),
    "socket": instead("etc/shadow", listening),
    "folder for a file": instead("etc/shadow", lambda path, _: path.mkdir()),
    "file for a folder": instead("etc", lambda path, _: path.touch()),
    # shared, huge, many, deep, marked, odd
    "hard links": hard_links,
    "8 TiB of nothing": instead("etc/hosts", sparse),
    "8 TiB of accounts": instead("etc/passwd", sparse),
    "many entries": instead("etc/systemd/system", many),
    "many host keys": lambda root, _: [os.mknod(root / f"etc/ssh/ssh_host_a{'b' * n}_key") for n in range(200)],
    "deeper than a path": instead("deep", deep),
    "immutable": shell("chattr +i etc/hostname etc/shadow etc"),
    "append only": shell("chattr +a var/log/wtmp var/log etc"),
    "immutable top": shell("chattr +i ."),
    "names that are options": names_that_are_options,
    "names that are no text": names_that_are_no_text,
    "mounted inside": mounted,
    "owners of a range": shifted,
}  # fmt: skip


# --- what touches a tree


@dataclass
class Work:
    """A tree in the pool, room for what is made of it, and a job."""

    root: Path
    folder: Path
    task: Task

    @property
    def image(self) -> images.Location:
        mounts = tuple(map(Path, pool.mounts_below(self.root)))
        return images.Location(
            MachineName("hostile"), self.root, self.root, "directory", read_only=False, read_only_by="", in_pool=True,
            mounts=mounts,
        )  # fmt: skip

    def beside(self, name: str) -> Path:
        return self.folder / name


def inventory_(work: Work) -> None:
    image = Image("hostile", "directory", read_only=False, id="1-1", path=work.root)
    assert SECRET not in inventory._os(Slow(), image)
    pool.size(work.root)
    images.read_only_by(work.root)
    pool.is_marked(work.root)


def diagnose(work: Work) -> None:
    guest = Guest(work.root)
    said = [guest.is_readable, guest.systemd, guest.has_networkd, guest.asks_resolved, guest.name_servers]
    said += [guest.is_masked("systemd-networkd.service"), guest.is_enabled("systemd-networkd.service")]
    assert SECRET not in repr(said)


def judge_binds(work: Work) -> None:
    """As before a start: where each place would lead is found out, and nothing there is opened."""
    mounts = real_paths.read()
    for path in ("", "etc", "etc/hostname", "etc/shadow", "rootfs", "etc/passwd"):
        with contextlib.suppress(OSError):
            mounts.reach(str(work.root / path))


def copy(work: Work) -> None:
    """As clones are made: a snapshot on btrfs, else all of it; then it becomes somebody else."""
    made = work.beside("clone")
    if pool.can_snapshot(work.root, work.folder):
        pool.snapshot(work.task, work.root, made)
        btrfs.snapshot_nested(work.root, made)
    else:
        pool.copy(work.task, work.root, made, mounts=work.image.mounts)
    build.check_tree(made)
    uid_shift.reset(made)
    assert SECRET not in repr(clone.fixed_addresses(made))
    set_up(made, work.task)
    build.rename_into_place(made, work.beside("cloned"))


def pack(work: Work) -> None:
    file = work.beside("packed")
    export._pack(work.task, export.Source(work.image, work.root, pool.inside(work.root, work.image.mounts)), file, GIB)


def unpack_(work: Work) -> None:
    """What any tar makes of it, as an archive from elsewhere."""
    file, made = work.beside("archive"), work.beside("imported")
    if work.root.is_symlink():
        raise NotADirectoryError(str(work.root))
    argv = ["tar", "--create", "--exclude=./etc/inner/*", "--xattrs", "--acls", "--sparse", f"--file={file}", "."]
    subprocess.run(argv, cwd=work.root, check=False, capture_output=True)
    pool.make(made)
    limits = Limits(file.stat().st_size, GIB)
    with decompress.opened(file, limits) as stream:
        unpack.unpack(stream, made, limits, lambda *_: None)
    set_up(made, work.task)


def set_up(root: Path, task: Task) -> None:
    build.check_tree(root)
    firstboot.set_region(root, ANSWERS, task.run, trusted=False)
    hidden = BuildSecrets(root_password_hash=HASH, user_password_hash=HASH)
    firstboot.set_up(root, MachineName("owned"), ANSWERS, hidden, task.run)


def first_boot(work: Work) -> None:
    """Each step by itself: one that refuses keeps none of the others from trying."""
    root, run = work.root, work.task.run
    steps: list[Callable[[], object]] = [
        lambda: firstboot.set_region(root, ANSWERS, run, trusted=True),
        lambda: firstboot.set_region(root, ANSWERS.model_copy(update={"locale": "de_DE.UTF-8"}), run, trusted=False),
        lambda: firstboot.write_hosts(root, "owned", "plain"),
        lambda: firstboot.set_root_password(root, HASH),
        lambda: firstboot.write_ssh_keys(root, "root", [KEY]),
        lambda: firstboot.write_ssh_keys(root, "home/bob", [KEY], (1000, 1000)),
        lambda: firstboot.make_user(root, "ada", [KEY], HASH, run),
        lambda: firstboot.make_user(root, "bea", [], "", run),
        lambda: firstboot.set_up(root, MachineName("owned"), ANSWERS, BuildSecrets(), run),
    ]
    _each(steps)


def identity(work: Work) -> None:
    _each([
        lambda: firstboot.forget_identity(work.root),
        lambda: boot_tuning.forget_boot(work.root),
        lambda: boot_tuning.trim(work.root),
    ])  # fmt: skip


def _each(steps: list[Callable[[], object]]) -> None:
    for step in steps:
        with contextlib.suppress(OSError, Problem, CommandFailed):
            step()


def base(work: Work) -> None:
    """Kept as a base, and a machine made of it."""
    aside = work.beside("base")
    try:
        base_images.keep(work.task, work.root, aside)
    finally:
        base_images.forget_aside(aside)


def to_a_pool(work: Work) -> None:
    btrfs_pool._check_nothing_mounted(work.root.parent)
    moved = btrfs_pool._Pool(None, work.task, 1)
    target = work.beside("moved")
    btrfs_pool._copy_one(moved, work.root, target)
    btrfs_pool._compare(work.root, target)


def read_only(work: Work) -> None:
    """machined marks the top; what comes next takes the mark off."""
    images.check_changeable(work.image, to="be made read-only")
    pool.allow_rename(work.root)


def remove(work: Work) -> None:
    """Whatever else was refused: it goes."""
    pool.clear(work.root)
    assert not os.path.lexists(work.root)


OPERATIONS: dict[str, Callable[[Work], object]] = {
    "inventory": inventory_, "diagnose": diagnose, "judge binds": judge_binds, "clone": copy, "export": pack,
    "import": unpack_, "move to a pool": to_a_pool, "keep as base": base, "first boot": first_boot, "identity": identity,
    "read-only": read_only, "remove": remove,
}  # fmt: skip
MUST_WORK = {"remove"}
# What is outside is the tree's own file there; and a link in place of an image, which only the host's root can make, is
# packed as what it leads to: images may lie elsewhere.
SHOWS_IT = {"hard links", "the tree itself → outside"}


# --- the matrix


class Hangs(BaseException):
    """An operation that takes too long, which no `except` of it may catch."""


@contextlib.contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> NoReturn:
        raise Hangs(f"{seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outside(top: Path) -> list[object]:
    """All there is about every file: contents, owner, mode, times and attributes."""
    found: list[object] = []
    for path in sorted(top.rglob("*"), key=str):
        about = path.lstat()
        contents = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
        attributes = [(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))]
        found.append((
            str(path), about.st_mode, about.st_uid, about.st_gid, about.st_mtime_ns, contents, attributes, pool.is_marked(path)
        ))  # fmt: skip
    return found


@pytest.fixture(scope="module", params=["ext4", "btrfs"])
def disk(request, tmp_path_factory):
    room, more = (600, ()) if ENTRIES < 100_000 else (6000, ("-N", "4000000") if request.param == "ext4" else ())
    with disks.mounted(tmp_path_factory.mktemp("disk"), request.param, room, more) as where:
        yield where


@pytest.fixture
def canary(disk):
    """A folder beside the tree that has whatever an operation might look for or write."""
    top = disk / "canary"
    plain(top)
    for file in [path for path in top.rglob("*") if path.is_file()]:
        name = top / file.name
        if not name.exists():
            name.write_text(f"{file.read_text()}# {SECRET}\n")
    (top / "etc/shadow").write_text(f"root:{SECRET}:1::::::\n")
    (top / "shadow").write_text(f"root:{SECRET}:1::::::\n")
    for name in ("locale", "locale.conf", "precious", "ssh_host_rsa_key", "x.network"):
        (top / name).write_text(f"Address={SECRET}\n")
    yield top
    subprocess.run(["rm", "-rf", str(top)], check=True)


@pytest.fixture
def work(disk, monkeypatch):
    monkeypatch.setattr(decompress, "KEEP_FREE", 0)
    order = orders.Export(name="hostile", url="https://panel.example/transfer/x/", limit=GIB)
    now, root, folder = time.time(), disk / "tree", disk / "work"
    pool.make(root)
    folder.mkdir()
    yield Work(root, folder, Task(uuid4(), order, JobOutput(lambda _: None), now, now + 600))
    for left in (root, *folder.iterdir(), folder):
        pool.clear(left)


def holds_the_secret(folder: Path) -> str:
    """Files of what was made that have what only the canary has, packed ones looked into."""
    for packed in folder.glob("packed*"):
        with contextlib.suppress(OSError):
            subprocess.run(
                ["zstd", "--quiet", "--force", "-d", str(packed), "-o", str(packed.with_name("looked"))], check=False
            )
    argv = [
        "find",
        str(folder),
        "-type",
        "f",
        "-not",
        "-empty",
        "-size",
        "-64M",
        "-exec",
        "grep",
        "-lsa",
        SECRET,
        "{}",
        "+",
    ]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("hostile", TREES)
def test_nothing_leads_out_of_a_tree_and_nothing_hangs_on_it(work, canary, hostile):
    plain(work.root)
    TREES[hostile](work.root, canary)
    before = outside(canary)
    refused = []
    for name, operation in OPERATIONS.items():
        try:
            with no_longer_than(PATIENCE):
                operation(work)
        except Hangs:
            pytest.fail(f"{name} hangs")
        except (OSError, Problem) as error:
            refused.append(f"{name}: {error}")
        assert outside(canary) == before, f"{name} changed what is outside"
    assert not [said for said in refused if said.partition(":")[0] in MUST_WORK]
    if hostile not in SHOWS_IT:
        assert holds_the_secret(work.folder) == ""
    print(f"\n{hostile}: refused by {len(refused)} of {len(OPERATIONS)}", *refused, sep="\n  ")


def test_a_tree_with_nothing_odd_is_refused_by_nobody(work, canary):
    plain(work.root)
    for operation in OPERATIONS.values():
        operation(work)
    assert (work.folder / "cloned/etc/hostname").read_text() == "owned\n"
    assert (work.folder / "imported/etc/hostname").read_text() == "owned\n"


def test_as_many_as_the_readme_says():
    assert len(TREES) >= 40
    print(f"\n{len(TREES)} hostile trees × {len(OPERATIONS)} operations, on ext4 and on btrfs")
