"""Every address of the panel, with fields, queries and headers that no page of ours sends: an answer, never an internal error."""

import re
from pathlib import Path

import pytest

from machines.contract.permissions import Role
from tests import make
from tests.panel.test_access import TABLE, address  # noqa: F401  # a fixture

PANEL = Path(__file__).parent.parent.parent / "machines/panel"
READ = re.compile(r"""(?:GET|POST|data|query|params)(?:\.get|\.getlist)?[\(\[]\s*"([a-z_-]+)\"""")
FIELDS = {
    *(name for file in PANEL.rglob("*.py") for name in READ.findall(file.read_text())),
    "name", "title", "size", "format", "confirm", "reason", "machine", "value", "setting", "row", "add", "choose", "copied",
    "source", "recipe", "archive", "clone", "url", "release", "distribution", "mirror", "packages", "memory_max",
    "network_mode", "network_target", "binds-TOTAL_FORMS", "ports-TOTAL_FORMS", "settings-TOTAL_FORMS", "binds-INITIAL_FORMS",
    "ports-0-host_port", "settings-0-setting",
}  # fmt: skip
ODD = ["²", "\0", "9" * 40]
ODD_HEADERS = {
    "HX-Request": "true",
    "HX-Current-URL": "http://testserver",
    "HX-Target": "\x7f",
    "Referer": "http://[",
    "X-Log": "1",
}


@pytest.fixture
def anybody(admin):
    client = make.client(make.user("eve", Role.ADMINISTRATOR))
    client.raise_request_exception = False
    return client


def test_the_fields_are_those_the_views_read():
    assert {"next", "theme", "q", "v", "before", "after", "offset", "stop_at_failure"} & FIELDS >= {
        "next",
        "theme",
        "q",
        "v",
        "before",
    }


@pytest.mark.parametrize("name", [name for name, line in TABLE.items() if "POST" in line.methods])
def test_odd_fields_have_an_answer(name, anybody, address):  # noqa: F811
    there = address(name)
    for place, value in enumerate(ODD):
        headers = ODD_HEADERS if place % 2 else {}
        answer = anybody.post(there, {field: [value] * (place + 1) for field in FIELDS}, headers=headers)
        assert answer.status_code < 500, value


@pytest.mark.parametrize("name", [name for name, line in TABLE.items() if "GET" in line.methods])
def test_odd_queries_have_an_answer(name, anybody, address):  # noqa: F811
    there = address(name)
    for place, value in enumerate(ODD[:2]):
        answer = anybody.get(there, dict.fromkeys(FIELDS, value), headers=ODD_HEADERS if place % 2 else {})
        assert answer.status_code < 500, value


@pytest.mark.parametrize(
    "back",
    [
        *ODD,
        "x",
        "",
        "//evil.example",
        "home",
        "machine-detail",
        "javascript:alert(1)",
        "/\\evil.example",
        "/jobs/?q=1",
        "https://testserver/jobs/",
    ],
)
def test_one_is_led_back_only_to_a_page_of_the_panel(anybody, back):
    answer = anybody.post("/settings/theme/", {"theme": "dark", "next": back})
    assert answer.status_code == 302
    assert answer.url == (back if back == "/jobs/?q=1" else "/machines/")


@pytest.mark.parametrize("back", [*ODD, "x", "//evil.example", "machine-index"])
def test_signing_in_leads_to_a_page_of_the_panel(back, client, admin):
    client.raise_request_exception = False
    make.user("tea", Role.VIEWER, password="correct horse battery")
    answer = client.post("/accounts/login/", {"login": "tea", "password": "correct horse battery", "next": back})
    assert answer.status_code == 302
    assert "evil" not in answer.url
