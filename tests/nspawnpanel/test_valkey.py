"""A real server each time: closed to strangers, and its users outlive it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from nspawnpanel.valkey import Valkey


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey") as server:
        yield server


def whoami(url: str) -> str:
    with closing(Redis.from_url(url, decode_responses=True, socket_timeout=1)) as client:
        return str(client.acl_whoami())


def add_user(valkey: Valkey) -> str:
    with closing(valkey.admin()) as admin:
        admin.acl_setuser("panel", enabled=True, passwords=["+open"], keys=["panel:*"], categories=["+@all"])
        admin.acl_save()
    return valkey.url("panel", "open")


def test_it_refuses_a_stranger(valkey: Valkey) -> None:
    with pytest.raises(AuthenticationError):
        whoami(f"redis://127.0.0.1:{valkey.port}/0")


def test_nothing_larger_than_a_message_of_ours_goes_in(valkey: Valkey) -> None:
    with closing(valkey.admin()) as admin:
        admin.xadd("s", {"r": "x" * 2_800_000})
        with pytest.raises(RedisError):
            admin.xadd("s", {"r": "x" * 5_000_000})


def test_it_listens_on_the_loopback_only(valkey: Valkey) -> None:
    with closing(valkey.admin()) as admin:
        assert admin.config_get("bind") == {"bind": "127.0.0.1"}


def test_it_lets_the_admin_in(valkey: Valkey) -> None:
    assert whoami(valkey.admin_url) == "admin"


def test_it_keeps_its_secrets_to_itself(valkey: Valkey) -> None:
    add_user(valkey)  # ACL SAVE writes the file anew
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in valkey.data.iterdir()}
    assert modes == dict.fromkeys(("admin-password", "users.acl", "valkey.conf", "valkey.log"), "0o600")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_users_survive_and_keys_do_not(valkey: Valkey, end: str) -> None:
    url, port = add_user(valkey), valkey.port
    with closing(valkey.admin()) as admin:
        admin.set("panel:a", "1")
    getattr(valkey, end)()
    valkey.start()
    assert valkey.port == port
    assert whoami(url) == "panel"
    with closing(valkey.admin()) as admin:
        assert admin.get("panel:a") is None


def test_a_user_is_held_to_its_keys(valkey: Valkey) -> None:
    with closing(Redis.from_url(add_user(valkey))) as client, pytest.raises(NoPermissionError):
        client.set("host:a", "1")


def test_flush_forgets_every_key(valkey: Valkey) -> None:
    with closing(valkey.admin()) as admin:
        admin.set("a", "1")
        valkey.flush()
        assert admin.get("a") is None


def test_a_frozen_server_answers_again_when_thawed(valkey: Valkey) -> None:
    valkey.freeze()
    with pytest.raises(RedisError):
        whoami(valkey.admin_url)
    valkey.thaw()
    assert whoami(valkey.admin_url) == "admin"


def test_a_frozen_server_can_be_stopped(valkey: Valkey) -> None:
    valkey.freeze()
    valkey.stop()
    assert valkey.pid == 0
