"""People made on the command line can sign in, with the role they were given."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from machines.models import User

pytestmark = pytest.mark.django_db


def add(*words: str) -> str:
    said = StringIO()
    call_command("add_user", *words, stdout=said)
    return said.getvalue()


def test_a_viewer_can_sign_in_with_the_printed_password(client):
    password = add("vera").split("Password: ")[1].strip()
    answer = client.post("/accounts/login/", {"login": "vera", "password": password})
    assert answer.status_code == 302
    assert User.objects.get(username="vera").role == "viewer"


def test_an_administrator_is_asked_for_by_name():
    add("ada", "--role", "administrator")
    assert User.objects.get(username="ada").role == "administrator"


def test_a_name_is_taken_once():
    add("vera")
    with pytest.raises(CommandError, match="already somebody"):
        add("vera")
