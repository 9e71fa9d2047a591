"""Links that let somebody in once: the first administrator's, and those of whoever is invited."""

import re
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from machines.contract.permissions import Permission, Role
from machines.contract.problems import NotAllowed
from machines.models import Event, Invitation, Team, User
from machines.panel.forms import people
from machines.panel.people import invitations
from machines.panel.people.invitations import Offer
from tests import make
from tests.pages import text

PASSWORD = "correct horse battery"
SENT = {"username": "eve", "name": "Eve", "email": "eve@example.org", "password": PASSWORD, "again": PASSWORD}


@pytest.fixture(autouse=True)
def _quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def said(*command: str) -> str:
    out = StringIO()
    call_command(*command, stdout=out)
    return out.getvalue()


def link_of(words: str) -> str:
    found = re.search(r"/invitation/[\w-]{43}/", words)
    assert found, words
    return found[0]


@pytest.fixture
def web_team(admin) -> Team:
    return make.team("web")


# --- the first administrator


def test_the_printed_link_makes_the_first_administrator_who_is_signed_in_then(db):
    link, first = link_of(said("setup_link")), Client()
    assert "first administrator" in text(first.get(link))
    assert first.post(link, SENT).url == "/machines/"
    eve = User.objects.get()
    assert (eve.username, eve.email, eve.is_administrator) == ("eve", "eve@example.org", True)
    assert first.get("/machines/").status_code == 200
    answer = Client().post(link, {**SENT, "username": "mallory", "email": ""})
    assert answer.status_code == 410
    assert "used already" in text(answer)


def test_a_link_printed_before_no_longer_works(db):
    before, now = link_of(said("setup_link")), link_of(said("setup_link"))
    assert Client().get(before).status_code == 410
    assert Client().get(now).status_code == 200


def test_with_an_administrator_there_is_no_such_link_and_an_old_one_is_dead(db):
    link = link_of(said("setup_link"))
    make.user("ada", role=Role.ADMINISTRATOR)
    with pytest.raises(CommandError, match="reset_link"):
        said("setup_link")
    answer = Client().post(link, SENT)
    assert answer.status_code == 410
    assert not User.objects.filter(username="eve").exists()


def test_it_says_the_panel_s_address_where_that_is_known(db, settings):
    assert "NSPAWNPANEL_URL is not set" in said("setup_link")
    settings.PANEL_URL = "https://panel.example"
    assert "https://panel.example/invitation/" in said("setup_link")


# --- invitations


def test_whoever_accepts_has_the_role_and_the_rights_of_it_and_no_more(admin, web_team):
    link = invitations.invite(Offer(team=web_team, role="editor", may_console=True), by=admin, days=3, note="Eve")
    assert "ada invited you as editor of Web" in text(Client().get(link))
    assert Client().post(link, SENT).status_code == 302
    eve = User.objects.get(username="eve")
    assert not eve.is_administrator
    assert [grant.slug for grant in eve.grants] == ["web"]
    held = eve.grants[0].rights
    assert {Permission.BUILD, Permission.CONSOLE} <= held
    assert not {Permission.REMOVE, Permission.MANAGE} & held
    assert [e.text for e in Event.objects.filter(kind="invitation-accepted")] == [
        "eve accepted an invitation and is editor of Web now."
    ]


