"""A host joins, on the panel's side: the page, the door, and the courier's answer."""

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from machines.contract import enrolment as contract
from machines.contract import routes
from machines.models import Enrolment, Event, Host
from machines.panel.courier import mailbox, redis_users, welcomes
from machines.panel.courier.key_ring import KeyRing
from machines.panel.hosts import enrolments
from tests import make
from tests.pages import text

PANEL = SigningKey.generate()
NEW = "/enrolments/new/"


class Newcomer:
    """A host with keys of its own, at the panel's door."""

    def __init__(self) -> None:
        self.sign, self.box = SigningKey.generate(), PrivateKey.generate()

    @property
    def fingerprint(self) -> str:
        return contract.fingerprint(self.sign.verify_key, self.box.public_key)

    def asks(
        self, enrolment: Enrolment, *, token: contract.Token | None = None, **said: Any
    ) -> tuple[int, dict[str, str]]:
        told = {"hostname": "alpha", "system": "Debian GNU/Linux 12", "at": timezone.now().timestamp(), **said}
        claim = contract.sign_claim(token or enrolments.token(enrolment), self.sign, self.box.public_key, **told)
        answer = Client().post(f"/enrol/{enrolment.pk}/", claim, content_type="application/octet-stream")
        return answer.status_code, json.loads(answer.content)


@pytest.fixture(autouse=True)
def addresses(settings) -> None:
    settings.PANEL_URL, settings.HOSTS_REDIS_URL = "https://panel.example", "redis://panel.example:6379/0"


@pytest.fixture
def published(db) -> None:
    KeyRing(PANEL).follow()


@pytest.fixture
def enrolment(published, admin) -> Enrolment:
    return enrolments.make("alpha", by=admin)


@pytest.fixture
def newcomer() -> Newcomer:
    return Newcomer()


class FakeGuard(redis_users.Guard):
    """Notes whom it lets in."""

    def __init__(self) -> None:
        self.admitted: list[tuple[Any, str]] = []

    def admit(self, host_id: Any, password: str) -> None:
        self.admitted.append((host_id, password))


class NoMailbox(mailbox.Mailbox):
    def __init__(self) -> None:
        pass

    def empty(self, host_id: Any) -> None:
        pass

    begin_anew = empty


@pytest.fixture
def guard() -> FakeGuard:
    return FakeGuard()


@pytest.fixture
def courier(guard) -> Callable[[], None]:
    return welcomes.Welcomes(KeyRing(PANEL), NoMailbox(), guard).answer


def page_of(client: Client, enrolment: Enrolment) -> str:
    return text(client.get(f"/enrolments/{enrolment.pk}/"))


def accept(client: Client, enrolment: Enrolment, newcomer: Newcomer) -> Any:
    return client.post(f"/enrolments/{enrolment.pk}/accept/", {"fingerprint": newcomer.fingerprint})


def later(enrolment: Enrolment) -> None:
    Enrolment.objects.filter(pk=enrolment.pk).update(expires_at=timezone.now() - timedelta(seconds=1))


# --- the page


def test_add_host_shows_one_command_with_a_token_that_carries_the_panels_key(as_admin, published):
    answer = as_admin.post(NEW, {"name": "alpha"}, follow=True)
    made = Enrolment.objects.get()
    command = text(answer).split('<code id="join-host">')[1].split("</code>")[0]
    assert f"enrol --panel https://panel.example {enrolments.token(made)}" in command
    assert contract.Token.parse(command.split()[-1]).panel_key == PANEL.verify_key


def test_the_database_has_no_token(enrolment):
    secret = str(enrolments.token(enrolment)).split(".")[3]
    assert secret not in json.dumps(list(Enrolment.objects.values()), default=str)


@pytest.mark.parametrize("name", ["", "Alpha", "a b", "-a", "a" * 64, "<b>", "a\0b"])
def test_a_name_that_is_none_is_refused_on_its_field(as_admin, published, name):
    answer = as_admin.post(NEW, {"name": name})
    assert answer.status_code == 422
    assert 'id="id_name_error"' in text(answer)
    assert not Enrolment.objects.exists()


