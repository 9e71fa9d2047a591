"""An image packed by the real tools: what is in the file, and what happens when it grows too large."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import pytest

from machines.contract import orders
from machines.contract.configuration import carried
from machines.contract.configuration.carried import Carried
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.context.host_context import Task
from machines.host.context.job_output import Entry, JobOutput
from machines.host.rootfs import export
from machines.host.rootfs.export import Source
from machines.host.storage import decompress, unpack
from machines.host.storage.decompress import Limits
from machines.host.storage.images import Location

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("zstd"), reason="owners and device nodes are root's, and zstd packs"
)
GIB = 1024**3


@pytest.fixture
def said() -> list[Entry]:
    return []


def source_of(path: Path) -> Source:
    image = Location(MachineName("web"), path, path, "directory", read_only=False, read_only_by="", in_pool=True)
    return Source(image, path)


@pytest.fixture
def task(said) -> Task:
    order = orders.Export(name="web", url="https://panel.example/transfer/x/", limit=GIB)
    now = time.time()
    return Task(uuid4(), order, JobOutput(said.append), now, now + 60)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    top = tmp_path / "web"
    (top / "dev").mkdir(parents=True)
    os.mknod(top / "dev/null", 0o20666, os.makedev(1, 3))
    (top / "etc/dev").mkdir(parents=True)
    (top / ".nspawnpanel").mkdir()
    (top / ".nspawnpanel/old.nspawn").write_text("of an archive that was unpacked by hand")
    (top / "etc/dev/kept").write_text("kept")
    (top / "etc/random").write_bytes(os.urandom(3_000_000))
    os.setxattr(top, "trusted.nspawnpanel.job", b"a job")
    os.setxattr(top / "etc/random", "user.note", b"a note")
    return top


def test_what_is_packed_can_be_unpacked(machine, task, tmp_path):
    file, tree = tmp_path / "file", tmp_path / "tree"
    export._pack(task, source_of(machine), file, GIB)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    tree.mkdir()
    limits = Limits(file.stat().st_size, GIB)
    with decompress.opened(file, limits) as stream:
        tally = unpack.unpack(stream, tree, limits, lambda *_: None)
    assert (tree / "etc/random").read_bytes() == (machine / "etc/random").read_bytes()
    assert os.getxattr(tree / "etc/random", "user.note") == b"a note"
    assert (tree / "etc/dev/kept").read_text() == "kept"
    assert list((tree / "dev").iterdir()) == []
    assert (tally.left_out, tally.dropped) == (0, set())


def test_settings_go_first_and_do_not_come_out_in_the_tree(machine, task, tmp_path):
    file, tree, settings = (
        tmp_path / "file",
        tmp_path / "tree",
        Carried("[Exec]\nEphemeral=yes\n", "[Service]\nTasksMax=9\n"),
    )
    export._pack(task, source_of(machine), file, GIB, carried.head("web", settings))
    assert carried.read(file.read_bytes()[: carried.LOOKED_AT]) == settings
    tree.mkdir()
    limits = Limits(file.stat().st_size, GIB)
    with decompress.opened(file, limits) as stream:
        tally = unpack.unpack(stream, tree, limits, lambda *_: None)
    assert sorted(path.name for path in tree.iterdir()) == ["dev", "etc"]
    assert tally.settings[0] == ".nspawnpanel/web.nspawn"


def test_how_far_it_is_is_progress_and_not_log(machine, task, said, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "CHECKPOINT", 50)
    export._pack(task, source_of(machine), tmp_path / "file", GIB)
    assert [entry["k"] for entry in said if entry["k"] == "line"] == []
    notes = [entry["note"] for entry in said if entry["k"] == "progress"]
    assert notes
    assert notes[0].endswith("of 3 MiB packed")


@pytest.mark.parametrize("raw", [False, True])
def test_it_ends_at_its_limit(machine, task, tmp_path, raw):
    source = machine / "etc/random" if raw else machine
    with pytest.raises(Problem) as caught:
        export._pack(task, source_of(source), tmp_path / "file", 1_000_000)
    assert caught.value.code == "archive-too-large"
    assert (tmp_path / "file").stat().st_size <= 1_000_000


def test_a_disk_image_is_packed_as_it_is(task, tmp_path):
    image, file = tmp_path / "web.raw", tmp_path / "file"
    image.write_bytes(bytes(2_000_000) + os.urandom(50_000))
    export._pack(task, source_of(image), file, GIB)
    assert subprocess.run(["zstd", "-dc", str(file)], capture_output=True, check=True).stdout == image.read_bytes()


def test_a_name_stays_one_word_behind_the_options(tmp_path):
    argv = export.zstd(tmp_path / "--rm")
    assert argv[-2:] == ["--", str(tmp_path / "--rm")]
