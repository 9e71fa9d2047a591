"""What holds: each setting wanted, on disk and in force, and each difference with its cause and what mends it."""

import time
from datetime import timedelta
from html import unescape

import pytest
from django.utils import timezone

from machines.contract import reports
from machines.contract.configuration import limits
from machines.models import Machine, ObservedFiles
from machines.panel.configs import effective_settings
from machines.panel.courier import completion, intake, machine_facts
from machines.panel.pages import effective_settings_page, machine_page
from tests.panel.configs import cast

pytestmark = pytest.mark.django_db

URL = "/hosts/alpha/machines/web/effective/"
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


def find(machine: Machine, *files: tuple[str, str], **fields) -> ObservedFiles:
    """What a host tells of a machine: the sums of both files with its state, then their texts."""
    sums = {path: cast.sha(text) for path, text, *_ in files}
    Machine.objects.filter(pk=machine.pk).update(
        nspawn_sha256=sums.get(ETC, "absent"), limits_sha256=sums.get(OURS, "absent")
    )
    ObservedFiles.objects.filter(machine=machine).delete()
    return ObservedFiles.objects.create(machine=machine, told=[told(*file) for file in files], **fields)


def run(machine: Machine, **fields) -> Machine:
    values = {"state": "running", "unit": UNIT, "since": timezone.now() - timedelta(hours=1), **fields}
    Machine.objects.filter(pk=machine.pk).update(**values)
    return Machine.objects.select_related("host", "applied").get(pk=machine.pk)


def row(machine: Machine, key: str, *, everything: bool = False) -> effective_settings_page.SettingRow:
    machine = Machine.objects.select_related("host", "applied").get(pk=machine.pk)
    read = effective_settings_page.read(
        machine, ObservedFiles.objects.filter(machine=machine).first(), everything=everything
    )
    return next(each for each in read.rows if each.key == key)


def limit(value: str) -> str:
    return f"[Service]\nMemoryMax={value}\n"


def test_a_limit_of_ours_that_holds(web):
    cast.applied(web, memory_max="512M")
    run(web)
    find(web, STOCK, (OURS, limit("512M")), shown={"MemoryMax": "536870912"}, kernel={"MemoryMax": "536870912"})
    found = row(web, "MemoryMax")
    assert (found.wanted, found.disk, found.effective) == (["512M"], ["512M"], ["512\u00a0MiB"])
    assert (found.source, found.flag, found.confirmed) == ("panel drop-in", "", True)


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
            f"{LATE} sets MemoryMax=1G and is read after the panel's drop-in",
            f"rm {LATE}",
        ),
        (
            [(LEFT, limit("1G")), (OURS, limit("512M"))],
            "1G",
            "takes precedence again with the next reload",
            f"rm {LEFT}",
        ),
        ([(OURS, limit("700M"))], "700M", "The panel's drop-in on the host was changed by hand", ""),
        ([], "infinity", "no longer has this value", ""),
        (
            [(OURS, limit("512M"))],
            "300M",
            "No file sets this",
            f"systemctl set-property --runtime {UNIT} MemoryMax=512M",
        ),
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


@pytest.mark.parametrize(
    ("key", "column", "wanted", "raw"),
    [
        ("MemoryMax", "memory_max", "512M", str(512 << 20)),
        ("MemoryMax", "memory_max", "512M", str((512 << 20) - 4096)),
        ("MemoryMax", "memory_max", "512M", "infinity"),
        ("MemoryMax", "memory_max", "infinity", "infinity"),
        ("MemoryHigh", "memory_high", "50%", str(4 << 30)),
        ("CPUQuota", "cpu_quota", "150%", "1500000"),
        ("CPUQuota", "cpu_quota", "150%", "1000000"),
        ("CPUWeight", "cpu_weight", "idle", "0"),
        ("TasksMax", "tasks_max", "512", "16384"),
        ("IOWeight", "io_weight", "200", "200"),
    ],
)
def test_the_machine_s_page_and_this_one_have_one_verdict_of_a_limit(web, key, column, wanted, raw):
    cast.applied(web, **{column: wanted})
    web.host.facts |= {"memory_total": 8 << 30}
    web.host.save()
    run(web, effective={limits.PROPERTIES[key].shown_as: raw})
    find(web, STOCK, (OURS, f"[Service]\n{key}={wanted}\n"), shown={key: raw})
    summary = next(each for each in machine_page.limit_rows(run(web)) if each.key == key)
    assert summary.holds is (row(web, key).flag == "")


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
    read = effective_settings_page.read(machine, found)
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


