"""What /proc says of a process that stands for a machine's first one: this test's own."""

import os

from machines.host.observe import proc_settings


def test_a_process_of_the_host_s_own_reads_as_one_without_isolation():
    seen = proc_settings.read(os.getpid(), {"RootDirectory": "/var/lib/machines/web", "Id": bytes(range(16))}, "")
    assert seen["Network.Private"] == "no"
    assert seen["Exec.Ephemeral"] == "no"
    assert seen["Exec.MachineID"] == "000102030405060708090a0b0c0d0e0f"
    assert "CAP_CHOWN" in seen["Exec.Capability"]
    assert seen["Exec.LimitNOFILE"]


def test_a_process_that_is_gone_says_nothing():
    assert proc_settings.read(2**22 + 1, {}, "[Exec]\nEnvironment=A=b\n").keys() <= {"Exec.Ephemeral"}


def test_only_variables_that_the_file_names_are_looked_for(tmp_path, monkeypatch):
    (tmp_path / "7").mkdir()
    (tmp_path / "7/environ").write_bytes(b"A=b c\0SECRET=x\0")
    monkeypatch.setattr(proc_settings, "PROC", tmp_path)
    assert proc_settings.read(7, {}, "[Exec]\nEnvironment=A=b\n")["Exec.Environment"] == "A=b c"


def test_mounts_are_told_where_the_file_wants_them(tmp_path, monkeypatch):
    (tmp_path / "7").mkdir()
    (tmp_path / "7/mountinfo").write_text(
        "1 0 0:1 / / ro,noatime - overlay overlay rw\n"
        "2 1 0:2 /x /srv/a\\040b ro,noatime shared:1 - ext4 /dev/sda rw\n"
        "3 1 0:3 / /other rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(proc_settings, "PROC", tmp_path)
    seen = proc_settings.read(7, {}, "[Files]\nBindReadOnly=/data:/srv/a b\nBind=/gone\n")
    assert seen["Files.BindReadOnly"] == "/srv/a b read-only ext4"
    assert "Files.Bind" not in seen
    assert (seen["Files.Volatile"], seen["Files.ReadOnly"]) == ("overlay", "yes")


def test_the_last_part_of_a_line_names_the_mount_point():
    assert proc_settings.mount_point("Bind", "/a\\:b") == "/a:b"
    assert proc_settings.mount_point("Bind", "+/a:/b:idmap") == "/b"
    assert proc_settings.mount_point("Overlay", "/a::/c") == "/c"
    assert proc_settings.mount_point("TemporaryFileSystem", "/t:size=1M") == "/t"


def test_cards_are_found_under_the_name_they_have_inside():
    there = ["lo", "mv-eth0", "lan", "mv-enx00112a1b2"]
    wanted = ["eth0 eth1:lan", "enx001122334455", "eth9"]
    assert proc_settings._cards(there, wanted, "mv-") == "eth0 eth1:lan enx001122334455"
    assert proc_settings._cards(there[:2], [], "mv-") == "eth0"
    assert proc_settings._cards(["lo"], ["eth0"], "mv-") == ""
