"""Settings on their way to another machine: what a clone takes over, and how an archive carries them."""

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import tarfile

import pytest

from machines.contract.configuration import carried
from machines.contract.configuration.carried import Carried

WEB = """# of web
[Exec]
Hostname=web
PrivateUsers=524288:65536
MachineID=0123456789abcdef0123456789abcdef
[Network]
Zone=back
Port=tcp:8080:80
Port=tcp:8443:443
[Files]
Bind=/srv/data
Bind=+/inside:/data
BindReadOnly=/srv/certs
Overlay=/srv/base:/srv/top:/data
Overlay=+/a::/b
"""
SETTINGS = Carried("[Exec]\nEphemeral=yes\n", "[Service]\nMemoryMax=256M\n")


def test_a_clone_has_what_the_original_has_but_for_what_only_one_can_have():
    text, remarks = carried.for_clone(WEB, "web")
    assert text == (
        "# of web\n[Network]\nZone=back\n[Files]\nBind=/srv/data\nBind=+/inside:/data\nBindReadOnly=/srv/certs\n"
        "Overlay=+/a::/b\n"
    )
    assert [remark.line for remark in remarks if remark.left_out] == [
        "Hostname=web", "PrivateUsers=524288:65536", "MachineID=0123456789abcdef0123456789abcdef",
        "Port=tcp:8080:80", "Port=tcp:8443:443", "Overlay=/srv/base:/srv/top:/data",
    ]  # fmt: skip
    assert [(r.line, r.why) for r in remarks if not r.left_out] == [("Bind=/srv/data", "web also writes there")]


@pytest.mark.parametrize("users", ["pick", "yes", "1", "0", "no", "identity"])
def test_users_that_are_no_range_stay(users):
    text = f"[Exec]\nPrivateUsers={users}\n"
    assert carried.for_clone(text, "web") == (text, [])


def test_without_anything_in_the_way_not_a_byte_changes():
    text = "; odd\n[Exec]\n\n[Files]\r\nBindReadOnly=/srv\\\n  /x\nForeign=1\n"
    assert carried.for_clone(text, "web") == (text, [])


def test_what_lies_beside_an_image_gives_no_more_rights_to_a_copy_than_to_the_original():
    text, remarks = carried.trusted_part("[Exec]\nCapability=all\nHostname=x\n[Files]\nBind=/\n[Odd]\nKey=1\n")
    assert text == "[Exec]\nHostname=x\n"
    assert [remark.line for remark in remarks] == ["Capability=all", "Bind=/", "Key=1"]


def test_what_another_host_must_have_is_named():
    text, remarks = carried.for_elsewhere(WEB)
    assert text == WEB
    assert [remark.line for remark in remarks] == [
        "MachineID=0123456789abcdef0123456789abcdef", "Bind=/srv/data", "BindReadOnly=/srv/certs",
    ]  # fmt: skip


# --- archives


def tree() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        about = tarfile.TarInfo("./etc/os-release")
        about.size = 5
        archive.addfile(about, io.BytesIO(b"ID=x\n"))
    return out.getvalue()


def test_what_is_put_before_a_tree_is_found_again():
    packed = carried.head("web", SETTINGS)
    assert carried.read(packed + b"anything that follows") == SETTINGS
    assert carried.head("web", Carried()) == b""


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is the judge")
@pytest.mark.parametrize("settings", [SETTINGS, Carried("# " + "x" * 128_000 + "\n", "[Service]\n" + "#" * 60_000)])
def test_zstd_and_tar_read_it_as_one_archive(settings, tmp_path):
    rest = subprocess.run(["zstd", "-c"], input=tree(), capture_output=True, check=True).stdout
    file = tmp_path / "web.tar.zst"
    file.write_bytes(carried.head("web", settings) + rest)
    listed = subprocess.run(["tar", "--zstd", "-tf", file], capture_output=True, check=True, text=True)
    assert listed.stdout.splitlines() == [
        "./.nspawnpanel/web.nspawn",
        "./.nspawnpanel/systemd-nspawn@web.service.d/50-nspawnpanel.conf",
        "./etc/os-release",
    ]
    assert listed.stderr == ""
    assert carried.read(file.read_bytes()[: carried.LOOKED_AT]) == settings


def plain(names: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in names.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_however_somebody_packed_it_anew(pack):
    data = plain({".nspawnpanel/web.nspawn": SETTINGS.nspawn.encode(), "etc/os-release": b"ID=x\n"})
    assert carried.read(pack(data)) == Carried(SETTINGS.nspawn)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x" * 600, b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\xa0\xff\xff\xff\xff\x01", b"\x1f\x8b\x08junk", b"BZh9junk",
        plain({"etc/.nspawnpanel/web.nspawn": b"[Exec]\n"}),
        plain({".nspawnpanel/deep/web.nspawn": b"[Exec]\n"}),
        plain({".nspawnpanel/web.nspawn": b"\xff\xfe"}),
        plain({".nspawnpanel/web.nspawn": b"[Exec]\0"}),
        plain({".nspawnpanel/web.nspawn": b"#" * 200_000}),
        gzip.compress(bytes(50_000_000)),
    ],
)  # fmt: skip
def test_what_is_no_settings_file_is_nothing(data):
    assert carried.read(data[: carried.LOOKED_AT]) == Carried()


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_headers_without_end_are_nothing(kind):
    """Each of them is read inside the one before."""
    header = tarfile.TarInfo("x")
    header.type = kind
    assert carried.read(header.tobuf(tarfile.GNU_FORMAT) * 1000) == Carried()


def test_a_link_is_no_settings_file():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        about = tarfile.TarInfo(".nspawnpanel/web.nspawn")
        about.type, about.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(about)
    assert carried.read(out.getvalue()) == Carried()
