"""Hosts that come and go: joined by the one command that the page shows."""

from collections.abc import Iterator

import pytest

from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.stack import Stack
from nspawnpanel.valkey import free_port
from tests.enrolling import command, enrol, fingerprint, typed
from tests.person import Person, until

NAME = "newcomer"
SETTINGS = "/etc/nspawnpanel/host.env"


@pytest.fixture(scope="module")
def own_panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Not that of the tests beside these, who do not expect hosts that come and go."""
    with Stack(tmp_path_factory.mktemp("panel-of-newcomers"), free_port()) as panel:
        yield panel


@pytest.fixture(scope="module")
def eve(own_panel: Stack) -> Person:
    """The administrator of that panel."""
    return Person(own_panel)


@pytest.fixture(scope="module")
def newcomer() -> Iterator[Sandbox]:
    """A host that belongs to no panel."""
    with Sandbox(NAME, CACHE) as host:
        yield host


def test_a_host_that_is_rejected_is_as_it_was(eve: Person, newcomer: Sandbox):
    url = eve.post("/enrolments/new/", {"name": NAME})
    with typed(newcomer, command(eve, url)) as done:
        fingerprint(eve, url)
        eve.post(f"{url}refuse/", page=url)
    assert done[0].returncode == 1
    assert "An administrator rejected this host" in done[0].stderr
    assert newcomer.run(["test", "-e", SETTINGS], check=False).returncode == 1
    assert not eve.rows("SELECT * FROM machines_host")


def test_a_host_joins_by_one_command_and_its_page_turns_green(eve: Person, newcomer: Sandbox):
    enrol(eve, newcomer, NAME)
    assert newcomer.run(["stat", "-c", "%a %U", SETTINGS]).stdout.strip() == "600 root"
    assert newcomer.run(["test", "-e", "/var/lib/nspawnpanel/keys.joining"], check=False).returncode == 1
    answers = "SELECT count(*) AS left FROM machines_enrolment WHERE answer <> ''"
    until(lambda: eve.rows(answers)[0]["left"] == 0, 20, lambda: "the sealed settings are kept in the database")
