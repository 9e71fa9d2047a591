"""What is written beside a file that it will replace leaves nothing where the disk is full or has no inodes left."""

import contextlib
import os
import time
from dataclasses import replace
from uuid import uuid4

import pytest

from machines.contract import orders
from machines.host.files import belongings, nspawn_file
from machines.host.files.nspawn_file import Files
from machines.host.reports import ledger
from machines.host.reports.ledger import Ledger
from machines.host.storage import base_images
from machines.host.system import faults
from tests.host import disks
from tests.host.storage.test_base_images import BASE

WITHOUT = {"space": [], "inodes": ["-N", "128"]}
BEFORE, LONG = Files("[Exec]\nBoot=yes\n", "[Service]\nMemoryMax=1G\n"), "#" * 60_000


@pytest.fixture(params=list(WITHOUT))
def disk(request, tmp_path):
    with disks.mounted(tmp_path, "ext4", 20, WITHOUT[request.param]) as where:
        yield where, request.param


def fill(disk, lacks: str) -> None:
    """Until nothing more fits: bytes, or files."""
    with (disk / "ballast").open("wb", buffering=0) as out:
        for size in (1024**2, 4096, 1) if lacks == "space" else ():
            with contextlib.suppress(OSError):
                while True:
                    out.write(b"x" * size)
    for number in range(os.statvfs(disk).f_favail if lacks == "inodes" else 0):
        (disk / f"ballast-{number}").touch()


def make_room(disk) -> None:
    for file in disk.glob("ballast*"):
        file.unlink()


def everything(folder) -> set[str]:
    return {str(file) for file in folder.rglob("*") if "ballast" not in file.name}


def test_files_of_a_machine_stay_as_they_were_and_are_written_once_there_is_room(paths, disk):
    where, lacks = disk
    paths = replace(paths, nspawn=where / "nspawn", units=where / "units")
    nspawn_file.write(paths, "web", BEFORE)
    (where / "units/systemd-nspawn@db.service.d").mkdir()
    (where / "units/systemd-nspawn@db.service.d").rmdir()
    fill(where, lacks)
    before = everything(where)
    for name, wanted in (("web", Files(BEFORE.nspawn + LONG, BEFORE.limits + LONG)), ("db", Files(LONG, LONG))):
        with pytest.raises(OSError, match="No space") as caught:
            nspawn_file.write(paths, name, wanted)
        said = faults.as_problem(caught.value, "").message
        assert said.startswith(f"There {'is no space' if lacks == 'space' else 'are no inodes'} left in {where}/")
        assert everything(where) == before
    assert nspawn_file.read(paths, "web") == BEFORE
    make_room(where)
    nspawn_file.write(paths, "db", Files(LONG, LONG))
    assert nspawn_file.read(paths, "db") == Files(LONG, LONG)


def test_of_a_removal_that_cannot_keep_copies_nothing_is_gone_and_no_copy_is_left(paths, disk):
    where, lacks = disk
    paths = replace(paths, state=where / "state")
    nspawn_file.write(paths, "web", Files(LONG, BEFORE.limits))
    (where / "state/removed").mkdir(parents=True)
    fill(where, lacks)
    before, gone, keep = everything(where), belongings.of(paths, "web"), where / "state/removed/web-1"
    with pytest.raises(OSError, match="No space"):
        belongings.remove(gone, keep)
    assert everything(where) == before
    assert nspawn_file.read(paths, "web") == Files(LONG, BEFORE.limits)
    make_room(where)
    assert belongings.remove(gone, keep) == 2
    assert nspawn_file.read(paths, "web") == Files()


def test_a_base_that_cannot_be_written_down_leaves_no_half_a_record(paths, disk):
    where, lacks = disk
    paths = replace(paths, state=where / "state")
    paths.bases.mkdir(parents=True)
    fill(where, lacks)
    aside = paths.machines / ".nspawnpanel-job.base"
    aside.mkdir()
    with pytest.raises(OSError, match="No space"):
        base_images.publish(paths, replace(BASE, packages=[LONG]), aside)
    assert everything(paths.bases) == set()
    assert list(base_images.every(paths)) == []


@pytest.fixture
def book(tmp_path):
    with disks.mounted(tmp_path, "ext4", 100) as where:
        made = Ledger(where / "ledger.db", host=uuid4(), generation=1)
        yield made
        made.close()


def test_the_ledger_still_writes_down_orders_and_their_ends(book):
    """What it was given beforehand is what it writes into then; that it lives on it is known."""
    where, jobs = book.file.parent, [uuid4() for _ in range(100)]
    assert not book.is_short()
    fill(where, "space")
    for job in jobs:
        with book.writing() as db:
            assert book.take(db, job, orders.to_wire(orders.Start(name="web")), "ada", "accepted")
        with book.writing() as db:
            ledger.end(db, job, {"state": "succeeded", "at": time.time()})
    assert all(book.job(job).ended for job in jobs)
    assert book.is_short()
