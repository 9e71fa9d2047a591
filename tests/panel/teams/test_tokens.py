"""API tokens: shown once, never more than the person who made them, and nothing but what takes them."""

import hashlib
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from machines.contract.permissions import Permission, Role
from machines.models import ApiToken, Archive, Event, Host, Membership, Team, User
from machines.panel.teams import tokens
from tests import make
from tests.pages import text
from tests.panel.test_access import TABLE, address, parts_of  # noqa: F401  # a fixture

NEW = "/settings/tokens/new/"
WHOAMI = "/api/whoami"
TAKE_TOKENS = {"api-whoami", "archive-begin", "archive-part", "archive-state"}


@pytest.fixture(autouse=True)
def data(settings, tmp_path):
    settings.DATA_DIR = tmp_path


@pytest.fixture
def edda(db) -> User:
    return make.user("edda", Role.EDITOR)


def token(user: User, *rights: str, teams: tuple[str, ...] | None = None, days: int = 1) -> str:
    made = ApiToken(user=user, name=f"t{ApiToken.objects.count()}", rights=list(rights), all_teams=teams is None,
                    expires_at=timezone.now() + timedelta(days=days))  # fmt: skip
    return tokens.create(made, [make.team(slug) for slug in teams or ()], [])


def program(value: str) -> Client:
    """Without cookies, and as strict about forgery as the real thing."""
    return Client(enforce_csrf_checks=True, headers={"Authorization": f"Bearer {value}"})


def begin(client: Client, **fields):
    return client.post("/archives/begin/", {"title": "tree.tar", "format": "tar", "size": 5} | fields)


class TestMaking:
    GIVEN = {"name": "ci", "rights": ["build"], "all_teams": "on", "all_hosts": "on", "days": "30"}

    def test_its_value_is_shown_once_and_only_its_hash_is_kept(self, edda):
        client = make.client(edda)
        page = text(client.post(NEW, self.GIVEN))
        made = ApiToken.objects.get()
        value = page.split('data-copy="')[1].split('"')[0]
        assert value.startswith("np_")
        assert made.hash == hashlib.sha256(value.encode()).hexdigest()
        assert value not in text(client.get("/settings/tokens/"))
        assert value not in str(ApiToken.objects.values().get()) + str(list(Event.objects.values()))
        assert Event.objects.get().text == "edda created the API token ci with the rights view, build."
        assert timedelta(days=29) < made.expires_at - timezone.now() <= timedelta(days=30)
        assert program(value).get(WHOAMI).json()["token"]["name"] == "ci"

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"rights": ["administer"]}, "administer is not one of the available choices"),
            ({"all_teams": ""}, "Choose some teams, or all."),
            ({"teams": "ops"}, "Choose all teams, or some, but not both."),
            ({"name": ""}, "Give the token a name."),
        ],
    )
    def test_a_scope_that_says_nothing_or_too_much_is_refused(self, edda, changed, said):
        if "teams" in changed:
            changed = {"teams": [Team.objects.get().pk]}
        answer = make.client(edda).post(NEW, self.GIVEN | changed)
        assert answer.status_code == 422
        assert said in text(answer)
        assert not ApiToken.objects.exists()

    def test_teams_and_hosts_of_others_are_not_offered(self, edda):
        make.share(make.host("alpha"), team="shop")
        Host.objects.get().shares.exclude(team__slug="shop").delete()
        page = text(make.client(edda).get(NEW))
        assert "Ops" in page
        assert "Shop" not in page
        assert "alpha" not in page
        shop = Team.objects.get(slug="shop")
        answer = make.client(edda).post(NEW, self.GIVEN | {"all_teams": "", "teams": [shop.pk]})
        assert answer.status_code == 422

    def test_who_signed_in_long_ago_is_asked_again(self, edda):
        edda.set_password("x")
        edda.save()
        answer = make.client(edda, minutes_ago=16).post(NEW, self.GIVEN)
        assert "reauthenticate" in answer.url
        assert not ApiToken.objects.exists()

    def test_nobody_revokes_another_s(self, edda, as_admin):
        value = token(edda, "build")
        number = ApiToken.objects.get().pk
        assert as_admin.post(f"/settings/tokens/{number}/revoke/").status_code == 404
        assert program(value).get(WHOAMI).status_code == 200
        assert make.client(edda).post(f"/settings/tokens/{number}/revoke/").status_code == 302
        assert program(value).get(WHOAMI).status_code == 401


class TestWhoami:
    def test_it_says_what_may_be_done_at_this_moment(self, edda, alpha):
        make.member(edda, Role.VIEWER, team="shop")
        told = program(token(edda, "view", "build", "remove")).get(WHOAMI).json()
        assert (told["person"], told["administrator"], told["hosts"]) == ("edda", False, ["alpha"])
        assert told["teams"] == [
            {"slug": "ops", "name": "Ops", "role": "editor", "rights": ["build", "view"]},
            {"slug": "shop", "name": "Shop", "role": "viewer", "rights": ["view"]},
        ]

    def test_of_an_administrator_s_token_no_more_than_its_scope(self, admin):
        make.team("ops"), make.team("shop")
        told = program(token(admin, "build", teams=("shop",))).get(WHOAMI).json()
        assert not told["administrator"]
        assert [(team["slug"], team["rights"]) for team in told["teams"]] == [("shop", ["build", "view"])]

    def test_chosen_hosts_that_are_gone_are_not_all_hosts(self, edda, alpha):
        value = token(edda, "view")
        made = ApiToken.objects.get()
        ApiToken.objects.update(all_hosts=False)
        made.hosts.set([alpha])
        assert program(value).get(WHOAMI).json()["hosts"] == ["alpha"]
        made.hosts.clear()
        assert program(value).get(WHOAMI).json()["hosts"] == []

    def test_its_use_is_noted(self, edda):
        program(token(edda, "view")).get(WHOAMI, REMOTE_ADDR="192.0.2.7")
        made = ApiToken.objects.get()
        assert (made.last_address, made.last_used_at is not None) == ("192.0.2.7", True)


