"""Seeing what a draft changes: config-review."""

import re
from datetime import timedelta

from django.utils import timezone

from machines.models import BindMount, Machine, ObservedFiles, PortForward, Revision
from machines.models.revision import sha256
from tests import make
from tests.pages import text
from tests.panel.configs import cast

URL = "/hosts/alpha/machines/web/config/review/"


def test_it_shows_each_setting_and_each_line(as_viewer, admin, web):
    cast.applied(web, memory_max="512M")
    made = cast.draft(web, admin, memory_max="1G", network_mode="zone", network_target="shop")
    PortForward.objects.create(revision=made, host_port=8080, machine_port=80)
    page = text(as_viewer.get(URL))
    for said in (
        "MemoryMax=",
        "<code>512M</code>",
        "<code>1G</code>",
        "<code>tcp:8080:80</code>",
        "takes effect immediately",
        "takes effect on restart",
    ):
        assert said in page
    assert '<span class="diff-add">+ Zone=shop' in page
    assert '<span class="diff-del">- MemoryMax=<mark>512M</mark>' in page


def test_it_shows_no_buttons_to_those_who_may_not(as_viewer, as_admin, admin, web):
    cast.draft(web, admin)
    assert "config/apply" not in text(as_viewer.get(URL))
    assert "config/apply" in text(as_admin.get(URL))


def test_without_a_draft_it_leads_to_the_form(as_admin, web):
    assert as_admin.get(URL).url == "/hosts/alpha/machines/web/config/"


def test_a_draft_that_changes_nothing_cannot_be_applied(as_admin, admin, web):
    cast.applied(web, memory_max="512M")
    cast.draft(web, admin)
    page = text(as_admin.get(URL))
    assert "there is nothing to apply" in page
    assert "disabled" in page


def test_it_warns_of_what_will_disappoint(as_admin, admin, web):
    web.host.facts |= {"networkd": False, "memory_total": 1 << 30}
    web.host.save()
    cast.draft(web, admin, memory_max="2G")
    page = text(as_admin.get(URL))
    assert "systemd-networkd is not running on alpha" in page
    assert "is more than the 1\u00a0GiB that alpha has" in page


def test_it_says_that_a_silent_host_will_get_it_later(as_admin, admin, web):
    web.host.last_seen = timezone.now() - timedelta(minutes=5)
    web.host.save()
    cast.draft(web, admin)
    assert "Queue until alpha is back" in text(as_admin.get(URL))


def test_hostile_texts_are_escaped(as_admin, admin, web):
    cast.draft(web, admin, base_nspawn="[Exec]\nX-Evil=<script>alert(1)</script>\n", reason='"><i>')
    page = text(as_admin.get(URL))
    assert "<script>alert" not in page
    assert '"><i>' not in page


def test_what_is_refused_names_the_field_and_keeps_the_button_shut(as_admin, admin, web):
    other = make.machine("db", on=web.host)
    cast.applied(other, base_nspawn="[Network]\nPrivate=yes\nVirtualEthernet=yes\n[Files]\nBind=/srv/shared\n")
    Revision.objects.filter(machine=other).update(nspawn_text="[Files]\nBind=/srv/shared\n")
    made = cast.draft(web, admin)
    BindMount.objects.create(revision=made, source="/srv/shared/mine")
    page = text(as_admin.get(URL))
    assert "lies inside /srv/shared, which db can write to" in page
    assert '/config/#binds"><code>Bind=</code></a>' in page
    assert "Fix the problems above first" in page
    form = text(as_admin.get("/hosts/alpha/machines/web/config/"))
    at_binds = form[form.index('<div id="binds">') :]
    assert "lies inside /srv/shared" in at_binds[: at_binds.index("</fieldset>")]


def test_what_was_applied_already_is_only_a_warning(as_admin, admin, web):
    cast.applied(web, settings={"Network.NamespacePath": "/run/x"})
    cast.draft(web, admin, memory_max="1G", settings={"Network.NamespacePath": "/run/x"})
    page = text(as_admin.get(URL))
    assert "<code>NamespacePath=</code></a> and" in page
    assert "Fix the problems above first" not in page


