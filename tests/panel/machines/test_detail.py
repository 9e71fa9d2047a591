from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.models import BindMount, Machine, PortForward, Revision
from machines.panel.pages import machine_page
from tests import make
from tests.pages import text

URL = "/hosts/alpha/machines/web/"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def web(alpha):
    """A running machine with an applied configuration."""
    web = make.machine(
        "web", on=alpha, state="running", since=timezone.now() - timedelta(days=3, hours=4), unit="systemd-nspawn@web.service",
        addresses=["10.0.0.14", "fd00::14"], os="Debian 12", leader=4711, memory_bytes=412 << 20, tasks=31, image_type="subvolume",
    )  # fmt: skip
    revision = Revision.objects.create(
        machine=web, number=3, state="applied", applied_at=timezone.now(), author_name="ada",
        network_mode="zone", network_target="front", memory_max="512M", cpu_quota="150%",
    )  # fmt: skip
    BindMount.objects.create(revision=revision, source="/srv/www", target="/var/www", read_only=True)
    PortForward.objects.create(revision=revision, host_port=8080, machine_port=80)
    revision.nspawn_text = nspawn.mark(revision.render_nspawn(), 3)
    revision.save()
    web.applied, web.nspawn_sha256 = revision, revision.nspawn_sha256
    web.effective = {"MemoryMax": str(512 << 20), "CPUQuotaPerSecUSec": "1000000", "TasksMax": "16384"}
    web.save()
    return web


def test_it_shows_what_the_machine_is(as_viewer, web):
    page = text(as_viewer.get(URL))
    for shown in ("10.0.0.14", "fd00::14", "3\u00a0d\u00a04\u00a0h", "Debian 12", "412\u00a0MiB", "4711", "subvolume"):
        assert shown in page


def test_it_shows_the_configuration(as_viewer, web):
    page = text(as_viewer.get(URL))
    for shown in ("front", "tcp:8080:80", "/srv/www → /var/www", "read-only", "applied", "by ada"):
        assert shown in page


def test_it_compares_limits_with_what_is_in_force(web):
    rows = {row.key: row for row in machine_page.limit_rows(web)}
    assert (rows["MemoryMax"].really, rows["MemoryMax"].holds) == ("512\u00a0MiB", True)
    assert (rows["CPUQuota"].really, rows["CPUQuota"].holds) == ("100\u00a0%", False)
    assert set(rows) == {"MemoryMax", "CPUQuota"}


@pytest.mark.parametrize(
    ("key", "wanted", "raw", "holds"),
    [
        ("MemoryMax", "50%", str(4 << 30), True),
        ("MemoryMax", "50%", str((4 << 30) - 4096), True),
        ("MemoryMax", "infinity", str(2**64 - 1), True),
        ("MemoryMax", "1G", "infinity", False),
        ("CPUQuota", "20%", "200000", True),
        ("CPUWeight", "200", "100", False),
    ],
)
def test_a_limit_holds_or_differs(key, wanted, raw, holds, web):
    column = {"MemoryMax": "memory_max", "CPUQuota": "cpu_quota", "CPUWeight": "cpu_weight"}[key]
    setattr(web.applied, column, wanted)
    shown = {"CPUQuota": "CPUQuotaPerSecUSec"}.get(key, key)
    web.effective = {shown: raw}
    rows = {row.key: row for row in machine_page.limit_rows(web)}
    assert rows[key].holds is holds


def test_of_a_stopped_machine_no_limit_is_in_force(web):
    web.state = "stopped"
    assert all(row.holds is None and not row.really for row in machine_page.limit_rows(web))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"restart_needed": True}, "take effect on restart"),
        ({"drifted": True}, "are not those that revision 3 wrote"),
        ({"state": "running", "mismatches": 2}, "2 settings are not in effect"),
        ({"state": "failed", "why": "Main process exited, status=1/FAILURE"}, "Main process exited"),
        ({"state": "missing"}, "There is no image of this name on alpha"),
    ],
)
def test_it_warns(fields, said, as_admin, web):
    Machine.objects.update(**fields)
    assert said in text(as_admin.get(URL))


