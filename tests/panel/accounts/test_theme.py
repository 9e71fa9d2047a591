import pytest
from django.urls import reverse

URL = "/settings/theme/"


def test_it_saves_the_theme_and_goes_back(as_admin, admin):
    answer = as_admin.post(URL, {"theme": "dark", "next": "/hosts/?q=a"})
    assert (answer.status_code, answer.url) == (302, "/hosts/?q=a")
    admin.refresh_from_db()
    assert admin.theme == "dark"
    assert b'data-bs-theme="dark"' in as_admin.get("/machines/").content


def test_it_refreshes_the_page_for_htmx(as_viewer):
    answer = as_viewer.post(URL, {"theme": "light"}, headers={"HX-Request": "true"})
    assert answer.headers["HX-Refresh"] == "true"


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example/", "javascript:alert(1)", ""])
def test_it_leads_nowhere_else(as_admin, elsewhere):
    assert as_admin.post(URL, {"theme": "dark", "next": elsewhere}).url == reverse("machine-index")


def test_it_refuses_a_theme_that_does_not_exist(as_admin, admin):
    assert as_admin.post(URL, {"theme": "neon"}).status_code == 400
    admin.refresh_from_db()
    assert admin.theme == "system"


def test_it_rejects_get(as_admin):
    assert as_admin.get(URL).status_code == 405


def test_it_needs_the_right_to_see(stranger, client):
    client.force_login(stranger)
    assert client.post(URL, {"theme": "dark"}).status_code == 403
