"""A revision: columns and rows to files and back, and only what changed changes."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from machines.contract.configuration import nspawn
from machines.models import BindMount, PortForward, Revision
from machines.models.revision import ABSENT, as_settings, bind_rows, changes, port_rows, sha256

pytestmark = pytest.mark.django_db

FILE = """\
# Written by nspawnpanel, revision 4. A change by hand is kept and shown as drift.
# tuned by hand
[Exec]
Boot=true
PrivateUsers=524288:65536
SystemCallFilter=@keyring

[Network]
Private=1
VirtualEthernet=yes
Zone=shop
Port=tcp:8080:80

[Files]
Volatile=overlay
Bind=/srv/a\\:b:/data:rootidmap
BindReadOnly=/etc/ssl
"""
LIMITS = "[Service]\nMemoryMax=512M\nNice=5\n"


def taken(machine, nspawn_text=FILE, limits_text=LIMITS, **fields) -> Revision:
    """A saved draft out of the two files."""
    draft = Revision(machine=machine)
    draft.take_files(nspawn_text, limits_text)
    for name, value in fields.items():
        setattr(draft, name, value)
    draft.clean()
    draft.save()
    for row in (*bind_rows(nspawn_text), *port_rows(nspawn_text)):
        row.revision = draft
        row.save()
    return draft


def test_files_become_columns_and_rows(web):
    draft = taken(web)
    assert (draft.network_mode, draft.network_target) == ("zone", "shop")
    assert (draft.boot, draft.volatile, draft.private_users) == (True, "overlay", "524288:65536")
    assert (draft.memory_max, draft.cpu_quota) == ("512M", "")
    assert [(b.source, b.target, b.ownership, b.read_only) for b in draft.binds.all()] == [
        ("/srv/a:b", "/data", "rootidmap", False), ("/etc/ssl", "", "", True),
    ]  # fmt: skip
    assert [str(port) for port in draft.ports.all()] == ["tcp:8080:80"]


def test_an_unchanged_revision_writes_the_same_bytes(web):
    draft = taken(web)
    assert draft.render_nspawn() == nspawn.unmark(FILE)
    assert draft.render_limits() == LIMITS


def test_only_the_line_of_a_changed_setting_changes(web):
    draft = taken(web, network_target="web", memory_max="1G")
    assert draft.render_nspawn() == nspawn.unmark(FILE).replace("Zone=shop", "Zone=web")
    assert draft.render_limits() == LIMITS.replace("512M", "1G")


def test_another_mode_takes_its_own_keys_along(web):
    draft = taken(web, network_mode="host", network_target="")
    draft.ports.all().delete()
    text = draft.render_nspawn()
    assert "Zone=" not in text
    assert nspawn.network_mode(nspawn.parse(text)) == ("host", "")
    assert "SystemCallFilter=@keyring" in text


def test_defaults_write_only_what_differs_from_systemds(web):
    draft = Revision.objects.create(machine=web)
    assert draft.render_nspawn() == "[Exec]\nNotifyReady=yes\n\n[Network]\nPrivate=yes\nVirtualEthernet=yes\n"
    assert draft.render_limits() == ""


@pytest.mark.parametrize("said", ["Volatile=no", "Volatile=0", "Volatile=false"])
def test_a_default_spelt_out_is_the_same_to_the_form_and_stays_as_written(web, said):
    draft = taken(web, f"[Files]\n{said}\n", "")
    assert draft.volatile == ""
    assert said in draft.render_nspawn()


def test_other_spellings_of_yes_are_understood(web):
    draft = taken(web, "[Exec]\nEphemeral=on\nPrivateUsers=identity\n[Files]\nVolatile=true\n", "")
    assert (draft.ephemeral, draft.volatile) == (True, "yes")
    assert "Volatile=true" in draft.render_nspawn()


def test_rows_that_are_not_saved_can_be_rendered(web):
    draft = Revision(machine=web)
    text = draft.render_nspawn(
        [BindMount(source="/a"), BindMount(source="/b", read_only=True)], [PortForward(host_port=80)]
    )
    assert as_settings(text, "")["Network.Port"] == "tcp:80"
    assert as_settings(text, "")["Files.BindReadOnly"] == "/b"


def test_an_order_carries_both_files_marked_and_what_they_replace(web):
    draft = taken(web, replaces_nspawn="ab" * 32)
    configuration = draft.configuration(5)
    assert nspawn.revision_of(configuration.nspawn) == 5
    assert nspawn.unmark(configuration.nspawn) == nspawn.unmark(FILE)
    assert (configuration.replaces_nspawn, configuration.replaces_limits) == ("ab" * 32, ABSENT)


def test_it_goes_to_its_host_under_the_next_number_and_keeps_the_texts_word_for_word(web):
    Revision.objects.create(machine=web, number=4, state="applied")
    draft = taken(web)
    configuration = draft.begin_apply()
    draft.refresh_from_db()
    assert (draft.number, draft.state) == (5, "applying")
    assert (draft.nspawn_text, draft.limits_text) == (configuration.nspawn, configuration.limits)
    assert draft.nspawn_sha256 == sha256(configuration.nspawn)


def test_no_limits_no_file(web):
    draft = taken(web, limits_text="", memory_max="")
    assert draft.configuration(5).limits == ""
    draft.begin_apply()
    assert draft.limits_sha256 == ABSENT


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        ({"network_mode": "bridge", "network_target": ""}, "network_target"),
        ({"network_mode": "zone", "network_target": "a-zone-too-long"}, "network_target"),
        ({"network_mode": "macvlan", "network_target": "eth0:lan:x"}, "network_target"),
        ({"private_users": "perhaps"}, "private_users"),
        ({"memory_max": "512"}, "memory_max"),
        ({"cpu_quota": "150"}, "cpu_quota"),
        ({"memory_max": "1G", "memory_high": "1.5G"}, "memory_high"),
        ({"memory_max": "30%", "memory_high": "40%"}, "memory_high"),
    ],
)
def test_a_bad_value_is_refused_on_its_column(web, fields, column):
    with pytest.raises(ValidationError) as refusal:
        Revision(machine=web, **fields).clean()
    assert set(refusal.value.error_dict) == {column}


def test_sizes_that_cannot_be_compared_are_let_be(web):
    Revision(machine=web, memory_max="infinity", memory_high="1G").clean()
    Revision(machine=web, memory_max="1G", memory_high="50%").clean()


@pytest.mark.parametrize("source", ["srv", "/a/../b", "/a\nb", "/a\\", "/" + "a:" * 600])
def test_a_bad_bind_is_refused(source):
    with pytest.raises(ValidationError):
        BindMount(source=source, target="/" + "b" * 1000).clean()


@pytest.mark.parametrize("source", ["/srv", "/with space", "/a:b", "+/inside", "/back\\slash"])
def test_a_bind_comes_back_from_its_line(source):
    bind = BindMount(source=source, target="/x:y", ownership="rootidmap", read_only=True)
    bind.clean()
    (again,) = bind_rows(f"[Files]\nBindReadOnly={bind}\n")
    assert (again.source, again.target, again.ownership, again.read_only) == (source, "/x:y", "rootidmap", True)


@pytest.mark.parametrize(
    ("text", "row"), [("80", ("tcp", 80, None)), ("8080:80", ("tcp", 8080, 80)), ("udp:53", ("udp", 53, None))]
)
def test_a_port_comes_back_from_its_line(text, row):
    (port,) = port_rows(f"[Network]\nPort={text}\n")
    assert (port.protocol, port.host_port, port.machine_port) == row


def test_a_machine_has_one_draft(web):
    Revision.objects.create(machine=web)
    with pytest.raises(IntegrityError), transaction.atomic():
        Revision.objects.create(machine=web)
    with pytest.raises(IntegrityError), transaction.atomic():
        Revision.objects.create(machine=web, state="applying", number=1)
    Revision.objects.create(machine=web, state="applied", number=1)


def test_changes_name_each_setting_that_differs():
    before = as_settings("[Network]\nPort=1\nPort=2\nZone=a\n", LIMITS)
    after = as_settings("[Network]\nPort=2\nPort=3\nZone=a\n[Exec]\nBoot=no\n", "")
    assert changes(before, after) == [
        ("Network.Port", "1\n2", "2\n3"), ("Exec.Boot", "", "no"), ("MemoryMax", "512M", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("volatile", ["yes", "state", "overlay"])
def test_a_volatile_root_brings_no_line_that_nobody_asked_for(web, volatile):
    assert "PrivateUsers" not in taken(web, "", "", volatile=volatile).render_nspawn()


def test_a_file_that_turns_the_user_namespace_off_by_its_owners_is_shown_as_that(web):
    text = "[Files]\nPrivateUsersOwnership=map\n"
    draft = taken(web, text, "")
    assert draft.private_users == "no"
    assert draft.render_nspawn() == text
    draft.private_users = ""
    assert "PrivateUsers=pick\n" in draft.render_nspawn()


def test_owners_that_are_mapped_keep_the_picked_ids(web):
    text = taken(web, "", "", settings={"Files.PrivateUsersOwnership": "map"}).render_nspawn()
    assert "PrivateUsers=pick\n" in text


def test_an_ownership_said_in_the_file_is_left_alone(web):
    draft = taken(web, "[Files]\nVolatile=overlay\nPrivateUsersOwnership=off\n", "")
    assert "PrivateUsersOwnership=off\n" in draft.render_nspawn()
