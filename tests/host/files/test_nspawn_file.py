"""A machine's two files: written whole, kept before they are replaced, removed without a trace."""

import os
from uuid import uuid4

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.problems import Problem
from machines.host.files import generations, nspawn_file
from machines.host.files.generations import Record
from machines.host.files.nspawn_file import Files, Prepared
from machines.host.machine import apply
from machines.host.system.faults import ConfigChanged


def conf(revision: int, text: str, limits: str = "", **based: str) -> orders.Configuration:
    return orders.Configuration(revision=revision, nspawn=text, limits=limits, **based)


def test_both_files_carry_our_first_line_once(paths):
    wanted = nspawn_file.wanted(conf(3, nspawn.mark("[Exec]\nBoot=yes\n", 3), "[Service]\nMemoryMax=1G\n"))
    assert wanted.nspawn.count(nspawn.MANAGED) == 1
    assert nspawn.revision_of(wanted.limits) == 3
    nspawn_file.write(paths, "web", wanted)
    assert nspawn_file.read(paths, "web") == wanted
    assert paths.nspawn_file("web").stat().st_mode & 0o777 == 0o644


def test_an_empty_text_is_no_file(paths):
    nspawn_file.write(paths, "web", Files("a\n", "b\n"))
    nspawn_file.write(paths, "web", Files())
    assert not paths.nspawn_file("web").exists()
    assert not paths.limits_file("web").parent.exists()


def test_other_people_s_drop_ins_stay(paths):
    nspawn_file.write(paths, "web", Files("", "b\n"))
    other = paths.limits_file("web").with_name("90-mine.conf")
    other.write_text("[Service]\n")
    nspawn_file.write(paths, "web", Files())
    assert other.exists()


@pytest.mark.parametrize("follow", [False, True])
def test_a_link_in_the_place_of_the_file_is_never_replaced(paths, tmp_path, follow):
    managed = tmp_path / "git/web.nspawn"
    managed.parent.mkdir()
    managed.write_text("theirs\n")
    paths.nspawn_file("web").symlink_to(managed)
    before = nspawn_file.read(paths, "web")
    if follow:
        Prepared(paths, "web", Files("x\n", ""), before, follow=True).put()
    else:
        with pytest.raises(Problem, match=f"is a symlink to {managed}") as caught:
            Prepared(paths, "web", Files("x\n", ""), before)
        assert caught.value.code == "file-is-link"
    assert managed.read_text() == ("x\n" if follow else "theirs\n")
    assert paths.nspawn_file("web").readlink() == managed
    assert os.listdir(managed.parent) == ["web.nspawn"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to others")
@pytest.mark.parametrize("open_one", ["git", "link"])
def test_a_link_on_whose_way_others_can_write_is_not_written_through(paths, tmp_path, open_one):
    managed = tmp_path / "git/web.nspawn"
    for folder in ("git", "link"):
        (tmp_path / folder).mkdir()
    managed.write_text("theirs\n")
    (tmp_path / "link/web").symlink_to(managed)
    paths.nspawn_file("web").symlink_to(tmp_path / "link/web")
    os.chown(tmp_path / open_one, 65534, 65534)
    with pytest.raises(Problem, match=f"users other than root can write to {tmp_path}/{open_one}"):
        Prepared(paths, "web", Files("x\n", ""), Files("theirs\n", ""), follow=True)
    assert managed.read_text() == "theirs\n"


@pytest.mark.parametrize("target", ["/dev/null", "/nowhere/web.nspawn"])
def test_a_link_that_switches_settings_off_or_leads_nowhere_is_not_written_through(paths, target):
    paths.nspawn_file("web").symlink_to(target)
    with pytest.raises(Problem, match=target):
        Prepared(paths, "web", Files("x\n", ""), Files(), follow=True)
    assert str(paths.nspawn_file("web").readlink()) == target


def test_a_file_somebody_writes_while_ours_lies_ready_is_left_alone(paths):
    prepared = Prepared(paths, "web", Files("ours\n", ""), Files())
    paths.nspawn_file("web").write_text("theirs\n")
    with pytest.raises(Problem, match="has just been changed by someone else"):
        prepared.put()
    prepared.drop()
    assert paths.nspawn_file("web").read_text() == "theirs\n"
    assert os.listdir(paths.nspawn) == ["web.nspawn"]


def test_bytes_that_are_no_text_survive(paths):
    paths.nspawn_file("web").write_bytes(b"[Exec]\n# \xff\n")
    found = nspawn_file.read(paths, "web")
    nspawn_file.write(paths, "db", found)
    assert paths.nspawn_file("db").read_bytes() == b"[Exec]\n# \xff\n"
    assert found.nspawn_sha256 == __import__("hashlib").sha256(b"[Exec]\n# \xff\n").hexdigest()


def test_the_last_twenty_generations_are_kept(paths):
    for number in range(1, 26):
        generations.keep(paths, "web", number, Files(f"{number}\n", ""), Record(job="a"))
    kept = sorted(int(p.name) for p in paths.generations("web").iterdir())
    assert kept == list(range(6, 26))
    assert (paths.generations("web") / "25/web.nspawn").read_text() == "25\n"


def test_a_generation_is_known_again_by_its_job_alone(paths):
    job, other = uuid4(), uuid4()
    replaced = Files("[Exec]\n# \udcff\n", "")
    record = generations.keep(paths, "web", 3, replaced, Record(job=str(job), was_up=True, started=5.5))
    assert generations.of_job(paths, "web", 3, job) == record
    assert generations.of_job(paths, "web", 3, other) is None
    assert generations.of_job(paths, "web", 4, job) is None
    assert record.files == replaced
    noted = generations.note(paths, "web", 3, record, reason="It had no address")
    assert generations.of_job(paths, "web", 3, job) == noted
    assert (noted.started, noted.reason) == (5.5, "It had no address")


def test_a_number_that_is_used_again_keeps_what_is_replaced_now(paths):
    generations.keep(paths, "web", 3, Files("old\n", "old\n"), Record(job=str(uuid4())))
    kept = generations.keep(paths, "web", 3, Files("by hand\n", ""), Record(job=str(uuid4())))
    assert kept.files == Files("by hand\n", "")
    assert (paths.generations("web") / "3/web.nspawn").read_text() == "by hand\n"


def test_half_a_record_is_no_record(paths):
    job = uuid4()
    generations.keep(paths, "web", 3, Files("old\n", ""), Record(job=str(job)))
    (paths.generations("web") / "3" / generations.RECORD).write_text('{"job":')
    assert generations.of_job(paths, "web", 3, job) is None


def test_a_draft_based_on_another_file_writes_nothing():
    found = Files("[Exec]\nBoot=no\n", "")
    order = conf(2, "[Exec]\nBoot=yes\n", replaces_nspawn="absent")
    with pytest.raises(ConfigChanged) as caught:
        apply.check_unchanged("web", order, found, nspawn_file.wanted(order))
    assert caught.value.result == {"found_nspawn": "[Exec]\nBoot=no\n", "found_limits": ""}


def test_applying_twice_is_no_change():
    order = conf(2, "[Exec]\nBoot=yes\n", replaces_nspawn="absent")
    wanted = nspawn_file.wanted(order)
    apply.check_unchanged("web", order, wanted, wanted)
