"""A clone's form is filled with the original's settings, an archive's with those it carries; only what was shown is ordered."""

import re
from html import unescape
from uuid import uuid4

import pytest

from machines.contract import orders
from machines.contract.configuration import limits
from machines.models import Archive, Job, Machine, ObservedFiles, Revision
from machines.models.revision import sha256
from machines.panel.configs import copied_settings
from tests import make, pages
from tests.panel.machines.test_new import form

URL = "/machines/new/"
HTMX = {"HX-Request": "true"}
WEB = """# hand-made
[Exec]
Hostname=web
Capability=CAP_NET_ADMIN
[Network]
Zone=back
Port=tcp:8080:80
[Files]
Bind=/srv/data
"""
LIMITS = "[Service]\nMemoryMax=256M\n"
SUM = "a" * 64


@pytest.fixture
def alpha(db):
    return make.host("alpha", facts={"systemd": 257, "networkd": True, "interfaces": ["eno1"], "bridges": []})


def file(path: str, text: str, kind: str = "nspawn", **more) -> dict:
    return {"path": path, "kind": kind, "form": "text", "text": text, "sha256": sha256(text), "size": len(text), **more}


@pytest.fixture
def web(alpha) -> Machine:
    """A machine whose files lie on its host and were never applied from here."""
    machine = make.machine("web", on=alpha, image_type="subvolume", nspawn_sha256=sha256(WEB), limits_sha256="absent")
    told = [
        file("/etc/systemd/nspawn/web.nspawn", WEB),
        file("/etc/systemd/system/systemd-nspawn@web.service.d/limits.conf", LIMITS, "dropin"),
    ]
    ObservedFiles.objects.create(machine=machine, told=told)
    return machine


def text(answer) -> str:
    return unescape(pages.text(answer))


def sent(page: str, **fields):
    """The form as a browser sends the page, as far as settings go."""
    found = dict(re.findall(r'<input type="hidden" name="(settings_\w+)" value="([^"]*)"', page))
    if 'name="settings_wanted" value="1" id="id_settings_wanted" checked' in page:
        found["settings_wanted"] = "1"
    mode = re.search(r'name="network_mode" value="(\w+)"[^>]*checked', page)
    target = re.search(r'name="network_target" value="([^"]*)"', page)
    memory = re.search(r'name="memory_max" value="([^"]*)"', page)
    found |= {"network_mode": mode[1] if mode else "veth", "network_target": target[1] if target else ""}
    found |= {"memory_max": memory[1] if memory else "", "notify_ready": None}
    if 'name="binds-0-source"' in page:
        found |= {"binds-TOTAL_FORMS": "1", "binds-0-source": "/srv/data"}
    return form(**found | fields)


def ordered(name: str = "copy") -> orders.Configuration:
    order = orders.from_wire(Job.objects.filter(machine_name=name).latest("pk").order)
    assert isinstance(order, orders.Build)
    return order.configuration


# --- a clone


def test_the_form_of_a_clone_is_filled_and_says_what_is_different(as_admin, web):
    page = text(as_admin.get(f"{URL}?clone=web&host=alpha"))
    assert "Use the settings of web" in page
    assert 'name="network_target" value="back"' in page
    assert 'name="memory_max" value="256M"' in page
    assert 'value="/srv/data"' in page
    assert "<code>Port=tcp:8080:80</code>: web has this port of the host" in page
    assert "<code>Hostname=web</code>: it is the hostname of web; the clone has its own" in page
    assert "<code>Bind=/srv/data</code>: web also writes there" in page
    assert "Capability=CAP_NET_ADMIN" in page


def test_what_was_shown_is_what_is_ordered_also_what_no_field_shows(as_admin, web):
    page = text(as_admin.get(f"{URL}?clone=web&host=alpha"))
    answer = as_admin.post(URL, sent(page, name="copy", source="clone", clone="web", copied="1"))
    assert answer.status_code == 302, text(answer)
    kept = ordered()
    assert "# hand-made\n[Exec]\nCapability=CAP_NET_ADMIN\n" in kept.nspawn
    assert "Zone=back" in kept.nspawn
    assert "Bind=/srv/data" in kept.nspawn
    assert "Port=" not in kept.nspawn
    assert "Hostname=" not in kept.nspawn
    assert "MemoryMax=256M" in kept.limits


