"""What a machine's page says of where its image lies, and what it does not offer because of that."""

import pytest
from django.utils import timezone

from machines.contract import reports
from machines.models import Job, Revision
from machines.panel.courier.intake import TAKE, Jobs
from machines.panel.images import builds
from tests import make
from tests.pages import text

URL = "/hosts/alpha/machines/web/"
FIXED = "/usr/lib/machines/web"


@pytest.fixture
def fixed(alpha):
    return make.machine(
        "web", on=alpha, image_type="directory", read_only=True, read_only_by="vendor", image_path=FIXED
    )


def test_an_image_below_usr_has_its_path_and_the_reason(as_admin, fixed):
    page = text(as_admin.get(URL))
    assert FIXED in page
    assert "systemd does not change or remove images below /usr; <a href=" in page
    assert "clone=web" in page


def test_what_could_only_fail_is_not_offered_but_it_may_be_started_and_cloned(as_admin, fixed):
    page = text(as_admin.get(URL))
    for address in ("remove/", "writable/", "confirm/template/"):
        assert f'"{URL}{address}"' not in page
    assert f'action="{URL}start/"' in page
    assert "clone=web" in text(as_admin.get(f"{URL}menu/"))


def test_an_order_that_could_only_fail_is_not_placed(as_admin, fixed):
    answer = as_admin.post(f"{URL}writable/", headers={"HX-Request": "true"})
    assert not Job.objects.exists()
    assert "below /usr" in text(answer)


def test_the_other_image_of_the_name_is_named(as_admin, alpha):
    make.machine("web", on=alpha, image_type="subvolume", image_path="/var/lib/machines/web",
                 hidden_images=["/var/lib/machines/web.raw"])  # fmt: skip
    page = text(as_admin.get(URL))
    assert "/var/lib/machines/web.raw" in page
    assert "systemd uses the other one" in page
    assert "not /var/lib/machines/web.raw, which has the same name" in text(as_admin.get(f"{URL}remove/"))


def test_a_removal_names_the_path_that_the_host_told(as_admin, alpha):
    make.machine("web", on=alpha, image_type="directory", image_path="/etc/machines/web")
    assert "/etc/machines/web on alpha" in text(as_admin.get(f"{URL}remove/"))
    answer = as_admin.post(f"{URL}remove/", {"confirm": "web"})
    assert answer.status_code == 422
    assert "outside /var/lib/machines: remove it on the host itself." in text(answer)
    assert f'"{URL}remove/"' not in text(as_admin.get(URL))


def test_of_a_machine_that_is_gone_nothing_is_said_of_an_image(as_viewer, web):
    machine = make.machine(
        "gone", on=web.host, image_type="subvolume", image_path="/var/lib/machines/gone", disk_bytes=7 << 30, read_only=True,
        hidden_images=["/var/lib/machines/gone.raw"], unreadable="gone.nspawn hangs.", mismatches=3,
    )  # fmt: skip
    Revision.objects.create(machine=machine, number=1)
    TAKE["inventory"](web.host, reports.Inventory(host=reports.HostFact(), machines=[]), Jobs(web.host))
    page = text(as_viewer.get("/hosts/alpha/machines/gone/"))
    assert "There is no image of this name on alpha." in page
    for past in ("/var/lib/machines/gone", "7 GiB", "read-only", "hangs", "out of sync"):
        assert past not in page.replace("\xa0", " ")
    assert "out of sync" not in text(as_viewer.get("/machines/"))


def test_a_new_machine_of_an_old_name_has_nothing_of_the_old_image(web):
    was = {
        "image_path": "/usr/lib/machines/old",
        "image_type": "directory",
        "read_only": True,
        "read_only_by": "vendor",
    }
    old = make.machine("old", on=web.host, state="missing", removed_at=timezone.now(), **was)
    assert old.image_is_fixed
    fresh = builds._take_name(web.host, "old", web.team_id)
    assert (fresh.pk, fresh.image_path, fresh.image_type, fresh.image_is_fixed) == (old.pk, "", "", False)
