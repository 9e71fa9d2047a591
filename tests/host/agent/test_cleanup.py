"""What jobs leave that were killed goes; what belongs to somebody else stays."""

import os
import time
from uuid import UUID, uuid4

import pytest

from machines.contract import orders
from machines.contract.names import MachineName
from machines.contract.recipes import DebianRecipe, FirstBoot
from machines.host.agent import cleanup
from machines.host.context import remnants
from machines.host.files import belongings, nspawn_file
from machines.host.files.nspawn_file import Files
from machines.host.reports import job_log, ledger
from machines.host.rootfs import build
from machines.host.storage import pool
from machines.host.system.faults import CommandFailed

WEB = MachineName("web")
CONFIGURATION = orders.Configuration(revision=3, nspawn="[Exec]\nBoot=yes\n", limits="")
BUILD = orders.Build(
    name="web", recipe=DebianRecipe(release="sid"), first_boot=FirstBoot(), configuration=CONFIGURATION
)  # fmt: skip
WANTED = nspawn_file.wanted(CONFIGURATION)
THEIRS = Files(nspawn="[Exec]\nBoot=no\n")


@pytest.fixture
def machines(paths):
    paths.machines.mkdir(exist_ok=True)
    return paths.machines


def taken(spool, job: UUID | None = None) -> ledger.Row:
    job = job or uuid4()
    with spool.ledger.writing() as db:
        spool.ledger.take(db, job, orders.to_wire(BUILD), "ada", "accepted")
    return spool.ledger.job(job)


def ended(spool, row: ledger.Row, state: str) -> None:
    with spool.ledger.writing() as db:
        ledger.end(db, row.id, {"state": state, "at": time.time()})


def names(folder) -> set[str]:
    return set(os.listdir(folder)) if folder.exists() else set()


# --- after a job


@pytest.mark.parametrize("before", [Files(), THEIRS], ids=["nothing", "a file of somebody else"])
def test_the_files_of_a_machine_that_never_came_to_be_are_what_they_were(before, paths, spool, machines):
    row = taken(spool)
    nspawn_file.write(paths, WEB, before)
    nspawn_file.keep(paths.job(row.id), before)
    nspawn_file.write(paths, WEB, WANTED)
    (paths.nspawn / ".web.nspawn.new").write_text("half a fi")
    cleanup.clear(paths, row, succeeded=False)
    assert nspawn_file.read(paths, WEB) == before
    assert names(paths.nspawn) == ({"web.nspawn"} if before.nspawn else set())
    assert not paths.job(row.id).exists()


def test_files_a_build_never_touched_stay_even_when_they_say_the_same(paths, spool, machines):
    """It was refused for them before it wrote anything."""
    nspawn_file.write(paths, WEB, WANTED)
    cleanup.clear(paths, taken(spool), succeeded=False)
    assert nspawn_file.read(paths, WEB) == WANTED


def test_what_a_killed_build_took_away_is_back(paths, spool, machines, programs, tmp_path):
    programs.says("systemctl")
    row, managed = taken(spool), tmp_path / "managed.nspawn"
    managed.write_text("[Exec]\n")
    paths.nspawn_file(WEB).symlink_to(managed)
    before = belongings.of(paths, WEB)
    nspawn_file.keep(paths.job(row.id), Files())
    belongings.remove(before, paths.removed(WEB, row.id))
    nspawn_file.write(paths, WEB, WANTED)
    cleanup.clear(paths, row, succeeded=False)
    assert belongings.of(paths, WEB) == before
    assert names(paths.state / "removed") == set()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_removal_that_ended_early_gives_the_link_back_unless_it_can_only_be_finished(
    paths, spool, machines, programs, hidden
):
    programs.says("systemctl")
    job = uuid4()
    with spool.ledger.writing() as db:
        spool.ledger.take(db, job, orders.to_wire(orders.Remove(name="web")), "ada", "accepted")
    link = paths.units / "machines.target.wants/systemd-nspawn@web.service"
    link.parent.mkdir()
    link.symlink_to("/x")
    belongings.remove(belongings.of(paths, WEB), paths.removed(WEB, job))
    (paths.aside(job) if hidden else paths.image(WEB)).mkdir()
    cleanup.clear(paths, spool.ledger.job(job), succeeded=False)
    assert names(machines) == (set() if hidden else {"web"})
    assert link.is_symlink() is not hidden
    assert (names(paths.state / "removed") == set()) is not hidden