def test_the_page_does_not_say_that_everything_holds_while_a_setting_waits_for_the_next_start(as_admin, web):
    run(web)
    found = find(web, (ETC, "[Exec]\nKillSignal=SIGTERM\n", timezone.now().timestamp()))
    page = " ".join(as_admin.get("/hosts/alpha/machines/web/effective/").content.decode().split())
    assert "1 on next start</span> All other settings are in effect." in page
    found.delete()
    find(web, (ETC, "[Exec]\nKillSignal=SIGTERM\n", 1.0))
    assert (
        "</span> All settings are in effect." in as_admin.get("/hosts/alpha/machines/web/effective/").content.decode()
    )


def test_what_systemd_leaves_out_of_a_file_beside_the_image_is_said(web):
    found = find(web, (BESIDE, "[Exec]\nCapability=all\nKillSignal=SIGTERM\nNonsense=1\n[Network]\nZone=a\n"))
    assert {key: row(web, key).flag for key in ("Capability", "Zone", "KillSignal", "Nonsense")} == {
        "Capability": "ignored", "Zone": "ignored", "KillSignal": "", "Nonsense": "ignored",
    }  # fmt: skip
    assert effective_settings.left_out(found.counting) == ["Capability=all", "Zone=a"]


def test_only_the_first_file_counts(web):
    found = find(web, (ETC, "[Exec]\nBoot=yes\n"), (BESIDE, "[Exec]\nBoot=no\n"))
    machine = Machine.objects.select_related("host", "applied").get()
    assert row(web, "Boot").disk == ["yes"]
    assert (
        effective_settings_page.read(machine, found).alarms[0].text
        == f"systemd does not read {BESIDE}: {ETC} takes precedence."
    )


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
    assert "has not reported yet" in as_viewer.get(URL).content.decode()


def test_a_file_of_many_thousand_keys_is_read_in_time(web):
    found = find(web, (ETC, "[Exec]\n" + "".join(f"K{n}=\nK{n}=1\n" for n in range(9000))))
    machine = Machine.objects.select_related("host", "applied").get()
    began = time.monotonic()
    assert len(list(effective_settings_page.read(machine, found).rows)) == effective_settings.UNKNOWN_AT_MOST
    assert time.monotonic() - began < 5


# --- units with a command line of their own

NSPAWN = "/usr/bin/systemd-nspawn"
DROPIN = f"/etc/systemd/system/{UNIT}.d/start.conf"


def starts_with(machine: Machine, words: str, *, since: str = "") -> Machine:
    """A unit whose drop-in rewrites ExecStart=, and a process that was started with `since`, if that is another line."""
    line, earlier = [NSPAWN, *words.split()], [NSPAWN, *(since or words).split()]
    Machine.objects.filter(pk=machine.pk).update(unit_command=line, run_command=earlier)
    return run(machine)


def test_a_file_that_is_not_read_is_not_in_force(web):
    starts_with(web, "--boot --settings=no --machine=web")
    find(web, (ETC, "[Exec]\nHostname=other\n[Network]\nPort=8080\n"), (DROPIN, "[Service]\nExecStart=\nExecStart=x\n"))
    name, port = row(web, "Hostname"), row(web, "Port")
    assert {name.flag, port.flag} == {"ignored"}
    assert (name.effective, port.effective) == ([], [])
    assert "--settings=no" in name.cause
    read = effective_settings_page.read(Machine.objects.get(pk=web.pk), ObservedFiles.objects.get())
    said = " ".join(alarm.text for alarm in read.alarms)
    assert f"{DROPIN} gives it a different command line" in said
    assert "no -U" in said


def test_the_page_of_a_stopped_machine_says_so_too(web):
    starts_with(web, "--boot --settings=no --machine=web")
    Machine.objects.filter(pk=web.pk).update(state="stopped")
    find(web, (ETC, "[Exec]\nHostname=other\n"))
    assert row(web, "Hostname").flag == "ignored"


@pytest.mark.parametrize(
    ("seen", "flag", "effective"),
    [
        ("tcp:8080:80\nudp:53:53", "", ["tcp:8080:80", "udp:53:53"]),
        ("tcp:8080:80", "differs", ["tcp:8080:80"]),
        ("none", "differs", []),
        ("", "", []),
    ],
)
def test_ports_are_in_effect_when_the_kernel_has_a_rule_for_each(web, seen, flag, effective):
    run(web)
    find(web, (ETC, "[Network]\nPort=8080:80\nPort=udp:53\n"), inside={"Network.Port": seen} if seen else {})
    port = row(web, "Port")
    assert port.flag == flag
    assert not flag or "ruleset was flushed" in port.cause
    assert not seen or port.effective == effective