def test_it_leads_to_the_draft(as_admin, web):
    Revision.objects.create(machine=web, state="draft")
    page = text(as_admin.get(URL))
    assert "There is an unapplied draft of its configuration" in page
    assert f"{URL}config/review/" in page


def test_it_says_why_the_last_job_failed(as_viewer, web, admin):
    problem = {"message": "web did not power off within 120 s.", "hint": "Terminate it."}
    job = make.job(orders.Reboot(name="web"), on=web.host, by=admin, state="failed", problem=problem)
    page = text(as_viewer.get(URL))
    assert "did not power off within 120 s. Terminate it." in page
    assert f'href="/jobs/{job.pk}/"' in page
    make.job(orders.Start(name="web"), on=web.host, by=admin, state="succeeded")
    assert "did not power off" not in text(as_viewer.get(URL))


def test_it_shows_who_holds_it(as_admin, web, admin):
    make.job(orders.Reboot(name="web"), on=web.host, by=admin, state="running")
    page = text(as_admin.get(URL))
    assert "Requested by ada: rebooting" in page
    assert "/confirm/poweroff/" not in page


def test_it_claims_nothing_of_a_silent_host(as_admin, web):
    web.host.last_seen = timezone.now() - timedelta(minutes=12)
    web.host.save()
    page = text(as_admin.get(URL))
    assert "alpha is not responding, last seen" in page
    assert 'data-state="unknown"' in page


def test_it_shows_the_last_five_jobs(as_viewer, web, admin):
    for _ in range(7):
        make.job(orders.Start(name="web"), on=web.host, by=admin, state="succeeded")
    make.job(orders.Start(name="db"), on=web.host, by=admin, state="succeeded")
    assert text(as_viewer.get(URL)).count('<tr id="job-') == 5


def test_it_costs_five_queries_at_most(as_admin, web, admin, django_assert_max_num_queries):
    Revision.objects.create(machine=web, state="draft")
    make.job(orders.Start(name="web"), on=web.host, by=admin)
    with django_assert_max_num_queries(5):
        as_admin.get(URL)


def test_it_answers_a_refresh_with_nothing_when_nothing_changed(as_viewer, web):
    page = text(as_viewer.get(URL, headers=HTMX))
    assert "<html" not in page
    version = page.split("?v=")[1].split('"')[0]
    assert as_viewer.get(f"{URL}?v={version}", headers=HTMX).status_code == 204
    Machine.objects.update(memory_bytes=1)
    assert as_viewer.get(f"{URL}?v={version}", headers=HTMX).status_code == 200


def test_what_hosts_say_is_hostile(as_admin, web):
    evil = "<script>alert(1)</script>"
    Machine.objects.update(
        os=evil,
        unit=evil,
        addresses=[evil],
        why=evil,
        state="failed",
        image_type=evil[:30],
        effective={"MemoryMax": evil},
    )
    assert "<script>alert" not in text(as_admin.get(URL))
    Machine.objects.update(state="running")
    assert "<script>alert" not in text(as_admin.get(URL))


def test_a_viewer_gets_no_buttons(as_viewer, web):
    page = text(as_viewer.get(URL))
    assert "confirm/poweroff" not in page
    assert "enable/" not in page


def test_it_rejects_post(as_admin, web):
    assert as_admin.post(URL).status_code == 405


@pytest.mark.parametrize("path", ["/hosts/alpha/machines/nobody/", "/hosts/beta/machines/web/"])
def test_what_is_not_there_is_a_404(path, as_admin, web):
    assert as_admin.get(path).status_code == 404


# --- what is no more


@pytest.fixture
def typo(alpha, admin):
    """A machine that was never built."""
    make.machine("typo", on=alpha, state="missing", removed_at=timezone.now())
    order = make.build_order("typo")
    return make.job(order, on=alpha, by=admin, state="failed", problem={"message": "There is no package ngnix."})


