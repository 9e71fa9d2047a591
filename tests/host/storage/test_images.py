"""Where images are and why they are read-only: what needs no machined."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from machines.contract import names
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.storage import images
from machines.host.storage.images import Location
from machines.host.system import guarded

WEB = MachineName("web")


@pytest.fixture
def folders(paths, tmp_path):
    moved = replace(paths, images_before=(tmp_path / "etc",), images_after=(tmp_path / "usr",))
    for folder in moved.image_folders:
        folder.mkdir(parents=True, exist_ok=True)
    return moved


def location(path: str = "/var/lib/machines/web", **about) -> Location:
    given = {"name": WEB, "path": Path(path), "real": Path(path), "type": "directory", "read_only": True, **about}
    return Location(**{"read_only_by": "mark", "in_pool": True, **given})


def test_other_images_of_the_name_are_named(folders):
    shown = folders.machines / "web"
    for path in (shown, folders.raw_image(WEB), folders.images_after[0] / "web", folders.machines / "web-2"):
        path.mkdir()
    assert images.hidden(folders, WEB, shown) == [folders.raw_image(WEB), folders.images_after[0] / "web"]
    assert images._namesakes(folders)["web"] == [shown, folders.raw_image(WEB), folders.images_after[0] / "web"]


def test_a_folder_that_cannot_be_listed_hides_nothing_else(folders):
    folders.images_before[0].rmdir()
    (folders.machines / "web").mkdir()
    assert images._namesakes(folders) == {"web": [folders.machines / "web"]}


def test_read_only_below_usr_is_systemds_own_rule(tmp_path):
    assert images.read_only_by(Path("/usr/lib/machines/web")) == "vendor"
    assert images.read_only_by(Path("/usr")) == "vendor"
    assert images.read_only_by(tmp_path) == "mark"


@pytest.mark.parametrize(
    ("about", "code", "word"),
    [
        ({"read_only_by": "vendor"}, "image-read-only", "below /usr"),
        ({"read_only_by": "mount"}, "image-read-only", "mounted read-only"),
    ],
)
def test_what_no_command_can_change_is_said_before_one_is_run(about, code, word):
    with pytest.raises(Problem, match=word) as raised:
        images.check_changeable(location(**about), to="be made writable")
    assert raised.value.code == code
    assert "/var/lib/machines/web cannot be made writable" in raised.value.message


def test_a_mark_can_be_taken_off():
    images.check_changeable(location(), to="be made writable")


def test_a_link_is_named_with_where_it_leads(tmp_path):
    link = tmp_path / "web"
    link.symlink_to("/srv/web")
    with pytest.raises(Problem, match=f"{link} is only a symlink to /srv/web"):
        images.check_changeable(location(str(link), real=Path("/srv/web")), to="be made read-only")


def test_an_image_is_known_by_its_time_and_its_inode(tmp_path):
    inode = os.stat(tmp_path).st_ino
    assert images.image_id(tmp_path, 17) == f"17-{inode}"
    assert images.image_id(tmp_path, images.INFINITE) == f"0-{inode}"
    assert images.image_id(tmp_path / "gone", 17) == "17-0"


@pytest.mark.parametrize(
    ("name", "words", "better"),
    [
        ("work_dev", "its name contains _", "work-dev"),
        ("my shop", "its name contains a space", "my-shop"),
        ("-web-", "begins or ends with a dash", "web"),
        ("a" * 70, "has 70 characters", "a" * 60),
        ("localhost", "refers to the host itself", "my-localhost"),
    ],
)
def test_an_image_that_cannot_be_a_machine_says_why_and_what_would_help(name, words, better):
    assert not names.is_usable(name)
    told = images.why_unusable(name)
    assert words in told
    assert told.endswith(f" {better}")


def test_a_folder_of_images_that_does_not_answer_holds_up_no_job(folders, dead_mount, monkeypatch):
    monkeypatch.setattr(guarded, "SECONDS", 0.2)
    folders.raw_image(WEB).touch()
    far, told = replace(folders, images_after=(dead_mount,)), []
    looking = threading.Thread(target=lambda: told.extend(images.hidden(far, WEB, folders.image(WEB))), daemon=True)
    looking.start()
    looking.join(20)
    assert not looking.is_alive()
    assert told == [folders.raw_image(WEB)]