def test_a_setting_of_the_command_line_is_shown_where_the_file_says_nothing(web):
    starts_with(web, "--boot --settings=override --network-bridge=br0 --bind=/srv/a --kill-signal=SIGTERM")
    find(web, inside={"Network.Bridge": "br0", "Network.VirtualEthernet": "yes"})
    bridge, signal = row(web, "Bridge"), row(web, "KillSignal")
    assert (bridge.effective, bridge.source, bridge.confirmed) == (["br0"], "unit: --network-bridge=br0", True)
    assert (signal.effective, signal.confirmed) == (["SIGTERM"], False)
    assert row(web, "PrivateUsers", everything=True).source == "systemd’s default"


def test_without_override_the_command_line_comes_before_the_file(web):
    starts_with(web, "--boot --bind=/srv/a --machine=web")
    find(web, (ETC, "[Files]\nBind=/srv/b\n[Exec]\nHostname=other\n"), inside={"Files.Bind": "/srv/a writable ext4"})
    bind = row(web, "Bind")
    assert (bind.flag, bind.effective, bind.source) == ("ignored", ["/srv/a writable ext4"], "unit: --bind=/srv/a")
    assert "takes precedence over the file" in bind.cause
    assert row(web, "Hostname").flag == ""


def test_what_the_command_line_says_as_well_is_no_mismatch(web):
    starts_with(web, "--boot --settings=no --network-veth")
    find(web, (ETC, "[Network]\nVirtualEthernet=on\n"), inside={"Network.VirtualEthernet": "yes"})
    assert row(web, "VirtualEthernet").flag == ""


def test_trusted_settings_beside_the_image_count_where_the_unit_says_so(web):
    starts_with(web, "--boot --settings=trusted")
    find(web, (BESIDE, "[Files]\nBind=/srv/x\n"), inside={"Files.Bind": "/srv/x writable ext4"})
    assert row(web, "Bind").flag == ""


def test_a_command_line_changed_since_the_start_counts_from_the_next(web):
    starts_with(web, "--boot --settings=no", since="--boot --settings=override")
    find(web, (ETC, "[Exec]\nHostname=other\n"))
    assert row(web, "Hostname").flag == ""
    read = effective_settings_page.read(Machine.objects.get(pk=web.pk), ObservedFiles.objects.get())
    assert any("takes effect on the next start" in alarm.text for alarm in read.alarms)


def test_a_wrapper_is_said_to_be_one(web):
    Machine.objects.filter(pk=web.pk).update(unit_command=["/usr/local/bin/start-web"])
    find(web, (ETC, "[Exec]\nHostname=other\n"))
    read = effective_settings_page.read(Machine.objects.get(pk=web.pk), ObservedFiles.objects.get())
    assert any("/usr/local/bin/start-web starts it" in alarm.text for alarm in read.alarms)


def test_a_masked_unit_is_said_to_be_masked(web):
    find(web)
    ObservedFiles.objects.update(told=[{**told(f"/etc/systemd/system/{UNIT}", ""), "form": "masked"}])
    read = effective_settings_page.read(web, ObservedFiles.objects.get())
    assert [alarm.command for alarm in read.alarms] == [f"systemctl unmask {UNIT}"]


# --- one number for the badge and its page


def counted(machine: Machine) -> tuple[int, int]:
    fresh = Machine.objects.select_related("host", "applied").get(pk=machine.pk)
    return fresh.mismatches, effective_settings_page.read(fresh, ObservedFiles.objects.get(machine=machine)).mismatches


def test_the_badge_follows_the_state_without_a_new_word_of_the_files(web):
    cast.applied(web, memory_max="512M")
    run(web)
    ours = Machine.objects.get().applied
    find(web, STOCK, (ETC, ours.nspawn_text), (OURS, ours.limits_text), shown={"MemoryMax": str(1 << 30)})
    effective_settings.recount(web.pk)
    assert counted(web) == (1, 1)
    machine_facts.refresh(web.host, reports.MachineFact(
        name="web", state="stopped", nspawn_sha256=ours.nspawn_sha256, limits_sha256=ours.limits_sha256
    ))  # fmt: skip
    effective_settings.catch_up(web.host)
    assert counted(web) == (0, 0)


def test_right_after_an_apply_nothing_is_held_against_files_that_are_on_their_way(web, admin):
    cast.applied(web, memory_max="512M")
    run(web)
    before = Machine.objects.get().applied
    find(web, STOCK, (ETC, before.nspawn_text), (OURS, before.limits_text), shown={"MemoryMax": str(512 << 20)})
    draft = cast.draft(web, admin, memory_max="1G", settings={"Exec.Hostname": "other"})
    draft.begin_apply()
    completion.finalize_revision(draft, Machine.objects.get(), written=True, at=timezone.now())
    assert counted(web) == (0, 0)


def test_a_silent_host_s_page_and_badge_have_one_number(as_viewer, web):
    run(web)
    find(web, (ETC, "[Exec]\nNonsense=1\n"))
    effective_settings.recount(web.pk)
    web.host.last_seen = timezone.now() - timedelta(hours=1)
    web.host.save()
    assert counted(web) == (1, 1)
    assert "this is its last report" in unescape(as_viewer.get(URL).content.decode())


