"""Hosts that come and go: joined by the one command that the page shows."""

from collections.abc import Iterator

import pytest

from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.stack import Stack
from nspawnpanel.valkey import free_port
from tests.enrolling import command, enrol, fingerprint, typed
from tests.person import Person, until
from tests.tls import Certificate, Front

NAME = "newcomer"
KEYS = "/settings/panel-keys/"
SETTINGS = "/etc/nspawnpanel/host.env"


@pytest.fixture(scope="module")
def own_panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Not that of the tests beside these, who do not expect hosts that come and go. Hosts reach its Redis over TLS."""
    data = tmp_path_factory.mktemp("panel-of-newcomers")
    certificate, port = Certificate(tmp_path_factory.mktemp("tls")), free_port()
    (data / "valkey-port").write_text(str(port))
    with Front(certificate, port) as front:
        given = {
            "NSPAWNPANEL_HOSTS_REDIS_URL": f"rediss://{Sandbox.gateway}:{front.port}/0",
            "NSPAWNPANEL_REDIS_CERTIFICATE": str(certificate.file),
        }
        with Stack(data, free_port(), environment=given) as panel:
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
    settings = newcomer.run(["cat", SETTINGS]).stdout
    assert "NSPAWNPANEL_REDIS_URL=rediss://" in settings
    assert "NSPAWNPANEL_REDIS_PINS=" in settings
    answers = "SELECT count(*) AS left FROM machines_enrolment WHERE answer <> ''"
    until(lambda: eve.rows(answers)[0]["left"] == 0, 20, lambda: "the sealed settings are kept in the database")


def test_a_removed_host_goes_on_by_itself_and_joins_again_as_another_one(eve: Person, newcomer: Sandbox):
    newcomer.plant("web")
    eve.sees("web", "stopped", 30, NAME)
    eve.succeed(eve.press("start", "web", NAME))
    [before] = eve.rows("SELECT * FROM machines_host WHERE name = ?", NAME)
    eve.post(f"/hosts/{NAME}/remove/", {"confirm": NAME}, page=f"/hosts/{NAME}/remove/")
    until(lambda: not users(eve.panel), 20, lambda: str(users(eve.panel)))
    assert newcomer.run(["machinectl", "show", "web", "--property=State", "--value"]).stdout.strip() == "running"
    enrol(eve, newcomer, NAME)
    [after] = eve.rows("SELECT * FROM machines_host WHERE name = ?", NAME)
    assert after["id"] != before["id"]
    assert after["verify_key"] != before["verify_key"]
    assert after["generation"] == 1
    eve.sees("web", "running", 30, NAME)
    assert not eve.rows("SELECT * FROM machines_job WHERE host_id = ?", after["id"])
    assert len(users(eve.panel)) == 1


def test_the_panels_key_is_followed_by_another_and_the_host_goes_with_it(eve: Person, newcomer: Sandbox):
    [before] = trusted(newcomer)
    rotate(eve, "prepare")
    until(lambda: len(trusted(newcomer)) == 2, 20, lambda: str(trusted(newcomer)))
    until(lambda: "not yet by" not in eve.get(KEYS), 20, lambda: eve.get(KEYS))
    rotate(eve, "switch")
    rotate(eve, "retire")
    until(lambda: len(trusted(newcomer)) == 1, 20, lambda: str(trusted(newcomer)))
    assert trusted(newcomer) != [before]
    eve.succeed(eve.press("poweroff", "web", NAME))
    newcomer.run(["systemctl", "restart", "nspawnpanel-host"])
    eve.succeed(eve.press("start", "web", NAME))


def rotate(eve: Person, what: str) -> None:
    """Ask it of the courier, and wait until it has done it."""
    eve.post(f"{KEYS}{what}/", page=KEYS)
    asked = "SELECT count(*) AS left FROM machines_panelkey WHERE asked <> ''"
    until(lambda: eve.rows(asked)[0]["left"] == 0, 20, lambda: eve.get(KEYS))


def trusted(host: Sandbox) -> list[str]:
    """The keys of the panel in its settings."""
    lines = dict(line.split("=", 1) for line in host.run(["cat", SETTINGS]).stdout.splitlines())
    return lines["NSPAWNPANEL_PANEL_KEYS"].split(",")


def users(panel: Stack) -> list[str]:
    """The hosts' users of Redis."""
    with panel.valkey.admin() as admin:
        return [name for name in admin.acl_users() if name.startswith("np-h-")]
