"""What a machine's page says of where its image lies, and what it does not offer because of that."""

import pytest

from machines.models import Job
from tests import make

URL = "/hosts/alpha/machines/web/"
FIXED = "/usr/lib/machines/web"


@pytest.fixture
def fixed(alpha):
    return make.machine(
        "web", on=alpha, image_type="directory", read_only=True, read_only_by="vendor", image_path=FIXED
    )


def test_an_image_below_usr_has_its_path_and_the_reason(as_admin, fixed):
    page = as_admin.get(URL).content.decode()
    assert FIXED in page
    assert "systemd changes and removes nothing below /usr; <a href=" in page
    assert "clone=web" in page


def test_what_could_only_fail_is_not_offered_but_it_may_be_started_and_cloned(as_admin, fixed):
    page = as_admin.get(URL).content.decode()
    for address in ("remove/", "writable/", "ask/template/"):
        assert f'"{URL}{address}"' not in page
    assert f'action="{URL}start/"' in page
    assert "clone=web" in as_admin.get(f"{URL}menu/").content.decode()


def test_an_order_that_could_only_fail_is_not_placed(as_admin, fixed):
    answer = as_admin.post(f"{URL}writable/", headers={"HX-Request": "true"})
    assert not Job.objects.exists()
    assert "below /usr" in answer.content.decode()


def test_the_other_image_of_the_name_is_named(as_admin, alpha):
    make.machine("web", on=alpha, image_type="subvolume", image_path="/var/lib/machines/web",
                 hidden_images=["/var/lib/machines/web.raw"])  # fmt: skip
    page = as_admin.get(URL).content.decode()
    assert "/var/lib/machines/web.raw" in page
    assert "systemd finds the other first" in page
    assert "not /var/lib/machines/web.raw, which has the same name" in as_admin.get(f"{URL}remove/").content.decode()


def test_a_removal_names_the_path_that_the_host_told(as_admin, alpha):
    make.machine("web", on=alpha, image_type="directory", image_path="/etc/machines/web")
    assert "/etc/machines/web on alpha" in as_admin.get(f"{URL}remove/").content.decode()
    answer = as_admin.post(f"{URL}remove/", {"confirm": "web"})
    assert answer.status_code == 422
    assert "outside /var/lib/machines: remove it on the host itself." in answer.content.decode()
    assert f'"{URL}remove/"' not in as_admin.get(URL).content.decode()
