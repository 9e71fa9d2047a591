"""Settings → People: who may sign in and who administers the installation."""

import re
from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from django.test import Client
from django.utils import timezone

from machines.contract import orders
from machines.contract.permissions import Role
from machines.contract.problems import NotAllowed, Problem
from machines.models import ApiToken, Event, Invitation, Job, User
from machines.panel.orders import dispatch
from machines.panel.people import invitations, roster, withdrawals
from machines.panel.people.invitations import Offer
from machines.panel.teams import tokens
from tests import make
from tests.pages import text

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def eve(db) -> User:
    return make.user("eve", role=Role.EDITOR, password=PASSWORD)


@pytest.fixture
def bob(db) -> User:
    return make.user("bob", role=Role.ADMINISTRATOR, password=PASSWORD)


def path(person: User, act: str = "") -> str:
    return f"/settings/people/{person.pk}/{act}"


def sign_in(name: str) -> Client:
    browser = Client()
    browser.post("/accounts/login/", {"login": name, "password": PASSWORD})
    return browser


# --- pages


def test_the_list_says_role_second_factor_and_when_one_was_last_here(as_admin, eve):
    Authenticator.objects.create(user=eve, type="totp", data={"secret": "x"})
    User.objects.filter(pk=eve.pk).update(last_seen=timezone.now() - timedelta(hours=3), first_name="Eve Moneypenny")
    page = text(as_admin.get("/settings/people/"))
    row = re.search(rf'<tr id="person-{eve.pk}">.*?</tr>', page)
    assert row
    for words in ("eve", "Eve Moneypenny", "editor of Ops", "set up", "3"):
        assert words in row[0]
    assert "eve" in text(as_admin.get("/settings/people/?q=MONEY"))
    assert "Nobody matches" in text(as_admin.get("/settings/people/?q=nobody-like-this"))


def test_however_many_people_the_list_costs_as_many_queries(as_admin, django_assert_num_queries):
    for n in range(12):
        make.user(f"p{n}", role=Role.VIEWER)
    with django_assert_num_queries(5):
        as_admin.get("/settings/people/")


def test_only_administrators_see_people_and_owners_only_their_own_invitations(admin, as_admin):
    owner = make.user("olga", role=Role.OWNER, team="web")
    make.team("other")
    invitations.invite(Offer(team=make.team("other")), by=admin, days=1, note="Somebody of other")
    invitations.invite(Offer(team=make.team("web")), by=owner, days=1, note="Somebody of web")
    browser = make.client(owner)
    assert browser.get("/settings/people/").status_code == 403
    page = text(browser.get("/settings/invitations/"))
    assert "Somebody of web" in page
    assert "Somebody of other" not in page
    assert "Other" not in page
    assert "is_administrator" not in page
    other = Invitation.objects.get(note="Somebody of other")
    assert browser.post(f"/settings/invitations/{other.pk}/withdraw/").status_code == 404


def test_an_invitation_is_made_on_the_page_and_its_link_shown_once(as_admin, admin):
    team = make.team("web")
    sent = {"note": "Eve", "team": team.pk, "role": "operator", "may_remove": "on", "days": "3"}
    page = text(as_admin.post("/settings/invitations/", sent))
    link = re.search(r'<code id="once-link">http://testserver(/invitation/[\w-]+/)</code>', page)
    assert link
    assert "invited you as operator of Web" in text(Client().get(link[1]))
    again = text(as_admin.get("/settings/invitations/"))
    assert "Eve" in again
    assert link[1] not in again
    invitation = Invitation.objects.get()
    assert invitation.expires_at - invitation.created_at == pytest.approx(timedelta(days=3), abs=timedelta(minutes=1))
    as_admin.post(f"/settings/invitations/{invitation.pk}/withdraw/")
    assert Client().get(link[1]).status_code == 410


def test_nobody_gives_in_a_form_what_they_may_not(admin):
    browser = make.client(make.user("olga", role=Role.OWNER, team="web"))
    sent = {"note": "x", "team": make.team("other").pk, "role": "owner", "days": "1", "is_administrator": "on"}
    assert browser.post("/settings/invitations/", sent).status_code == 422
    browser.post("/settings/invitations/", {**sent, "team": make.team("web").pk})
    assert Invitation.objects.filter(is_administrator=True).count() == 0


# --- disabling


def test_a_disabled_person_is_out_at_once_and_told_so(as_admin, eve):
    browser = sign_in("eve")
    assert browser.get("/machines/").status_code == 200
    answer = as_admin.post(path(eve, "disable/"), follow=True)
    assert "eve is disabled and signed out" in text(answer)
    assert browser.get("/machines/").status_code == 302
    again = Client().post("/accounts/login/", {"login": "eve", "password": PASSWORD}, follow=True)
    assert "This account is disabled" in text(again)
    as_admin.post(path(eve, "enable/"))
    assert browser.get("/machines/").status_code == 302  # the session is gone for good
    assert sign_in("eve").get("/machines/").status_code == 200