def test_a_name_that_is_taken_is_refused_and_says_where_new_keys_are_made(as_admin, published):
    make.host("alpha")
    answer = as_admin.post(NEW, {"name": "alpha"})
    assert answer.status_code == 422
    assert "There is a host alpha already" in text(answer)


def test_it_says_what_must_be_set_before_hosts_can_join(as_admin, published, settings):
    settings.HOSTS_REDIS_URL = ""
    page = text(as_admin.get(NEW))
    assert "NSPAWNPANEL_HOSTS_REDIS_URL" in page
    assert "Show the command" not in page


def test_it_says_that_the_courier_must_run_first(as_admin, db):
    assert "The courier has not run yet" in text(as_admin.get(NEW))
    assert "The courier has not run yet" in text(as_admin.post(NEW, {"name": "alpha"}))


def test_the_list_of_hosts_leads_to_those_that_wait(as_admin, as_viewer, enrolment, newcomer):
    address = f"/enrolments/{enrolment.pk}/"
    assert address in text(as_admin.get("/hosts/"))
    newcomer.asks(enrolment)
    assert "compare its fingerprint" in text(as_admin.get("/hosts/"))
    assert address not in text(as_viewer.get("/hosts/"))


def test_a_new_token_for_a_name_withdraws_the_one_before(enrolment, newcomer, admin):
    again = enrolments.make("alpha", by=admin)
    status, said = newcomer.asks(enrolment)
    assert status == 410
    assert "has been withdrawn" in said["error"]
    assert newcomer.asks(again)[0] == 200


def test_no_second_token_while_somebody_waits_to_be_accepted(as_admin, enrolment, newcomer):
    newcomer.asks(enrolment)
    assert "A host is joining as alpha at this moment" in text(as_admin.post(NEW, {"name": "alpha"}))


# --- the host comes


def test_both_sides_show_the_same_fingerprint(as_admin, enrolment, newcomer):
    assert newcomer.asks(enrolment) == (200, {"state": "pending", "name": "alpha"})
    page = page_of(as_admin, enrolment)
    for group in newcomer.fingerprint.split():
        assert f"<span>{group}</span>" in page
    assert str(enrolments.token(enrolment)) not in page


def test_what_a_host_says_of_itself_is_hostile_text(as_admin, enrolment, newcomer):
    newcomer.asks(enrolment, hostname="<script>\x00\x1b[2J", system="<b>Debian")
    page = page_of(as_admin, enrolment)
    assert "&lt;script&gt;��[2J" in page
    assert "&lt;b&gt;Debian" in page


def test_a_clock_that_is_wrong_is_said_before_the_host_is_accepted(as_admin, enrolment, newcomer):
    newcomer.asks(enrolment, at=timezone.now().timestamp() + 600)
    assert "ahead of the panel" in page_of(as_admin, enrolment)


def test_asking_again_changes_nothing(enrolment, newcomer):
    newcomer.asks(enrolment)
    before = Enrolment.objects.values().get()
    newcomer.asks(enrolment)
    assert Enrolment.objects.values().get() == before


def test_a_token_is_good_for_one_host_and_a_second_one_is_told_of(as_admin, enrolment, newcomer):
    newcomer.asks(enrolment)
    status, said = Newcomer().asks(enrolment)
    assert status == 409
    assert "Another host has used this token" in said["error"]
    page = page_of(as_admin, enrolment)
    assert "Another host tried to use the same token" in page
    assert newcomer.fingerprint.split()[0] in page


def test_an_expired_token_is_refused_with_what_to_do(as_admin, enrolment, newcomer):
    later(enrolment)
    status, said = newcomer.asks(enrolment)
    assert status == 410
    assert "has expired" in said["error"]
    assert "Add host" in said["error"]
    assert 'id="ended"' in page_of(as_admin, enrolment)


