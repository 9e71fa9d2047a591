"""Sign-in by a real OpenID Connect provider on the loopback: oidc-provider of tests/oidc, a process of node."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from allauth.socialaccount.models import SocialAccount
from django.core.exceptions import ImproperlyConfigured
from django.test import Client

from machines.contract.permissions import Permission, Role
from machines.models import Event, Membership, User
from machines.panel.people import single_sign_on
from nspawnpanel.valkey import free_port
from tests import make
from tests.pages import one_line, text

HERE = Path(__file__).parents[2] / "oidc"
LOGIN = "/accounts/oidc/sso/login/"
RULES = "web-people=web:editor+console, web-admins=web:owner, guests=web:viewer, root=administrator"
EVE = {"name": "Eve Moneypenny", "email": "eve@example.org", "email_verified": True, "groups": ["web-people", "other"]}


@pytest.fixture(scope="module")
def provider() -> Iterator[Callable[[dict[str, Any]], str]]:
    """Call it with the people it shall know; its issuer."""
    node = shutil.which("node") or str(Path(".venv/node/bin/node").resolve())
    if not Path(node).exists() or not (HERE / "node_modules/oidc-provider").is_dir():
        reason = "no node, or no tests/oidc/node_modules: `make setup` fetches them"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    port = free_port()
    argv = [node, "provider.mjs", str(port), "panel", "only-for-tests", f"http://testserver{LOGIN}callback/"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=HERE, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        assert process.stdin
        lines, words = process.stdout, process.stdin
        assert lines.readline() == "ready\n"

        def know(people: dict[str, Any]) -> str:
            words.write(json.dumps(people) + "\n")
            words.flush()
            assert lines.readline() == "known\n"
            return f"http://127.0.0.1:{port}"

        yield know
        process.kill()


@pytest.fixture
def sso(provider, settings, db) -> Callable[[dict[str, Any]], str]:
    make.team("web")
    make.user("ada", role=Role.ADMINISTRATOR)
    settings.OIDC_SERVER_URL = provider({"eve": EVE})
    settings.OIDC_NAME, settings.OIDC_TEAMS = "Company login", RULES
    app = {
        "provider_id": "sso", "name": "Company login", "client_id": "panel", "secret": "only-for-tests",
        "settings": {"server_url": settings.OIDC_SERVER_URL, "scope": ["openid", "profile", "email"]},
    }  # fmt: skip
    settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": [app]}}
    return provider


def sign_in(browser: Client, name: str = "eve", start: str = LOGIN, elsewhere: requests.Session | None = None):
    """Press the button, type the name at the provider, consent there, and come back with what it gave."""
    there = elsewhere or requests.Session()
    answer = there.get(browser.post(start).url, allow_redirects=False, timeout=10)
    for _ in range(12):
        while answer.is_redirect:
            target = requests.compat.urljoin(answer.url, answer.headers["Location"])
            if target.startswith("http://testserver"):
                back = urlsplit(target)
                return browser.get(f"{back.path}?{back.query}", follow=True)
            answer = there.get(target, allow_redirects=False, timeout=10)
        consent = 'value="consent"' in answer.text
        fields = {"prompt": "consent"} if consent else {"prompt": "login", "login": name, "password": "any"}
        answer = there.post(answer.url, fields, allow_redirects=False, timeout=10)
    raise AssertionError(one_line(answer.text))


def is_in(browser: Client) -> bool:
    return browser.get("/settings/sessions/").status_code == 200


def test_whoever_is_in_a_group_gets_an_account_with_the_role_of_it(sso):
    assert "Sign in with Company login" in text(Client().get("/accounts/login/"))
    browser = Client()
    sign_in(browser)
    assert is_in(browser)
    eve = User.objects.get(username="eve")
    assert (eve.first_name, eve.email, eve.is_administrator) == ("Eve Moneypenny", "eve@example.org", False)
    assert not eve.has_usable_password()
    member = eve.memberships.get()
    assert (member.team.slug, member.role, member.may_console, member.may_remove) == ("web", "editor", True, False)
    assert Event.objects.get(kind="groups-followed").text == "By the groups of eve at sign-in: editor of Web."


def test_at_each_sign_in_the_groups_of_then_decide_and_other_teams_are_left_alone(sso):
    sign_in(Client())
    eve = User.objects.get(username="eve")
    make.member(eve, Role.OPERATOR, team="mine")
    sso({"eve": {**EVE, "groups": ["web-people", "web-admins", "root"]}})
    sign_in(Client())
    roles = dict(Membership.objects.filter(user=eve).values_list("team__slug", "role"))
    assert roles == {"web": "owner", "mine": "operator"}
    assert User.objects.get(pk=eve.pk).is_administrator
    make.user("olga", role=Role.OWNER, team="web")
    sso({"eve": {**EVE, "groups": ["guests"]}})
    sign_in(Client())
    roles = dict(Membership.objects.filter(user=eve).values_list("team__slug", "role"))
    assert roles == {"web": "viewer", "mine": "operator"}
    assert not User.objects.get(pk=eve.pk).is_administrator


def test_who_is_in_no_group_any_more_stays_out_and_loses_what_groups_gave(sso):
    browser = Client()
    sign_in(browser)
    sso({"eve": {**EVE, "groups": ["other"]}})
    again = Client()
    assert "None of your groups" in text(sign_in(again))
    assert not is_in(again)
    assert not Membership.objects.filter(user__username="eve").exists()


def test_a_stranger_of_the_provider_gets_no_account(sso):
    sso({"mallory": {"name": "M", "groups": []}, "trudy": {"name": "T", "groups": "web-people"}})
    for name in ("mallory", "trudy"):
        answer = sign_in(Client(), name)
        assert answer.status_code == 403
        assert not User.objects.filter(username=name).exists()


def test_neither_a_name_nor_a_mail_address_takes_over_an_account(sso):
    User.objects.filter(username="ada").update(email="ada@example.org")
    sso({"ada": {**EVE, "groups": ["root"]}, "bob": {**EVE, "email": "ADA@example.org"}})
    browser = Client()
    assert "There is an account named ada here already" in text(sign_in(browser, "ada"))
    assert not is_in(browser)
    sso({"\uff21da": {**EVE, "groups": ["root"]}})  # with a wide A, which is kept as a plain one
    assert "There is an account named Ada here already" in text(sign_in(browser, "\uff21da"))
    assert not is_in(browser)
    sso({"bob": {**EVE, "email": "ADA@example.org"}})
    sign_in(browser, "bob")
    assert User.objects.get(username="bob").email == ""
    assert not SocialAccount.objects.filter(user__username="ada").exists()


def test_an_account_here_is_connected_by_who_is_signed_in_to_it_a_moment_ago(sso):
    eve = make.user("eve", role="", password="correct horse battery")
    connect = f"{LOGIN}?process=connect"
    assert make.client(eve, minutes_ago=16).post(connect).url.startswith("/accounts/reauthenticate/")
    assert "Connected" in text(sign_in(make.client(eve), start=connect))
    browser = Client()
    sign_in(browser)
    assert is_in(browser)
    assert User.objects.filter(username__startswith="eve").count() == 1
    assert User.objects.get(pk=eve.pk).may(Permission.BUILD)


def test_a_disabled_person_is_told_so(sso):
    sign_in(Client())
    User.objects.filter(username="eve").update(is_active=False)
    browser = Client()
    assert "This account is disabled" in text(sign_in(browser))
    assert not is_in(browser)


def test_the_last_owner_and_the_last_administrator_stay_whatever_the_groups_say(sso):
    sso({"eve": {**EVE, "groups": ["web-admins", "root"]}})
    sign_in(Client())
    User.objects.filter(username="ada").update(is_administrator=False)
    sso({"eve": {**EVE, "groups": ["guests"]}})
    sign_in(Client())
    eve = User.objects.get(username="eve")
    assert eve.is_administrator
    assert eve.memberships.get().role == "owner"


def test_who_has_no_password_confirms_by_signing_in_there_once_more(sso):
    browser = Client()
    there = requests.Session()
    sign_in(browser, elsewhere=there)
    session = browser.session
    session["account_authentication_methods"][0]["at"] -= 16 * 60
    session.save()
    asked = browser.get("/settings/profile/", follow=True)
    assert "You go on to Company login" in text(asked)
    start = asked.redirect_chain[-1][0]
    answer = sign_in(browser, start=start, elsewhere=there)
    assert answer.redirect_chain[-1][0] == "/settings/profile/"
    assert answer.status_code == 200


def test_a_provider_that_is_away_is_said(sso, settings):
    settings.SOCIALACCOUNT_PROVIDERS["openid_connect"]["APPS"][0]["settings"]["server_url"] = "http://127.0.0.1:9"
    answer = Client().post(LOGIN)
    assert answer.status_code == 502
    assert "Company login did not answer" in text(answer)


def test_an_answer_of_another_sign_in_is_refused(sso):
    browser = Client()
    browser.post(LOGIN)
    answer = browser.get(f"{LOGIN}callback/?code=x&state=made-up")
    assert "You are not signed in" in text(answer)
    assert not is_in(browser)


def test_where_none_is_set_there_is_nothing_of_it(db):
    assert Client().post(LOGIN).status_code == Client().get(f"{LOGIN}callback/").status_code == 404
    assert "/oidc/" not in text(Client().get("/accounts/login/"))


@pytest.mark.parametrize(
    "wrong", ["web", "a=web", "a=web:king", "=web:owner", "a=web:owner+fly", "a=owner", "a=administrator+console"]
)
def test_a_mapping_with_a_fault_is_said_at_the_start(wrong):
    with pytest.raises(ImproperlyConfigured, match="OIDC_TEAMS"):
        single_sign_on.parse(wrong)


def test_a_group_may_have_an_equals_sign_in_its_name():
    assert single_sign_on.parse("cn=web=web:owner") == (single_sign_on.Rule("cn=web", "web", Role.OWNER),)
