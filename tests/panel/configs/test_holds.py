"""What holds: each setting wanted, on disk and in force, and each difference with its cause and what mends it."""

import time
from datetime import timedelta
from html import unescape

import pytest
from django.utils import timezone

from machines.models import Found, Machine
from machines.panel import holds
from tests.panel.configs import cast

pytestmark = pytest.mark.django_db

URL = "/hosts/alpha/machines/web/holds/"
ETC = "/etc/systemd/nspawn/web.nspawn"
BESIDE = "/var/lib/machines/web.nspawn"
UNIT = "systemd-nspawn@web.service"
OURS = f"/etc/systemd/system/{UNIT}.d/50-nspawnpanel.conf"
LATE = f"/etc/systemd/system/{UNIT}.d/60-late.conf"
LEFT = f"/etc/systemd/system.control/{UNIT}.d/50-MemoryMax.conf"
STOCK = ("/lib/systemd/system/systemd-nspawn@.service", "[Service]\nTasksMax=16384\nDevicePolicy=closed\n")


def told(path: str, text: str, changed: float = 1.0) -> dict:
    kind = "nspawn" if path.endswith(".nspawn") else "dropin" if path.endswith(".conf") else "unit"
    return {"path": path, "kind": kind, "form": "text", "text": text, "sha256": cast.sha(text), "size": len(text), "changed": changed, "error": ""}  # fmt: skip


def find(machine: Machine, *files: tuple[str, str], **fields) -> Found:
    Found.objects.filter(machine=machine).delete()
    return Found.objects.create(machine=machine, told=[told(*file) for file in files], **fields)


def run(machine: Machine, **fields) -> Machine:
    values = {"state": "running", "unit": UNIT, "since": timezone.now() - timedelta(hours=1), **fields}
    Machine.objects.filter(pk=machine.pk).update(**values)
    return Machine.objects.select_related("host", "applied").get(pk=machine.pk)


def row(machine: Machine, key: str, *, everything: bool = False) -> holds.Row:
    machine = Machine.objects.select_related("host", "applied").get(pk=machine.pk)
    read = holds.read(machine, Found.objects.filter(machine=machine).first(), everything=everything)
    return next(each for each in read.rows if each.key == key)


def limit(value: str) -> str:
    return f"[Service]\nMemoryMax={value}\n"


def test_a_limit_of_ours_that_holds(web):
    cast.applied(web, memory_max="512M")
    run(web)
    find(web, STOCK, (OURS, limit("512M")), shown={"MemoryMax": "536870912"}, kernel={"MemoryMax": "536870912"})
    found = row(web, "MemoryMax")
    assert (found.wanted, found.disk, found.effective) == (["512M"], ["512M"], ["512\u00a0MiB"])
    assert (found.source, found.flag, found.confirmed) == ("our drop-in", "", True)


@pytest.mark.parametrize(
    ("files", "shown", "cause", "command"),
    [
        (
            [(LEFT, limit("1G"))],
            "1G",
            "“systemctl set-property” left it there",
            f"rm {LEFT} && systemctl daemon-reload",
        ),
        (
            [(OURS, limit("512M")), (LATE, limit("1G"))],
            "1G",
            f"{LATE} sets MemoryMax=1G and is read after ours",
            f"rm {LATE}",
        ),
        ([(LEFT, limit("1G")), (OURS, limit("512M"))], "1G", "wins again with the next reload", f"rm {LEFT}"),
        ([(OURS, limit("700M"))], "700M", "changed our drop-in", ""),
        ([], "infinity", "does not say so any more", ""),
        ([(OURS, limit("512M"))], "300M", "No file says so", f"systemctl set-property --runtime {UNIT} MemoryMax=512M"),
    ],
)
def test_a_limit_that_is_not_what_was_asked_says_why_and_what_mends_it(web, files, shown, cause, command):
    cast.applied(web, memory_max="512M")
    run(web)
    raw = shown if shown == "infinity" else str(int(shown[:-1]) << (30 if shown[-1] == "G" else 20))
    find(web, STOCK, *files, shown={"MemoryMax": raw}, kernel={"MemoryMax": raw})
    found = row(web, "MemoryMax")
    assert found.flag == "differs"
    assert cause in found.cause
    assert found.command.startswith(command)


