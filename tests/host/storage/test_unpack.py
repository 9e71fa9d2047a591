"""Archives that anybody may have made: what is good comes out whole, what is not is refused and writes nothing outside."""

import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from machines.contract.problems import Problem
from machines.host.storage import decompress, unpack
from machines.host.storage.decompress import Limits
from machines.host.storage.pool import TAR
from machines.host.system.faults import NoSpace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes are root's")
GIB = 1024**3


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "pool" / "tree"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What nothing may touch."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "canary").write_text("untouched")
    return folder


def take(file: Path, tree: Path, most: int = GIB) -> unpack.Tally:
    limits = Limits(file.stat().st_size, most)
    with decompress.opened(file, limits) as stream:
        return unpack.unpack(stream, tree, limits, lambda *_: None)


Make = Callable[[tarfile.TarFile], None]


def written(file: Path, make: Make, **options) -> Path:
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT, **options) as archive:
        make(archive)
    return file


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for key, value in fields.items():
        setattr(entry, key, value)
    archive.addfile(entry, io.BytesIO(content))


def folder(archive: tarfile.TarFile, name: str) -> None:
    add(archive, name, type=tarfile.DIRTYPE, mode=0o755)


def link(archive: tarfile.TarFile, name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> None:
    add(archive, name, type=kind, linkname=to)


# --- what is good


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
ACL = acl((1, 6, NOBODY), (2, 6, 1234), (4, 4, NOBODY), (0x10, 6, NOBODY), (0x20, 4, NOBODY))
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A tree with everything a system has."""
    top = tmp_path / "original"
    (top / "usr/bin").mkdir(parents=True)
    (top / "etc").mkdir()
    (top / "bin").symlink_to("usr/bin")
    (top / "etc/mtab").symlink_to("/proc/self/mounts")
    (top / "etc/out").symlink_to("../../../../etc/passwd")
    ping, secret = top / "usr/bin/ping", top / "etc/shadow"
    ping.write_bytes(bytes(range(256)) * 40)
    os.setxattr(ping, "security.capability", CAPABILITY)
    os.link(ping, top / "usr/bin/ping6")
    (top / "usr/bin/su").write_text("su")
    (top / "usr/bin/su").chmod(0o4755)
    secret.write_text("root:*:1:\n")
    os.chown(secret, 0, 42)
    secret.chmod(0o640)
    os.setxattr(secret, "system.posix_acl_access", ACL)
    os.setxattr(secret, "user.note", bytes(range(256)))
    os.setxattr(top / "etc", "system.posix_acl_default", ACL)
    os.mkfifo(top / "etc/fifo", 0o600)
    with (top / "etc/holes").open("wb") as holes:
        holes.truncate(10_000_000)
        holes.seek(5_000_000)
        holes.write(b"in the middle")
    (top / "etc/Grüße \t\n").write_text("a strange name")
    os.chown(top / "etc/mtab", 7, 8, follow_symlinks=False)
    os.utime(top / "etc", (1_000_000_000, 1_000_000_000))
    return top


def seen(top: Path) -> dict[str, tuple]:
    """Everything of a tree that counts."""
    found = {}
    inodes: dict[int, str] = {}
    for path in sorted([top, *top.rglob("*")]):
        name, info = str(path.relative_to(top)), path.lstat()
        regular = stat.S_ISREG(info.st_mode)
        attributes = {} if path.is_symlink() else {key: os.getxattr(path, key) for key in os.listxattr(path)}
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if regular else b""
        same = inodes.setdefault(info.st_ino, name) if regular else ""
        mode = 0 if path.is_symlink() else info.st_mode
        found[name] = (mode, info.st_uid, info.st_gid, int(info.st_mtime), what, same, attributes)
    return found


@pytest.mark.parametrize("way", ["", "--gzip", "--xz", "--zstd", "--bzip2"])
def test_a_tree_comes_out_as_it_went_in(original, tree, tmp_path, way):
    if way and not shutil.which(way.removeprefix("--")):
        pytest.skip(f"{way} is not installed")
    file = tmp_path / "tree.tar"
    subprocess.run(
        [*TAR, "--create", *([way] if way else []), f"--file={file}", f"--directory={original}", "."], check=True
    )
    tally = take(file, tree)
    assert seen(tree) == seen(original)
    assert (tree / "etc/holes").stat().st_blocks * 512 < 1_000_000
    assert (tree / "usr/bin/ping6").stat().st_nlink == 2
    assert tally.entries == len(seen(original))
    assert not tally.left_out


def test_folders_nobody_described_are_made_and_may_be_described_later(tree, tmp_path):
    def make(archive):
        add(archive, "a/b/file", b"x")
        add(archive, "a/b", type=tarfile.DIRTYPE, mode=0o700)

    take(written(tmp_path / "a.tar", make), tree)
    assert (tree / "a/b/file").read_bytes() == b"x"
    assert stat.S_IMODE((tree / "a/b").stat().st_mode) == 0o700


def test_an_acl_in_words_is_understood(tree, tmp_path):
    words = "user::rw-\nuser:1234:rw-\ngroup::r--\nmask::rw-\nother::r--\n"
    take(written(tmp_path / "a.tar", lambda a: add(a, "f", b"x", pax_headers={"SCHILY.acl.access": words})), tree)
    assert os.getxattr(tree / "f", "system.posix_acl_access") == ACL


def test_the_usual_device_nodes_are_left_out(tree, tmp_path):
    def make(archive):
        add(archive, "./dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
        add(archive, "etc/hostname", b"x")

    assert take(written(tmp_path / "a.tar", make), tree).left_out == 1
    assert not (tree / "dev/null").exists()


def test_attributes_of_another_host_are_not_taken_over(tree, tmp_path):
    marks = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.security.selinux": "x"}
    tally = take(written(tmp_path / "a.tar", lambda a: add(a, "f", b"x", pax_headers=marks)), tree)
    assert tally.dropped == {"trusted.overlay.redirect", "security.selinux"}
    assert os.listxattr(tree / "f") == []


def test_only_some_of_them_are_told_and_none_can_write_to_a_terminal(tree, tmp_path):
    def make(archive):
        for n in range(50):
            add(archive, f"f{n}", b"x", pax_headers={f"SCHILY.xattr.trusted.{n}\n\x1b[2J": ""})

    dropped = take(written(tmp_path / "a.tar", make), tree).dropped
    assert len(dropped) == unpack.DROPPED
    assert all(name.isprintable() for name in dropped)


# --- what is not

HOSTILE: dict[str, tuple[Make, str]] = {
    "dots": (lambda a: add(a, "../outside/new", b"x"), "points outside"),
    "dots inside": (lambda a: add(a, "a/../../outside/new", b"x"), "points outside"),
    "dots at the end": (lambda a: folder(a, "a/.."), "points outside"),
    "absolute": (lambda a: add(a, "/etc/new", b"x"), "absolute"),
    "absolute folder": (lambda a: folder(a, "/etc"), "absolute"),
    "twice": (lambda a: [add(a, "f", b"1"), add(a, "f", b"2")], "twice"),
    "twice in other words": (lambda a: [add(a, "a/f", b"1"), add(a, "./a//f", b"2")], "twice"),
    "folder twice": (lambda a: [folder(a, "d"), folder(a, "d")], "twice"),
    "top twice": (lambda a: [folder(a, "."), folder(a, "./")], "twice"),
    "top is a file": (lambda a: add(a, ".", b"x"), "is not a directory"),
    "top is a link": (lambda a: link(a, ".", "/etc"), "is not a directory"),
    "link then file": (lambda a: [link(a, "d", "../../outside"), add(a, "d/new", b"x")], "through a link"),
    "link then folder": (lambda a: [link(a, "d", "../../outside"), folder(a, "d/new")], "through a link"),
    "link then same folder": (lambda a: [link(a, "d", "../../outside"), folder(a, "d")], "twice"),
    "link to a link": (
        lambda a: [folder(a, "x"), link(a, "x/up", ".."), link(a, "x/d", "up/../../outside"), add(a, "x/d/new", b"x")],
        "through a link",
    ),
    "magic link": (lambda a: [link(a, "p", "/proc/self/cwd"), add(a, "p/new", b"x")], "through a link"),
    "through a file": (lambda a: [add(a, "f", b"x"), add(a, "f/new", b"x")], "through a link or a file"),
    "file over a link": (lambda a: [link(a, "f", "../../outside/canary"), add(a, "f", b"x")], "twice"),
    "hard link out": (lambda a: link(a, "f", "../../outside/canary", tarfile.LNKTYPE), "points outside"),
    "hard link to the host": (lambda a: link(a, "f", "/etc/passwd", tarfile.LNKTYPE), "absolute"),
    "hard link through a link": (
        lambda a: [link(a, "d", "../../outside"), link(a, "f", "d/canary", tarfile.LNKTYPE)],
        "points to",
    ),
    "hard link to nothing": (lambda a: link(a, "f", "later", tarfile.LNKTYPE), "points to"),
    "hard link to the top": (lambda a: link(a, "f", ".", tarfile.LNKTYPE), "directory"),
    "disk": (lambda a: add(a, "dev/sda", type=tarfile.BLKTYPE, devmajor=8, devminor=0), "device node"),
    "memory": (lambda a: add(a, "dev/mem", type=tarfile.CHRTYPE, devmajor=1, devminor=1), "device node"),
    "null elsewhere": (lambda a: add(a, "etc/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "device node"),
    "unknown kind": (lambda a: add(a, "f", type=b"Z"), ""),
    "owner": (lambda a: add(a, "f", b"x", uid=2**32 - 1), "owner"),
    "name in a pax header": (lambda a: add(a, "f", b"x", pax_headers={"path": "../../outside/new"}), "points outside"),
    "link in a pax header": (
        lambda a: add(a, "f", type=tarfile.LNKTYPE, linkname="g", pax_headers={"linkpath": "/etc/passwd"}),
        "absolute",
    ),
    "size in a pax header": (lambda a: add(a, "f", b"x", pax_headers={"size": "-512"}), ""),
    "endless size": (lambda a: add(a, "f", b"x", pax_headers={"size": str(2**62)}), ""),
    "holes before the start": (
        lambda a: add(a, "f", b"x" * 512, pax_headers={"GNU.sparse.map": "-512,512", "GNU.sparse.size": "512"}),
        "",
    ),
    "holes with more than is there": (
        lambda a: add(a, "f", b"x" * 512, pax_headers={"GNU.sparse.map": "0,99999999", "GNU.sparse.size": "99999999"}),
        "",
    ),
    "an acl with names": (
        lambda a: add(a, "f", b"x", pax_headers={"SCHILY.acl.access": "user::rw-\nuser:root:rw-\ngroup::r--\nother::r--"}),
        "numeric",
    ),
    "an acl that is none": (lambda a: add(a, "f", b"x", pax_headers={"SCHILY.acl.access": "a\nb\nc\nd"}), "has an invalid"),
    "an acl with a number no system has": (
        lambda a: add(a, "f", b"x", pax_headers={"SCHILY.acl.access": f"user::r\nuser:{10**30}:r\ngroup::r\nother::r"}),
        "has an invalid header",
    ),
    "a name longer than names are": (lambda a: add(a, "n" * 10_000, b"x"), "too long"),
    "a folder longer than names are": (lambda a: add(a, "n" * 10_000 + "/f", b"x"), "too long"),
    "ten thousand folders": (lambda a: add(a, "d/" * 10_000 + "f", b"x"), "directories deep"),
    "three hundred folders that are there": (
        lambda a: [folder(a, "d/" * depth) for depth in range(1, 300)] + [add(a, "d/" * 300 + "f", b"x")],
        "directories deep",
    ),
    "a link longer than links are": (lambda a: link(a, "l", "n/" * 5_000), "too long"),
    "a link to nothing": (lambda a: link(a, "l", ""), "No such file"),
    "a hard link longer than names are": (lambda a: link(a, "l", "n" * 10_000, tarfile.LNKTYPE), "too long"),
    "a name with an end in it": (lambda a: add(a, "f", b"x", pax_headers={"path": "a\0b"}), "has an invalid header"),
    "a link with an end in it": (
        lambda a: add(a, "l", type=tarfile.SYMTYPE, linkname="x", pax_headers={"linkpath": "a\0b"}),
        "has an invalid header",
    ),
    "an attribute larger than attributes are": (
        lambda a: add(a, "f", b"x", pax_headers={"SCHILY.xattr.user.big": "x" * 100_000}),
        "extended attributes than",
    ),
    "ten thousand attributes": (
        lambda a: add(a, "f", b"x", pax_headers={f"SCHILY.xattr.user.a{n}": "x" * 300 for n in range(10_000)}),
        "extended attributes than",
    ),
    "an attribute longer than names are": (
        lambda a: add(a, "f", b"x", pax_headers={f"SCHILY.xattr.user.{'n' * 1000}": "x"}),
        "extended attributes than",
    ),
    "an attribute in broken letters": (
        lambda a: add(a, "f", b"x", pax_headers={"LIBARCHIVE.xattr.user.a": "a"}),
        "has an invalid header",
    ),
    "a capability that is none": (
        lambda a: add(a, "f", b"x", pax_headers={"SCHILY.xattr.security.capability": "all"}),
        "Invalid argument",
    ),
    "a file of holes, larger than any disk": (
        lambda a: add(a, "f", b"x" * 512, pax_headers={"GNU.sparse.map": "0,512", "GNU.sparse.size": str(2**60)}),
        "most of it sparse",
    ),
    "what is behind a hole that never ends": (
        lambda a: add(
            a, "f", b"x" * 512, pax_headers={"GNU.sparse.map": f"{2**63 - 600},512", "GNU.sparse.size": str(2**63 - 1)}
        ),
        "",
    ),
    "nothing": (lambda a: None, "empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_it_is_refused_and_nothing_is_written_outside(case, tree, outside, tmp_path):
    make, words = HOSTILE[case]
    before = {path: path.lstat() for path in outside.rglob("*")}
    with pytest.raises(Problem) as caught:
        take(written(tmp_path / "bad.tar", make), tree)
    assert caught.value.code.startswith("archive-"), caught.value
    assert words in caught.value.message
    assert {path: path.lstat() for path in outside.rglob("*")} == before
    assert (outside / "canary").read_text() == "untouched"
    assert {path.name for path in tree.parent.iterdir()} == {"tree"}


def test_a_file_that_is_no_archive_is_refused(tree, tmp_path):
    file = tmp_path / "x.tar"
    for content in (
        b"",
        b"hello",
        os.urandom(5000),
        b"\x28\xb5\x2f\xfd garbage",
        b"\x1f\x8b garbage",
        b"\xfd7zXZ\x00 garbage",
    ):
        file.write_bytes(content)
        with pytest.raises(Problem) as caught:
            take(file, tree)
        assert caught.value.code == "archive-refused"


@pytest.mark.parametrize("keep", [300, 512, 700, 1024, 1536, 1600])
def test_one_that_was_cut_off_is_refused(tree, tmp_path, keep):
    file = written(tmp_path / "x.tar", lambda a: [add(a, "a", b"x" * 600), add(a, "b", b"y" * 600)])
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(Problem) as caught:
        take(file, tree)
    assert caught.value.code == "archive-refused"


def test_garbage_in_the_middle_is_not_the_end(tree, tmp_path):
    file = written(tmp_path / "x.tar", lambda a: [add(a, "a", b"x"), add(a, "b", b"y")])
    whole = bytearray(file.read_bytes())
    whole[1024:1536] = b"?" * 512
    file.write_bytes(whole)
    with pytest.raises(Problem, match="damaged"):
        take(file, tree)


def test_damage_behind_the_last_entry_is_found(tree, tmp_path):
    plain = written(tmp_path / "x.tar", lambda a: add(a, "a", b"x" * 100_000))
    subprocess.run(["gzip", "--keep", str(plain)], check=True)
    file = tmp_path / "x.tar.gz"
    whole = bytearray(file.read_bytes())
    whole[-8:-4] = b"\0\0\0\0"  # its own sum
    file.write_bytes(whole)
    with pytest.raises(Problem, match="gzip cannot decompress it"):
        take(file, tree)


def test_too_much_is_refused(tree, tmp_path):
    file = written(tmp_path / "x.tar", lambda a: add(a, "a", bytes(3_000_000)))
    with pytest.raises(Problem) as caught:
        take(file, tree, most=2_000_000)
    assert caught.value.code == "archive-too-large"
    assert "max_archive_gib" in caught.value.hint


def test_a_bomb_is_refused_early(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "RATIO_FROM", 4_000_000)
    plain = written(tmp_path / "x.tar", lambda a: add(a, "a", bytes(200_000_000)))
    subprocess.run(["gzip", str(plain)], check=True)
    with pytest.raises(Problem) as caught:
        take(tmp_path / "x.tar.gz", tree)
    assert caught.value.code == "archive-bomb"
    assert (tree / "a").stat().st_size < 50_000_000


def test_a_header_that_would_fill_the_memory_is_refused(tree, tmp_path):
    def make(archive):
        add(archive, "f", b"x", pax_headers={"comment": "x" * 8_000_000})

    with pytest.raises(Problem, match="4 MiB"):
        take(written(tmp_path / "x.tar", make), tree)


@pytest.mark.parametrize("headers", [{f"k{n}": "1" for n in range(1000)}, {"k": "x" * 1_000_000}])
def test_what_every_entry_would_carry_is_refused(headers, tree, tmp_path):
    file = written(tmp_path / "a.tar", lambda a: add(a, "f", b"x"), pax_headers=headers)
    with pytest.raises(Problem, match="its global headers are too large") as caught:
        take(file, tree)
    assert caught.value.code == "archive-bomb"


@pytest.mark.parametrize("make", [
    lambda a: [folder(a, f"{'d' * 200}{n}") for n in range(20)],
    lambda a: [add(a, f"{'d' * 200}{n}/f", b"x") for n in range(20)],
])  # fmt: skip
def test_names_of_folders_that_would_fill_the_memory_are_refused(make, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "FOLDER_NAMES", 2000)
    with pytest.raises(Problem, match="its directory names"):
        take(written(tmp_path / "a.tar", make), tree)


def test_too_many_entries_are_refused(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "ENTRIES", 3)
    with pytest.raises(Problem) as caught:
        take(written(tmp_path / "x.tar", lambda a: [add(a, f"f{n}") for n in range(5)]), tree)
    assert caught.value.code == "archive-bomb"


def test_it_ends_before_the_machines_miss_the_room(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "KEEP_FREE", 2**60)
    monkeypatch.setattr(unpack, "LOOK_EVERY", 1)
    with pytest.raises(NoSpace):
        take(written(tmp_path / "x.tar", lambda a: [add(a, "a", bytes(5000)), add(a, "b")]), tree)


def test_a_tool_that_is_missing_is_named_with_its_package(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("NSPAWNPANEL_PATH", str(tmp_path))
    file = tmp_path / "x.tar.xz"
    file.write_bytes(b"\xfd7zXZ\x00....")
    with pytest.raises(Problem) as caught:
        take(file, tree)
    assert (caught.value.code, "xz-utils" in caught.value.hint) == ("tool-missing", True)


# --- disk images


@pytest.mark.parametrize("pack", [None, "gzip"])
def test_a_disk_image_comes_out_with_its_holes(tmp_path, pack):
    content = bytes(3_000_000) + os.urandom(5000) + bytes(4_000_001)
    file = tmp_path / "x.raw"
    file.write_bytes(content)
    if pack:
        subprocess.run([pack, str(file)], check=True)
        file = tmp_path / "x.raw.gz"
    limits = Limits(file.stat().st_size, GIB)
    made = tmp_path / "made.raw"
    with decompress.opened(file, limits) as stream:
        assert decompress.unpack_raw(stream, made, limits, lambda *_: None) == len(content)
    assert made.read_bytes() == content
    assert made.stat().st_blocks * 512 < 3_000_000
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
