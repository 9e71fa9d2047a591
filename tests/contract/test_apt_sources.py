"""The host's own sources, in both of apt's formats."""

from machines.contract import apt_sources
from machines.contract.apt_sources import Source

ONE_LINE = """\
# a comment
deb http://mirror.example/debian bookworm main contrib # trailing
deb-src http://mirror.example/debian bookworm main
deb [signed-by=/usr/share/keyrings/x.gpg arch=amd64] https://mirror.example/debian/ bookworm-updates main
#deb http://off.example/debian bookworm main
deb http://security.debian.org/debian-security bookworm-security main
"""
DEB822 = """\
Types: deb deb-src
# http://snapshot.example
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main

Types: deb
URIs: https://other.example/node_20.x
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
"""


def folder(tmp_path, **files):
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        where = tmp_path if name == "sources_list" else tmp_path / "sources.list.d"
        (where / name.replace("_", ".")).write_text(text)
    return tmp_path


def test_it_reads_one_line_per_source():
    assert list(apt_sources.parse_one_line(ONE_LINE)) == [
        Source("http://mirror.example/debian", "bookworm", ("main", "contrib")),
        Source("https://mirror.example/debian", "bookworm-updates", ("main",)),
        Source("http://security.debian.org/debian-security", "bookworm-security", ("main",)),
    ]


def test_it_reads_stanzas():
    assert [(s.uri, s.suite) for s in apt_sources.parse_deb822(DEB822)] == [
        ("http://mirror.example/debian", "trixie"),
        ("http://mirror.example/debian", "trixie-updates"),
        ("http://mirror.example/debian-security", "trixie-security"),
        ("https://other.example/node_20.x", "nodistro"),
    ]


def test_it_writes_them_for_another_release(tmp_path):
    found = apt_sources.for_release("bookworm", apt_sources.read(folder(tmp_path, debian_sources=DEB822)))
    assert [(s.uri, s.suite) for s in found] == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://mirror.example/debian-security", "bookworm-security"),
    ]


def test_sid_has_neither_updates_nor_security(tmp_path):
    found = apt_sources.for_release("sid", apt_sources.read(folder(tmp_path, sources_list=ONE_LINE)))
    assert [s.suite for s in found] == ["sid"]


def test_a_host_without_debian_has_none(tmp_path):
    ubuntu = folder(tmp_path, ubuntu_list="deb http://archive.ubuntu.com/ubuntu noble main\n")
    assert apt_sources.for_release("trixie", apt_sources.read(ubuntu)) == []
    assert apt_sources.archive(apt_sources.read(ubuntu)) == ""


def test_an_unreadable_file_is_empty(tmp_path):
    (folder(tmp_path) / "sources.list").mkdir()
    assert apt_sources.read(tmp_path) == []


def test_only_what_reaches_the_mirror_is_carried():
    dump = (
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://u:p@proxy:3128";\n'
        'Acquire::https::CaInfo "/x.pem";\nAcquire::http::User-Agent "q";\nAcquire::Check-Valid-Until "false";\n'
    )
    assert apt_sources.carried(dump).splitlines() == [
        'Acquire::http::Proxy "http://u:p@proxy:3128";',
        'Acquire::https::CaInfo "/x.pem";',
        'Acquire::Check-Valid-Until "false";',
    ]
