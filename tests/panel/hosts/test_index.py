import html
import re
from datetime import timedelta

import pytest
from django.utils import timezone

from machines.models import Machine
from tests import make
from tests.pages import text

URL = "/hosts/"
HTMX = {"HX-Request": "true"}


def test_it_shows_hosts_with_what_they_have(as_viewer, alpha):
    make.machine("web", on=alpha, state="running")
    make.machine("db", on=alpha, state="failed")
    make.machine("gone", on=alpha, removed_at=timezone.now())
    page = text(as_viewer.get(URL))
    for shown in (
        "alpha",
        'data-state="online"',
        "1 of 2 running",
        "1 failed",
        "25\u00a0%",
        "40\u00a0%",
        "Debian GNU/Linux 12",
    ):
        assert shown in page
    assert "?q=host:alpha" in page


def test_silent_hosts_stand_first_and_claim_nothing(as_viewer, alpha):
    beta = make.host("beta", last_seen=timezone.now() - timedelta(minutes=12))
    make.machine("web", on=beta, state="running")
    make.host("gamma", last_seen=None, facts={})
    page = text(as_viewer.get(URL))
    assert page.index("beta") < page.index("gamma") < page.index('id="h-alpha"')
    row = page.split('id="h-beta"')[1].split("</tr>")[0]
    assert 'data-state="offline"' in row
    assert "12\u00a0min ago" in row
    assert "running" not in row
    assert "<meter" not in row


def test_it_finds_by_name(as_viewer, alpha):
    make.host("beta")
    page = text(as_viewer.get(f"{URL}?q=BET"))
    assert "h-beta" in page
    assert "h-alpha" not in page
    assert "contains <code>nothing" in text(as_viewer.get(f"{URL}?q=nothing"))


def names(page: str) -> list[str]:
    return re.findall(r'<tr id="h-([^"]+)"', page)


def link(page: str, rel: str) -> str:
    """Where a link of the pager leads, "" where there is none."""
    found = re.search(rf'href="([^"]+)" rel="{rel}"', page)
    return URL + html.unescape(found[1]) if found else ""


@pytest.fixture
def many(db):
    """120 hosts in the order of the list: a quarantined one, one that is silent, one that is late, and the others."""
    now = timezone.now()
    make.host("z-quarantined", quarantined_at=now)
    make.host("z-silent", last_seen=now - timedelta(minutes=12))
    make.host("z-late", last_seen=now - timedelta(seconds=45))
    make.host("z-new", last_seen=None)
    fine = [make.host(f"h{n:03}").name for n in range(116)]
    return ["z-quarantined", "z-silent", "z-late", "z-new", *fine]


def test_it_is_read_page_by_page_in_both_directions(as_viewer, many):
    pages = [text(as_viewer.get(URL))]
    while following := link(pages[-1], "next"):
        pages.append(text(as_viewer.get(following)))
    assert [names(page) for page in pages] == [many[:50], many[50:100], many[100:]]
    assert all("120 hosts" in page for page in pages)
    assert link(pages[0], "prev") == ""
    back = text(as_viewer.get(link(pages[2], "prev")))
    assert names(back) == many[50:100]
    assert names(text(as_viewer.get(link(back, "prev")))) == many[:50]


def test_a_page_keeps_its_place_and_its_filter_while_it_refreshes(as_viewer, many):
    second = text(as_viewer.get(link(text(as_viewer.get(f"{URL}?q=h")), "next")))
    refresh = html.unescape(re.search(r'id="hosts" hx-get="([^"]+)"', second)[1])
    assert "q=h" in refresh
    assert as_viewer.get(refresh, headers=HTMX).status_code == 204
    make.host("h999")
    assert names(text(as_viewer.get(refresh, headers=HTMX))) == names(second)


def test_a_page_whose_hosts_have_gone_leads_to_the_first(as_viewer, alpha):
    page = text(as_viewer.get(f"{URL}?after=9.zzz"))
    assert "There is nothing left on this page" in page
    assert f'href="{URL}"' in page


@pytest.mark.parametrize("place", ["", "x", "1", "1.", "99.a", "1.\0", "-.a"])
def test_nonsense_for_a_place_is_the_first_page(place, as_viewer, alpha):
    assert names(text(as_viewer.get(URL, {"after": place}))) == ["alpha"]


def test_the_first_host_is_one_button_away_for_those_who_may_add_it(as_admin, as_viewer, db):
    assert 'href="/enrolments/new/"' in text(as_admin.get(URL))
    assert "/enrolments/new/" not in text(as_viewer.get(URL))


def test_it_marks_missing_tools(as_viewer):
    make.host("alpha", facts={"missing": {"mmdebstrap": "mmdebstrap"}})
    assert "1 tool missing" in text(as_viewer.get(URL))


@pytest.mark.parametrize("hosts", [1, 60])
def test_it_costs_five_queries_at_most(hosts, as_viewer, django_assert_max_num_queries):
    made = [make.host(f"h{n}") for n in range(hosts)]
    Machine.objects.bulk_create(Machine(host=made[n % hosts], name=f"m{n}") for n in range(300))
    with django_assert_max_num_queries(5):
        as_viewer.get(URL)


def test_it_answers_a_refresh_with_nothing_when_nothing_changed(as_viewer, alpha):
    page = text(as_viewer.get(URL, headers=HTMX))
    assert "<html" not in page
    version = page.split("v=")[1].split('"')[0]
    assert as_viewer.get(f"{URL}?v={version}", headers=HTMX).status_code == 204
    make.machine("web", on=alpha)
    assert as_viewer.get(f"{URL}?v={version}", headers=HTMX).status_code == 200


def test_what_a_host_says_is_hostile(as_admin):
    evil = "<script>alert(1)</script>"
    facts = {
        "os": evil,
        "worker": evil,
        "systemd": evil,
        "cpus": evil,
        "load": evil,
        "missing": {evil: evil},
        "memory_total": evil,
    }
    make.host("alpha", facts=facts)
    assert "<script>alert" not in text(as_admin.get(URL))
    assert "<script>alert" not in text(as_admin.get("/hosts/alpha/"))


def test_it_rejects_post_and_strangers(as_admin, client, stranger):
    assert as_admin.post(URL).status_code == 405
    client.force_login(stranger)
    assert client.get(URL).status_code == 403