@pytest.mark.parametrize(
    "how", ["used", "expired", "withdrawn", "made up", "by one who is disabled", "by one who may no longer"]
)
def test_a_link_that_is_no_longer_good_says_why_and_makes_nobody(admin, web_team, how):
    owner = make.user("olga", role=Role.OWNER, team="web")
    link = invitations.invite(Offer(team=web_team), by=owner, days=3)
    words = {"used": "used already", "expired": "has expired", "withdrawn": "withdrawn", "made up": "does not exist"}
    match how:
        case "used":
            Client().post(link, {**SENT, "username": "first", "email": ""})
        case "expired":
            Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        case "withdrawn":
            invitations.withdraw(Invitation.objects.get(), by=owner)
        case "made up":
            link = invitations.address("x" * 43)
        case "by one who is disabled":
            User.objects.filter(pk=owner.pk).update(is_active=False)
        case _:
            owner.memberships.update(role=Role.EDITOR)
    for answer in (Client().get(link), Client().post(link, SENT)):
        assert answer.status_code == 410
        assert words.get(how, "may no longer invite") in text(answer)
    assert not User.objects.filter(username="eve").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"username": "ADA"}, "Somebody else has this name"),
        ({"username": "\uff21da"}, "Somebody else has this name"),  # a wide A, which is kept as a plain one
        ({"username": "\ufdfa"}, "valid username"),  # one letter, which is kept as four words
        ({"username": "\ufb03" * 60}, "at most 150"),  # kept as three letters each
        ({"username": "a b"}, "valid username"),
        ({"email": "ada@example.org"}, "Somebody else has this address"),
        ({"password": "eve", "again": "eve"}, "too short"),
        ({"again": "another horse battery"}, "not the same"),
    ],
)
def test_a_form_with_faults_says_them_and_the_link_stays_good(admin, web_team, wrong, words):
    User.objects.filter(pk=admin.pk).update(email="ADA@example.org")
    link = invitations.invite(Offer(team=web_team), by=admin, days=3)
    answer = Client().post(link, {**SENT, **wrong})
    assert answer.status_code == 422
    assert words in text(answer)
    assert PASSWORD not in text(answer)
    assert Client().post(link, SENT).status_code == 302


@pytest.mark.parametrize("second", ["Ada", "\uff21DA"])
def test_the_database_holds_a_name_once_when_two_are_made_at_the_same_moment(admin, web_team, monkeypatch, second):
    """Both forms were judged before either person was there."""
    monkeypatch.setattr(people, "is_taken", lambda _: False)
    link = invitations.invite(Offer(team=web_team), by=admin, days=3)
    answer = Client().post(link, {**SENT, "username": second})
    assert answer.status_code == 422
    assert "took this name this moment" in text(answer)
    assert Client().post(link, SENT).status_code == 302


def test_what_a_team_s_owners_invite_takes_nothing_from_other_teams_and_administrators(admin, web_team, monkeypatch):
    monkeypatch.setattr(invitations, "MOST_OPEN", 2)
    olga, oleg = make.user("olga", Role.OWNER, team="web"), make.user("oleg", Role.OWNER, team="mail")
    for _ in range(2):
        invitations.invite(Offer(team=web_team), by=olga, days=3)
    with pytest.raises(invitations.NotGood, match="2 invitations are open"):
        invitations.invite(Offer(team=web_team), by=olga, days=3)
    invitations.invite(Offer(team=make.team("mail")), by=oleg, days=3)
    for team in (web_team, None):
        invitations.invite(Offer(team=team), by=admin, days=3)
    with pytest.raises(invitations.NotGood, match="2 invitations are open"):
        invitations.invite(Offer(team=make.team("mail")), by=admin, days=3)


def test_whoever_is_signed_in_does_not_use_up_the_link_of_somebody_else(admin, web_team):
    link = invitations.invite(Offer(team=web_team), by=admin, days=3)
    answer = make.client(admin).post(link, SENT)
    assert answer.status_code == 409
    assert Invitation.objects.open().count() == 1


def test_an_owner_invites_to_their_team_and_nowhere_else(admin, web_team):
    owner = make.user("olga", role=Role.OWNER, team="web")
    assert invitations.invite(Offer(team=web_team, role="owner"), by=owner, days=1)
    for offer in (
        Offer(team=make.team("other")),
        Offer(is_administrator=True),
        Offer(team=web_team, is_administrator=True),
        Offer(),
    ):
        with pytest.raises(NotAllowed):
            invitations.invite(offer, by=owner, days=1)
    assert Invitation.objects.count() == 1


def test_the_database_holds_no_link(admin, web_team):
    token = invitations.invite(Offer(team=web_team), by=admin, days=3).split("/")[-2]
    row = Invitation.objects.values().get()
    assert token not in str(row)
    assert token not in str(list(Event.objects.values()))