class TestUpload:
    def test_a_file_arrives_by_token_and_the_history_names_it(self, edda):
        client = program(token(edda, "build"))
        begun = begin(client, team="ops").json()
        answer = client.post(f"{begun['part_url']}?offset=0", b"12345", content_type="application/octet-stream")
        assert answer.json().get("state") == "ready", answer.json()
        assert client.get(begun["url"]).json()["received"] == 5
        assert (Archive.objects.get().author, Archive.objects.get().team.slug) == (edda, "ops")
        entry = Event.objects.get(kind="archive-uploaded")
        assert (entry.actor_name, entry.token) == ("edda", "t0")

    def test_a_right_the_token_does_not_carry_is_named(self, edda):
        answer = begin(program(token(edda, "view")), team="ops")
        assert (answer.status_code, answer.headers["Content-Type"]) == (403, "application/json")
        assert answer.json()["error"].startswith("The API token t0 does not carry the right to build.")

    def test_a_right_its_owner_has_lost_is_said_to_be_lost(self, edda):
        client = program(token(edda, "build"))
        assert begin(client, team="ops").status_code == 200
        Membership.objects.update(role=Role.VIEWER)
        answer = begin(client, team="ops")
        assert answer.status_code == 403
        assert answer.json()["error"].startswith(
            "The API token t0 carries the right to build, but edda, who made it, does not have it"
        )
        Membership.objects.all().delete()
        assert begin(client, team="ops").status_code == 403

    def test_another_team_than_its_own_is_refused(self, edda):
        make.member(edda, Role.EDITOR, team="shop")
        answer = begin(program(token(edda, "build", teams=("shop",))), team="ops")
        assert answer.status_code == 422
        assert not Archive.objects.exists()

    def test_a_team_that_is_deleted_leaves_a_token_for_no_team(self, edda):
        value = token(edda, "build", teams=("shop",))
        Team.objects.filter(slug="shop").delete()
        assert program(value).get(WHOAMI).json()["teams"] == []
        assert begin(program(value), team="ops").status_code == 403

    def test_an_upload_of_the_same_person_in_another_team_is_not_its_business(self, edda):
        make.member(edda, Role.EDITOR, team="shop")
        begun = begin(program(token(edda, "build")), team="ops").json()
        other = program(token(edda, "build", teams=("shop",)))
        answer = other.post(f"{begun['part_url']}?offset=0", b"1", content_type="application/octet-stream")
        assert answer.status_code == 404
        assert "error" in answer.json()


class TestEnd:
    def refused(self, value: str) -> bool:
        answer = program(value).get(WHOAMI)
        assert answer.status_code in {200, 401}
        return answer.status_code == 401 and "revoked or expired" in answer.json()["error"]

    def test_of_a_disabled_person_it_ends_at_once(self, edda):
        value = token(edda, "build")
        User.objects.update(is_active=False)
        assert self.refused(value)

    def test_expired_unknown_and_odd_ones_are_refused(self, edda):
        value = token(edda, "build", days=0)
        for each in (value, "np_", "np_\0", f"np_{'x' * 43}", value + "x"):
            assert self.refused(each)

    def test_a_cookie_beside_a_token_that_is_none_does_not_count(self, as_admin):
        assert as_admin.get(WHOAMI, headers={"Authorization": "Bearer np_none"}).status_code == 401
        assert as_admin.get(WHOAMI).json()["administrator"] is True

    def test_nor_does_it_widen_one(self, edda, as_admin):
        answer = as_admin.get(WHOAMI, headers={"Authorization": f"Bearer {token(edda, 'view')}"})
        assert (answer.json()["person"], answer.json()["administrator"]) == ("edda", False)

    def test_a_cookie_alone_needs_the_token_against_forgery(self, edda):
        client = Client(enforce_csrf_checks=True)
        client.force_login(edda)
        assert begin(client, team="ops").status_code == 403
        assert begin(client, team="ops", headers={"Authorization": "Bearer other"}).status_code == 403


@pytest.mark.parametrize("name", TABLE)
def test_of_all_addresses_only_these_take_a_token(admin, address, name):  # noqa: F811  # the fixture
    """Even of an administrator, with every right a token can carry."""
    client = program(token(admin, *(right.value for right in tokens.RIGHTS)))
    url = address(name)
    for method in ("GET", "POST"):
        answer = client.generic(method, url)
        if name in TAKE_TOKENS:
            assert answer.status_code != 401
            assert b"takes no API tokens" not in answer.content
        else:
            assert answer.status_code == 403
            assert answer.json() == {"error": "This address takes no API tokens."}


def test_it_never_has_more_than_its_owner(edda, admin):
    """Every right, for each of both, whatever the token says."""
    make.team("shop")
    for owner in (edda, admin):
        for right in Permission:
            made = ApiToken(user=owner, name="x", rights=list(Permission), all_teams=True)
            made.pk = 0
            acting = User.objects.get(pk=owner.pk)
            made.all_hosts = True
            acting.scope = made.scope
            for team in (*Team.objects.values_list("pk", flat=True), None):
                if acting.may_in(right, team):
                    assert User.objects.get(pk=owner.pk).may_in(right, team)
                assert not (team is None and acting.may_in(right, team))


def test_the_addresses_named_here_are_there():
    assert all(
        reverse(name, kwargs=dict.fromkeys(parts_of(name), "0" * 8 + "-0000-0000-0000-" + "0" * 12))
        for name in TAKE_TOKENS
    )
