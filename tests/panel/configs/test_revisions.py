"""Numbered configurations: revision-index, revision-detail, revision-restore."""

import pytest

from machines.contract import orders
from machines.models import PortForward, Revision
from tests import make
from tests.pages import text
from tests.panel.configs import cast

INDEX = "/hosts/alpha/machines/web/revisions/"


@pytest.fixture
def history(web):
    first = cast.applied(web, 1, memory_max="256M", reason="first <i>")
    PortForward.objects.create(revision=first, host_port=80)
    first.begin_apply()
    Revision.objects.filter(pk=first.pk).update(state="applied")
    return first, cast.applied(web, 2, memory_max="512M", network_mode="zone", network_target="shop")


def test_the_list_shows_who_when_and_why_newest_first(as_viewer, history):
    page = text(as_viewer.get(INDEX))
    assert page.index(f"{INDEX}2/") < page.index(f"{INDEX}1/")
    assert "first &lt;i&gt;" in page
    assert "active" in page


def test_the_list_leads_to_the_job(as_viewer, web, admin, history):
    order = orders.Apply(name="web", configuration=history[1].configuration(2))
    job = make.job(order, on=web.host, by=admin, revision=history[1], state="succeeded")
    assert f'href="/jobs/{job.pk}/"' in text(as_viewer.get(INDEX))


def test_the_list_does_not_show_the_draft_as_a_revision(as_viewer, admin, web):
    cast.draft(web, admin)
    page = text(as_viewer.get(INDEX))
    assert "No revision yet" in page
    assert "A draft of ada is waiting" in page


def test_the_cost_of_the_list_does_not_grow(as_viewer, web, django_assert_max_num_queries):
    for number in range(1, 6):
        cast.applied(web, number)
    with django_assert_max_num_queries(8):
        as_viewer.get(INDEX)


def test_one_revision_is_compared_with_the_one_before(as_viewer, history):
    page = text(as_viewer.get(f"{INDEX}2/"))
    assert "Revision 1 → revision 2" in page
    assert "<code>256M</code>" in page
    assert "+ Zone=shop" in page
    assert "# Written by nspawnpanel, revision 2." in page


def test_the_first_is_compared_with_nothing(as_viewer, history):
    page = text(as_viewer.get(f"{INDEX}1/"))
    assert "→ revision" not in page
    assert "<code>256M</code>" in page


def test_any_two_can_be_compared(as_viewer, history):
    page = text(as_viewer.get(f"{INDEX}1/?against=2"))
    assert "Revision 2 → revision 1" in page
    assert "- Zone=shop" in page


@pytest.mark.parametrize("against", ["9", "x", "²", "-1", "9" * 30])
def test_a_revision_that_does_not_exist_is_not_found(as_viewer, history, against):
    assert as_viewer.get(f"{INDEX}1/?against={against}").status_code == 404
    assert as_viewer.get(f"{INDEX}9/").status_code == 404


def test_restoring_makes_a_draft_on_what_the_host_has_now(as_admin, admin, web, history):
    answer = as_admin.post(f"{INDEX}1/restore/", {"seen": cast.stamp(web)})
    made = Revision.objects.get(machine=web, state="draft")
    assert answer.url == "/hosts/alpha/machines/web/config/review/"
    assert (made.memory_max, made.network_mode, made.author) == ("256M", "veth", admin)
    assert [str(port) for port in made.ports.all()] == ["tcp:80"]
    assert made.replaces_nspawn == history[1].nspawn_sha256
    assert made.reason == "restore revision 1"


def test_restoring_replaces_the_draft_that_was_seen(as_admin, admin, web, history):
    cast.draft(web, admin, memory_max="9G")
    as_admin.post(f"{INDEX}1/restore/", {"seen": cast.stamp(web)})
    assert Revision.objects.get(machine=web, state="draft").memory_max == "256M"


def test_restoring_does_not_replace_a_draft_unseen(as_admin, admin, web, history):
    seen = cast.stamp(web)
    cast.draft(web, admin, memory_max="9G")
    assert as_admin.post(f"{INDEX}1/restore/", {"seen": seen}).status_code == 409
    assert Revision.objects.get(machine=web, state="draft").memory_max == "9G"


def test_restoring_rejects_get(as_admin, history):
    assert as_admin.get(f"{INDEX}1/restore/").status_code == 405


def test_restoring_needs_the_right_to_configure(as_viewer, web, history):
    assert as_viewer.post(f"{INDEX}1/restore/", {"seen": cast.stamp(web)}).status_code == 403
    assert "Restore…" not in text(as_viewer.get(f"{INDEX}1/"))


class TestCompare:
    """Any two of them: revision-compare."""

    def test_both_views_of_what_differs(self, as_viewer, history):
        page = text(as_viewer.get(f"{INDEX}compare/", {"a": 1, "b": 2}))
        assert "<code>256M</code>" in page
        assert '<tr class="change-group"><th scope="rowgroup" colspan="4">Network</th></tr>' in page
        assert '<span class="diff-add">+ Zone=shop' in page

    def test_the_other_way_round(self, as_viewer, history):
        page = text(as_viewer.get(f"{INDEX}compare/", {"a": 2, "b": 1}))
        assert '<span class="diff-del">- Zone=shop' in page

    def test_two_ticks_lead_there_the_older_one_first(self, as_viewer, web, history):
        cast.applied(web, 10)
        answer = as_viewer.get(f"{INDEX}compare/", {"tick": ["10", "2"]})
        assert answer.url == f"{INDEX}compare/?a=2&b=10"

    @pytest.mark.parametrize("ticks", [[], ["1"], ["1", "2", "3"]])
    def test_other_than_two_lead_back(self, as_viewer, history, ticks):
        answer = as_viewer.get(f"{INDEX}compare/", {"tick": ticks}, follow=True)
        assert answer.redirect_chain[-1][0] == INDEX
        assert "Tick two revisions" in text(answer)

    @pytest.mark.parametrize("wish", ["9", "x", "-1", "9" * 50])
    def test_what_does_not_exist_is_not_found(self, as_viewer, history, wish):
        assert as_viewer.get(f"{INDEX}compare/", {"a": 1, "b": wish}).status_code == 404

    def test_the_list_offers_it_when_there_are_two(self, as_viewer, web, history):
        assert "Compare the two ticked" in text(as_viewer.get(INDEX))
        Revision.objects.filter(number=1).delete()
        assert "Compare the two ticked" not in text(as_viewer.get(INDEX))