def test_a_machine_that_was_not_built_says_why(as_admin, typo):
    answer = as_admin.get("/hosts/alpha/machines/typo/")
    assert answer.status_code == 404
    for said in ("typo was not built", "There is no package ngnix.", f"/machines/new/?again={typo.pk}"):
        assert said in text(answer)


def test_a_viewer_is_not_offered_to_build_it(as_viewer, typo):
    assert "again=" not in text(as_viewer.get("/hosts/alpha/machines/typo/"))


def test_a_removed_machine_says_who_removed_it(as_viewer, web, admin):
    make.job(orders.Remove(name="web"), on=web.host, by=admin, state="succeeded", finished_at=timezone.now())
    Machine.objects.update(removed_at=timezone.now())
    page = text(as_viewer.get(URL))
    assert "web was removed" in page
    assert "ada removed it from alpha" in page


def test_a_page_whose_machine_goes_away_says_so_by_itself(as_viewer, web, admin):
    make.job(orders.Remove(name="web"), on=web.host, by=admin, state="succeeded")
    Machine.objects.update(removed_at=timezone.now())
    assert as_viewer.get(URL, headers=HTMX).headers["HX-Refresh"] == "true"


# --- what cannot be read


def test_a_machine_its_host_cannot_read_is_unknown_with_the_reason(as_viewer, alpha, web):
    alpha.listed_at = timezone.now() - timedelta(minutes=5)
    alpha.save()
    Machine.objects.filter(pk=web.pk).update(state="unknown", why="machined does not respond; it is masked.")
    page = text(as_viewer.get(URL))
    assert "The state of web is unknown" in page
    assert "machined does not respond; it is masked." in page
    assert "Last complete list of machines:" in page
    for claimed in ("10.0.0.14", "Uptime", "none while it is not running"):
        assert claimed not in page


def test_a_state_that_systemd_alone_tells_says_what_is_old(as_viewer, alpha, web):
    alpha.trouble, alpha.listed_at = {"machines": "machined does not answer."}, timezone.now() - timedelta(minutes=5)
    alpha.save()
    Machine.objects.filter(pk=web.pk).update(addresses=[])
    page = text(as_viewer.get(URL))
    assert "Only the state of its unit, from systemd, is current" in page
    assert "none yet" not in page


def test_a_machine_whose_unit_failed_has_no_address_any_more(as_viewer, web):
    """Of its last addresses nobody has said that they are gone: machined does not answer."""
    Machine.objects.filter(pk=web.pk).update(state="failed", addresses=["10.0.0.14"])
    assert all("10.0.0.14" not in text(as_viewer.get(page)) for page in (URL, "/machines/"))


def test_a_settings_file_that_cannot_be_read_is_named(as_viewer, web):
    Machine.objects.filter(pk=web.pk).update(unreadable="/etc/systemd/nspawn/web.nspawn cannot be read: It is a FIFO.")
    page = text(as_viewer.get(URL))
    assert "A file of its configuration cannot be read" in page
    assert "/etc/systemd/nspawn/web.nspawn cannot be read: It is a FIFO." in page


def test_a_limit_that_nothing_enforces_is_not_called_in_force(web):
    web.host.facts |= {"lacks": {"MemoryHigh": "cgroup v1", "IOWeight": "io.weight"}}
    web.state, web.effective = (
        "running",
        {"MemoryHigh": str(300 << 20), "MemoryMax": "infinity", "IOWeight": "infinity"},
    )
    rows = {row.key: row for row in machine_page.limit_rows(web)}
    assert (rows["MemoryHigh"].really, rows["MemoryHigh"].holds) == ("nothing enforces it here", False)
    assert "IOWeight" not in rows


def test_a_bind_that_gives_the_host_away_is_said_first(as_admin, web, alpha):
    before = as_admin.get(URL)
    alpha.facts = {**alpha.facts, "bad_binds": {"web": "Bind=/opt:/x: /opt holds /opt/nspawnpanel."}}
    alpha.save()
    after = as_admin.get(URL)
    assert "Bind=/opt:/x: /opt holds /opt/nspawnpanel." in text(after)
    assert "no settings are applied to it until that line is gone" in text(after)
    assert before.context["version"] != after.context["version"]