def test_they_have_one_number_too_after_the_silence_was_noted(as_viewer, web):
    cast.applied(web, memory_max="512M")
    ours = run(web).applied
    find(web, STOCK, (ETC, ours.nspawn_text), (OURS, ours.limits_text), shown={"MemoryMax": str(1 << 30)})
    effective_settings.recount(web.pk)
    Machine.objects.filter(pk=web.pk).mark_unknown("", timezone.now())
    assert counted(web) == (1, 1)
    row = as_viewer.get("/machines/").content.decode()
    assert "out of sync" not in row  # nothing is claimed of it there


def test_they_have_one_number_when_the_host_says_that_a_limit_is_not_enforced_there_any_more(web):
    run(web)
    find(web, STOCK, (LATE, "[Service]\nManagedOOMSwap=kill\n"))
    effective_settings.recount(web.pk)
    assert counted(web) == (0, 0)
    told = reports.Inventory(
        host=reports.HostFact(lacks={"ManagedOOMSwap": "systemd-oomd"}),
        machines=[reports.MachineFact(name="web", state="running", unit=UNIT, since=Machine.objects.get().since.timestamp())],
    )  # fmt: skip
    intake.TAKE["inventory"](web.host, told, intake.Jobs(web.host))
    web.host.save()
    effective_settings.catch_up(web.host)
    assert counted(web) == (1, 1)


def test_a_restart_is_needed_also_where_silence_came_before_the_outcome(web, admin):
    cast.applied(web, memory_max="512M")
    run(web)
    Machine.objects.filter(pk=web.pk).mark_unknown("", timezone.now())
    draft = cast.draft(web, admin, memory_max="1G", settings={"Exec.Hostname": "other"})
    draft.begin_apply()
    machine = Machine.objects.select_related("applied").get(pk=web.pk)
    completion.finalize_revision(draft, machine, written=True, at=timezone.now())
    assert Machine.objects.get(pk=web.pk).restart_needed


def test_the_live_part_comes_anew_when_the_host_cannot_read_files_any_more(as_viewer, web):
    run(web)
    find(web, STOCK)
    seen = as_viewer.get(URL, headers={"HX-Request": "true"}).context["version"]
    again = {"path": f"{URL}?v={seen}", "headers": {"HX-Request": "true"}}
    assert as_viewer.get(**again).status_code == 204
    web.host.trouble = {"files": "The disk does not answer."}
    web.host.save()
    assert "The disk does not answer." in as_viewer.get(**again).content.decode()


# --- limits that nothing enforces


@pytest.mark.parametrize(
    ("key", "asked", "shown", "lacks", "words"),
    [
        ("MemoryZSwapMax", "256M", str(256 << 20), "memory.zswap.max", "control groups here have no memory.zswap.max"),
        ("MemoryHigh", "300M", str(300 << 20), "cgroup v1", "which has no such limit"),
        ("ManagedOOMSwap", "kill", "kill", "systemd-oomd.service", "systemd-oomd is not running here"),
    ],
)
def test_what_nothing_enforces_is_not_in_force(web, key, asked, shown, lacks, words):
    run(web)
    of_host = {"lacks": {key: lacks}} if lacks.endswith(".service") else {"lacks": {}}
    find(
        web,
        STOCK,
        (OURS, f"[Service]\n{key}={asked}\n"),
        shown={key: shown},
        **({} if of_host["lacks"] else {"lacks": {key: lacks}}),
    )
    web.host.facts |= of_host
    web.host.save()
    found = row(web, key)
    assert (found.flag, found.effective, found.confirmed) == ("differs", [], False)
    assert words in found.cause


def test_no_limit_needs_nothing_to_enforce_it(web):
    run(web)
    find(
        web,
        STOCK,
        (OURS, "[Service]\nMemoryHigh=infinity\n"),
        shown={"MemoryHigh": "infinity"},
        lacks={"MemoryHigh": "memory.high"},
    )
    assert row(web, "MemoryHigh").flag == ""


def test_the_form_and_the_review_say_it_beforehand(as_admin, admin, web):
    web.host.facts |= {
        "lacks": {"MemoryZSwapMax": "memory.zswap.max", "MemoryHigh": "cgroup v1"},
        "systemd": 257,
    }
    web.host.save()
    cast.draft(web, admin, memory_high="300M")
    edit = unescape(as_admin.get("/hosts/alpha/machines/web/config/").content.decode())
    assert "control groups here have no memory.zswap.max" in edit
    review = unescape(as_admin.get("/hosts/alpha/machines/web/config/review/").content.decode())
    assert "<code>MemoryHigh=</code></a> will not be enforced on alpha" in review