def test_a_person_may_start_from_the_defaults(as_admin, web):
    page = text(as_admin.get(f"{URL}?clone=web&host=alpha"))
    data = sent(page, source="clone", clone="web", copied="1", choose="1") | {"network_target": "typed"}
    data.pop("settings_wanted")
    part = text(as_admin.post(URL, data, headers=HTMX))
    assert 'id="settings-part" hx-swap-oob="true"' in part
    assert 'name="settings_key" value=""' in part
    assert 'value="back"' not in part.split('id="settings-part"')[1]
    given = sent(part, name="copy", source="clone", clone="web", copied="1")
    assert as_admin.post(URL, given).status_code == 302
    assert "CAP_NET_ADMIN" not in ordered().nspawn


def test_choosing_another_original_brings_its_settings_and_typing_is_kept_until_then(as_admin, alpha, web):
    make.machine("plain", on=alpha, image_type="subvolume")
    page = text(as_admin.get(f"{URL}?clone=plain&host=alpha"))
    assert "Use the settings" not in page
    other = text(as_admin.post(URL, sent(page, source="clone", clone="web", choose="1"), headers=HTMX))
    assert 'name="network_target" value="back"' in other.split('id="settings-part"')[1]
    same = sent(other, source="clone", clone="web", copied="1", choose="1")
    assert "settings-part" not in text(as_admin.post(URL, same, headers=HTMX))


def test_settings_that_changed_since_are_shown_again_and_not_ordered(as_admin, web):
    page = text(as_admin.get(f"{URL}?clone=web&host=alpha"))
    ObservedFiles.objects.update(told=[file("/etc/systemd/nspawn/web.nspawn", "[Exec]\nCapability=all\n")])
    answer = as_admin.post(URL, sent(page, name="copy", source="clone", clone="web", copied="1"))
    assert answer.status_code == 422
    assert "The settings of web are in the form now; review them, then build." in text(answer)
    assert not Job.objects.exists()
    again = as_admin.post(URL, sent(text(answer), name="copy", source="clone", clone="web", copied="1"))
    assert again.status_code == 302
    assert "Capability=all" in ordered().nspawn


def test_what_lay_beside_the_image_gives_the_clone_no_more_rights(web):
    ObservedFiles.objects.update(told=[file("/var/lib/machines/web.nspawn", WEB)])
    copied = copied_settings.of_machine(web)
    assert "Capability" not in copied.files.nspawn
    assert "Bind" not in copied.files.nspawn
    assert any(remark.line == "Capability=CAP_NET_ADMIN" and remark.left_out for remark in copied.remarks)


def test_what_was_applied_counts_when_the_host_tells_the_same_sums(web):
    applied = Revision(machine=web, number=3, state="applied", nspawn_text="[Exec]\nEphemeral=yes\n")
    applied.save()
    Machine.objects.update(applied=applied, nspawn_sha256=applied.nspawn_sha256)
    web.refresh_from_db()
    assert copied_settings.of_machine(web).files.nspawn == "[Exec]\nEphemeral=yes\n"


def test_a_file_that_cannot_be_read_is_said(as_admin, web):
    told = [file("/etc/systemd/nspawn/web.nspawn", "", form="unreadable", error="It is not a regular file.")]
    ObservedFiles.objects.update(told=told)
    page = text(as_admin.get(f"{URL}?clone=web&host=alpha"))
    assert "/etc/systemd/nspawn/web.nspawn is not used: It is not a regular file." in page


def test_a_drop_in_that_holds_more_than_limits_is_said(web):
    more = "[Service]\nExecStart=\nExecStart=/bin/x\nTasksMax=9\n"
    path = "/etc/systemd/system/systemd-nspawn@web.service.d/override.conf"
    ObservedFiles.objects.update(told=[file("/etc/systemd/nspawn/web.nspawn", WEB), file(path, more, "dropin")])
    copied = copied_settings.of_machine(web)
    assert copied.files.limits == "[Service]\nTasksMax=9\n"
    assert copied.notes == [f"{path} contains more than limits; that part is not used."]


