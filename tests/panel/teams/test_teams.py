"""Pages of teams: who sees which, and what administrators and owners change of them."""

import pytest
from django.urls import reverse

from machines.contract import orders
from machines.contract.permissions import Role
from machines.models import Event, Job, Machine, Membership, Preset, Recipe, Team
from machines.panel.teams import teams
from tests import make
from tests.pages import text

NEW = "/teams/new/"


@pytest.fixture
def shop(db) -> Team:
    return make.team("shop")


class TestList:
    def test_people_see_their_own_teams_and_administrators_all(self, shop, as_admin, as_viewer):
        page = text(as_viewer.get("/teams/"))
        assert "Ops" in page
        assert "Shop" not in page
        page = text(as_admin.get("/teams/"))
        assert "Ops" in page
        assert "Shop" in page
        assert "not a member" in page

    def test_a_team_of_others_does_not_exist(self, shop, as_viewer):
        for address in ("/teams/shop/", "/teams/shop/leave/", "/teams/nowhere/"):
            assert as_viewer.get(address).status_code == 404

    def test_an_owner_of_one_team_manages_no_other(self, shop, viewer):
        owner = make.user("olga", Role.OWNER, team="shop")
        make.member(owner, Role.VIEWER)
        client = make.client(owner)
        assert client.get("/teams/ops/").status_code == 200
        answer = client.post("/teams/ops/edit/", {"name": "Mine"})
        assert answer.status_code == 403
        assert "permission to manage, which your role in Ops, viewer, does not have" in answer.content.decode()


class TestNew:
    def test_the_short_name_is_made_of_the_name(self, as_admin):
        answer = as_admin.post(NEW, {"name": "Web & Shöp", "slug": "", "description": "Sells"}, follow=True)
        assert answer.redirect_chain == [("/teams/web-shop/", 302)]
        assert Team.objects.get().description == "Sells"
        assert Event.objects.get().text == "ada created the team Web & Shöp."

    def test_a_second_of_the_same_letters_gets_a_number(self, as_admin, shop):
        assert teams.suggest_slug("Shop!") == "shop-2"
        assert teams.suggest_slug("new") == "new-2"
        assert teams.suggest_slug("商店") == ""

    @pytest.mark.parametrize(
        ("typed", "said"),
        [
            ("Web", "Only lower-case letters, digits and hyphens"),
            ("-web", "none at either end"),
            ("a/b", "Only lower-case letters"),
            ("shop", "The short name shop is taken."),
            ("new", "The short name new is taken."),
        ],
    )
    def test_a_short_name_that_cannot_be_is_refused(self, as_admin, shop, typed, said):
        answer = as_admin.post(NEW, {"name": "Another", "slug": typed})
        assert answer.status_code == 422
        assert said in answer.content.decode()
        assert Team.objects.count() == 1

    def test_a_name_without_letters_asks_for_a_short_name(self, as_admin):
        answer = as_admin.post(NEW, {"name": "商店"})
        assert answer.status_code == 422
        assert "Type one" in answer.content.decode()

    def test_it_says_that_the_short_name_stays(self, as_admin):
        assert "It can never be changed" in text(as_admin.get(NEW))


class TestRename:
    def test_the_address_stays_and_an_open_page_works_on(self, as_admin, shop):
        assert as_admin.post("/teams/shop/edit/", {"name": "Store", "description": ""}).status_code == 302
        team = Team.objects.get()
        assert (team.slug, team.name) == ("shop", "Store")
        # whoever had the page or one of its forms open meanwhile
        assert "Store" in text(as_admin.get("/teams/shop/"))
        make.user("bob", role="")
        assert as_admin.post("/teams/shop/members/add/", {"name": "bob", "role": "viewer"}).status_code == 302
        assert Membership.objects.get().team == team
        assert Event.objects.filter(kind="team-changed").get().text == "ada renamed the team Shop to Store."

    def test_a_name_of_another_team_is_refused_and_nothing_changes(self, as_admin, shop):
        make.team("web")
        answer = as_admin.post("/teams/shop/edit/", {"name": "Web"})
        assert answer.status_code == 422
        page = text(answer)
        assert "Another team has this name." in page
        assert "Edit Shop" in page
        assert Team.objects.get(slug="shop").name == "Shop"

    def test_the_slug_is_not_part_of_the_form(self, as_admin, shop):
        as_admin.post("/teams/shop/edit/", {"name": "Shop", "slug": "other"})
        assert Team.objects.get().slug == "shop"


class TestDelete:
    def test_it_needs_the_short_name_typed(self, as_admin, shop):
        for typed in ("", "Shop", "ops"):
            answer = as_admin.post("/teams/shop/delete/", {"confirm": typed})
            assert answer.status_code == 422
            assert "Type shop, exactly." in answer.content.decode()
        assert Team.objects.exists()

    def test_what_it_held_is_nobody_s_and_only_administrators_see_it(self, as_admin, web, as_viewer):
        make.job(orders.Start(name="web"), on=web.host, state="succeeded")
        page = text(as_admin.get("/teams/ops/delete/"))
        assert "only administrators see it: 1 machine." in page
        assert as_admin.post("/teams/ops/delete/", {"confirm": "ops"}).status_code == 302
        assert not Team.objects.exists()
        assert Machine.objects.get().team is None
        assert Job.objects.get().team is None
        assert as_viewer.get("/machines/").status_code == 403, "she was in no other team"
        assert Event.objects.get(kind="team-deleted").team_id is None

    def test_names_that_are_nobody_s_already_are_told_apart(self, as_admin, shop):
        for team in (shop, None):
            Recipe.objects.create(name="small", team=team)
            Preset.objects.create(name="x" * 80, team=team)
        as_admin.post("/teams/shop/delete/", {"confirm": "shop"})
        assert set(Recipe.objects.values_list("name", "team")) == {("small", None), ("small (shop)", None)}
        assert set(Preset.objects.values_list("name", flat=True)) == {"x" * 80, "x" * 73 + " (shop)"}

    def test_not_while_a_job_of_it_is_in_progress(self, as_admin, web):
        make.job(orders.Start(name="web"), on=web.host)
        answer = as_admin.post("/teams/ops/delete/", {"confirm": "ops"})
        assert answer.status_code == 409
        assert "Ops has 1 job in progress." in answer.content.decode()
        assert Machine.objects.get().team is not None

    def test_owners_cannot(self, db):
        client = make.client(make.user("olga", Role.OWNER))
        assert client.post("/teams/ops/delete/", {"confirm": "ops"}).status_code == 403
        assert "Delete team" not in text(client.get("/teams/ops/"))


@pytest.mark.parametrize("name", ["team-delete", "team-member-add"])
def test_who_signed_in_long_ago_is_asked_again(admin, shop, name):
    client = make.client(admin, minutes_ago=16)
    admin.set_password("x")
    admin.save()
    client = make.client(admin, minutes_ago=16)
    answer = client.post(reverse(name, args=["shop"]), {"confirm": "shop"})
    assert answer.status_code == 302
    assert "reauthenticate" in answer.url
    assert Team.objects.exists()
