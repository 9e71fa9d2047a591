"""The draft as text: config-raw."""

import pytest
from django.urls import reverse

from machines.models import Revision
from tests import make
from tests.panel.configs import cast
from tests.panel.configs.posts import post

URL = "/hosts/alpha/machines/web/config/raw/"
FORM = "/hosts/alpha/machines/web/config/"
TEXT = """\
# tuned by hand
[Exec]
Boot = on
Hostname=shop
Environment="GREETING=two words"
X-Later=stays

[Network]
Zone=shop
Port=8080:80

[Files]
Bind=/srv/a:
Inaccessible=/srv/secret
"""
LIMITS = "[Service]\n# tight\nMemoryMax=1G\nIODeviceWeight=/dev/sda 200\n"


def send(client, web, nspawn=TEXT, limits=LIMITS, **more):
    data = {
        "seen": cast.stamp(web),
        "nspawn": nspawn.replace("\n", "\r\n"),
        "limits": limits.replace("\n", "\r\n"),
        **more,
    }
    return client.post(URL, data)


def test_text_is_kept_byte_for_byte_and_becomes_fields(as_admin, web):
    assert send(as_admin, web).status_code == 302
    draft = Revision.objects.get(machine=web)
    assert (draft.render_nspawn(), draft.render_limits()) == (TEXT, LIMITS)
    assert (draft.network_mode, draft.network_target, draft.memory_max) == ("zone", "shop", "1G")
    assert draft.value("Exec.Hostname") == "shop"
    assert [str(port) for port in draft.ports.all()] == ["tcp:8080:80"]
    page = as_admin.get(FORM).content.decode()
    assert 'value="two words"' in page
    assert "Exec.X-Later=stays" in page
    assert "# tuned by hand" in as_admin.get(URL).content.decode()


def test_a_field_changed_in_the_form_changes_one_line_of_the_text(as_admin, web):
    send(as_admin, web)
    data = {
        "network_mode": "zone",
        "network_target": "shop",
        "memory_max": "1G",
        "notify_ready": None,
        "binds": [("/srv/a", "", "", False)],
    }
    answer = as_admin.post(
        FORM, post(seen=cast.stamp(web), ports=[("tcp", 8080, 80)], **data) | {"Exec.Hostname": "store"}
    )
    assert answer.status_code == 302, answer.content.decode()
    draft = Revision.objects.get(machine=web)
    assert draft.render_nspawn() == TEXT.replace("Hostname=shop", "Hostname=store")
    assert draft.render_limits() == LIMITS


def test_a_bad_line_is_named_and_nothing_is_kept(as_admin, web):
    answer = send(as_admin, web, nspawn="[Exec]\nPrivateUsers=piick\n<b>garbage</b>\n")
    page = answer.content.decode()
    assert answer.status_code == 422
    assert "Line 2: Give pick" in page
    assert "Line 3: “&lt;b&gt;garbage" in page
    assert "PrivateUsers=piick" in page
    assert not Revision.objects.exists()


def test_what_was_applied_is_shown_before_there_is_a_draft(as_viewer, web):
    cast.applied(web, memory_max="512M")
    page = as_viewer.get(URL).content.decode()
    assert "MemoryMax=512M" in page
    assert "VirtualEthernet=yes" in page
    assert "Written by nspawnpanel" not in page
    assert "Save draft" not in page


def test_the_first_line_of_ours_is_not_doubled(as_admin, web):
    revision = cast.applied(web)
    assert send(as_admin, web, nspawn=revision.nspawn_text, limits="").status_code == 302
    assert Revision.objects.get(machine=web, state="draft").render_nspawn() == revision.render_nspawn()


@pytest.mark.parametrize(("then", "name"), [("review", "config-review"), ("form", "config-edit"), ("", "config-raw")])
def test_it_goes_on_where_it_was_asked_to(as_admin, web, then, name):
    assert send(as_admin, web, then=then).url == reverse(name, args=["alpha", "web"])


def test_a_newer_draft_is_not_overwritten(as_admin, web):
    seen = cast.stamp(web)
    theirs = cast.draft(web, make.user("bob", role="administrator"), memory_max="2G")
    answer = send(as_admin, web, seen=seen)
    page = answer.content.decode()
    theirs.refresh_from_db()
    assert answer.status_code == 409
    assert "bob saved a newer draft in the meantime" in page
    assert "# tuned by hand" in page
    assert theirs.memory_max == "2G"


def test_it_needs_the_right_to_configure(as_viewer, web):
    assert send(as_viewer, web).status_code == 403
    assert not Revision.objects.exists()


def test_files_of_somebody_else_are_left_alone(as_admin, web):
    web.nspawn_sha256 = "ab" * 32
    web.save()
    assert as_admin.get(URL).status_code == 302
    assert not Revision.objects.exists()