def test_a_token_of_another_enrolment_or_of_nobody_is_refused(enrolment, newcomer, admin):
    other = enrolments.make("beta", by=admin)
    assert newcomer.asks(enrolment, token=enrolments.token(other))[0] == 403
    forged = contract.Token(PANEL.verify_key, enrolment.pk, b"x" * 32)
    assert newcomer.asks(enrolment, token=forged)[0] == 403
    assert newcomer.asks(Enrolment(pk=uuid4()), token=forged)[0] == 403
    assert not Enrolment.objects.exclude(verify_key="").exists()


def test_whoever_has_no_token_waits_longer_each_time(enrolment, newcomer):
    forged = contract.Token(PANEL.verify_key, enrolment.pk, b"x" * 32)
    answers = [newcomer.asks(enrolment, token=forged)[0] for _ in range(7)]
    assert answers[:5] == [403] * 5
    assert answers[-1] == 429


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"a.b.c", b"x" * 40_000, b'{"token": 1}'])
def test_what_is_no_claim_is_refused(client, enrolment, body):
    answer = client.post(f"/enrol/{enrolment.pk}/", body, content_type="application/octet-stream")
    assert answer.status_code == 403
    assert not Enrolment.objects.exclude(verify_key="").exists()


# --- the administrator decides


def test_a_host_that_is_rejected_is_told_so_and_nothing_is_made(as_admin, enrolment, newcomer, courier, guard):
    newcomer.asks(enrolment)
    as_admin.post(f"/enrolments/{enrolment.pk}/refuse/")
    courier()
    status, said = newcomer.asks(enrolment)
    assert status == 410
    assert "rejected this host" in said["error"]
    assert not guard.admitted
    assert not Host.objects.exists()
    assert "Rejected by" in page_of(as_admin, enrolment)
    assert accept(as_admin, enrolment, newcomer).status_code == 409


def test_only_the_fingerprint_that_was_shown_is_accepted(as_admin, enrolment, newcomer):
    newcomer.asks(enrolment)
    answer = accept(as_admin, enrolment, Newcomer())
    assert answer.status_code == 409
    assert "not the keys that the page showed" in text(answer)
    assert Enrolment.objects.get().state == "pending"


def test_nothing_is_accepted_after_its_time_or_before_a_host_came(as_admin, enrolment, newcomer):
    assert as_admin.post(f"/enrolments/{enrolment.pk}/accept/", {"fingerprint": ""}).status_code == 409
    newcomer.asks(enrolment)
    later(enrolment)
    assert accept(as_admin, enrolment, newcomer).status_code == 409


def test_a_token_can_be_withdrawn_while_nobody_has_used_it(as_admin, enrolment, newcomer):
    as_admin.post(f"/enrolments/{enrolment.pk}/refuse/")
    assert "Token withdrawn" in page_of(as_admin, enrolment)
    assert newcomer.asks(enrolment)[0] == 410


def test_who_accepted_which_keys_is_told_among_the_events(as_admin, admin, enrolment, newcomer):
    newcomer.asks(enrolment)
    accept(as_admin, enrolment, newcomer)
    event = Event.objects.get(kind="host-accepted")
    assert event.actor_name == admin.username
    assert newcomer.fingerprint in event.text


# --- the courier answers


@pytest.fixture
def accepted(as_admin, enrolment, newcomer) -> Enrolment:
    newcomer.asks(enrolment)
    assert accept(as_admin, enrolment, newcomer).status_code == 302
    return enrolment


def test_an_accepted_host_gets_a_user_and_settings_that_it_alone_can_read(accepted, newcomer, courier, guard):
    assert newcomer.asks(accepted)[1] == {"state": "accepted", "name": "alpha"}
    courier()
    status, said = newcomer.asks(accepted)
    welcome, secret = contract.read_welcome(
        said["answer"], enrolments.token(accepted), newcomer.sign.verify_key, newcomer.box
    )
    host = Host.objects.get()
    [(admitted, password)] = guard.admitted
    assert (status, welcome.host, welcome.generation, admitted) == (200, host.pk, 1, host.pk)
    assert secret.redis_url == f"redis://{routes.user(str(host.pk))}:{password}@panel.example:6379/0"
    assert secret.panel_keys == [b64encode(bytes(PANEL.verify_key)).decode()]
    assert secret.panel_url == "https://panel.example"
    assert host.verify_key == b64encode(bytes(newcomer.sign.verify_key)).decode()
    assert password not in json.dumps(list(Enrolment.objects.values()), default=str)


