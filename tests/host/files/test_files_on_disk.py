"""Files of this host, read as they are: which there are, in which order systemd reads them, and not a byte lost."""

import os

from machines.contract.reports import FILE_LIMIT
from machines.host.files import files_on_disk
from machines.models.found import File


def write(file, text="x\n"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_nspawn_files_come_in_systemds_order_of_search(paths):
    for folder in (paths.machines, paths.probes, paths.nspawn):
        write(folder / "web.nspawn")
    assert [f.parent for f in files_on_disk.nspawn_files(paths, files_on_disk.Places("web", paths.machines))] == [
        paths.nspawn,
        paths.probes,
        paths.machines,
    ]
    assert list(files_on_disk.nspawn_files(paths, files_on_disk.Places("other", paths.machines))) == []


def test_dropins_are_sorted_by_name_whatever_their_folder_and_the_first_folder_hides_a_namesake(paths):
    unit = "systemd-nspawn@web.service.d"
    first = write(paths.lasting_control / unit / "50-MemoryMax.conf")
    ours = write(paths.units / unit / "50-nspawnpanel.conf")
    write(paths.vendor_units[0] / unit / "50-nspawnpanel.conf")
    everyone = write(paths.units / "systemd-nspawn@.service.d/10-all.conf")
    write(paths.vendor_units[0] / unit / "70-hidden.conf")
    (paths.units / unit / "70-hidden.conf").symlink_to("/dev/null")
    write(paths.units / unit / "no-dropin.txt")
    assert files_on_disk.dropins(paths, "web") == [everyone, first, ours]


def test_the_machines_own_unit_goes_before_the_template(paths):
    template = write(paths.vendor_units[0] / "systemd-nspawn@.service")
    assert list(files_on_disk.unit_files(paths, "web")) == [template]
    own = write(paths.units / "systemd-nspawn@web.service")
    assert list(files_on_disk.unit_files(paths, "web")) == [own]


def test_no_byte_is_lost(paths):
    for data in (b"[Exec]\r\nBoot=yes", b"\xff\xfe\n", b"a\0b", "Ünicode\n".encode()):
        told = files_on_disk.read(write(paths.nspawn / "web.nspawn", data), "nspawn")
        assert File(**told.model_dump()).bytes == data
        assert told.size == len(data)


def test_what_cannot_be_told_whole_says_so(paths):
    told = files_on_disk.read(write(paths.nspawn / "web.nspawn", b"#" * (FILE_LIMIT + 1)), "nspawn")
    assert (told.form, told.text) == ("long", "")
    (paths.nspawn / "web.nspawn").unlink()
    os.mkfifo(paths.nspawn / "web.nspawn")
    told = files_on_disk.read(paths.nspawn / "web.nspawn", "nspawn")
    assert (told.form, told.error) == ("unreadable", "It is a FIFO, not a regular file.")


def test_a_link_beside_an_image_is_not_followed(paths, tmp_path):
    secret = write(tmp_path / "secret", "secret")
    (paths.machines / "web.nspawn").symlink_to(secret)
    [told] = files_on_disk.files(paths, "web")
    assert told.form == "unreadable"
    assert told.text == ""


def test_all_files_of_a_machine_fit_into_one_report(paths):
    for number in range(files_on_disk.DROPINS_AT_MOST + 10):
        write(paths.units / "systemd-nspawn@web.service.d" / f"{number:02}.conf", "\x01" * 60_000)
    told = files_on_disk.files(paths, "web")
    assert len(told) == files_on_disk.DROPINS_AT_MOST
    assert {file.form for file in told} == {"text", "long"}
    assert sum(len(file.model_dump_json()) for file in told) < 1024 * 1024


def test_a_name_that_is_no_utf8_is_told_as_far_as_it_can_be(paths):
    write(paths.units / "systemd-nspawn@web.service.d" / os.fsdecode(b"caf\xe9.conf"), "[Service]\n")
    [dropin] = [file for file in files_on_disk.files(paths, "web") if file.kind == "dropin"]
    assert dropin.path.endswith("/caf�.conf")
    assert dropin.text == "[Service]\n"
