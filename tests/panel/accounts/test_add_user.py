"""People made on the command line can sign in, with the role they were given."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from machines.models import User
from tests import make

pytestmark = pytest.mark.django_db


def add(*words: str) -> str:
    said = StringIO()
    call_command("add_user", *words, stdout=said)
    return said.getvalue()


def test_a_member_of_a_team_can_sign_in_with_the_printed_password(client):
    make.team("web")
    password = add("vera", "--team", "web", "--role", "operator").split("Password: ")[1].strip()
    answer = client.post("/accounts/login/", {"login": "vera", "password": password})
    assert answer.status_code == 302
    vera = User.objects.get(username="vera")
    assert [(grant.slug, grant.role) for grant in vera.grants] == [("web", "operator")]
    assert not vera.is_administrator


def test_an_administrator_is_asked_for_by_name():
    add("ada", "--administrator")
    assert User.objects.get(username="ada").is_administrator


def test_a_team_that_is_not_there_is_named_and_nobody_is_made():
    make.team("web")
    with pytest.raises(CommandError, match="no team wbe; teams are: web"):
        add("vera", "--team", "wbe")
    assert not User.objects.exists()


@pytest.mark.parametrize("again", ["vera", "Vera", "\uff36era"])  # the last with a wide V
def test_a_name_is_taken_once(again):
    add("vera")
    with pytest.raises(CommandError, match="already somebody"):
        add(again)
    assert User.objects.count() == 1