def test_a_change_of_the_network_of_a_running_machine_offers_the_way_back(as_admin, admin, web):
    web.state, web.addresses = "running", ["10.0.0.2"]
    web.save()
    cast.applied(web)
    cast.draft(web, admin, network_mode="zone", network_target="shop")
    page = text(as_admin.get(URL))
    assert "Apply and restart" in page
    assert re.search(r'name="rollback"[^>]* checked', page)
    assert '<option value="address" selected>' in page


def test_limits_alone_need_no_restart(as_admin, admin, web):
    web.state = "running"
    web.save()
    cast.applied(web)
    cast.draft(web, admin, memory_max="1G")
    assert "Apply and restart" not in text(as_admin.get(URL))


def test_a_change_by_hand_is_shown_before_anybody_applies(as_admin, admin, web):
    cast.applied(web, memory_max="512M")
    cast.draft(web, admin, memory_max="1G")
    written = "[Exec]\nHostname=by-hand\n"
    told = [{"path": "/etc/systemd/nspawn/web.nspawn", "kind": "nspawn", "form": "text", "text": written}]
    told[0]["sha256"] = sha256(written)
    ObservedFiles.objects.create(machine=web, told=told)
    Machine.objects.update(nspawn_sha256=sha256(written), limits_sha256="absent")
    page = text(as_admin.get(URL))
    assert "The files on alpha were changed" in page
    assert "<code>by-hand</code>" in page
    assert "both, differently" in page


# --- what systemd does not read

FOREIGN = "Boot=no\n[Exec]\nHostname=shop\n[Resources]\n# as on the old host\nMemoryLimit=1G\n"


def test_an_old_line_that_systemd_ignores_is_shown_and_stops_nothing(as_admin, admin, web):
    cast.applied(web, base_nspawn=FOREIGN)
    cast.draft(web, admin, base_nspawn=FOREIGN, memory_max="1G")
    page = text(as_admin.get(URL))
    assert "web.nspawn:4" in page
    assert "[Resources] is not a known section" in page
    assert "It was there before and does not block the draft." in page
    assert "It is new" not in page
    assert "disabled" not in page[page.index('id="apply"') :]


def test_a_new_one_keeps_the_button_shut(as_admin, admin, web):
    cast.applied(web)
    cast.draft(web, admin, base_nspawn="[Resources]\nMemoryLimit=1G\n", memory_max="1G")
    page = text(as_admin.get(URL))
    assert "It is new: alpha would refuse it." in page
    assert "disabled" in page[page.index('id="apply"') :]


def test_what_systemd_ignores_is_taken_out_of_the_draft_in_one_step(as_admin, admin, web):
    cast.applied(web, base_nspawn=FOREIGN)
    made = cast.draft(web, admin, base_nspawn=FOREIGN, memory_max="1G")
    seen = re.search(r'name="seen" value="([^"]+)"', text(as_admin.get(URL)))[1]
    answer = as_admin.post("/hosts/alpha/machines/web/config/clean/", {"seen": seen})
    assert answer.url == URL
    made.refresh_from_db()
    kept = made.render_nspawn()
    assert not any(gone in kept for gone in ("Boot=no", "[Resources]", "MemoryLimit"))
    assert "# as on the old host\n" in kept
    assert made.memory_max == "1G"
    again = as_admin.post("/hosts/alpha/machines/web/config/clean/", {"seen": seen})
    assert again.status_code == 409


def test_a_port_of_a_machine_that_was_not_configured_here_is_taken_all_the_same(as_admin, admin, web):
    """By a file that its host has told of, or by its unit's command line."""
    hand, line = (make.machine(name, on=web.host) for name in ("hand", "line"))
    file = {
        "path": "/run/systemd/nspawn/hand.nspawn",
        "kind": "nspawn",
        "form": "text",
        "text": "[Network]\nPort=8081\n",
    }
    ObservedFiles.objects.create(machine=hand, told=[file])
    Machine.objects.filter(pk=line.pk).update(unit_command=["systemd-nspawn", "--settings=no", "-n", "--port=8082:80"])
    made = cast.draft(web, admin, network_mode="veth")
    for port in (8081, 8082):
        PortForward.objects.create(revision=made, host_port=port)
    page = text(as_admin.get(URL))
    assert "Port 8081/tcp of alpha is already used by hand" in page
    assert "Port 8082/tcp of alpha is already used by line" in page
    Machine.objects.filter(pk__in=[hand.pk, line.pk]).update(state="missing")  # nothing of them can start
    assert "is already used by" not in text(as_admin.get(URL))
