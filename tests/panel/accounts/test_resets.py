"""A link to a new password: by mail where mail is set, else copied or printed."""

import re
from io import StringIO

import pytest
from allauth.mfa.models import Authenticator
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.core.management import CommandError, call_command
from django.test import Client

from machines.contract.permissions import Role
from machines.models import Event, User
from machines.panel.people import resets
from machines.panel.web import attempts
from tests import make
from tests.pages import text

OLD, NEW = "correct horse battery", "another horse battery"
CHOSEN = {"password1": NEW, "password2": NEW}
ASK = "/accounts/password/reset/"


@pytest.fixture(autouse=True)
def _quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def eve(db) -> User:
    return make.user("eve", password=OLD)


@pytest.fixture
def with_mail(settings, eve) -> User:
    settings.HAS_MAIL = True
    User.objects.update(email="eve@example.org")
    return eve


def choose(link: str, browser: Client | None = None):
    browser = browser or Client()
    shown = browser.get(link, follow=True)
    form = shown.redirect_chain[-1][0] if shown.redirect_chain else link
    return browser.post(form, CHOSEN, follow=True)


def sign_in(password: str) -> int:
    return Client().post("/accounts/login/", {"login": "eve", "password": password}).status_code


def test_the_printed_link_sets_a_password_once(eve):
    out = StringIO()
    call_command("reset_link", "eve", stdout=out)
    link = re.search(r"^\S*/accounts/password/reset/key/\S+/$", out.getvalue(), re.M)
    assert link
    assert "Password set" in text(choose(link[0]))
    assert (sign_in(OLD), sign_in(NEW)) == (200, 302)
    assert "This link does not work" in text(choose(link[0]))
    assert Event.objects.get(kind="reset-link-made").actor_name == "manage.py"


def test_it_signs_out_whoever_was_in_with_the_old_one(eve):
    browser = Client()
    browser.post("/accounts/login/", {"login": "eve", "password": OLD})
    eve.refresh_from_db()
    choose(resets.link(eve, by="ada"))
    assert browser.get("/settings/sessions/").status_code == 302


def test_a_link_is_dead_once_its_person_has_signed_in_after_all(eve):
    link = resets.link(eve, by="ada")
    sign_in(OLD)
    assert "This link does not work" in text(choose(link))


def test_the_second_factor_stays_unless_it_is_to_go(eve):
    Authenticator.objects.create(user=eve, type="recovery_codes", data={"seed": "x", "used_mask": 0})
    call_command("reset_link", "eve", stdout=StringIO())
    assert Authenticator.objects.exists()
    call_command("reset_link", "eve", "--second-factor", stdout=StringIO())
    assert not Authenticator.objects.exists()


def test_for_nobody_and_for_a_disabled_person_there_is_none(eve):
    make.user("ada", role=Role.ADMINISTRATOR)
    with pytest.raises(CommandError, match="Administrators: ada"):
        call_command("reset_link", "nobody")
    User.objects.filter(pk=eve.pk).update(is_active=False)
    with pytest.raises(CommandError, match="disabled"):
        call_command("reset_link", "eve")


def test_where_no_mail_is_set_there_is_no_such_page(eve):
    assert Client().get(ASK).status_code == Client().post(ASK, {"email": "eve@example.org"}).status_code == 404


def test_a_mail_brings_the_link(with_mail):
    assert ASK in text(Client().get("/accounts/login/"))
    Client().post(ASK, {"email": "EVE@example.org"})
    sent = mail.outbox[0]
    assert (sent.to, sent.subject) == (["eve@example.org"], "A new password for nspawnpanel")
    link = re.search(r"http://testserver(/\S+)", sent.body)
    assert link
    assert "Password set" in text(choose(link[1]))
    assert sign_in(NEW) == 302


def test_who_asks_does_not_learn_whether_anybody_has_the_address(with_mail):
    answers = [Client().post(ASK, {"email": email}, follow=True) for email in ("eve@example.org", "nobody@example.org")]
    assert "Look into your mail" in text(answers[0])
    pages = [re.search(r"<main.*</main>", text(answer), re.DOTALL) for answer in answers]
    assert pages[0]
    assert pages[1]
    assert pages[0][0] == pages[1][0]
    assert len(mail.outbox) == 1


def test_nobody_is_flooded_with_mail(with_mail):
    answers = [
        Client().post(ASK, {"email": "eve@example.org"}, REMOTE_ADDR=f"198.51.100.{n}")
        for n in range(attempts.RESETS + 1)
    ]
    assert answers[-1].status_code == 429
    assert "Try again in" in text(answers[-1])
    assert len(mail.outbox) == attempts.RESETS


def test_a_mail_server_that_does_not_answer_is_said(with_mail, monkeypatch):
    def unreachable(*_):
        raise ConnectionRefusedError("connection refused")

    monkeypatch.setattr(EmailBackend, "send_messages", unreachable)
    assert "could not be sent" in text(Client().post(ASK, {"email": "eve@example.org"}, follow=True))
