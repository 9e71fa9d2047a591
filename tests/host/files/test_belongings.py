"""What belongs to a machine's name is found wherever it lies, whoever wrote it, and goes without a trace but for a copy."""

import os
import threading

import pytest

from machines.contract.configuration import nspawn
from machines.contract.names import MachineName
from machines.host.files import belongings, name_files, nspawn_file
from machines.host.system import guarded

WEB = MachineName("web")
UNIT = "systemd-nspawn@web.service"


def write(file, text="[Service]\nMemoryMax=64M\n"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def link(file, target="/usr/lib/systemd/system/systemd-nspawn@.service"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(target)
    return file


@pytest.fixture
def all_of_web(paths):
    """One of everything, with its kind."""
    return {
        write(paths.nspawn_file(WEB), nspawn.mark("[Exec]\n", 3)): "settings",
        link(paths.probes / "web.nspawn", "/dev/null"): "settings",
        write(paths.machines / "web.nspawn", "[Exec]\n"): "settings",
        write(paths.machines / "web.roothash", "00ff"): "verity",
        write(paths.limits_file(WEB), nspawn.mark("[Service]\n", 3)): "drop-in",
        write(paths.units / f"{UNIT}.d/90-mine.conf"): "drop-in",
        write(paths.runtime_units / f"{UNIT}.d/10-run.conf"): "drop-in",
        write(paths.lasting_control / f"{UNIT}.d/50-MemoryMax.conf"): "limit",
        write(paths.control / f"{UNIT}.d/50-CPUQuota.conf"): "limit",
        link(paths.units / UNIT, "/dev/null"): "unit",
        link(paths.units / f"{UNIT}.requires/srv.mount", "/x"): "unit",
        link(paths.units / "machines.target.wants" / UNIT): "autostart",
        link(paths.units / "multi-user.target.wants" / UNIT): "autostart",
        link(paths.runtime_units / "db.service.requires" / UNIT): "autostart",
    }


@pytest.fixture
def of_others(paths):
    return [
        write(paths.nspawn / "web-2.nspawn"),
        write(paths.units / "systemd-nspawn@web-2.service.d/90-mine.conf"),
        write(paths.units / "systemd-nspawn@.service.d/all.conf"),
        link(paths.units / "machines.target.wants/systemd-nspawn@web-2.service"),
        link(paths.units / "multi-user.target.wants/machines.target"),
    ]


def test_everything_of_a_name_is_found_and_nothing_of_another(paths, all_of_web, of_others):
    assert {each.path: each.kind for each in belongings.of(paths, WEB)} == all_of_web
    assert [each.path for each in belongings.of(paths, WEB) if each.ours] == [
        paths.nspawn_file(WEB), paths.limits_file(WEB),
    ]  # fmt: skip


def test_removing_it_leaves_nothing_but_copies_and_what_links_led_to(paths, all_of_web, of_others, tmp_path):
    managed = write(tmp_path / "git/web.nspawn", "[Exec]\n")
    paths.nspawn_file(WEB).unlink()
    link(paths.nspawn_file(WEB), managed)
    keep = paths.state / "removed/web-1"
    assert belongings.remove(belongings.of(paths, WEB), keep) == len(all_of_web)
    assert belongings.of(paths, WEB) == []
    assert [path for path in all_of_web if os.path.lexists(path)] == []
    assert not (paths.units / f"{UNIT}.d").exists()
    assert all(os.path.lexists(path) for path in [*of_others, managed])
    hand = paths.units / f"{UNIT}.d/90-mine.conf"
    assert (keep / hand.relative_to("/")).read_text() == "[Service]\nMemoryMax=64M\n"
    assert (keep / paths.nspawn_file(WEB).relative_to("/")).readlink() == managed
    assert belongings.remove([], keep) == 0


def test_what_was_taken_away_can_be_put_back_but_replaces_nothing(paths, all_of_web):
    before, keep = belongings.of(paths, WEB), paths.state / "removed/web-1"
    belongings.remove(before, keep)
    newer = write(paths.nspawn_file(WEB), "[Exec]\nBoot=no\n")
    assert belongings.put_back(keep) == len(all_of_web) - 1
    assert newer.read_text() == "[Exec]\nBoot=no\n"
    assert [each for each in belongings.of(paths, WEB) if each.path != newer] == before[1:]
    assert (keep / newer.relative_to("/")).read_text() == nspawn.mark("[Exec]\n", 3)  # its only copy
    assert belongings.put_back(keep) == 0
    newer.unlink()
    assert belongings.put_back(keep) == 1
    assert not keep.exists()


def test_of_a_link_that_is_there_again_no_copy_is_kept(paths):
    started, keep = link(paths.units / "machines.target.wants" / UNIT), paths.state / "removed/web-1"
    belongings.remove(belongings.of(paths, WEB), keep)
    link(started)
    assert belongings.put_back(keep) == 0
    assert not keep.exists()


def test_what_is_put_back_is_whole_and_as_private_as_it_was(paths):
    secret, large = write(paths.nspawn_file(WEB), "[Exec]\nEnvironment=TOKEN=x\n"), paths.machines / "web.verity"
    secret.chmod(0o600)
    large.parent.mkdir(exist_ok=True)
    large.write_bytes(bytes(range(256)) * 8192)
    mask = write(paths.units / UNIT, "")
    keep, data = paths.state / "removed/web-1", large.read_bytes()
    assert belongings.remove(belongings.of(paths, WEB), keep) == 3
    assert not any(map(os.path.lexists, (secret, large, mask)))
    assert belongings.put_back(keep) == 3
    assert large.read_bytes() == data
    assert secret.stat().st_mode & 0o777 == 0o600
    assert mask.read_text() == ""


def test_of_an_image_that_goes_too_nothing_large_is_kept(paths):
    write(paths.machines / "web.verity", "x" * 5000)
    keep = paths.state / "removed/web-1"
    assert belongings.remove(belongings.of(paths, WEB), keep, image_too=True) == 0
    assert belongings.of(paths, WEB) == []
    assert not keep.exists()


def test_folders_among_them_and_what_lies_in_those_stay(paths):
    """systemd reads none of it, and what cannot be removed must not stop a removal half-way."""
    old = write(paths.units / f"{UNIT}.d/old/90-mine.conf")
    hand = write(paths.units / f"{UNIT}.d/90-mine.conf")
    assert [each.path for each in belongings.of(paths, WEB)] == [hand]
    belongings.remove(belongings.of(paths, WEB), paths.state / "removed/web-1")
    assert old.exists()
    assert not hand.exists()


def test_names_that_are_no_utf8_are_told_as_far_as_they_can_be(paths):
    folder = paths.units / f"{UNIT}.d"
    hand = write(folder / os.fsdecode(b"caf\xe9.conf"))
    link(folder / "20-link.conf", os.fsdecode(b"/srv/caf\xe9"))
    [told] = name_files.of_nobody(paths, set())
    assert [file.path for file in told.files] == [f"{folder}/20-link.conf", f"{folder}/caf�.conf"]
    belongings.remove(belongings.of(paths, WEB), paths.state / "removed/web-1")
    assert not os.path.lexists(hand)


def test_a_folder_of_links_that_does_not_answer_holds_nobody_up(dead_mount, paths, monkeypatch):
    monkeypatch.setattr(guarded, "SECONDS", 0.2)
    link(paths.units / "multi-user.target.wants", dead_mount)
    told: list = []
    reading = threading.Thread(target=lambda: told.extend(belongings.of(paths, WEB)), daemon=True)
    reading.start()
    reading.join(10)
    assert not reading.is_alive()
    assert [each.target for each in told] == [""]  # whether it holds one nobody knows


def test_a_file_that_blocks_is_found_and_removed(paths):
    os.mkfifo(paths.nspawn_file(WEB))
    [found] = belongings.of(paths, WEB)
    assert (found.kind, found.sha256) == ("settings", "unreadable")
    belongings.remove([found], paths.state / "removed/web-1")
    assert belongings.of(paths, WEB) == []


def test_only_the_last_removals_are_kept(paths):
    for number in range(belongings.KEPT + 3):
        file = write(paths.nspawn_file(WEB))
        os.utime(file)
        belongings.remove(belongings.of(paths, WEB), paths.state / f"removed/web-{number}")
    assert len(os.listdir(paths.state / "removed")) == belongings.KEPT
    assert (paths.state / f"removed/web-{belongings.KEPT + 2}").exists()


def test_two_removals_that_make_room_at_once_are_not_in_each_others_way(paths, monkeypatch):
    write(paths.nspawn_file(WEB))
    really, kept = belongings._entries, paths.state / "removed"
    monkeypatch.setattr(
        belongings, "_entries", lambda folder: [*really(folder), *([kept / "gone"] if folder == kept else [])]
    )
    assert belongings.remove(belongings.of(paths, WEB), kept / "web-1") == 1
    assert not paths.nspawn_file(WEB).exists()


def test_names_are_told_that_something_belongs_to(paths, all_of_web, of_others):
    link(paths.units / "machines.target.wants/systemd-nspawn@gone.service")
    assert belongings.names(paths) == {"web", "web-2", "gone"}


def test_what_a_build_has_lying_ready_stands_in_nobody_s_way(paths):
    """Both files of a machine that is being built lie beside their places until its image is there."""
    ready = nspawn_file.Prepared(
        paths, WEB, nspawn_file.Files("[Exec]\nBoot=yes\n", "[Service]\nMemoryMax=300M\n"), nspawn_file.Files()
    )
    assert belongings.of(paths, WEB) == []
    ready.put()
    assert [each.path for each in belongings.of(paths, WEB)] == [paths.nspawn_file(WEB), paths.limits_file(WEB)]
