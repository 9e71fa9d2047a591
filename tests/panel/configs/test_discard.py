"""Throwing the draft away: config-discard."""

from machines.contract import orders
from machines.models import Revision
from tests import make
from tests.panel.configs import cast

URL = "/hosts/alpha/machines/web/config/discard/"


def test_it_works(as_admin, admin, web):
    cast.applied(web)
    cast.draft(web, admin)
    answer = as_admin.post(URL, {"seen": cast.stamp(web)})
    assert answer.url == "/hosts/alpha/machines/web/"
    assert [revision.state for revision in Revision.objects.all()] == ["applied"]


def test_a_draft_that_was_not_seen_stays(as_admin, admin, web):
    seen = cast.stamp(web)
    cast.draft(web, admin)
    assert as_admin.post(URL, {"seen": seen}).status_code == 409
    assert Revision.objects.exists()


def test_a_draft_on_its_way_stays(as_admin, admin, web):
    made = cast.draft(web, admin)
    configuration = made.begin_apply()
    make.job(orders.Apply(name="web", configuration=configuration), on=web.host, by=admin, revision=made)
    assert as_admin.post(URL, {"seen": cast.stamp(web)}).status_code == 409
    assert Revision.objects.exists()


def test_it_rejects_get(as_admin, web):
    assert as_admin.get(URL).status_code == 405


def test_it_needs_the_right_to_configure(as_viewer, admin, web):
    cast.draft(web, admin)
    assert as_viewer.post(URL, {"seen": cast.stamp(web)}).status_code == 403
    assert Revision.objects.exists()
