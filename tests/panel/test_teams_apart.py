"""Teams share hosts and nothing else: every address × method × role × (own, another team's, nobody's), and every page of
one team read for anything of the other."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse

from machines.contract.permissions import TEAM_ROLES, Permission, held
from machines.models import Membership, User
from tests import make
from tests.panel import world
from tests.panel.test_access import SIGNED_IN, STRICTER, TABLE, parts_of

OURS, THEIRS, NOBODYS = "nightingale", "kanarie7f3", "sparrow5k"
# For the signed-in person alone, whatever the team: no object of a team is in their addresses.
TEAM_VIEWS = {name: line for name, line in TABLE.items() if line.permission != SIGNED_IN}
# Parts that say nothing of whose it is.
NEUTRAL = {"op", "number", "what"}
FOREIGN = re.compile(rf"{THEIRS}|{NOBODYS}|77[01]00\d|10\.77\.77[01]|4770[12]")
PEOPLE = [(role, ()) for role in TEAM_ROLES] + [("operator", ("remove",)), ("viewer", ("console",))]
# In these the owner's own is not there to be had: what they are for is somebody else's, or gone already.
MAY_BE_ABSENT = {"machine-confirm", "host-pool", "archive-content", "archive-part"}


class Undone(Exception):
    pass


@pytest.fixture
def teams(db) -> dict[str, dict[str, Any]]:
    shared = make.host("alpha")
    return {
        OURS: world.things(OURS, 100001, shared=shared),
        THEIRS: world.things(THEIRS, 770001, shared=shared),
        NOBODYS: world.things(NOBODYS, 771001, shared=shared, owned=False),
    }


def person(role: str, extra: tuple[str, ...] = ()) -> Client:
    someone = make.user("someone", role="")
    someone.password = "unknown"
    someone.save()
    make.member(someone, role, team=OURS, **{f"may_{right}": True for right in extra})
    Membership.objects.filter(user=someone).update(id=5)  # not the number after theirs
    return make.client(someone)


def status(client: Client, method: str, path: str) -> int:
    """Of a request whose effects are taken back."""
    found = 0
    try:
        with transaction.atomic():
            found = client.generic(method, path).status_code
            raise Undone
    except Undone:
        return found


def address(name: str, given: dict[str, Any]) -> str:
    parts = {part: given["member" if (name, part) in MEMBERS else part] for part in parts_of(name)}
    return reverse(name, kwargs=parts)


# Of one job, which the matrix covers; of events, whose files have what the list has (panel/audit/test_log.py)
STREAMS = {"job-log-stream", "job-log-raw", "event-export-csv", "event-export-jsonl"}
MEMBERS = {("team-member-edit", "pk"), ("team-member-remove", "pk")}


def is_somebodys(name: str) -> bool:
    return bool(set(parts_of(name)) - NEUTRAL - {"enrolment"})


def deviations(client: Client, rights: frozenset[Permission], teams: dict[str, Any]) -> Iterator[str]:
    for name, line in TEAM_VIEWS.items():
        if "enrolment" in parts_of(name):
            continue  # of the administrators, whom tests/panel/test_access.py covers
        for method in sorted(line.methods):
            for whose, given in teams.items() if is_somebodys(name) else [(OURS, teams[OURS])]:
                path = address(name, given)
                found = status(client, method, path)
                if not as_expected(name, method, line.permission, rights, found, is_own=whose == OURS):
                    yield f"{method} {path} ({name}) of {whose}: {found}"


def as_expected(name: str, method: str, permission: Any, rights: Any, found: int, *, is_own: bool) -> bool:
    if permission not in rights:
        return found == 403
    if not is_own:
        return found == 404
    if STRICTER.get((name, method), permission) not in rights:
        return found == 403
    return found not in {401, 403, 405, 500} and (found != 404 or name in MAY_BE_ABSENT)


@pytest.mark.parametrize(("role", "extra"), PEOPLE, ids=str)
def test_nobody_reaches_what_is_not_their_team_s_and_not_their_right(role, extra, teams):
    client = person(role, extra)
    found = list(deviations(client, held(role, extra), teams))
    assert not found, "\n".join(found)


def test_who_is_in_no_team_reaches_nothing(teams):
    client = make.client(make.user("someone", role=""))
    assert list(deviations(client, frozenset(), teams)) == []


def test_who_is_disabled_is_asked_to_sign_in(teams):
    client = person("owner")
    User.objects.filter(username="someone").update(is_active=False)
    for name, line in TEAM_VIEWS.items():
        if "enrolment" not in parts_of(name):
            for method in line.methods:
                assert status(client, method, address(name, teams[OURS])) == 302, name


# --- what pages say


SEARCHES = (
    "q=kanar",
    "q=77000",
    "q=10.77",
    "q=sparr",
    "q=host:alpha",
    "q=state:running",
    "q=who:kanarie7f3-person",
    "q=4770",
)


def readable(teams: dict[str, Any]) -> Iterator[str]:
    for name, line in TABLE.items():
        if "GET" not in line.methods or "enrolment" in parts_of(name) or name in STREAMS:
            continue
        path = address(name, teams[OURS])
        yield path
        if not parts_of(name):
            yield from (f"{path}?{search}" for search in SEARCHES)
    for extra in ("machines/new/?host=alpha", "machines/new/?source=clone&host=alpha", "machines/new/?again=770001",
                  "machines/new/?like=770001", "machines/new/?recipe=770001", "machines/new/?clone=kanar&host=alpha",
                  "recipes/new/?job=770001", "hosts/alpha/", f"hosts/alpha/machines/{OURS}-beside/",
                  f"hosts/alpha/machines/{OURS}-beside/config/review/",
                  "presets/100001/roll-out/?machine=770001&machine=100001"):  # fmt: skip
        yield f"/{extra}"


def found_in(client: Client, path: str, headers: dict[str, str]) -> list[str]:
    answer = client.get(path, headers=headers)
    body = b"".join(answer) if answer.streaming else answer.content
    text = body.decode(errors="replace") + str(answer.headers)
    asked = path.partition("?")[2]  # which a page repeats
    return sorted({hit for hit in FOREIGN.findall(text) if hit not in asked})


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}], ids=["page", "fragment"])
@pytest.mark.parametrize("role", ["viewer", "owner"])
def test_no_page_of_one_team_names_anything_of_another(role, headers, teams):
    client = person(role)
    leaks = {path: hits for path in readable(teams) if (hits := found_in(client, path, headers))}
    assert not leaks, "\n".join(f"{path}: {hits}" for path, hits in leaks.items())


def test_a_taken_name_and_port_tell_no_more_than_that_they_are_taken(teams):
    client = person("editor")
    answer = client.post("/machines/new/", {"host": "alpha", "name": f"{THEIRS}-beside", "source": "distribution"})
    said = answer.content.decode()
    assert "is taken by another team" in said
    assert f"{THEIRS}-person" not in said
    assert "10.77.770" not in said
