import pytest
from django.utils import timezone

from machines.contract import orders
from machines.contract.permissions import Role
from machines.models import Job, Machine, ObservedFiles
from tests import make

URL = "/hosts/alpha/machines/web/remove/"
FORGET = "/hosts/alpha/machines/web/forget/"


@pytest.fixture
def web(alpha):
    return make.machine("web", on=alpha, image_id="17-42", image_type="subvolume", disk_bytes=3 << 30, enabled=True,
                        nspawn_sha256="a" * 64)  # fmt: skip


def test_it_says_what_will_go(as_admin, web):
    page = as_admin.get(URL).content.decode()
    for shown in (
        "/var/lib/machines/web on alpha",
        "3 GiB".replace(" ", "\u00a0"),
        "start at boot",
        "cannot be restored",
    ):
        assert shown in page
    dialog = as_admin.get(URL, headers={"HX-Request": "true"}).content.decode()
    assert dialog.strip().startswith("<dialog")
    assert 'data-confirm-name="web"' in dialog


def test_it_orders_the_removal_of_this_very_image(as_admin, web):
    answer = as_admin.post(URL, {"confirm": "web"})
    job = Job.objects.get()
    assert answer.url == f"/jobs/{job.pk}/"
    seen = {"replaces_nspawn": "a" * 64, "replaces_limits": "absent"}
    assert job.order == {"op": "remove", "name": "web", "image_id": "17-42", **seen}


def test_a_retry_is_about_the_same_image_and_its_files_as_they_are_known_now(as_admin, web):
    as_admin.post(URL, {"confirm": "web"})
    job = Job.objects.get()
    Job.objects.update(state="failed", finished_at=timezone.now(), problem={"code": "files-changed"})
    Machine.objects.update(nspawn_sha256="b" * 64, image_id="18-1")
    as_admin.post(f"/jobs/{job.pk}/retry/")
    again = Job.objects.exclude(pk=job.pk).get()
    assert (again.order["image_id"], again.order["replaces_nspawn"]) == ("17-42", "b" * 64)
    assert again.retry_of == job


def test_it_names_the_files_that_go_but_none_of_all_machines(as_admin, web):
    dropin = "/etc/systemd/system/systemd-nspawn@{}.service.d/90-mine.conf"
    ObservedFiles.objects.create(machine=web, told=[
        {"path": "/etc/systemd/nspawn/web.nspawn", "kind": "nspawn"}, {"path": dropin.format("web"), "kind": "dropin"},
        {"path": "/usr/lib/systemd/system/systemd-nspawn@.service", "kind": "unit"},
        {"path": dropin.format(""), "kind": "dropin"},
    ])  # fmt: skip
    page = as_admin.get(URL).content.decode()
    assert f"/etc/systemd/nspawn/web.nspawn, {dropin.format('web')} (copies stay on alpha" in page
    assert "systemd-nspawn@.service" not in page


def test_of_a_link_it_says_that_what_it_leads_to_stays(as_admin, web):
    path = "/etc/systemd/nspawn/web.nspawn"
    ObservedFiles.objects.create(machine=web, told=[{"path": path, "kind": "nspawn", "target": "/srv/git/web.nspawn"}])
    assert f"the link {path}, not /srv/git/web.nspawn (copies" in as_admin.get(URL).content.decode()


@pytest.mark.parametrize("typed", ["", "Web", "web ", "we", "alpha"])
def test_it_compares_the_name(typed, as_admin, web):
    answer = as_admin.post(URL, {"confirm": typed})
    assert answer.status_code == 422
    assert "Type web to confirm." in answer.content.decode()
    assert not Job.objects.exists()


@pytest.mark.parametrize("state", ["running", "starting", "degraded", "stopping"])
def test_it_refuses_while_the_machine_runs(state, as_admin, web):
    Machine.objects.update(state=state)
    assert f"web is {state}. Power it off first" in as_admin.get(URL).content.decode()
    answer = as_admin.post(URL, {"confirm": "web"})
    assert answer.status_code == 422
    assert "Power it off first" in answer.content.decode()
    assert not Job.objects.exists()


def test_it_says_who_holds_the_machine(as_admin, web):
    make.job(orders.Start(name="web"), on=web.host, by=make.user("olga", role=Role.ADMINISTRATOR))
    answer = as_admin.post(URL, {"confirm": "web"})
    assert answer.status_code == 409
    assert "olga already requested" in answer.content.decode()


def test_it_needs_the_right_to_remove(as_viewer, client, web):
    assert as_viewer.get(URL).status_code == 403
    assert as_viewer.post(URL, {"confirm": "web"}).status_code == 403
    assert client.get(URL).url.startswith("/accounts/login/")


def test_a_missing_machine_can_be_forgotten(as_admin, web):
    Machine.objects.update(state="missing")
    answer = as_admin.post(FORGET, follow=True)
    assert "web forgotten." in answer.content.decode()
    assert not Machine.objects.listed().exists()
    assert not Job.objects.exists()


def test_forgetting_refuses_a_machine_that_is_there(as_admin, web):
    answer = as_admin.post(FORGET)
    assert answer.status_code == 409
    assert "web still exists on alpha" in answer.content.decode()
    assert Machine.objects.listed().exists()


def test_forgetting_refuses_while_it_is_being_built(as_admin, web, admin):
    Machine.objects.update(state="missing")
    make.job(orders.Start(name="web"), on=web.host, by=admin)
    assert as_admin.post(FORGET).status_code == 409
    assert Machine.objects.listed().exists()


def test_forgetting_rejects_get_and_viewers(as_admin, as_viewer, web):
    assert as_admin.get(FORGET).status_code == 405
    assert as_viewer.post(FORGET).status_code == 403


def test_a_removed_machine_has_no_page(as_admin, web):
    Machine.objects.update(removed_at=timezone.now())
    assert as_admin.get(URL).status_code == 404