def test_the_page_turns_green_and_the_settings_are_forgotten_with_the_first_report(as_admin, accepted, courier):
    courier()
    assert 'id="accepted"' in page_of(as_admin, accepted)
    Host.objects.update(last_seen=timezone.now())
    assert 'id="joined"' in page_of(as_admin, accepted)
    courier()
    assert Enrolment.objects.get().answer == ""
    later(accepted)
    assert 'id="joined"' in page_of(as_admin, accepted)


def test_settings_that_nobody_fetched_are_forgotten_in_time(as_admin, accepted, courier):
    courier()
    later(accepted)
    courier()
    assert Enrolment.objects.get().answer == ""
    assert "Accepted, but it has not reported" in page_of(as_admin, accepted)


def test_a_name_taken_meanwhile_is_not_taken_over(as_admin, accepted, courier, newcomer, guard):
    other = make.host("alpha")
    courier()
    status, said = newcomer.asks(accepted)
    assert status == 410
    assert "Another host was added as alpha meanwhile" in said["error"]
    assert Host.objects.get().verify_key == other.verify_key
    assert not guard.admitted
    assert "Another host was added" in page_of(as_admin, accepted)


def test_a_courier_that_may_make_no_users_says_so(as_admin, accepted, newcomer):
    welcomes.Welcomes(KeyRing(PANEL), NoMailbox(), None).answer()
    assert "no guard-url" in newcomer.asks(accepted)[1]["error"]
    assert not Host.objects.exists()


def test_a_token_of_an_earlier_key_of_the_panel_is_not_answered_with_the_new_one(accepted, newcomer, guard):
    welcomes.Welcomes(KeyRing(SigningKey.generate()), NoMailbox(), guard).answer()
    assert "signing key has changed" in newcomer.asks(accepted)[1]["error"]


def test_a_courier_cut_short_after_it_registered_the_host_goes_on(accepted, newcomer, courier, guard, monkeypatch):
    monkeypatch.setattr(welcomes, "_keep", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        courier()
    monkeypatch.undo()
    courier()
    assert newcomer.asks(accepted)[1]["state"] == "answered"
    assert Host.objects.get().generation == 1


# --- a host that is here already


def test_new_keys_for_a_host_keep_it_working_until_they_are_accepted(as_admin, published, newcomer, courier):
    host = make.host("alpha", quarantined_at=timezone.now(), quarantine_why="It flooded.")
    assert as_admin.post("/hosts/alpha/enrol-again/").status_code == 302
    again = Enrolment.objects.get()
    newcomer.asks(again)
    assert Host.objects.get().verify_key == host.verify_key
    accept(as_admin, again, newcomer)
    courier()
    renewed = Host.objects.get()
    assert (renewed.pk, renewed.generation) == (host.pk, 2)
    assert (renewed.quarantined_at, renewed.last_seen) == (None, None)
    assert renewed.verify_key != host.verify_key


@pytest.mark.parametrize("url", [NEW, "/settings/panel-keys/", "/hosts/"])
def test_pages_about_hosts_are_under_hosts_in_the_sidebar(as_admin, published, url):
    assert 'href="/hosts/" title="Hosts" aria-current="page"' in text(as_admin.get(url))


def test_a_way_to_redis_that_can_be_read_is_said_beforehand(as_admin, published, settings):
    assert 'id="plain-redis"' in text(as_admin.get(NEW))
    settings.HOSTS_REDIS_URL = "rediss://panel.example:6379/0"
    assert 'id="plain-redis"' not in text(as_admin.get(NEW))