def test_their_waiting_orders_end_and_what_a_host_has_begun_goes_on(as_admin, eve, web):
    waiting = make.job(orders.Start(name="web"), on=web.host, by=eve, state="queued")
    begun = make.job(orders.Start(name="db"), on=web.host, by=eve, state="running")
    others = make.job(orders.Start(name="mail"), on=web.host, state="queued")
    as_admin.post(path(eve, "disable/"))
    states = dict(Job.objects.values_list("pk", "state"))
    assert (states[waiting.pk], states[begun.pk], states[others.pk]) == ("cancelled", "running", "queued")


def test_their_api_tokens_are_gone_for_good(admin, eve):
    value = tokens.create(ApiToken(user=eve, name="ci", expires_at=timezone.now() + timedelta(days=1)), [], [])
    bearer = {"Authorization": f"Bearer {value}"}
    assert Client().get("/api/whoami", headers=bearer).status_code == 200
    roster.disable(eve, by=admin)
    assert Client().get("/api/whoami", headers=bearer).status_code == 401
    roster.enable(eve, by=admin)
    assert Client().get("/api/whoami", headers=bearer).status_code == 401


def test_an_order_that_was_on_its_way_meanwhile_is_not_placed(admin, eve, web):
    as_it_was = User.objects.get(pk=eve.pk)
    assert as_it_was.grants
    roster.disable(eve, by=admin)
    with pytest.raises(NotAllowed, match="disabled"):
        dispatch.place(orders.Start(name="web"), on=web.host, by=as_it_was)
    assert not Job.objects.exists()


def test_nobody_disables_themselves_or_the_last_owner_of_a_team(as_admin, admin):
    owner = make.user("olga", role=Role.OWNER, team="web")
    for person, why in ((admin, "cannot disable yourself"), (owner, "olga is the last owner of Web")):
        answer = as_admin.post(path(person, "disable/"))
        assert answer.status_code == 409
        assert why in text(answer)
        assert User.objects.get(pk=person.pk).is_active
    make.user("otto", role=Role.OWNER, team="web")
    assert as_admin.post(path(owner, "disable/")).status_code == 302


# --- administrators


def test_whoever_was_made_the_only_owner_meanwhile_is_not_disabled(admin, eve, monkeypatch):
    """Until their row is held, somebody else may still make them one."""
    hold = withdrawals.hold

    def after_another(person_id: int) -> User:
        make.member(eve, Role.OWNER, team="mail")
        return hold(person_id)

    monkeypatch.setattr(withdrawals, "hold", after_another)
    with pytest.raises(Problem, match="eve is the last owner of Mail"):
        roster.disable(eve, by=admin)
    assert User.objects.get(pk=eve.pk).is_active


def test_the_last_administrator_stays_one(as_admin, admin, eve):
    answer = as_admin.post(path(admin, "unmake-administrator/"))
    assert answer.status_code == 409
    assert "ada is the last administrator" in text(answer)
    as_admin.post(path(eve, "make-administrator/"))
    assert as_admin.post(path(admin, "unmake-administrator/")).status_code == 302
    assert list(User.objects.filter(is_administrator=True)) == [eve]


def test_a_disabled_administrator_is_not_counted_and_cannot_be_made_one(admin, bob, eve):
    roster.disable(bob, by=admin)
    with pytest.raises(Problem, match="last administrator"):
        roster.unmake_administrator(admin, by=admin)
    roster.disable(eve, by=admin)
    with pytest.raises(Problem, match="disabled"):
        roster.make_administrator(eve, by=admin)


def test_whoever_is_no_administrator_any_more_does_nothing_from_an_open_page(admin, bob, eve):
    as_it_was = User.objects.get(pk=bob.pk)
    roster.unmake_administrator(bob, by=admin)
    for act in (roster.disable, roster.make_administrator, roster.unmake_administrator, roster.enable):
        with pytest.raises(NotAllowed):
            act(eve, by=as_it_was)
    assert User.objects.get(pk=eve.pk).is_active


# --- the way back in


def test_a_link_for_somebody_is_shown_once_and_noted_without_it(as_admin, eve):
    page = text(as_admin.post(path(eve, "reset-link/")))
    link = re.search(r'<code id="once-link">http://testserver(/accounts/password/reset/key/[^<]+)</code>', page)
    assert link
    assert "Whoever opens it becomes this person" in page
    assert link[1] not in text(as_admin.get(path(eve)))
    event = Event.objects.get(kind="reset-link-made")
    assert event.text == "ada made a link to a new password for eve."
    shown = Client().get(link[1], follow=True)
    assert "New password" in text(shown)


def test_for_a_disabled_person_there_is_no_link(as_admin, admin, eve):
    roster.disable(eve, by=admin)
    assert as_admin.post(path(eve, "reset-link/")).status_code == 409


def test_a_second_factor_is_reset(as_admin, eve):
    Authenticator.objects.create(user=eve, type="totp", data={"secret": "x"})
    as_admin.post(path(eve, "reset-second-factor/"))
    assert not Authenticator.objects.exists()
    assert Event.objects.get(kind="second-factor-reset").actor_name == "ada"
