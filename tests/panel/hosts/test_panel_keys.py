"""The panel's signing key follows another: the files, the order to hosts, and the page."""

from pathlib import Path

import pytest
from django.utils import timezone
from nacl.signing import SigningKey

from machines.contract.envelope import key_id
from machines.models import Event, Host, PanelKey
from machines.panel.audit import seals, verify
from machines.panel.courier import enrol, key_ring
from machines.panel.courier.key_ring import KeyRing, load_key
from tests import make
from tests.pages import text

URL = "/settings/panel-keys/"


@pytest.fixture
def file(tmp_path: Path, db) -> Path:
    return tmp_path / "signing-key"


@pytest.fixture
def ring(file: Path) -> KeyRing:
    made = KeyRing.of(file)
    made.follow()
    return made


def ask(client, what: str, ring: KeyRing) -> None:
    assert client.post(f"{URL}{what}/").status_code == 302
    ring.follow()


def states() -> dict[str, str]:
    return dict(PanelKey.objects.values_list("state", "public"))


def number(key: SigningKey) -> str:
    return key_id(key.verify_key)


def test_one_key_follows_another(as_admin, ring, file):
    first = ring.current
    ask(as_admin, "prepare", ring)
    assert ring.current == first
    assert set(states()) == {"current", "next"}
    ask(as_admin, "switch", ring)
    second = ring.current
    assert second != first
    assert states() == {"current": key_ring.public_of(second), "previous": key_ring.public_of(first)}
    ask(as_admin, "retire", ring)
    assert states() == {"current": key_ring.public_of(second)}
    assert KeyRing.of(file).current == second
    assert sorted(each.name for each in file.parent.iterdir()) == ["signing-key", "signing-key.earlier"]
    assert [event.text for event in Event.objects.filter(kind="panel-key-changed").order_by("pk")] == [
        "ada prepared the next signing key of the panel.",
        "ada switched the panel to its next signing key.",
        "ada retired the previous signing key of the panel.",
    ]


def test_keys_are_readable_by_their_owner_alone(as_admin, ring, file):
    ask(as_admin, "prepare", ring)
    ask(as_admin, "switch", ring)
    assert {each.stat().st_mode & 0o077 for each in file.parent.iterdir() if each.suffix != ".earlier"} == {0}


def test_a_next_key_is_discarded(as_admin, ring):
    first = ring.current
    ask(as_admin, "prepare", ring)
    ask(as_admin, "discard", ring)
    assert states() == {"current": key_ring.public_of(first)}


def test_each_host_gets_its_orders_by_the_newest_key_it_trusts(as_admin, ring):
    first = ring.current
    ask(as_admin, "prepare", ring)
    assert ring.for_host(ring.ids()) == first
    both = ring.ids()
    ask(as_admin, "switch", ring)
    assert ring.for_host(both) == ring.current != first
    assert ring.for_host([number(first)]) == first
    assert ring.for_host([]) == first
    ask(as_admin, "retire", ring)
    assert ring.for_host([number(first)]) == ring.current


def test_hosts_are_told_until_they_say_that_they_trust_it(as_admin, ring):
    alpha = make.host("alpha", panel_keys=ring.ids())
    make.host("old-worker", panel_keys=[])
    make.host("away", panel_keys=ring.ids(), last_seen=None)
    assert key_ring.untold(ring.ids()) == []
    ask(as_admin, "prepare", ring)
    assert key_ring.untold(ring.ids()) == [alpha]
    Host.objects.filter(pk=alpha.pk).update(panel_keys=ring.ids())
    assert key_ring.untold(ring.ids()) == []


def test_a_switch_cut_short_is_done_again(as_admin, ring, file, monkeypatch):
    ask(as_admin, "prepare", ring)
    first, following = ring.current, load_key(file.with_name("signing-key.next"))
    as_admin.post(f"{URL}switch/")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        ring.follow()
    monkeypatch.undo()
    again = KeyRing.of(file)
    again.follow()
    assert again.current == first
    ask(as_admin, "switch", again)
    assert again.current == following


def test_only_what_can_be_done_now_is_done(as_admin, ring):
    for what in ("switch", "discard", "retire", "nonsense"):
        assert as_admin.post(f"{URL}{what}/").status_code == 409
    ask(as_admin, "prepare", ring)
    assert as_admin.post(f"{URL}prepare/").status_code == 409


def test_whoever_signed_in_long_ago_confirms_first(as_admin, ring, monkeypatch):
    monkeypatch.setattr("machines.panel.web.access.is_recent", lambda _: False)
    assert as_admin.post(f"{URL}prepare/").url.startswith("/accounts/reauthenticate/")
    assert not PanelKey.objects.exclude(asked="").exists()


def test_the_page_says_which_hosts_are_behind_and_why(as_admin, ring):
    make.host("away", panel_keys=ring.ids(), last_seen=None)
    make.host("old", panel_keys=[])
    make.host("alpha", panel_keys=ring.ids())
    ask(as_admin, "prepare", ring)
    page = text(as_admin.get(URL))
    for said in ("Next key", "not responding", "update its worker", "being told", "Switch to this key"):
        assert said in page
    ask(as_admin, "switch", ring)
    assert "must be added again" in text(as_admin.get(URL))
    Host.objects.update(panel_keys=ring.ids())
    assert "is not in use any more" in text(as_admin.get(URL))


def test_seals_of_the_audit_log_hold_after_the_key_that_made_them(as_admin, ring, file):
    Event.objects.create(kind="host-released", text="one")
    notary = seals.Notary(lambda: ring.current, file.with_name("history"))
    notary.look(timezone.now())
    ask(as_admin, "prepare", ring)
    ask(as_admin, "switch", ring)
    ask(as_admin, "retire", ring)
    key = ring.current.verify_key
    assert verify.verify(key, earlier=key_ring.earlier(file)).faults == []
    assert len(verify.verify(key).faults) == 1
    late = verify.Earlier(key_ring.earlier(file)[0].key, 0)
    assert len(verify.verify(key, earlier=(late,)).faults) == 1


def test_a_host_that_joins_meanwhile_trusts_both(ring, as_admin):
    ask(as_admin, "prepare", ring)
    assert len(ring.publics()) == 2
    host = enrol.register("alpha", "np-host1:" + "A" * 43 + "=:" + "B" * 43 + "=")
    assert host.panel_keys == []
