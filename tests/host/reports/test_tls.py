"""The host's connections to Redis over TLS: a real server behind a real handshake."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kombu import Connection

from machines.host.agent.transport import guarded
from machines.host.context import settings
from machines.host.reports import publisher, tls
from machines.host.system.faults import Misconfigured
from nspawnpanel.valkey import Valkey
from tests.tls import Certificate, Front


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def front(valkey: Valkey, certificate: Certificate) -> Iterator[Front]:
    with Front(certificate, valkey.port) as made:
        yield made


@pytest.fixture
def url(valkey: Valkey, front: Front) -> str:
    return valkey.admin_url.replace("redis://", "rediss://").replace(f":{valkey.port}", f":{front.port}")


def connected(url: str, *pins: str) -> Connection:
    transport = guarded(lambda _: None, lambda _: None, pins)

    class Own(Connection):
        def get_transport_cls(self):
            return transport

    return Own(url, transport_options={"socket_timeout": 5, "socket_connect_timeout": 5, "max_retries": 0})


def test_the_pinned_certificate_is_taken_for_reports_and_for_the_queue(url, certificate):
    client = publisher._client(url, [certificate.pin])
    assert client.ping()
    client.close()
    with connected(url, certificate.pin) as link:
        assert link.channel().client.ping()


def test_another_certificate_is_refused_before_the_password_is_sent(url, front, tmp_path, valkey):
    other = Certificate(tmp_path, "other")
    password = valkey.admin_url.split(":")[2].partition("@")[0].encode()
    with pytest.raises(redis.ConnectionError, match="not the one that this host was told of"):
        publisher._client(url, [other.pin]).ping()
    with connected(url, other.pin) as link, pytest.raises(Exception, match="not the one"):
        link.channel().client.ping()
    assert password not in front.heard


def test_without_a_pin_the_certificate_must_be_of_an_authority_that_this_host_trusts(url, front, valkey):
    password = valkey.admin_url.split(":")[2].partition("@")[0].encode()
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        publisher._client(url, []).ping()
    with connected(url) as link, pytest.raises(Exception, match="certificate verify failed"):
        link.channel().client.ping()
    assert password not in front.heard


def test_while_one_certificate_follows_another_both_are_taken(url, certificate, tmp_path):
    assert publisher._client(url, [Certificate(tmp_path, "next").pin, certificate.pin]).ping()


def test_an_address_cannot_switch_the_verification_off(url, tmp_path):
    with pytest.raises(redis.ConnectionError):
        publisher._client(f"{url}?ssl_cert_reqs=none&ssl_check_hostname=false", [Certificate(tmp_path, "x").pin]).ping()
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        publisher._client(f"{url}?ssl_cert_reqs=none", []).ping()


def test_plain_addresses_have_nothing_of_it():
    assert tls.options("redis://u:p@panel:6379/0", ["a" * 64]) == {}


def pinned(text: str) -> tuple[str, ...]:
    return settings._pins({"NSPAWNPANEL_REDIS_PINS": text})


def test_pins_are_read_as_openssl_prints_them_and_nonsense_stops_the_worker(tmp_path: Path):
    assert pinned(":".join(["AB"] * 32) + ",") == ("ab" * 32,)
    assert pinned("") == ()
    for text in ("x", "ab", "ab" * 32 + "," + "g" * 64, "sha256:ab"):
        with pytest.raises(Misconfigured, match="no SHA-256 sum"):
            pinned(text)
