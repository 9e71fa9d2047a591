import importlib

import pytest
from django.apps import apps
from django.test import Client

from machines.models import User
from tests import make
from tests.pages import text

PASSWORD = "correct horse battery"


@pytest.mark.django_db
def test_it_asks_for_name_and_password_and_offers_no_mail(client):
    page = text(client.get("/accounts/login/"))
    assert "Username or email address" in page
    assert 'autocomplete="username"' in page
    assert "password/reset" not in page
    assert "manage.py reset_link NAME" in page


def test_a_wrong_password_does_not_say_which_part_was_wrong(client, db):
    make.user("eve", password=PASSWORD)
    said = [text(client.post("/accounts/login/", {"login": n, "password": "wrong"})) for n in ("eve", "nobody")]
    assert all("not correct" in page for page in said)


def test_two_from_before_whose_names_differ_in_case_are_left_and_sign_in_each_by_their_own(db, capsys):
    eve, other = make.user("eve", password=PASSWORD), make.user("x", password=PASSWORD)
    User.objects.filter(pk=other.pk).update(username="Eve")
    User.objects.update(username_key=None)
    importlib.import_module("machines.migrations.0039_one_name_one_person").fill(apps, None)
    assert list(User.objects.order_by("pk").values_list("username", "username_key")) == [("eve", "eve"), ("Eve", None)]
    assert "“Eve” and “eve” differ in case only" in capsys.readouterr().out
    for person in (eve, other):
        person.refresh_from_db()
        browser = Client()
        assert browser.post("/accounts/login/", {"login": person.username, "password": PASSWORD}).status_code == 302
        assert browser.session["_auth_user_id"] == str(person.pk)
    assert "not correct" in text(Client().post("/accounts/login/", {"login": "EVE", "password": PASSWORD}))


@pytest.mark.parametrize("path", ["password/reset/", "signup/", "email/", "confirm-email/"])
def test_pages_that_would_send_mail_or_make_accounts_are_not_there(path, as_admin, client):
    for someone in (as_admin, client):
        assert someone.get(f"/accounts/{path}").status_code == 404
        assert someone.post(f"/accounts/{path}", {"email": "a@example.org"}).status_code == 404


def test_the_password_can_be_changed(client, db):
    user = make.user("eve", password=PASSWORD)
    client.force_login(user)
    assert "password/reset" not in text(client.get("/accounts/password/change/"))
    fields = {"oldpassword": PASSWORD, "password1": "staple staple 9", "password2": "staple staple 9"}
    assert client.post("/accounts/password/change/", fields).status_code == 302
    user.refresh_from_db()
    assert user.check_password("staple staple 9")
