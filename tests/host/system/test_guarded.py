"""Paths that others shape: what would block, never end or lead astray costs nobody else anything."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from machines.host.system import faults, guarded
from machines.host.system.guarded import Unreadable


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def sparse(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(5 * 1024**3)
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def leading_to(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (fifo, "It is a FIFO, not a regular file."),
        (lambda path: leading_to(path, str(fifo(path.with_name("pipe")))), "It is a FIFO, not a regular file."),
        (lambda path: leading_to(path, "/dev/zero"), "It is a device, not a regular file."),
        (lambda path: leading_to(path, "/etc"), "It is a directory, not a regular file."),
        (sparse, "It is larger than 1024 KiB."),
        (loop, "Too many levels of symbolic links."),
    ],
)
def test_what_is_no_settings_file_is_refused_with_the_reason(tmp_path, make, reason):
    with pytest.raises(OSError, match=reason[:20]) as raised:
        guarded.whole(make(tmp_path / "web.nspawn"))
    assert guarded.reason(raised.value) == reason


def test_a_fifo_in_the_place_of_a_folder_is_no_folder(tmp_path):
    assert not guarded.is_folder(fifo(tmp_path / "nspawn"))
    with pytest.raises(NotADirectoryError):
        guarded.names(tmp_path / "nspawn")
    assert not guarded.is_there(tmp_path / "nspawn/web.nspawn")


def test_a_link_to_dev_null_is_an_empty_file_as_for_systemd(tmp_path):
    assert guarded.whole(leading_to(tmp_path / "web.nspawn", "/dev/null")) == b""


def test_what_is_missing_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        guarded.whole(tmp_path / "nothing")
    leading_to(tmp_path / "dangling", "nowhere")
    assert guarded.is_there(tmp_path / "dangling")


def test_a_link_beside_an_image_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(OSError, match="symbolic links"):
        guarded.whole(leading_to(tmp_path / "web.nspawn", "secret"), follow=False)


def test_a_read_that_hangs_is_tried_once_and_again_when_it_has_come_back():
    back, tried = threading.Event(), []

    def work() -> str:
        tried.append(1)
        back.wait(30)
        return "text"

    with pytest.raises(Unreadable, match=r"It does not respond\."):
        guarded.call("/slow", work, seconds=0.05)
    with pytest.raises(Unreadable):
        guarded.call("/slow", work)
    assert guarded.call("/other", lambda: "other") == "other"
    assert len(tried) == 1
    back.set()
    until(lambda: not guarded._hanging)
    assert guarded.call("/slow", work) == "text"


def test_when_too_many_hang_everything_is_refused_at_once(monkeypatch):
    back = threading.Event()
    monkeypatch.setattr(guarded, "THREADS", 3)
    monkeypatch.setattr(guarded, "_room", threading.BoundedSemaphore(3))
    for number in range(3):
        with pytest.raises(Unreadable):
            guarded.call(f"/disk/{number}", lambda: back.wait(30), seconds=0.05)
    last = threading.Thread(target=lambda: guarded.seems_there(Path("/other")), daemon=True)
    monkeypatch.setattr(guarded, "SECONDS", 25)
    last.start()
    last.join(10)
    assert not last.is_alive()
    back.set()
    until(lambda: not guarded._hanging)
    assert guarded.call("/other", lambda: "other") == "other"
    until(lambda: guarded._room._value == 3)


def test_a_job_that_meets_such_a_path_names_it(tmp_path):
    with pytest.raises(Unreadable) as raised:
        guarded.whole(fifo(tmp_path / "web.nspawn"))
    problem = faults.as_problem(raised.value, "")
    assert problem.message == f"{tmp_path}/web.nspawn cannot be read: It is a FIFO, not a regular file."
    assert problem.code == "unreadable"


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_mount_that_hangs_costs_one_thread_however_many_files_lead_into_it(dead_mount, tmp_path, monkeypatch):
    monkeypatch.setattr(guarded, "SECONDS", 0.3)
    files = [leading_to(tmp_path / f"{number}.nspawn", f"{dead_mount}/{number}") for number in range(50)]
    for file in files:
        with pytest.raises(Unreadable) as raised:
            guarded.whole(file)
        assert guarded.reason(raised.value) == f"{dead_mount} does not respond."
    assert len(guarded._hanging) == 1
    files[0].unlink()  # which helps at once
    assert not guarded.is_there(files[0])
    (tmp_path / "healthy.nspawn").write_text("[Exec]\n")
    assert guarded.whole(tmp_path / "healthy.nspawn") == b"[Exec]\n"
