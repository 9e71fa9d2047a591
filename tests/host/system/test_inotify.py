"""Changes of files are seen at once, in folders that are there and in those that come later with files in them."""

import asyncio

import pytest

from machines.host.system.inotify import EVERY, Folders

UNIT = "systemd-nspawn@web.service.d"


@pytest.fixture
def seen(paths):
    """Do something while the folders are watched; the machines that were called."""

    def watch(act, wanted: str) -> list[str]:
        called: list[str] = []

        async def main() -> None:
            loop, done = asyncio.get_running_loop(), asyncio.Event()

            def changed(name: str) -> None:
                called.append(name)
                if name == wanted:
                    done.set()

            folders = Folders(paths, changed)
            await folders.watch()
            await loop.run_in_executor(None, act)
            await asyncio.wait_for(done.wait(), 5)
            loop.remove_reader(folders._fd)

        asyncio.run(main())
        return called

    return watch


def write(file, text: str = "x") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_file_in_a_folder_that_is_there(paths, seen):
    assert "web" in seen(lambda: write(paths.nspawn / "web.nspawn"), "web")


def test_folders_that_come_at_once_with_their_files(paths, seen):
    assert "web" in seen(lambda: write(paths.lasting_control / UNIT / "50-MemoryMax.conf"), "web")


def test_a_file_in_a_drop_in_folder_that_was_there(paths, seen):
    write(paths.units / UNIT / "a.conf")
    assert "web" in seen(lambda: write(paths.units / UNIT / "b.conf"), "web")


def test_a_folder_that_goes_and_comes_again(paths, seen):
    def again() -> None:
        for _ in range(20):
            write(paths.control / UNIT / "a.conf")
            (paths.control / UNIT / "a.conf").unlink()
            (paths.control / UNIT).rmdir()
        write(paths.control / UNIT / "last.conf")

    assert "web" in seen(again, "web")


def test_a_drop_in_of_the_template_concerns_every_machine(paths, seen):
    assert EVERY in seen(lambda: write(paths.units / "systemd-nspawn@.service.d/a.conf"), EVERY)


def test_what_is_shown_to_the_parser_and_other_units_concern_nobody(paths, seen):
    def noise() -> None:
        write(paths.probes / "np-probe-1.nspawn")
        write(paths.units / "ssh.service.d/a.conf")
        write(paths.nspawn / "web.nspawn")

    called = seen(noise, "web")
    assert not {"np-probe-1", "ssh.service.d", "ssh"} & set(called)