def test_the_kernel_has_the_last_word(web):
    cast.applied(web, memory_max="512M")
    run(web)
    find(web, (OURS, limit("512M")), shown={"MemoryMax": "536870912"}, kernel={"MemoryMax": "infinity"})
    found = row(web, "MemoryMax")
    assert found.flag == "differs"
    assert found.effective == ["no limit"]
    assert "the kernel enforces no limit" in found.cause


def test_files_that_systemd_has_not_read_yet(web):
    cast.applied(web, memory_max="512M")
    run(web)
    find(web, (OURS, limit("512M")), shown={"MemoryMax": "infinity"}, needs_reload=True)
    assert row(web, "MemoryMax").command == "systemctl daemon-reload"


def test_a_limit_of_somebody_else_is_shown_with_its_place(web):
    run(web)
    find(web, STOCK, (LEFT, limit("1G")), shown={"MemoryMax": str(1 << 30), "TasksMax": "16384"})
    found = row(web, "MemoryMax")
    assert (found.wanted, found.disk, found.source, found.flag) == ([], ["1G"], "set-property", "")
    assert row(web, "TasksMax", everything=True).source == "unit file"


def test_a_machine_started_by_hand_is_flagged_with_the_cause(web):
    cast.applied(web, memory_max="512M")
    machine = run(web, unit="machine-web.scope")
    found = find(web, (OURS, limit("512M")), shown={"MemoryMax": "infinity"})
    read = holds.read(machine, found)
    assert "It runs in machine-web.scope, not in systemd-nspawn@web.service" in read.alarms[0].text
    assert "started by hand" in row(web, "MemoryMax").cause


def test_a_setting_that_the_process_shows_is_confirmed_or_flagged(web):
    run(web)
    text = "[Exec]\nPrivateUsers=no\n[Files]\nTemporaryFileSystem=/opt\n"
    find(web, (ETC, text), inside={"Exec.PrivateUsers": "no"})
    assert row(web, "PrivateUsers").confirmed
    missing = row(web, "TemporaryFileSystem")
    assert (missing.flag, "journalctl" in missing.command) == ("differs", True)


def test_what_was_written_after_the_start_waits_for_the_next(web):
    run(web)
    find(web, (ETC, "[Exec]\nKillSignal=SIGTERM\n", timezone.now().timestamp()))
    assert row(web, "KillSignal").flag == "waits"


def test_what_systemd_leaves_out_of_a_file_beside_the_image_is_said(web):
    found = find(web, (BESIDE, "[Exec]\nCapability=all\nKillSignal=SIGTERM\nNonsense=1\n[Network]\nZone=a\n"))
    assert {key: row(web, key).flag for key in ("Capability", "Zone", "KillSignal", "Nonsense")} == {
        "Capability": "ignored", "Zone": "ignored", "KillSignal": "", "Nonsense": "ignored",
    }  # fmt: skip
    assert holds.left_out(found.counting) == ["Capability=all", "Zone=a"]


def test_only_the_first_file_counts(web):
    found = find(web, (ETC, "[Exec]\nBoot=yes\n"), (BESIDE, "[Exec]\nBoot=no\n"))
    machine = Machine.objects.select_related("host", "applied").get()
    assert row(web, "Boot").disk == ["yes"]
    assert holds.read(machine, found).alarms[0].text == f"systemd does not read {BESIDE}: {ETC} comes first."


def test_the_page_shows_it_all(as_viewer, web):
    cast.applied(web, memory_max="512M")
    run(web)
    find(web, STOCK, (ETC, "[Exec]\nBoot=yes\n<script>"), (LEFT, limit("1G")), shown={"MemoryMax": str(1 << 30)})
    page = unescape(as_viewer.get(URL).content.decode())
    assert "“systemctl set-property” left it there" in page
    assert f"rm {LEFT}" in page
    assert "<script>" not in as_viewer.get(URL).content.decode().split("<main", 1)[1]
    assert "IOWeight" not in page
    assert "IOWeight" in as_viewer.get(f"{URL}?all=1").content.decode()


def test_the_page_of_a_machine_whose_files_were_not_told_yet(as_viewer, web):
    assert "has not told yet" in as_viewer.get(URL).content.decode()


def test_a_file_of_many_thousand_keys_is_read_in_time(web):
    found = find(web, (ETC, "[Exec]\n" + "".join(f"K{n}=\nK{n}=1\n" for n in range(9000))))
    machine = Machine.objects.select_related("host", "applied").get()
    began = time.monotonic()
    assert len(list(holds.read(machine, found).rows)) == holds.UNKNOWN_AT_MOST
    assert time.monotonic() - began < 5
