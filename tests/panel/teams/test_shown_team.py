"""One person in several teams sees all of theirs, or one team's alone, kept while they click around."""

import pytest

from machines.contract import orders
from machines.contract.permissions import Role
from machines.models import Archive, Membership, Preset, Recipe, Team, User
from tests import make
from tests.pages import text

LISTS = {
    "/machines/": ("web", "till"),
    "/jobs/": ("Start web", "Start till"),
    "/recipes/": ("ops-recipe", "shop-recipe"),
    "/presets/": ("ops-preset", "shop-preset"),
    "/archives/": ("ops.tar", "shop.tar"),
}


@pytest.fixture
def both(web) -> User:
    """In two teams, each with something in every list; and a third team that it does not know."""
    someone = make.user("bea", Role.VIEWER)
    make.member(someone, Role.VIEWER, team="shop")
    make.team("secret")
    for team in Team.objects.all():
        Recipe.objects.create(name=f"{team.slug}-recipe", team=team)
        Preset.objects.create(name=f"{team.slug}-preset", team=team)
        Archive.objects.create(title=f"{team.slug}.tar", team=team, state="ready", size=1)
    till = make.machine("till", on=web.host, team=make.team("shop"))
    for machine in (web, till):
        make.job(orders.Start(name=machine.name), on=web.host, team=machine.team, state="succeeded")
    return someone


def show(client, team: str, back: str = "/machines/"):
    return client.post("/teams/show/", {"team": team, "next": back})


@pytest.mark.parametrize("path", LISTS)
def test_each_list_shows_all_of_theirs_or_one_team_s(both, path):
    client, (ours, theirs) = make.client(both), LISTS[path]
    page = text(client.get(path))
    assert ours in page
    assert theirs in page
    assert "secret" not in page
    assert show(client, "shop", path).url == path
    page = text(client.get(path))
    assert ours not in page
    assert theirs in page
    show(client, "")
    assert ours in text(client.get(path))


@pytest.mark.parametrize("path", LISTS)
def test_a_list_with_nothing_of_the_team_says_so(both, path):
    empty = make.team("empty")
    make.member(both, Role.VIEWER, team="empty")
    client = make.client(both)
    show(client, empty.slug)
    assert "of this team" in text(client.get(path))


def test_it_narrows_lists_alone_and_hides_no_page(both):
    client = make.client(both)
    show(client, "shop")
    assert client.get("/hosts/alpha/machines/web/").status_code == 200


def test_whoever_leaves_the_team_sees_the_others_again(both):
    client = make.client(both)
    show(client, "shop")
    Membership.objects.filter(team__slug="shop").delete()
    page = text(client.get("/machines/"))
    assert "web" in page
    assert "till" not in page


def test_a_team_of_others_cannot_be_chosen(both):
    client = make.client(both)
    for slug in ("secret", "nowhere"):
        assert show(client, slug).status_code == 404
    assert "web" in text(client.get("/machines/"))


def test_back_leads_only_to_pages_of_the_panel(both):
    assert show(make.client(both), "shop", "https://evil.example/").url == "/machines/"


def test_rows_and_pages_name_the_team_where_there_are_several(both, as_viewer, as_admin):
    several, one = make.client(both), as_viewer
    for path in (*LISTS, "/hosts/alpha/machines/web/"):
        assert "Ops" in text(several.get(path)), path
        assert "Ops" not in text(one.get(path)), path
        assert "Ops" in text(as_admin.get(path)), path
    assert "All teams" not in text(one.get("/machines/"))


def test_an_administrator_shows_any_team_from_its_page(both, as_admin):
    page = text(as_admin.get("/teams/shop/"))
    assert '<button type="submit" class="chip" name="next" value="/machines/">1 machine</button>' in page
    show(as_admin, "shop")
    page = text(as_admin.get("/machines/"))
    assert "till" in page
    assert ">web<" not in page
