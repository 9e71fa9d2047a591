"""Which files a tidy may take: drop-ins of this machine's unit that people left, as they were seen, and never ours."""

import hashlib

import pytest

from machines.contract import orders
from machines.contract.problems import Problem
from machines.host.machine import remove_dropins
from machines.host.system.paths import DROPIN

UNIT = "systemd-nspawn@web.service.d"
TEXT = "[Service]\nMemoryMax=1G\n"


def old(path, text: str = TEXT) -> orders.OldDropin:
    return orders.OldDropin(path=str(path), sha256=hashlib.sha256(text.encode()).hexdigest())


def test_drop_ins_of_this_machine_may_go(paths):
    for folder in (paths.lasting_control, paths.control, paths.units):
        file = folder / UNIT / "50-MemoryMax.conf"
        assert remove_dropins._check(paths, "web", old(file)) == file


def test_nothing_else_may(paths):
    for path in (
        paths.units / UNIT / DROPIN,
        paths.units / UNIT / "10-nspawnpanel-binds.conf",
        paths.units / "systemd-nspawn@other.service.d/x.conf",
        paths.units / "systemd-nspawn@.service.d/x.conf",
        paths.units / UNIT / "../ssh.service.d/x.conf",
        paths.units / UNIT / "sub/x.conf",
        paths.units / UNIT / "x.txt",
        paths.units / UNIT / ".conf",
        f"{paths.units}//{UNIT}/x.conf",
        paths.vendor_units[0] / UNIT / "x.conf",
        "/etc/passwd",
    ):
        with pytest.raises(Problem) as refusal:
            remove_dropins._check(paths, "web", old(path))
        assert refusal.value.code == "dropin-refused"


def test_only_the_file_that_was_seen_goes(paths, tmp_path):
    file = paths.units / UNIT / "60-late.conf"
    file.parent.mkdir(parents=True)
    assert remove_dropins._read(file, old(file)) == ""
    file.write_text(TEXT)
    assert remove_dropins._read(file, old(file)) == TEXT
    with pytest.raises(Problem, match="has been changed since"):
        remove_dropins._read(file, old(file, "something else"))
    file.rename(tmp_path / "aside")
    file.symlink_to(tmp_path / "aside")
    with pytest.raises(Problem, match="cannot be read"):
        remove_dropins._read(file, old(file))


def test_a_copy_stays(paths):
    file = paths.lasting_control / UNIT / "50-MemoryMax.conf"
    remove_dropins._keep(paths, "web", file, TEXT)
    assert (paths.generations("web") / "dropins/lasting-control/50-MemoryMax.conf").read_text() == TEXT
