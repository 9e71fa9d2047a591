"""Packages kept for later builds. apt takes any file of the right name and size, so what it is lent must be the right one."""

import hashlib

import pytest

from machines.host.rootfs.steps import cache
from machines.host.rootfs.systems import apt_lists

TEXT = b"a package"
SUM = hashlib.sha256(TEXT).hexdigest()
NAME = "hello_1%3a2.10~rc-3_amd64.deb"
LIST = """\
Package: hello
Version: 1:2.10~rc-3
Installed-Size: 280
Architecture: amd64
Description: words
 Version: of another line
Filename: pool/main/h/hello/hello_2.10~rc-3_amd64.deb
Size: 9
SHA256: {}

Package: ../../etc/passwd
Version: 1
Architecture: all
SHA256: {}
"""


@pytest.fixture
def names(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "a.example_dists_x_main_binary-amd64_Packages").write_text(LIST.format(SUM, "0" * 64))
    return apt_lists.names(lists)


def build(paths, tmp_path, names, fetches):
    """What a build was lent; it fetches these files besides."""
    lent = cache.link_cached(paths, "apt", tmp_path / "job/packages", names)
    found = {file.name: file.read_bytes() for file in lent.iterdir()}
    for name, data in fetches.items():
        (lent / name).write_bytes(data)
    cache.collect(paths, "apt", lent, 1, names)
    return found


def test_the_lists_say_what_apt_calls_a_file(names):
    assert names == {SUM: NAME}


def test_a_package_is_kept_for_the_next_build_whose_lists_have_it(paths, tmp_path, names):
    assert build(paths, tmp_path, names, {NAME: TEXT}) == {}
    assert build(paths, tmp_path, {}, {}) == {}, "another archive has another hello"
    assert build(paths, tmp_path, names, {}) == {NAME: TEXT}


def test_what_is_not_in_the_signed_lists_is_not_kept(paths, tmp_path, names):
    build(paths, tmp_path, names, {NAME: bytes(len(TEXT)), "libc6_2_amd64.deb": TEXT, "stranger_1_all.deb": b"x"})
    assert list(cache.folder(paths, "apt").iterdir()) == []


def test_a_kept_package_that_is_damaged_is_fetched_anew(paths, tmp_path, names):
    build(paths, tmp_path, names, {NAME: TEXT})
    [kept] = cache.folder(paths, "apt").iterdir()
    kept.write_bytes(bytes(len(TEXT)))  # as a power cut leaves it
    assert build(paths, tmp_path, names, {NAME: TEXT}) == {}
    assert build(paths, tmp_path, names, {}) == {NAME: TEXT}