def test_of_a_unit_that_reads_no_settings_file_only_limits_are_taken(web):
    web.unit_command = ["/usr/bin/systemd-nspawn", "--settings=no", "--machine=web"]
    copied = copied_settings.of_machine(web)
    assert (copied.files.nspawn, copied.files.limits) == ("", LIMITS)
    assert copied.notes == ["The unit of web reads no .nspawn file, so only limits are used."]


def test_a_build_that_is_done_again_has_what_it_had(as_admin, web):
    page = text(as_admin.get(f"{URL}?clone=web&host=alpha"))
    as_admin.post(URL, sent(page, name="copy", source="clone", clone="web", copied="1"))
    job = Job.objects.get()
    ObservedFiles.objects.all().delete()
    again = text(as_admin.get(f"{URL}?again={job.pk}"))
    assert 'name="network_target" value="back"' in again
    answer = as_admin.post(URL, sent(again, key=str(uuid4()), name="copy-2", source="clone", clone="web", copied="1"))
    assert answer.status_code == 302, text(answer)
    assert "CAP_NET_ADMIN" in ordered("copy-2").nspawn


# --- an archive


def archive(**fields) -> Archive:
    return Archive.objects.create(
        title="web.tar.zst",
        state="ready",
        size=9,
        received=9,
        sha256=SUM,
        nspawn_text=WEB,
        limits_text=LIMITS,
        **fields,
    )


@pytest.fixture
def address(settings):
    settings.PANEL_URL = "https://panel.example"


def test_an_export_brings_its_settings_with_it(as_admin, web, address):
    made = archive(job=make.job(orders.Export(name="web", url="https://x.example/y", limit=1), on=web.host))
    page = text(as_admin.get(f"{URL}?archive={made.pk}"))
    assert "Use the settings of web.tar.zst" in page
    assert "<code>Bind=/srv/data</code>: the contents of /srv/data are not in the archive" in page
    assert "tcp" in page
    answer = as_admin.post(URL, sent(page, name="copy", source="archive", archive=str(made.pk), copied="1"))
    assert answer.status_code == 302, text(answer)
    assert "MemoryMax=256M" in ordered().limits


def test_what_an_upload_says_of_itself_is_shown_and_not_used_by_itself(as_admin, alpha, address):
    alpha.facts |= {"policy": {"bind_sources": ["/srv/pub"]}}
    alpha.save()
    made = archive()
    page = text(as_admin.get(f"{URL}?archive={made.pk}"))
    assert 'id="id_settings_wanted" checked' not in page
    assert "anybody may have made" in page
    assert "Bind=: " in page  # judged for this host already
    assert "Capability=CAP_NET_ADMIN" in page
    answer = as_admin.post(URL, sent(page, name="copy", source="archive", archive=str(made.pk), copied="1"))
    assert answer.status_code == 302, text(answer)
    assert "CAP_NET_ADMIN" not in ordered().nspawn
    chosen = sent(page, source="archive", archive=str(made.pk), copied="1", choose="1", settings_wanted="1")
    part = text(as_admin.post(URL, chosen, headers=HTMX))
    assert 'value="back"' in part.split('id="settings-part"')[1]


def test_an_archive_without_settings_offers_none(as_admin, alpha, address):
    made = Archive.objects.create(title="x.tar", state="ready", size=9, received=9, sha256=SUM)
    assert "Use the settings" not in text(as_admin.get(f"{URL}?archive={made.pk}"))


@pytest.mark.parametrize(
    ("bytes_", "short"),
    [("67108864", "64M"), ("1073741824", "1G"), ("1536", "1536"), ("0", "0"), ("infinity", "infinity"), ("10%", "10%")],
)
def test_a_limit_that_set_property_left_is_copied_as_people_write_it(bytes_, short):
    assert limits.short("MemoryMax", bytes_) == short
    assert limits.short("TasksMax", bytes_) == bytes_


def test_a_clone_takes_over_a_limit_of_set_property_so_too(web):
    path = "/etc/systemd/system.control/systemd-nspawn@web.service.d/50-MemoryMax.conf"
    limit = {"path": path, "kind": "dropin", "form": "text", "text": "[Service]\nMemoryMax=67108864\n"}
    ObservedFiles.objects.update_or_create(machine=web, defaults={"told": [limit]})
    assert "MemoryMax=64M\n" in copied_settings.of_machine(web).files.limits
