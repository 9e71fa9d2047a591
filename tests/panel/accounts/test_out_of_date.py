"""What was sent by a page whose reader's session ended, or was renewed, meanwhile."""

import pytest
from django.test import Client

from tests import make

URL = "/machines/new/"
FROM = {"Referer": "http://testserver/hosts/alpha/machines/web/?x=1"}


@pytest.fixture
def strict(admin) -> Client:
    """Signed in, and checked for forgeries as in a browser."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin)
    return client


def test_it_says_so_and_leads_back_to_the_page(strict):
    answer = strict.post(URL, headers=FROM)
    assert answer.status_code == 403
    page = answer.content.decode()
    assert "This page is out of date" in page
    assert 'href="/hosts/alpha/machines/web/"' in page


@pytest.mark.parametrize("referer", ["https://evil.example//evil.example/x", "javascript:alert(1)", "", "x"])
def test_it_leads_nowhere_else(referer, strict):
    page = strict.post(URL, headers={"Referer": referer}).content.decode()
    assert 'href="/" data-interrupted' in page


def test_a_button_says_it_in_a_note(strict):
    answer = strict.post(URL, headers={"HX-Request": "true"})
    assert (answer.status_code, answer["Content-Type"]) == (403, "text/plain; charset=utf-8")
    assert "Reload it" in answer.content.decode()


def test_without_a_session_it_leads_to_sign_in(db):
    answer = Client(enforce_csrf_checks=True).post(URL, headers=FROM)
    assert answer.url == "/accounts/login/?next=/hosts/alpha/machines/web/"


def test_after_signing_in_nobody_lands_where_only_a_post_is_taken(client, alpha):
    make.machine("web", on=alpha)
    answer = client.post("/hosts/alpha/machines/web/start/", headers=FROM)
    assert answer.url == "/accounts/login/?next=/hosts/alpha/machines/web/"
