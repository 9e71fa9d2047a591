from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from machines.contract import orders, recipes
from machines.models import Machine
from tests import make
from tests.pages import text

URL = "/machines/"
HTMX = {"HX-Request": "true"}


def build(name: str, alpha, admin, **fields):
    order = orders.Build(
        name=name,
        recipe=recipes.DebianRecipe(release="trixie"),
        first_boot=recipes.FirstBoot(),
        configuration=orders.Configuration(revision=1, nspawn="x", limits=""),
    )
    return make.job(order, on=alpha, by=admin, state="running", **fields)


def test_it_shows_the_machines(as_viewer, alpha):
    make.machine("web", on=alpha, state="running", os="Debian 12", addresses=["10.0.0.5", "fd00::5"], memory_bytes=412 << 20, since=timezone.now())  # fmt: skip
    page = text(as_viewer.get(URL))
    for shown in ("web", "Debian 12", "alpha", "10.0.0.5", "+1", "412", 'data-state="running"', "1–1 of 1"):
        assert shown in page
    assert reverse("machine-detail", args=["alpha", "web"]) in page


def test_a_cell_with_nothing_in_it_is_empty_for_cards_leave_it_out(as_viewer, alpha):
    make.machine("web", on=alpha)
    page = as_viewer.get(URL).content.decode()
    for label in ("Address", "Uptime"):
        assert f'data-label="{label}"></td>' in page


def test_it_puts_problems_first(as_viewer, alpha):
    make.machine("a-fine", on=alpha, state="running")
    make.machine("z-failed", on=alpha, state="failed")
    page = text(as_viewer.get(URL))
    assert page.index("z-failed") < page.index("a-fine")


def test_it_says_unknown_of_a_silent_hosts_machines(as_viewer):
    beta = make.host("beta", last_seen=timezone.now() - timedelta(minutes=12))
    make.machine("proxy", on=beta, state="running", addresses=["10.0.0.9"])
    page = text(as_viewer.get(URL))
    assert 'data-state="unknown"' in page
    assert "is not responding, last seen" in page
    assert "10.0.0.9" not in page


def test_it_shows_the_verb_while_a_job_holds_the_machine(as_admin, alpha, admin):
    make.machine("web", on=alpha, state="running")
    job = make.job(orders.Poweroff(name="web"), on=alpha, by=admin, state="running")
    page = text(as_admin.get(URL))
    assert "<em>powering off</em>" in page
    assert reverse("job-detail", args=[job.pk]) in page
    assert 'aria-label="Power off web"' not in page


def test_a_build_is_a_row_with_phase_and_percent(as_viewer, alpha, admin):
    make.machine("new", on=alpha, state="missing")
    build("new", alpha, admin, phases=[{"name": "bootstrap"}], progress=0.42)
    page = text(as_viewer.get(URL))
    assert 'data-state="building"' in page
    assert "bootstrap, 42" in page


@pytest.mark.parametrize("fleet", [0, 1, 1000])
def test_it_costs_five_queries_at_most(fleet, as_admin, alpha, admin, django_assert_max_num_queries):
    hosts = [alpha, *(make.host(f"h{n}") for n in range(20 if fleet > 1 else 0))]
    Machine.objects.bulk_create(
        Machine(host=hosts[n % len(hosts)], name=f"m{n}", state="running") for n in range(fleet)
    )
    make.job(orders.Start(name="m0"), on=alpha, by=admin)
    for query in ("", "?q=m&sort=name", "?q=state:running+host:alpha", "?v=x"):
        with django_assert_max_num_queries(5):
            as_admin.get(URL + query, headers=HTMX if "v=" in query else {})


def test_it_answers_a_refresh_with_nothing_when_nothing_changed(as_viewer, web):
    fragment = as_viewer.get(URL, headers=HTMX)
    page = text(fragment)
    assert "<html" not in page
    assert 'id="machines"' in page
    version = page.split("v=")[1].split('"')[0]
    assert as_viewer.get(f"{URL}?v={version}", headers=HTMX).status_code == 204
    Machine.objects.update(state="failed")
    assert as_viewer.get(f"{URL}?v={version}", headers=HTMX).status_code == 200


def test_a_boosted_link_gets_the_whole_page(as_viewer, web):
    assert "<html" in text(as_viewer.get(URL, headers=HTMX | {"HX-Boosted": "true"}))


def test_it_varies_by_who_asks(as_viewer):
    assert "HX-Request" in as_viewer.get(URL).headers["Vary"]


def test_names_from_hosts_are_hostile(as_admin):
    evil = "<script>alert(1)</script>"
    host = make.host("alpha", facts={"os": evil})
    make.machine(evil[:60], on=host, state="running", os=evil, addresses=[evil, evil], since=timezone.now())
    make.machine("../../etc", on=host, state="stopped")
    make.machine('" onload="x', on=host)
    page = text(as_admin.get(URL))
    assert "<script>alert" not in page
    assert 'href="/hosts/alpha/machines/..%2F..%2Fetc/"' in page
    assert '" onload="x' not in page


def test_a_viewer_gets_no_buttons(as_viewer, web):
    page = text(as_viewer.get(URL))
    assert "start/" not in page
    assert "New machine" not in page


def test_an_empty_fleet_says_what_to_do(as_admin, as_viewer, db):
    assert "No host yet" in text(as_admin.get(URL))
    make.host("alpha")
    assert "No machines yet" in text(as_admin.get(URL))
    assert "New machine" not in text(as_viewer.get(URL))


def test_a_filter_that_matches_nothing_can_be_cleared(as_viewer, web):
    page = text(as_viewer.get(f"{URL}?q=state:broken"))
    assert "No machine matches" in page
    assert "Unknown state “broken”" in page
    assert 'href="?"' in page


def test_a_page_beyond_the_end_leads_back(as_viewer, web):
    assert "To the first page" in text(as_viewer.get(f"{URL}?after=50.1.9.zzz"))


def test_the_host_menu_offers_the_hosts(as_viewer, alpha):
    make.host("beta")
    page = text(as_viewer.get("/machines/hosts/?q=web"))
    assert "?q=web+host%3Abeta" in page
    assert "alpha" in page


def test_it_rejects_post(as_admin):
    assert as_admin.post(URL).status_code == 405


def test_it_needs_a_sign_in(client, db):
    assert client.get(URL).url == "/accounts/login/?next=/machines/"
    answer = client.get(URL, headers=HTMX | {"HX-Current-URL": "http://testserver/machines/?q=a"})
    assert answer.headers["HX-Redirect"] == "/accounts/login/?next=/machines/%3Fq%3Da"


def test_the_number_of_rows_can_be_chosen(as_viewer, alpha):
    Machine.objects.bulk_create(Machine(host=alpha, team=make.team(), name=f"m{n:02}") for n in range(30))
    page = text(as_viewer.get(f"{URL}?q=m&per=25"))
    assert page.count('<tr id="m-') == 25
    assert 'href="?q=m&amp;per=100"' in page
    assert '<nav class="pager"' in page


def test_many_silent_hosts_are_one_warning(as_viewer):
    for n in range(10):
        make.machine("web", on=make.host(f"h{n}", last_seen=timezone.now() - timedelta(minutes=12)))
    page = text(as_viewer.get(URL))
    assert page.count("alert-warning") == 1
    assert "10 hosts are not responding" in page
    assert "others" in page