def test_files_of_a_machine_that_is_there_and_files_changed_since_stay(paths, spool, machines):
    row = taken(spool)
    nspawn_file.write(paths, WEB, THEIRS)
    cleanup.clear(paths, row, succeeded=False)
    assert nspawn_file.read(paths, WEB) == THEIRS
    nspawn_file.write(paths, WEB, WANTED)
    (machines / "web").mkdir()  # somebody else's: this job failed because the name was taken
    cleanup.clear(paths, row, succeeded=False)
    assert nspawn_file.read(paths, WEB) == WANTED


def test_what_dead_processes_showed_to_systemd_s_parsers_goes(paths, spool, machines):
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    for pid in (dead, os.getpid()):
        paths.probes.mkdir(exist_ok=True)
        (paths.probes / f"np-probe-{pid}-00ff.nspawn").touch()
        (paths.scratch / f"lint-{pid}-00ff" / "web.service.d").mkdir(parents=True)
    cleanup.clear(paths, taken(spool), succeeded=True)
    assert names(paths.probes) == {f"np-probe-{os.getpid()}-00ff.nspawn"}
    assert names(paths.scratch) == {f"lint-{os.getpid()}-00ff"}


# --- at the worker's start


def test_trees_of_jobs_that_have_ended_go_and_those_of_others_stay(paths, spool, machines):
    over, open_, alive, unknown = taken(spool).id, taken(spool).id, uuid4(), uuid4()
    ended(spool, spool.ledger.job(over), "failed")
    for job in (over, open_, alive, unknown):
        (machines / f".nspawnpanel-{job}.tmp" / "etc").mkdir(parents=True)
        (machines / f".#.nspawnpanel-{job}.tmp.lck").touch()
    (machines / "web").mkdir()
    cleanup.sweep(paths, spool.ledger, lambda job: job == alive, remnants.Remnants())
    kept = {f".nspawnpanel-{job}.tmp" for job in (open_, alive)} | {
        f".#.nspawnpanel-{job}.tmp.lck" for job in (open_, alive)
    }
    assert names(machines) == kept | {"web"}


@pytest.mark.skipif(os.geteuid() != 0, reason="marks of trees are root's")
def test_a_name_that_a_power_cut_took_back_is_given_again_but_never_twice(paths, spool, machines):
    row = taken(spool)
    ended(spool, row, "succeeded")
    tree = paths.unfinished(row.id)
    for text in ("the first", "another"):
        tree.mkdir()
        (tree / "hostname").write_text(text)
        os.setxattr(tree, build.MARK, str(row.id).encode())
        cleanup.sweep(paths, spool.ledger, lambda _: False, remnants.Remnants())
    assert names(machines) == {"web"}
    assert (machines / "web" / "hostname").read_text() == "the first"


def test_a_base_of_which_nothing_is_known_goes_unless_a_job_may_be_making_it(paths, spool, machines):
    tree = paths.base("0123456789abcdef")
    tree.mkdir()
    row = taken(spool)
    cleanup.sweep(paths, spool.ledger, lambda _: False, remnants.Remnants())
    assert tree.exists()
    ended(spool, row, "failed")
    cleanup.sweep(paths, spool.ledger, lambda _: False, remnants.Remnants())
    assert not tree.exists()


