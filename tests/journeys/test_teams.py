"""Two teams on one real host: invited, given machines, held to their quota by the panel and to whose machine it is by the host."""

import json
import re
from collections.abc import Iterator
from html import unescape
from urllib.error import HTTPError

import pytest

from nspawnpanel.sandbox import Sandbox
from nspawnpanel.stack import Stack
from tests.person import Person, until

SHOP, LAB = "tea-1", "lab-1"
PASSWORD = "a long walk by the sea"
OWNERS = """
import json, sqlite3
print(json.dumps(dict(sqlite3.connect("/var/lib/nspawnpanel/ledger.db").execute("select name, team from owners"))))
"""


class Invited(Person):
    """Somebody who comes by a link."""

    def __init__(self, panel: Stack, link: str, name: str) -> None:
        path = "/" + link.split("/", 3)[3]
        self._link, self._name = path, name
        super().__init__(panel, name, PASSWORD)

    def post(self, path, fields=None, *, page=""):
        if path == "/accounts/login/" and self._link:
            link, self._link = self._link, ""
            super().post(link, {"username": self._name, "password": PASSWORD, "again": PASSWORD})
        return super().post(path, fields, page=page)


def status(person: Person, path: str) -> int:
    try:
        person.get(path)
    except HTTPError as error:
        return error.code
    return 200


def owners(host: Sandbox) -> dict[str, str]:
    return json.loads(host.run(["python3", "-c", OWNERS]).stdout)


@pytest.fixture
def boss(panel: Stack, alpha_host: Sandbox) -> Iterator[Person]:
    """The administrator, who has just signed in; what the test made goes afterwards."""
    person = Person(panel)
    yield person
    for name in (SHOP, LAB):
        alpha_host.run(["machinectl", "terminate", name], check=False)
        until(lambda name=name: alpha_host.run(["machinectl", "show", name], check=False).returncode, 30)
        alpha_host.run(["machinectl", "remove", name], check=False)
        until(lambda name=name: person.machine(name).get("state") in {None, "missing"}, 70)
    for slug in ("shop", "lab"):
        if status(person, f"/teams/{slug}/") == 200:
            person.post(f"/teams/{slug}/delete/", {"confirm": slug})


def invited(boss: Person, team: str, role: str, name: str) -> Person:
    boss.post("/settings/invitations/", {"note": name, "team": team_key(boss, team), "role": role, "days": "1"})
    found = re.search(r'id="once-link">([^<]+)<', boss.answer)
    assert found, boss.complaints()
    return Invited(boss.panel, found[1], name)


def alpha_key(boss: Person) -> str:
    return boss.rows("SELECT id FROM machines_host WHERE name = 'alpha'")[0]["id"]


def team_key(boss: Person, slug: str) -> int:
    return boss.rows("SELECT id FROM machines_team WHERE slug = ?", slug)[0]["id"]


def test_two_teams_share_a_host_and_nothing_else(panel: Stack, alpha_host: Sandbox, boss: Person):
    for name in (SHOP, LAB):
        alpha_host.plant(name)
        boss.sees(name, "stopped", 30)
    for slug in ("shop", "lab"):
        boss.post("/teams/new/", {"name": slug.title(), "slug": slug})
        boss.post(f"/teams/{slug}/share/", {"host": alpha_key(boss), "max_memory": "1G", "max_machines": "2"})
    for slug, name in (("shop", SHOP), ("lab", LAB)):
        number = boss.machine(name)["id"]
        boss.post("/machines/assign/", {"machine": number, "team": slug}, page=f"/machines/assign/?machine={number}")
    until(
        lambda: owners(alpha_host) == owners(alpha_host) | {SHOP: "shop", LAB: "lab"},
        30,
        lambda: str(owners(alpha_host)),
    )

    olga, vera = invited(boss, "shop", "operator", "olga"), invited(boss, "lab", "viewer", "vera")
    assert SHOP in olga.get("/machines/")
    assert LAB not in olga.get("/machines/")
    assert status(olga, f"/hosts/alpha/machines/{LAB}/") == 404
    job = olga.succeed(olga.press("start", SHOP))
    assert (job["actor_name"], job["actor_role"]) == ("olga", "operator")
    boss.sees(SHOP, "running", 20)
    with pytest.raises(HTTPError, match="403"):
        vera.press("start", LAB)
    assert boss.machine(LAB)["state"] == "stopped"

    # Moved to the other team: who saw it sees it no more, and its host knows.
    boss.post("/machines/assign/", {"machine": boss.machine(LAB)["id"], "team": "shop"}, page="/machines/unclaimed/")
    until(lambda: owners(alpha_host).get(LAB) == "shop", 30)
    boss.sees_idle(LAB)  # its host knows a moment before the panel knows that it does
    olga.succeed(olga.press("start", LAB))
    assert status(vera, f"/hosts/alpha/machines/{LAB}/") == 404


def test_what_goes_beyond_a_quota_is_refused_with_the_numbers(panel: Stack, alpha_host: Sandbox, boss: Person):
    alpha_host.plant(SHOP)
    boss.sees(SHOP, "stopped", 30)
    boss.post("/teams/new/", {"name": "Shop", "slug": "shop"})
    boss.post(
        "/teams/shop/share/", {"host": alpha_key(boss), "max_memory": "1G", "claims": "on", "name_pattern": "tea-*"}
    )
    edda = invited(boss, "shop", "editor", "edda")
    before = edda.newest_job()
    with pytest.raises(AssertionError, match="no job was made"):
        edda.build("tea-2", memory_max="2G", team="shop")
    said = unescape(edda.answer).replace("\xa0", " ")
    assert "1 GiB too much" in said, edda.complaints()
    with pytest.raises(AssertionError, match="no job was made"):
        edda.build("other", memory_max="512M", team="shop")
    assert "are called tea-*" in unescape(edda.answer), edda.complaints()
    assert edda.newest_job() == before
