"""Files that lie under the name of a new machine: none is replaced, or left to act on it, that nobody has seen."""

import time
from types import SimpleNamespace
from uuid import UUID

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.names import MachineName
from machines.contract.orders import SeenFile
from machines.contract.recipes import DebianRecipe, FirstBoot
from machines.contract.reports import Leftover
from machines.host.context.host_context import HostContext, Task
from machines.host.context.job_output import JobOutput
from machines.host.files import belongings, name_files, nspawn_file
from machines.host.files.nspawn_file import Files
from machines.host.system.faults import NameHasFiles

WEB = MachineName("web")
JOB = UUID(int=7)
HAND = "[Exec]\nBoot=no\n"
CONFIGURATION = orders.Configuration(revision=2, nspawn="[Exec]\nBoot=yes\n", limits="[Service]\nMemoryMax=1G\n")
WANTED = nspawn_file.wanted(CONFIGURATION)


def build(becomes: str = "refuse", seen=(), **configuration: str) -> orders.Build:
    return orders.Build(
        name="web", recipe=DebianRecipe(release="sid"), first_boot=FirstBoot(), leftovers=becomes,
        configuration=CONFIGURATION.model_copy(update=configuration),
        seen=[SeenFile(path=str(each.path), sha256=each.sha256) for each in seen],
    )  # fmt: skip


@pytest.fixture
def there(paths):
    """Settings written beforehand, and a limit of an earlier machine."""
    paths.nspawn_file(WEB).write_text(HAND)
    limit = paths.lasting_control / "systemd-nspawn@web.service.d/50-MemoryMax.conf"
    limit.parent.mkdir(parents=True)
    limit.write_text("[Service]\nMemoryMax=64M\n")
    return belongings.of(paths, WEB)


def work(paths, order: orders.Build) -> tuple[HostContext, Task, list[str]]:
    said: list[str] = []
    task = Task(JOB, order, JobOutput(lambda entry: said.append(entry.get("t", ""))), time.time(), time.time() + 60)
    return HostContext(paths, SimpleNamespace(), SimpleNamespace()), task, said


def test_nothing_there_is_nothing_to_decide(paths):
    assert name_files.look(paths, build()) == []


def test_what_nobody_has_seen_is_told_and_refused(paths, there):
    for order in (build(), build("replace"), build("keep", there[:1])):
        with pytest.raises(NameHasFiles, match=r"/web\.nspawn already exists, and 1 more") as caught:
            name_files.look(paths, order)
        told = [Leftover.model_validate(file) for file in caught.value.result["leftovers"]]
        assert [(file.path, file.kind, file.ours) for file in told] == [
            (str(each.path), each.kind, False) for each in there
        ]
    assert nspawn_file.read(paths, WEB) == Files(HAND, "")


def test_what_was_seen_and_has_changed_since_is_refused_as_well(paths, there):
    paths.nspawn_file(WEB).write_text("[Exec]\n")
    with pytest.raises(NameHasFiles, match="was different"):
        name_files.look(paths, build("replace", there))


def test_what_is_replaced_goes_with_copies_and_comes_back_when_the_build_fails(paths, there, programs):
    programs.says("systemctl")
    order = build("replace", there)
    host, task, said = work(paths, order)
    assert name_files.look(paths, order) == there
    assert name_files.to_write(paths, order, there) == WANTED
    assert name_files.to_replace(paths, order, there) == Files()
    name_files.settle(host, task, order, there)
    assert belongings.of(paths, WEB) == []
    assert said[0] == f"Removing {paths.nspawn_file(WEB)}, which already existed"
    task.stop.set()  # somebody has cancelled it, and systemd is told all the same
    name_files.put_back(paths, order, task)
    assert belongings.of(paths, WEB) == there
    assert [call[1] for call in programs.calls()] == ["daemon-reload"] * 2


def test_what_is_kept_stays_and_ours_is_written_only_where_there_is_none(paths, there):
    order = build("keep", there)
    host, task, said = work(paths, order)
    assert name_files.to_write(paths, order, name_files.look(paths, order)) == Files(HAND, WANTED.limits)
    name_files.settle(host, task, order, there)
    assert belongings.of(paths, WEB) == there
    assert said[0].startswith("Keeping ")


def test_a_file_the_draft_was_based_on_is_no_surprise_but_a_link_to_it_is(paths, tmp_path):
    paths.nspawn_file(WEB).write_text(HAND)
    based = build(replaces_nspawn=nspawn_file.sha256(HAND))
    assert name_files.look(paths, based) == []
    paths.nspawn_file(WEB).rename(tmp_path / "managed")
    paths.nspawn_file(WEB).symlink_to(tmp_path / "managed")
    with pytest.raises(NameHasFiles):
        name_files.look(paths, based)
    paths.nspawn_file(WEB).unlink()
    paths.nspawn_file(WEB).symlink_to("/dev/null")
    with pytest.raises(NameHasFiles):
        name_files.look(paths, build())


def test_our_own_files_lying_ready_are_none(paths):
    """A build looks twice, the second time right before it puts them into their places."""
    order = build()
    there = name_files.look(paths, order)
    prepared = nspawn_file.Prepared(paths, WEB, WANTED, Files())
    assert name_files.look(paths, order) == there == []
    prepared.put()
    assert name_files.look(paths, order) == []


def test_files_of_names_without_a_machine_are_told(paths, there):
    paths.nspawn_file(MachineName("db")).write_text(nspawn.mark(HAND, 1))
    (paths.nspawn / ".hidden.nspawn").touch()
    assert belongings.of_nobody(paths, ["db"]) == {"web": there}
    assert set(belongings.of_nobody(paths, [])) == {"db", "web"}