def test_a_base_that_cannot_be_removed_keeps_no_other_one(paths, spool, machines, monkeypatch):
    trees = [paths.base(letter * 16) for letter in "ab"]
    for tree in trees:
        tree.mkdir()
    really, tried = pool.clear, []

    def clear(tree):
        tried.append(tree)
        if len(tried) == 1:
            raise CommandFailed(["rm"], 1, "it is in use")
        really(tree)

    monkeypatch.setattr(pool, "clear", clear)
    told = remnants.Remnants()
    assert cleanup.sweep(paths, spool.ledger, lambda _: False, told)
    assert [(each.path, each.why) for each in told.told()] == [(str(tried[0]), "rm ended with status 1. it is in use")]
    assert [tree.exists() for tree in trees] == [tree == tried[0] for tree in trees]


def test_what_is_gone_at_last_is_told_no_more(paths, spool, machines, monkeypatch):
    """Its reason is told anew only when it is another one, since when it is there never changes."""
    tree, told = machines / f".nspawnpanel-{uuid4()}.tmp", remnants.Remnants()
    tree.mkdir()
    with monkeypatch.context() as stuck:
        for number, why in enumerate(("in use", "in use", "read-only")):
            stuck.setattr(pool, "clear", lambda tree, why=why: raises(OSError(16, why, f"{tree}/swap")))
            assert cleanup.sweep(paths, spool.ledger, lambda _: False, told) is (number != 1)
            assert told.told()[0].why == f"swap: {why}"
    assert cleanup.sweep(paths, spool.ledger, lambda _: False, told)
    assert told.told() == []
    assert not tree.exists()


def raises(error: Exception) -> None:
    raise error


def test_what_cannot_be_removed_keeps_neither_the_files_nor_another_tree_of_its_job(
    paths, spool, machines, monkeypatch
):
    row, really = taken(spool), pool.clear
    for path in (paths.unfinished(row.id), paths.unfinished_base(row.id)):
        path.mkdir()
    nspawn_file.keep(paths.job(row.id), THEIRS)
    nspawn_file.write(paths, WEB, WANTED)
    monkeypatch.setattr(
        pool, "clear", lambda path: raises(OSError(1, "no", str(path))) if path.suffix == ".tmp" else really(path)
    )
    with pytest.raises(OSError, match="no"):
        cleanup.clear(paths, row, succeeded=False)
    assert names(machines) == {f".nspawnpanel-{row.id}.tmp"}
    assert nspawn_file.read(paths, WEB) == THEIRS
    assert not paths.job(row.id).exists()


def test_a_base_only_a_newer_worker_can_read_stays(paths, spool, machines):
    tree = paths.base("0123456789abcdef")
    tree.mkdir()
    paths.bases.mkdir(parents=True)
    (paths.bases / "0123456789abcdef.json").write_text('{"id": "0123456789abcdef", "of_tomorrow": 1}')
    cleanup.sweep(paths, spool.ledger, lambda _: False, remnants.Remnants())
    assert tree.exists()


def test_a_new_pool_of_a_job_that_has_ended_goes(paths, spool, machines):
    over, open_ = taken(spool), taken(spool)
    ended(spool, over, "failed")
    for row in (over, open_):
        paths.new_pool(row.id).touch()
    cleanup.sweep(paths, spool.ledger, lambda _: False, remnants.Remnants())
    assert not paths.new_pool(over.id).exists()
    assert paths.new_pool(open_.id).exists()


def test_files_of_ended_jobs_that_a_power_cut_brought_back_go_but_no_log(paths, spool, machines):
    over, open_ = taken(spool), taken(spool)
    for row in (over, open_):
        (paths.job(row.id) / "tmp").mkdir(parents=True)
        for name in ("apt.conf", job_log.FILE):
            (paths.job(row.id) / name).touch()
    ended(spool, over, "succeeded")
    cleanup.sweep(paths, spool.ledger, lambda _: False, remnants.Remnants())
    assert names(paths.job(over.id)) == {job_log.FILE}
    assert names(paths.job(open_.id)) == {"tmp", "apt.conf", job_log.FILE}
