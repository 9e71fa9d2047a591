"""Who stole a secret of the panel's does what a thief would do with it (docs/security.md, "What each secret's thief gets")."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from io import StringIO
from uuid import UUID, uuid4

import pytest
import redis
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from allauth.mfa.utils import decrypt
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.core.signing import Signer
from django.test import Client
from django.utils import timezone
from nacl.signing import SigningKey

from machines.contract import envelope, orders, routes
from machines.models import ApiToken, User
from machines.panel.courier import mailbox
from machines.panel.people import invitations, resets
from machines.panel.teams import tokens
from machines.panel.web.sealed_sessions import SALT, seal
from nspawnpanel.valkey import Valkey
from tests import make

PASSWORD = "Canary-7f3a-correct-horse"


def signed_in(client: Client) -> bool:
    return client.get("/settings/profile/").status_code == 200


def with_cookie(value: str) -> Client:
    thief = Client()
    thief.cookies["session"] = value
    return thief


# --- a copy of the database


@pytest.fixture
def ada(db) -> User:
    someone = make.user("ada", role="administrator")
    someone.set_password(PASSWORD)
    someone.save()
    return someone


@pytest.fixture
def browser(ada) -> Client:
    """Signed in by the form, as people are."""
    client = Client()
    given = client.post("/accounts/login/", {"login": "ada", "password": PASSWORD})
    assert given.status_code == 302, given.content
    assert signed_in(client)
    return client


def test_a_copy_of_the_database_lets_nobody_in(browser):
    keys = list(Session.objects.values_list("session_key", flat=True))
    assert keys
    for key in keys:
        assert not signed_in(with_cookie(key))
        assert not signed_in(with_cookie(Signer(key="a guess", salt=SALT).sign(key)))
    assert any(signed_in(with_cookie(seal(key))) for key in keys)  # so it is the seal that keeps them out


def test_a_copy_of_the_database_holds_nothing_that_opens_a_door(browser, ada):
    """Passwords, cookies, links, API tokens, the secret of an app and the codes beside it."""
    made = ApiToken(user=ada, name="ci", rights=["view"], all_teams=True, expires_at=timezone.now() + timedelta(days=1))
    app = generate_totp_secret()
    TOTP.activate(ada, app)
    recovery = RecoveryCodes.activate(ada)
    secrets = {
        "password": PASSWORD, "session": browser.cookies["session"].value, "device": browser.cookies["device"].value,
        "API token": tokens.create(made, [], []), "app": app, "recovery seed": decrypt(recovery.instance.data["seed"]),
        "recovery code": recovery.get_unused_codes()[0], "reset": last(resets.link(ada, by=ada)),
        "invitation": last(invitations.invite(invitations.Offer(is_administrator=True), by=ada, days=1)),
    }  # fmt: skip
    assert all(len(secret) >= 8 for secret in secrets.values()), secrets
    text = StringIO()
    call_command("dumpdata", stdout=text, verbosity=0)
    copy = text.getvalue()
    assert "pbkdf2_sha256" in copy
    assert [name for name, secret in secrets.items() if secret in copy or json.dumps(secret)[1:-1] in copy] == []


def last(address: str) -> str:
    """What of a link is the secret."""
    return address.rstrip("/").rpartition("/")[2]


# --- the web process's environment


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        mailbox.add_user(server.admin_url, "np-web", "secret", routes.web_acl())
        yield server


HOST = "6b1f1f9e-5d0a-4c8f-9a53-3f3f5a0f7e11"
TRIES = [
    ("KEYS", "*"), ("SCAN", "0"), ("GET", routes.POKE), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("ACL", "WHOAMI"),
    ("CLIENT", "LIST"), ("FLUSHALL",), ("MONITOR",), ("EVAL", "return 1", "0"), ("SUBSCRIBE", "x"), ("SAVE",), ("INFO",),
    ("LPUSH", f"np:h:{HOST}:host.urgent", "order"), ("BRPOP", f"np:h:{HOST}:host.urgent", "1"),
    ("XREAD", "STREAMS", routes.stream(HOST), "0"), ("XADD", routes.stream(HOST), "*", "a", "b"), ("DEL", routes.stream(HOST)),
    ("BRPOP", routes.POKE, "1"), ("LRANGE", routes.POKE, "0", "-1"), ("SELECT", "1"),
]  # fmt: skip


def test_the_web_s_redis_user_wakes_the_courier_and_does_nothing_else(valkey):
    """Command by command; whoever has its environment has this user."""
    thief = redis.Redis.from_url(valkey.url("np-web", "secret"))
    assert thief.lpush(routes.POKE, "1") == 1
    for command in TRIES:
        with pytest.raises(redis.exceptions.NoPermissionError):
            thief.execute_command(*command)
    thief.close()


def test_the_web_s_secret_key_signs_no_order(settings):
    """Hosts know the courier's public key, and that alone decides."""
    courier = SigningKey.generate()
    forged = SigningKey(sha256(settings.SECRET_KEY.encode()).digest())
    assert read(ordered(courier), courier).op == "start"
    with pytest.raises(envelope.EnvelopeRefused) as refused:
        read(ordered(forged), courier)
    assert refused.value.code == "envelope-forged"


def ordered(key: SigningKey) -> str:
    told = {
        "host": HOST, "generation": 1, "job": uuid4(), "order": orders.to_wire(orders.Start(name="web")),
        "issued": time.time(), "expires": time.time() + 60, "actor": envelope.Actor(name="ada", role="administrator"),
    }  # fmt: skip
    return envelope.seal(envelope.Envelope.model_validate(told), key)


def read(message: str, key: SigningKey) -> orders.Order:
    keys = {envelope.key_id(key.verify_key): key.verify_key}
    return envelope.unseal(message, keys, host=UUID(HOST), generation=1)[1]


def test_the_web_s_secret_key_without_the_database_lets_nobody_in(db):
    """Sessions are rows: a key that is none opens none."""
    assert not signed_in(with_cookie(seal("a" * 32)))
