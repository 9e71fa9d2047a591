"""What people set for themselves: name, mail, and where they are signed in."""

from datetime import timedelta

import pytest
from allauth.usersessions.models import UserSession
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from machines.models import User
from tests import make
from tests.pages import text

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def sign_in(name: str, browser: str = "Firefox") -> Client:
    client = Client(headers={"User-Agent": browser})
    assert client.post("/accounts/login/", {"login": name, "password": PASSWORD}).status_code == 302
    return client


def test_one_signs_in_by_name_or_by_mail(db):
    eve = make.user("eve", password=PASSWORD)
    answer = make.client(eve).post("/settings/profile/", {"name": "Eve Moneypenny", "email": "eve@example.org"})
    assert answer.status_code == 302
    for name in ("eve", "eve@example.org", "EVE@example.org"):
        sign_in(name)
    assert User.objects.get(username="eve").first_name == "Eve Moneypenny"


@pytest.mark.parametrize("taken", ["ada@example.org", "ADA@example.org", "ada@login.example"])
def test_an_address_is_one_person_s(db, taken):
    User.objects.create_user("ada@login.example", email="ada@example.org")
    answer = make.client(make.user("eve")).post("/settings/profile/", {"email": taken})
    assert answer.status_code == 422
    assert "Somebody else has this address" in text(answer)
    assert User.objects.get(username="eve").email == ""


def test_whoever_finds_a_browser_signed_in_a_while_ago_cannot_change_where_links_to_a_new_password_go(db):
    eve = make.user("eve", password=PASSWORD)
    browser = make.client(eve, minutes_ago=16)
    answer = browser.post("/settings/profile/", {"email": "thief@example.org"})
    assert answer.url.startswith("/accounts/reauthenticate/?next=")
    assert User.objects.get().email == ""
    again = browser.post(answer.url, {"password": PASSWORD, "next": "/settings/profile/"})
    assert again.url == "/settings/profile/"
    assert browser.post("/settings/profile/", {"email": "eve@example.org"}).url == "/settings/profile/"
    assert User.objects.get().email == "eve@example.org"


def test_sessions_are_listed_and_can_be_ended_elsewhere(db):
    make.user("eve", password=PASSWORD)
    here, there = sign_in("eve"), sign_in("eve", "Lynx 2.9")
    page = text(here.get("/settings/sessions/"))
    assert "Lynx 2.9" in page
    assert page.count("this browser") == 1
    here.post("/settings/sessions/end-others/")
    assert there.get("/machines/").status_code == 302
    assert here.get("/machines/").status_code == 200
    assert "Lynx 2.9" not in text(here.get("/settings/sessions/"))


def test_one_session_can_be_ended_but_not_another_person_s(db):
    for name in ("eve", "mallory"):
        make.user(name, password=PASSWORD)
    eve, mallory = sign_in("eve"), sign_in("mallory")
    other = sign_in("eve", "Lynx")
    session = UserSession.objects.get(user_agent="Lynx")
    assert mallory.post(f"/settings/sessions/{session.pk}/end/").status_code == 404
    assert other.get("/machines/").status_code == 200
    assert eve.post(f"/settings/sessions/{session.pk}/end/").status_code == 302
    assert other.get("/machines/").status_code == 302


def test_a_new_password_signs_out_everywhere_else(db):
    make.user("eve", password=PASSWORD)
    here, there = sign_in("eve"), sign_in("eve", "Lynx")
    new = "another horse battery"
    here.post("/accounts/password/change/", {"oldpassword": PASSWORD, "password1": new, "password2": new})
    assert there.get("/machines/").status_code == 302
    page = text(here.get("/settings/sessions/"))
    assert "Lynx" not in page
    assert "this browser" in page


def test_sessions_that_ran_out_are_not_listed(db):
    make.user("eve", password=PASSWORD)
    here = sign_in("eve")
    sign_in("eve", "Lynx")
    key = UserSession.objects.get(user_agent="Lynx").session_key
    Session.objects.filter(session_key=key).update(expire_date=timezone.now() - timedelta(seconds=1))
    assert "Lynx" not in text(here.get("/settings/sessions/"))


def test_last_seen_is_noted_every_few_minutes_and_not_at_each_page(db, django_assert_num_queries):
    make.user("eve", password=PASSWORD)
    client = sign_in("eve")
    old = timezone.now() - timedelta(minutes=6)
    User.objects.update(last_seen=old)
    UserSession.objects.update(last_seen_at=old)
    client.get("/settings/sessions/")
    assert User.objects.get().last_seen > old
    assert UserSession.objects.get().last_seen_at > old
    with django_assert_num_queries(3):  # session, person, the list
        client.get("/settings/sessions/")
